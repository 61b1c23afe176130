#pragma once
// The lending daemon: answers sessions on TCP and unix sockets and beside RDMA queue pairs, leases slabs of
// this host's memory and serves reads, writes and atomics on them. docs/protocol.md is what it speaks.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "farpool/status.h"
#include "verbs/verbs.h"

namespace farpool {

// As "farpool: donor: LINE".
void LogToStderr(const std::string& line);

struct DonorOptions {
  std::string tcp_host;             // Empty: no TCP.
  uint16_t tcp_port = 0;            // 0: any free port.
  std::string unix_path;            // Or @NAME, see base/unix_address.h. Empty: no unix socket.
  std::string rdma_host;            // Address of an RDMA device; empty: no RDMA.
  uint16_t rdma_port = 0;           // TCP port there; 0: any free one.
  const Verbs* verbs = nullptr;     // Tests: instead of libibverbs.
  uint64_t memory_bytes = 0;        // Lent at most.
  uint64_t slab_bytes = 64u << 20;  // Unit of lease; a power of two, 1 MiB..1 GiB.
  uint64_t quota_bytes = 0;         // Most that one session may hold; 0: all.
  std::string rack;                 // Label told to clients.
  bool allow_anyone = false;        // Without it (and no key), TCP only on loopback addresses.
  uint64_t grace_ms_max = 300'000;  // Longest grace a session may ask for.
  // Gets what an operator should know, a line each, from threads of the donor's.
  std::function<void(const std::string&)> log = LogToStderr;
};

class DonorServer {
 public:
  // Binds and starts serving on threads of its own. Errors are one line for the user.
  static Result<std::unique_ptr<DonorServer>> Start(const DonorOptions& options);
  // Stops in bounded time: connections are closed, memory is freed, the unix path is removed.
  ~DonorServer();
  DonorServer(const DonorServer&) = delete;

  uint16_t tcp_port() const;   // The port bound; 0 without TCP.
  uint16_t rdma_port() const;  // The same of RDMA.
  struct Stats {
    uint64_t memory_bytes, leased_bytes, sessions, connections, reads, writes, bytes_in, bytes_out;
  };
  Stats GetStats() const;

 private:
  struct Impl;
  explicit DonorServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace farpool
