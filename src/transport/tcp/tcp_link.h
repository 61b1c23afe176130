#pragma once
// Link over a stream socket: framed requests, replies in request order on one connection, payloads received
// straight into the caller's memory. Spins for a bounded time, then blocks. No allocation, no libc state:
// runs in signal handlers.
//
// Threads: any, each with operations of its own. One of those that wait leads: it alone looks at the socket,
// for all of them.

#include <sys/uio.h>

#include <atomic>

#include "base/mutex.h"
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
  // Goes on with another channel, like new. Only while nothing is posted.
  void Reset(int fd);
  void Post(LinkOp* const* ops, unsigned count) override;
  void Poll() override;
  void Wait(LinkOp* op) override;
  bool alive() const override;

 private:
  // Requests in one sendmsg: their headers are one page.
  static constexpr unsigned kSendBatch = 64;
  // Replies in one recvmsg.
  static constexpr unsigned kReceiveBatch = 32;

  void Lead(LinkOp* op);
  void Follow(const LinkOp& op);
  void CallFollowers();
  void WaitForRoom();
  // The rest: under lock_.
  void Send();
  bool Receive();
  bool ReplyIsFor(const LinkOp& op, unsigned slot, wire::ReplyHeader* reply) const;
  // What to wait for when nothing can be done: see Block().
  struct Need {
    int fd;
    short events;
    uint64_t deadline_ns;
  };
  Need NeedNow() const;
  static void Block(const Need& need, uint64_t now_ns);
  void Die(Status::Code code);
  void AddIov(void* base, size_t bytes);

  Mutex lock_;
  std::atomic<bool> leader_{false};     // Somebody looks at the socket.
  std::atomic<uint32_t> calls_{0};      // Futex of those who do not: something ended, or nobody leads.
  std::atomic<uint32_t> followers_{0};  // Who may sleep there.
  SpinHistory spin_history_;            // The leader's.
  int fd_;
  std::atomic<bool> alive_;
  TcpLinkOptions options_;
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
