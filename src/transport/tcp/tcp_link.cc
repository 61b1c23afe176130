#include "transport/tcp/tcp_link.h"

#include <linux/errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <climits>
#include <cstring>

#include "base/assert.h"
#include "base/clock.h"
#include "base/sys.h"
#include "transport/local_op.h"

// Both directions are driven without blocking: a link that waited in send while its donor waits in send (both
// socket buffers full) would never end, so whoever waits for room also takes replies in.

namespace farpool {

namespace {

// Looks before a follower sleeps; longer than a round trip in a rack.
constexpr int kFollowSpins = 1000;

wire::RequestHeader RequestFor(const LinkOp& op, uint64_t id) {
  wire::RequestHeader h;
  h.request_id = id;
  h.slab = static_cast<uint64_t>(op.slab);
  h.offset = op.offset;
  switch (op.kind) {
    case LinkOp::Kind::kRead:
      h.op = wire::Op::kRead;
      h.read_bytes = op.bytes;
      break;
    case LinkOp::Kind::kWrite:
      h.op = wire::Op::kWrite;
      h.payload_bytes = op.bytes;
      break;
    case LinkOp::Kind::kCompareAndSwap:
      h.op = wire::Op::kCompareAndSwap;
      h.compare = op.compare;
      h.operand = op.operand;
      break;
    case LinkOp::Kind::kFetchAdd:
      h.op = wire::Op::kFetchAdd;
      h.operand = op.operand;
      break;
  }
  return h;
}

uint64_t RequestBytes(const LinkOp& op) {
  return sizeof(wire::RequestHeader) + (op.kind == LinkOp::Kind::kWrite ? op.bytes : 0);
}
uint32_t ReplyPayload(const LinkOp& op) { return op.kind == LinkOp::Kind::kRead ? op.bytes : 0; }

// The rest of iov[0..*count) once `done` bytes of it are through.
iovec* SkipDone(iovec* iov, unsigned* count, uint64_t done) {
  while (*count > 0 && done >= iov->iov_len) {
    done -= iov->iov_len;
    ++iov;
    --*count;
  }
  if (*count > 0) {
    iov->iov_base = static_cast<std::byte*>(iov->iov_base) + done;
    iov->iov_len -= done;
  }
  return iov;
}

}  // namespace

TcpLink::TcpLink(int fd, TcpLinkOptions options) : fd_(fd), alive_(fd >= 0), options_(options) {}

void TcpLink::Reset(int fd) {
  MutexLock hold(&lock_);
  FARPOOL_ASSERT(head_ == nullptr);
  fd_ = fd;
  head_id_ = unsent_id_ = 1;
  unsent_progress_ = head_progress_ = 0;
  alive_ = fd >= 0;
}

bool TcpLink::alive() const { return alive_; }

// Headers that lie side by side (reads, atomics) become one entry.
void TcpLink::AddIov(void* base, size_t bytes) {
  if (iovs_ > 0) {
    iovec& last = iov_[iovs_ - 1];
    if (static_cast<std::byte*>(last.iov_base) + last.iov_len == base) {
      last.iov_len += bytes;
      return;
    }
  }
  iov_[iovs_++] = {base, bytes};
}

void TcpLink::Post(LinkOp* const* ops, unsigned count) {
  MutexLock hold(&lock_);
  uint64_t deadline = NowNs() + options_.deadline_ns;
  for (unsigned i = 0; i < count; ++i) {
    LinkOp* op = ops[i];
    op->done = false;
    op->next = nullptr;
    Status::Code code = CheckOp(*op);
    if (code == Status::Code::kOk && alive_ && outstanding_ == kMaxOutstanding) {
      WaitForRoom();
      deadline = NowNs() + options_.deadline_ns;
    }
    if (code == Status::Code::kOk && !alive_) code = Status::Code::kUnavailable;
    if (code != Status::Code::kOk) {
      FinishOp(op, code);
      continue;
    }
    op->id = deadline;
    (head_ == nullptr ? head_ : tail_->next) = op;
    tail_ = op;
    if (unsent_ == nullptr) unsent_ = op;
    ++outstanding_;
  }
  Send();
}

// Rare: nobody else gets at the link meanwhile.
void TcpLink::WaitForRoom() {
  while (alive_ && outstanding_ == kMaxOutstanding) {
    Send();
    if (Receive()) continue;
    const uint64_t now = NowNs();
    if (alive_ && now >= head_->id) Die(Status::Code::kTimeout);
    if (alive_) Block(NeedNow(), now);
  }
  CallFollowers();
}

void TcpLink::Poll() {
  {
    MutexLock hold(&lock_);
    Send();
    if (!Receive() && head_ != nullptr && NowNs() >= head_->id) Die(Status::Code::kTimeout);
  }
  CallFollowers();
}

void TcpLink::Wait(LinkOp* op) {
  while (!IsDone(*op)) {
    if (leader_.exchange(true, std::memory_order_acquire)) {
      Follow(*op);
      continue;
    }
    Lead(op);
    leader_.store(false, std::memory_order_release);
    CallFollowers();
  }
}

// Looks at the socket until `op` is done.
void TcpLink::Lead(LinkOp* op) {
  uint64_t idle_since = NowNs();
  bool spinning = spin_history_.ShouldSpin();
  for (;;) {
    bool progress;
    uint64_t now;
    Need need;
    {
      MutexLock hold(&lock_);
      if (IsDone(*op)) return;
      Send();
      progress = Receive();
      if (progress && spinning) spin_history_.Ended(true);
      if (IsDone(*op)) return;
      FARPOOL_ASSERT(head_ != nullptr);  // `op` was posted here, or the caller has a bug.
      now = NowNs();
      if (now >= head_->id) return Die(Status::Code::kTimeout);
      need = NeedNow();
    }
    if (progress) {
      CallFollowers();
      idle_since = now;
      spinning = spin_history_.ShouldSpin();
    }
    if (spinning && now - idle_since < options_.spin_ns) {
      SpinPause();
      continue;
    }
    if (spinning) spin_history_.Ended(false);
    spinning = false;
    Block(need, now);
  }
}

// Until `op` is done or nobody leads.
void TcpLink::Follow(const LinkOp& op) {
  for (int i = 0; i < kFollowSpins; ++i) {
    if (IsDone(op) || !leader_.load(std::memory_order_relaxed)) return;
    SpinPause();
  }
  followers_.fetch_add(1);
  const uint32_t seen = calls_.load();
  if (!IsDone(op) && leader_.load()) sys::Call(SYS_futex, &calls_, FUTEX_WAIT_PRIVATE, seen, nullptr);
  followers_.fetch_sub(1);
}

void TcpLink::CallFollowers() {
  calls_.fetch_add(1);
  if (followers_.load() > 0) sys::Call(SYS_futex, &calls_, FUTEX_WAKE_PRIVATE, INT_MAX);
}

// Hands the kernel as much as it takes. The headers are made again after a partial send: an operation does
// not change while it is posted, so neither do they.
void TcpLink::Send() {
  while (unsent_ != nullptr) {
    iovs_ = 0;
    unsigned slot = 0;
    uint64_t total = 0;
    for (LinkOp* op = unsent_; op != nullptr && slot < kSendBatch; op = op->next, ++slot) {
      wire::Encode(RequestFor(*op, unsent_id_ + slot), requests_[slot]);
      AddIov(requests_[slot], sizeof(requests_[slot]));
      if (op->kind == LinkOp::Kind::kWrite) AddIov(op->local, op->bytes);
      total += RequestBytes(*op);
    }
    msghdr message = {};
    unsigned count = iovs_;
    message.msg_iov = SkipDone(iov_, &count, unsent_progress_);
    message.msg_iovlen = count;
    const long sent = sys::Call(SYS_sendmsg, fd_, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent == -EINTR) continue;
    if (sent == -EAGAIN) return;
    if (sys::Failed(sent)) return Die(Status::Code::kUnavailable);
    uint64_t progress = unsent_progress_ + static_cast<uint64_t>(sent);
    const bool all = progress == total;
    while (unsent_ != nullptr && progress >= RequestBytes(*unsent_)) {
      progress -= RequestBytes(*unsent_);
      unsent_ = unsent_->next;
      ++unsent_id_;
    }
    unsent_progress_ = progress;
    if (!all) return;  // The socket is full; asking again would only be told so.
  }
}

// True if `reply` (the header in `slot`) is one that this operation can have.
bool TcpLink::ReplyIsFor(const LinkOp& op, unsigned slot, wire::ReplyHeader* reply) const {
  if (wire::Decode(replies_[slot], reply) != wire::Fault::kNone) return false;
  return reply->op == RequestFor(op, 0).op && reply->request_id == head_id_ &&
         reply->payload_bytes == ReplyPayload(op);
}

// Takes in what has come; true if anything has. The size of every reply is known beforehand (a refused read
// has its payload too), so headers and payloads of many replies arrive where they belong in one call.
bool TcpLink::Receive() {
  bool progress = false;
  while (head_ != unsent_) {
    iovs_ = 0;
    unsigned slots = 0;
    uint64_t wanted = 0;
    for (LinkOp* op = head_; op != unsent_ && slots < kReceiveBatch; op = op->next, ++slots) {
      AddIov(replies_[slots], sizeof(replies_[slots]));
      if (ReplyPayload(*op) != 0) AddIov(op->local, op->bytes);
      wanted += sizeof(wire::ReplyHeader) + ReplyPayload(*op);
    }
    msghdr message = {};
    unsigned count = iovs_;
    message.msg_iov = SkipDone(iov_, &count, head_progress_);
    message.msg_iovlen = count;
    const long got = sys::Call(SYS_recvmsg, fd_, &message, MSG_DONTWAIT);
    if (got == -EINTR) continue;
    if (got == -EAGAIN) return progress;
    if (got == 0 || sys::Failed(got)) {
      Die(Status::Code::kUnavailable);
      return true;
    }
    progress = true;
    uint64_t have = head_progress_ + static_cast<uint64_t>(got);
    const bool all = have == wanted;
    unsigned slot = 0;
    for (; slot < slots && have >= sizeof(wire::ReplyHeader); ++slot) {
      LinkOp* op = head_;
      wire::ReplyHeader reply;
      // Looked at as soon as it is whole: a peer that talks nonsense may never send the rest.
      if (!ReplyIsFor(*op, slot, &reply)) {
        Die(Status::Code::kCorrupt);
        return true;
      }
      const uint64_t bytes = sizeof(wire::ReplyHeader) + ReplyPayload(*op);
      if (have < bytes) break;
      have -= bytes;
      head_ = op->next;
      ++head_id_;
      --outstanding_;
      op->result = reply.value;
      FinishOp(op, wire::FromWire(reply.code));
    }
    head_progress_ = have;
    if (slot > 0 && have > 0) std::memcpy(replies_[0], replies_[slot], sizeof(replies_[0]));
    if (!all) return progress;
  }
  return progress;
}

TcpLink::Need TcpLink::NeedNow() const {
  const int events = unsent_ != nullptr ? POLLIN | POLLOUT : POLLIN;
  return {.fd = fd_, .events = static_cast<short>(events), .deadline_ns = head_->id};
}

// Sleeps until the socket can be read (or written, if there is something to send) or the oldest operation's
// deadline.
void TcpLink::Block(const Need& need, uint64_t now_ns) {
  const uint64_t left = need.deadline_ns - now_ns;
  timespec timeout = {.tv_sec = static_cast<time_t>(left / 1'000'000'000),
                      .tv_nsec = static_cast<long>(left % 1'000'000'000)};
  pollfd wait = {.fd = need.fd, .events = need.events, .revents = 0};
  sys::Call(SYS_ppoll, &wait, 1, &timeout, nullptr, 8);  // Any outcome: the caller looks again.
}

void TcpLink::Die(Status::Code code) {
  alive_ = false;
  sys::Call(SYS_shutdown, fd_, SHUT_RDWR);
  LinkOp* op = head_;
  head_ = tail_ = unsent_ = nullptr;
  outstanding_ = 0;
  while (op != nullptr) {
    LinkOp* next = op->next;
    FinishOp(op, code);
    op = next;
  }
}

}  // namespace farpool
