#pragma once
// One client connection, served by one thread: reads requests, carries them out, sends the replies in order.
//
// All requests that are readable are handled before their replies go out together, straight from slab memory.
// Operations of one connection take effect in the order they were sent.

#include <sys/uio.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "base/fd.h"
#include "base/spin.h"
#include "donor/session_table.h"
#include "wire/wire.h"

namespace farpool {

// Shared by all connections of a server.
struct DonorCounters {
  std::atomic<uint64_t> reads{0}, writes{0}, bytes_in{0}, bytes_out{0};
};

// Lets a few threads spin for their next request. More spinners than spare CPUs would take the time from the
// clients they wait for.
class SpinGate {
 public:
  explicit SpinGate(int spinners_max) : left_(spinners_max) {}
  bool Enter() {
    if (left_.fetch_sub(1, std::memory_order_relaxed) > 0) return true;
    Leave();
    return false;
  }
  void Leave() { left_.fetch_add(1, std::memory_order_relaxed); }

 private:
  std::atomic<int> left_;
};

class Connection {
 public:
  struct Shared {
    SessionTable* sessions;
    DonorCounters* counters;
    SpinGate* spin_gate;
    std::string rack;
    std::shared_ptr<RdmaHost> rdma;  // Null without --rdma.
    std::function<void(const std::string&)> log;
  };
  enum class Kind { kTcp, kUnix, kRdma };  // kRdma: TCP, and queue pairs beside it.

  // `peer` names the other side in messages. Over kUnix leases carry their memfd.
  // `refusal`: if not null, the connection is told this reason in answer to its hello, and closed.
  Connection(Fd socket, Kind kind, std::string peer, const Shared* shared, const char* refusal);
  ~Connection();

  // Returns once the connection is over, for whichever reason; one that is the peer's fault is logged.
  void Serve();
  // Makes Serve() return soon. Any thread.
  void Shutdown();

 private:
  // Replies that wait to be sent in one call.
  static constexpr unsigned kReplyBatch = 64;
  // Sent at once beyond this: the client copies the first replies while we go on.
  static constexpr uint64_t kReplyBatchBytes = 256 * 1024;
  // Holds many small writes; what is larger bypasses it.
  static constexpr size_t kBufferBytes = 64 * 1024;
  // Longer than a client takes from a reply to its next fault. Of two donors beside their client on two
  // processors one takes from the other what it spins: 50 us cost an eighth of their rate.
  static constexpr uint64_t kSpinNs = 30'000;
  // A connection must have said hello by then; it counts against the limit meanwhile.
  static constexpr uint64_t kHelloNs = 5'000'000'000;

  // Each false ends the connection; `reason_` then says why if the peer is to blame.
  bool Handle(const wire::RequestHeader& request);
  bool Hello(const wire::RequestHeader& request);
  bool Control(const wire::RequestHeader& request);
  bool Lease(const wire::RequestHeader& request);
  bool ConnectRdma(const wire::RequestHeader& request);
  bool SlabKey(const wire::RequestHeader& request);
  bool Read(const wire::RequestHeader& request);
  bool Write(const wire::RequestHeader& request);
  bool Atomic(const wire::RequestHeader& request);

  // The slab of `request` if `bytes` at its offset may be touched, else nullptr and the code to answer.
  std::shared_ptr<Slab> Locate(const wire::RequestHeader& request, uint64_t bytes, wire::ReplyCode* code);
  bool Fill(std::byte* into, size_t want, size_t* got);
  bool ReadPayload(std::byte* into, size_t bytes);
  bool Reply(const wire::RequestHeader& request, wire::ReplyCode code, uint64_t value, const void* payload,
             uint32_t payload_bytes, std::shared_ptr<Slab> holder);
  bool ReplyNow(const wire::RequestHeader& request, const Status& status, const void* payload,
                uint32_t payload_bytes, int pass_fd = -1);
  bool FlushReplies(int pass_fd = -1);
  bool FlushIfRead(const std::byte* at, size_t bytes);
  bool Blame(const char* reason) {
    reason_ = reason;
    return false;
  }

  const Fd socket_;
  const Kind kind_;
  const std::string peer_;
  const Shared* const shared_;
  const char* const refusal_;
  const char* reason_ = nullptr;
  uint64_t hello_deadline_ns_;
  std::shared_ptr<Session> session_;
  std::unique_ptr<RdmaPeer> rdma_peer_;
  bool control_ = false;
  SpinHistory spin_history_;

  std::unique_ptr<std::byte[]> buffer_;  // Received and not yet handled: [begin_, end_).
  size_t begin_ = 0;
  size_t end_ = 0;
  std::unique_ptr<std::byte[]> discard_;  // For payloads nobody wants; made when needed.

  unsigned replies_ = 0;
  unsigned iovs_ = 0;
  uint64_t reply_bytes_ = 0;
  std::byte headers_[kReplyBatch][sizeof(wire::ReplyHeader)];
  iovec iov_[2 * kReplyBatch];
  std::shared_ptr<Slab> holders_[kReplyBatch];  // Keep what iov_ points into mapped.
};

}  // namespace farpool
