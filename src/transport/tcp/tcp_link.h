#pragma once
// Link over a stream socket: framed requests, replies in request order on one connection, payloads received
// straight into the caller's memory. Spins for a bounded time, then blocks. No allocation, no libc state: runs in
// signal handlers.

#include "transport/link.h"

namespace farpool {

struct TcpLinkOptions {
  uint64_t deadline_ns = 2'000'000'000;  // Every operation ends by then.
  uint64_t spin_ns = 40'000;             // Before blocking in poll(2).
};

class TcpLink final : public Link {
 public:
  // Borrows `fd`, a channel from DonorSession::OpenDataChannel().
  explicit TcpLink(int fd = -1, TcpLinkOptions options = {});
  void Post(LinkOp* const* ops, unsigned count) override;
  void Poll() override;
  void Wait(LinkOp* op) override;
  bool alive() const override;
};

}  // namespace farpool
