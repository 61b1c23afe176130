#pragma once
// Link over a stream socket: framed requests, replies in request order on one connection, payloads received
// straight into the caller's memory. Spins for a bounded time, then blocks. No allocation, no libc state:
// runs in signal handlers.

#include <sys/uio.h>

#include "base/spin.h"
#include "transport/link.h"
#include "wire/wire.h"

namespace farpool {

struct TcpLinkOptions {
  uint64_t deadline_ns = 2'000'000'000;  // Every operation ends by then.
  uint64_t spin_ns = 40'000;  // At most, before blocking in poll(2); not while spinning does not pay.
};

class TcpLink final : public Link {
 public:
  // Operations that may be outstanding; Post() makes progress until there is room for more.
  static constexpr unsigned kMaxOutstanding = 1024;

  // Borrows `fd`, a channel from DonorSession::OpenDataChannel(). A link that breaks shuts the socket down,
  // so that the donor lets go of it too; closing it stays with the owner.
  explicit TcpLink(int fd = -1, TcpLinkOptions options = {});
  void Post(LinkOp* const* ops, unsigned count) override;
  void Poll() override;
  void Wait(LinkOp* op) override;
  bool alive() const override;

 private:
  // Requests in one sendmsg: their headers are one page.
  static constexpr unsigned kSendBatch = 64;
  // Replies in one recvmsg.
  static constexpr unsigned kReceiveBatch = 32;

  void Send();
  bool Receive();
  bool ReplyIsFor(const LinkOp& op, unsigned slot, wire::ReplyHeader* reply) const;
  void Block(uint64_t now_ns) const;
  void Die(Status::Code code);
  void AddIov(void* base, size_t bytes);

  int fd_;
  bool alive_;
  TcpLinkOptions options_;
  SpinHistory spin_history_;
  // Posted operations, oldest first. [head_, unsent_) wait for replies; unsent_ and later are not, or only
  // partly, sent. While posted, op->id is the time by which the operation must end.
  LinkOp* head_ = nullptr;
  LinkOp* tail_ = nullptr;
  LinkOp* unsent_ = nullptr;
  unsigned outstanding_ = 0;
  uint64_t head_id_ = 1;          // Request id of head_; they count up from there.
  uint64_t unsent_id_ = 1;        // Request id of unsent_.
  uint64_t unsent_progress_ = 0;  // Bytes of unsent_'s request that the kernel has taken.
  uint64_t head_progress_ = 0;    // Bytes of head_'s reply that have come.
  unsigned iovs_ = 0;
  iovec iov_[2 * kSendBatch];  // Of the call being made; nothing is kept in it.
  std::byte requests_[kSendBatch][sizeof(wire::RequestHeader)];
  std::byte replies_[kReceiveBatch][sizeof(wire::ReplyHeader)];  // [0] keeps a header that came in part.
};

}  // namespace farpool
