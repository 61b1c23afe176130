#pragma once
// Who is in the pool: parses what a user gives to --pool. Pure text work and reading of `file:` lists; no
// network. Errors are one line that names the entry and the way out.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "farpool/status.h"

namespace farpool {

struct PoolEntry {
  enum class Scheme { kTcp, kRdma, kUnix, kRegistry, kEtcd };
  Scheme scheme = Scheme::kTcp;
  std::string host;   // tcp, rdma, registry, etcd. IPv6 without its brackets.
  uint16_t port = 0;  // kDefaultPort where none was given.
  std::string path;   // unix.
  // As a user would type it.
  std::string ToString() const;
};

inline constexpr uint16_t kDefaultPort = 7171;

// `spec`: comma list of tcp://host:port, rdma://..., unix://path, registry://..., etcd://..., or file:PATH
// (one entry a line, # comments). Duplicates are refused.
Result<std::vector<PoolEntry>> ParsePoolSpec(std::string_view spec);

// One entry, not a list and not file:. With `listening`, port 0 is allowed: any free port.
Result<PoolEntry> ParsePoolEntry(std::string_view entry, bool listening = false);

inline constexpr size_t kMaxPoolEntries = 1024;

}  // namespace farpool
