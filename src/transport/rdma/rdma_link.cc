#include "transport/rdma/rdma_link.h"

#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <cstring>

#include "base/assert.h"
#include "base/clock.h"
#include "base/sys.h"
#include "transport/local_op.h"

namespace farpool {

namespace {

constexpr unsigned kDepthMin = 16;
constexpr unsigned kSlotBytes = 64;  // What a place in the buffer is rounded up to: a cache line.
constexpr unsigned kKeys = 32768;    // A power of two; a run holds at most half as many slabs.
constexpr unsigned kCompletionsAtOnce = 16;
constexpr uint64_t kAskNs = 2'000'000'000;
constexpr uint64_t kPauseNs = 50'000;  // Between two looks at the completions, once spinning did not pay.

// Gives the CPU away until the next look, or until something is to be read from `fd`: then true.
bool Pause(int fd, uint64_t left_ns) {
  timespec timeout = {0, static_cast<long>(left_ns < kPauseNs ? left_ns : kPauseNs)};
  pollfd wait = {.fd = fd, .events = POLLIN, .revents = 0};
  return sys::Call(SYS_ppoll, &wait, 1, &timeout, nullptr, 8) > 0;
}

bool IsAtomic(const LinkOp& op) {
  return op.kind == LinkOp::Kind::kCompareAndSwap || op.kind == LinkOp::Kind::kFetchAdd;
}

Status NotRegistered() {
  return Status::Exhausted("memory cannot be registered with the RDMA device: raise `ulimit -l`");
}

}  // namespace

struct RdmaLink::State {
  struct Posted {
    LinkOp* op;
    uint64_t buffer_at;   // Where its bytes are.
    uint64_t buffer_end;  // The ring up to here is free once it is done.
  };
  Posted posted[kMaxOutstanding];  // By number modulo depth_.
  ibv_send_wr requests[kMaxOutstanding];
  ibv_sge pieces[kMaxOutstanding];
  Key keys[kKeys];  // Open addressing; nothing is taken out.
  unsigned key_count;
};

Status RdmaLink::Open(const Verbs* verbs, int fd, RdmaLinkOptions options) {
  const NoCancellation no_cancellation;
  MutexLock hold(&lock_);
  CloseLocked();
  fd_ = fd;
  Status status = device_.Open(verbs, fd);
  if (status.ok()) status = OpenQueue(options);
  if (status.ok()) {
    alive_ = true;
  } else {
    CloseLocked();
  }
  return status;
}

Status RdmaLink::OpenQueue(RdmaLinkOptions options) {
  const Verbs& verbs = device_.verbs();
  options_ = options;
  const long state = sys::Call(SYS_mmap, 0, sizeof(State), PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (sys::Failed(state)) return Status::FromErrno("mmap", static_cast<int>(-state));
  state_ = reinterpret_cast<State*>(state);
  // Shared and not inherited: a fork must not leave the device with one copy and us with another.
  const long buffer =
      sys::Call(SYS_mmap, 0, kBufferBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (sys::Failed(buffer)) return Status::FromErrno("mmap", static_cast<int>(-buffer));
  buffer_ = reinterpret_cast<std::byte*>(buffer);
  sys::Call(SYS_madvise, buffer_, kBufferBytes, MADV_DONTFORK);

  domain_ = verbs.alloc_pd(device_.context());
  if (domain_ == nullptr) return Status::Exhausted("the RDMA device gives no protection domain");
  region_ = verbs.reg_mr(domain_, buffer_, kBufferBytes, IBV_ACCESS_LOCAL_WRITE);
  if (region_ == nullptr) return NotRegistered();
  depth_ = kMaxOutstanding;
  if (device_.limits().max_qp_wr > 0 && static_cast<unsigned>(device_.limits().max_qp_wr) < depth_)
    depth_ = static_cast<unsigned>(device_.limits().max_qp_wr);
  // What a device says it can do, it does not always do for every kind of queue.
  for (;; depth_ /= 2) {
    if (depth_ < kDepthMin) return Status::Exhausted("the RDMA device gives no queue pair");
    completions_ = verbs.create_cq(device_.context(), static_cast<int>(depth_) + 1, nullptr, nullptr, 0);
    if (completions_ == nullptr) continue;
    ibv_qp_init_attr init = {};
    init.send_cq = init.recv_cq = completions_;
    init.cap.max_send_wr = depth_;
    init.cap.max_recv_wr = 1;
    init.cap.max_send_sge = init.cap.max_recv_sge = 1;
    init.qp_type = IBV_QPT_RC;
    queue_ = verbs.create_qp(domain_, &init);
    if (queue_ != nullptr) break;
    verbs.destroy_cq(completions_);
    completions_ = nullptr;
  }
  if (Status s = device_.Init(queue_, 0); !s.ok()) return s;
  // Any number does; one that differs each time keeps packets of an earlier queue pair out.
  const auto first_packet = static_cast<uint32_t>(NowNs() >> 8) & 0xffffff;
  const wire::RdmaEndpoint ours = device_.EndpointOf(*queue_, first_packet);
  std::byte bytes[sizeof(wire::RdmaEndpoint)];
  if (Status s = Ask(wire::Op::kRdmaConnect, SlabId{}, &ours, sizeof(ours), bytes, sizeof(bytes)); !s.ok())
    return s;
  wire::RdmaEndpoint theirs;
  if (wire::Decode(bytes, &theirs) != wire::Fault::kNone)
    return Status::Corrupt("the donor's queue pair makes no sense");
  if (Status s = device_.ReadyToReceive(queue_, theirs); !s.ok()) return s;
  return device_.ReadyToSend(queue_, first_packet, theirs);
}

void RdmaLink::Close() {
  const NoCancellation no_cancellation;
  MutexLock hold(&lock_);
  CloseLocked();
}

void RdmaLink::CloseLocked() {
  alive_ = false;
  if (device_.open()) {
    const Verbs& verbs = device_.verbs();
    if (queue_ != nullptr) verbs.destroy_qp(queue_);
    if (completions_ != nullptr) verbs.destroy_cq(completions_);
    if (region_ != nullptr) verbs.dereg_mr(region_);
    if (domain_ != nullptr) verbs.dealloc_pd(domain_);
    device_.Close();
  }
  if (buffer_ != nullptr) sys::Call(SYS_munmap, buffer_, kBufferBytes);
  buffer_ = nullptr;
  AbandonLocked();
}

void RdmaLink::Abandon() {
  lock_.Reset();
  MutexLock hold(&lock_);
  AbandonLocked();
}

void RdmaLink::AbandonLocked() {
  alive_ = false;
  device_.Abandon();
  if (state_ != nullptr) sys::Call(SYS_munmap, state_, sizeof(State));
  state_ = nullptr;
  buffer_ = nullptr;  // Not inherited.
  queue_ = nullptr;
  completions_ = nullptr;
  region_ = nullptr;
  domain_ = nullptr;
  fd_ = -1;
  done_ = posted_ = prepared_ = 0;
  reads_ = atomics_ = unsignalled_ = 0;
  buffer_begin_ = buffer_end_ = 0;
}

// --- the connection beside

Status RdmaLink::AwaitChannel(short events, uint64_t deadline_ns) const {
  const uint64_t now = NowNs();
  if (now >= deadline_ns) return Status::Timeout("the donor does not answer");
  pollfd wait = {fd_, events, 0};
  sys::Call(SYS_poll, &wait, 1, static_cast<int>((deadline_ns - now) / 1'000'000 + 1));
  return Status::Ok();
}

Status RdmaLink::SendAll(const void* bytes, size_t count, uint64_t deadline_ns) {
  const auto* from = static_cast<const std::byte*>(bytes);
  while (count > 0) {
    const long n = sys::Call(SYS_sendto, fd_, from, count, MSG_DONTWAIT | MSG_NOSIGNAL, nullptr, 0);
    if (n > 0) {
      from += n;
      count -= static_cast<size_t>(n);
    } else if (n == -EAGAIN) {
      if (Status s = AwaitChannel(POLLOUT, deadline_ns); !s.ok()) return s;
    } else if (n != -EINTR) {
      return Status::Unavailable("the donor closed the connection");
    }
  }
  return Status::Ok();
}

Status RdmaLink::ReceiveAll(void* bytes, size_t count, uint64_t deadline_ns) {
  auto* into = static_cast<std::byte*>(bytes);
  while (count > 0) {
    const long n = sys::Call(SYS_recvfrom, fd_, into, count, MSG_DONTWAIT, nullptr, nullptr);
    if (n > 0) {
      into += n;
      count -= static_cast<size_t>(n);
    } else if (n == -EAGAIN) {
      if (Status s = AwaitChannel(POLLIN, deadline_ns); !s.ok()) return s;
    } else if (n != -EINTR) {
      return Status::Unavailable("the donor closed the connection");
    }
  }
  return Status::Ok();
}

Status RdmaLink::Ask(wire::Op op, SlabId slab, const void* payload, uint32_t payload_bytes, void* reply,
                     uint32_t reply_bytes) {
  const uint64_t deadline = NowNs() + kAskNs;
  wire::RequestHeader request;
  request.op = op;
  request.request_id = next_id_++;
  request.slab = static_cast<uint64_t>(slab);
  request.payload_bytes = payload_bytes;
  std::byte message[sizeof(request) + sizeof(wire::RdmaEndpoint)];
  wire::Encode(request, message);
  if (payload_bytes != 0) std::memcpy(message + sizeof(request), payload, payload_bytes);
  if (Status s = SendAll(message, sizeof(request) + payload_bytes, deadline); !s.ok()) return s;
  std::byte bytes[sizeof(wire::ReplyHeader)];
  if (Status s = ReceiveAll(bytes, sizeof(bytes), deadline); !s.ok()) return s;
  wire::ReplyHeader header;
  if (wire::Decode(bytes, &header) != wire::Fault::kNone || header.op != op ||
      header.request_id != request.request_id)
    return Status::Corrupt("the donor's answer makes no sense");
  if (header.code != wire::ReplyCode::kOk) {
    char reason[wire::kMaxTextBytes + 1] = {};
    if (Status s = ReceiveAll(reason, header.payload_bytes, deadline); !s.ok()) return s;
    for (char& c : reason)
      if (c != 0 && (c < ' ' || c > '~')) c = '?';  // It goes to a terminal.
    return Status(wire::FromWire(header.code), reason);
  }
  return ReceiveAll(reply, reply_bytes, deadline);
}

// Any failure but the donor's refusal of this slab breaks the link: what comes next on the connection is not
// known.
Status::Code RdmaLink::FindKey(SlabId slab, const Key** out) {
  const auto id = static_cast<uint64_t>(slab);
  for (uint64_t at = id;; ++at) {
    const Key& entry = state_->keys[at % kKeys];
    if (entry.slab == 0) break;
    if (entry.slab != id) continue;
    *out = &entry;
    return Status::Code::kOk;
  }
  if (id == 0) return Status::Code::kNotFound;
  std::byte bytes[sizeof(wire::SlabKeyReply)];
  const Status status = Ask(wire::Op::kSlabKey, slab, nullptr, 0, bytes, sizeof(bytes));
  if (status.code() == Status::Code::kNotFound || status.code() == Status::Code::kExhausted)
    return status.code();
  wire::SlabKeyReply reply;
  if (!status.ok() || wire::Decode(bytes, &reply) != wire::Fault::kNone || state_->key_count == kKeys / 2) {
    Die(status.ok() ? Status::Code::kCorrupt : status.code());
    return Status::Code::kUnavailable;
  }
  Learn({id, reply.address, reply.bytes, reply.key});
  return FindKey(slab, out);
}

void RdmaLink::Learn(const Key& key) {
  uint64_t at = key.slab;
  while (state_->keys[at % kKeys].slab != 0) ++at;
  state_->keys[at % kKeys] = key;
  ++state_->key_count;
}

// --- operations

void RdmaLink::Post(LinkOp* const* ops, unsigned count) {
  MutexLock hold(&lock_);
  for (unsigned i = 0; i < count; ++i) {
    LinkOp* op = ops[i];
    op->done = false;
    Status::Code code = CheckOp(*op);
    if (code == Status::Code::kOk && !alive_) code = Status::Code::kUnavailable;
    const Key* key = nullptr;
    if (code == Status::Code::kOk) code = FindKey(op->slab, &key);
    if (code == Status::Code::kOk && !wire::RangeFits(op->offset, op->bytes, key->bytes))
      code = Status::Code::kInvalidArgument;
    if (code == Status::Code::kOk && IsAtomic(*op) && device_.limits().atomic_cap == IBV_ATOMIC_NONE)
      code = Status::Code::kUnsupported;
    uint64_t buffer_at = 0;
    if (code == Status::Code::kOk && !TakeRoom(*op, &buffer_at)) code = Status::Code::kUnavailable;
    if (code != Status::Code::kOk) {
      FinishOp(op, code);
      continue;
    }
    op->id = NowNs() + options_.deadline_ns;
    Prepare(op, *key, buffer_at);
  }
  Flush();
}

// A device answers a read or atomic when it gets to it, and may take what follows first.
bool RdmaLink::NeedsFence(const LinkOp& op) const {
  if (op.kind == LinkOp::Kind::kRead) return false;
  return reads_ != 0 || (atomics_ != 0 && op.kind == LinkOp::Kind::kWrite);
}

// Waits for room in the queue and in the buffer, and for what may not be overtaken where the device's own
// fence is of no use; false once the link is broken.
bool RdmaLink::TakeRoom(const LinkOp& op, uint64_t* at) {
  const uint64_t wanted = (uint64_t{op.bytes} + kSlotBytes - 1) / kSlotBytes * kSlotBytes;
  for (;;) {
    uint64_t begin = buffer_end_;
    // An operation's bytes do not wrap.
    if (begin % kBufferBytes + wanted > kBufferBytes) begin += kBufferBytes - begin % kBufferBytes;
    if (prepared_ - done_ < depth_ && begin + wanted - buffer_begin_ <= kBufferBytes &&
        (device_.can_fence() || !NeedsFence(op))) {
      buffer_end_ = begin + wanted;
      *at = begin;
      return true;
    }
    FARPOOL_ASSERT(prepared_ != done_);  // With nothing under way there is room.
    Flush();
    if (alive_) WaitForRoom();
    if (!alive_) return false;
  }
}

// Until something is done. Rare: nobody else gets at the link meanwhile.
void RdmaLink::WaitForRoom() {
  for (const uint64_t before = done_; alive_ && done_ == before;) {
    if (Progress()) continue;
    const uint64_t now = NowNs();
    if (now >= deadline_ns()) {
      Die(Status::Code::kTimeout);
    } else if (Pause(fd_, deadline_ns() - now)) {
      CheckPeer();
    }
  }
}

void RdmaLink::Prepare(LinkOp* op, const Key& key, uint64_t buffer_at) {
  const uint64_t slot = prepared_ % depth_;
  std::byte* const bytes = buffer_ + buffer_at % kBufferBytes;
  state_->posted[slot] = {op, buffer_at, buffer_end_};
  ibv_sge& piece = state_->pieces[slot];
  piece = {.addr = reinterpret_cast<uint64_t>(bytes), .length = op->bytes, .lkey = region_->lkey};
  ibv_send_wr& request = state_->requests[slot];
  request = {};
  request.wr_id = prepared_;
  request.sg_list = &piece;
  request.num_sge = 1;
  if (NeedsFence(*op)) request.send_flags = IBV_SEND_FENCE;
  ++unsignalled_;
  if (op->kind != LinkOp::Kind::kWrite || unsignalled_ >= depth_ / 2) {
    request.send_flags |= IBV_SEND_SIGNALED;
    unsignalled_ = 0;
  }
  switch (op->kind) {
    case LinkOp::Kind::kRead:
      request.opcode = IBV_WR_RDMA_READ;
      ++reads_;
      break;
    case LinkOp::Kind::kWrite:
      request.opcode = IBV_WR_RDMA_WRITE;
      std::memcpy(bytes, op->local, op->bytes);
      break;
    case LinkOp::Kind::kCompareAndSwap:
      request.opcode = IBV_WR_ATOMIC_CMP_AND_SWP;
      request.wr.atomic.compare_add = op->compare;
      request.wr.atomic.swap = op->operand;
      ++atomics_;
      break;
    case LinkOp::Kind::kFetchAdd:
      request.opcode = IBV_WR_ATOMIC_FETCH_AND_ADD;
      request.wr.atomic.compare_add = op->operand;
      ++atomics_;
      break;
  }
  if (IsAtomic(*op)) {
    request.wr.atomic.remote_addr = key.address + op->offset;
    request.wr.atomic.rkey = key.key;
  } else {
    request.wr.rdma.remote_addr = key.address + op->offset;
    request.wr.rdma.rkey = key.key;
  }
  ++prepared_;
}

// Hands all that is prepared to the device at once: one doorbell.
void RdmaLink::Flush() {
  if (!alive_ || posted_ == prepared_) return;
  for (uint64_t i = posted_; i + 1 < prepared_; ++i)
    state_->requests[i % depth_].next = &state_->requests[(i + 1) % depth_];
  ibv_send_wr& last = state_->requests[(prepared_ - 1) % depth_];
  last.next = nullptr;
  last.send_flags |= IBV_SEND_SIGNALED;  // Somebody may wait for it, and for nothing after it.
  unsignalled_ = 0;
  const NoCancellation no_cancellation;  // Soft-RoCE's doorbell is a write().
  ibv_send_wr* refused = nullptr;
  ibv_send_wr* const first = &state_->requests[posted_ % depth_];
  posted_ = prepared_;
  if (ibv_post_send(queue_, first, &refused) != 0) Die(Status::Code::kUnavailable);
}

// Ends the oldest operation.
void RdmaLink::Complete(Status::Code code) {
  const State::Posted& posted = state_->posted[done_ % depth_];
  LinkOp* const op = posted.op;
  const std::byte* const bytes = buffer_ + posted.buffer_at % kBufferBytes;
  buffer_begin_ = posted.buffer_end;
  ++done_;
  if (op->kind == LinkOp::Kind::kRead) {
    --reads_;
    if (code == Status::Code::kOk) std::memcpy(op->local, bytes, op->bytes);
  } else if (op->kind != LinkOp::Kind::kWrite) {
    --atomics_;
    if (code == Status::Code::kOk) std::memcpy(&op->result, bytes, sizeof(op->result));
  }
  FinishOp(op, code);
}

// Takes in what has come; true if anything has. A queue pair works in order: a completion tells of all before
// it, too.
bool RdmaLink::Progress() {
  ibv_wc done[kCompletionsAtOnce];
  const int count = ibv_poll_cq(completions_, kCompletionsAtOnce, done);
  if (count < 0) Die(Status::Code::kUnavailable);
  for (int i = 0; i < count && alive_; ++i) {
    const uint64_t number = done[i].wr_id;
    if (number < done_ || number >= posted_) {
      Die(Status::Code::kCorrupt);
      break;
    }
    while (done_ < number) Complete(Status::Code::kOk);
    if (done[i].status == IBV_WC_SUCCESS) {
      Complete(Status::Code::kOk);
      continue;
    }
    // The slab was returned, or its lease is over: for its owner the other links say the same.
    if (done[i].status == IBV_WC_REM_ACCESS_ERR) Complete(Status::Code::kNotFound);
    Die(Status::Code::kUnavailable);
  }
  return count != 0;
}

// Of the oldest operation.
uint64_t RdmaLink::deadline_ns() const { return state_->posted[done_ % depth_].op->id; }

void RdmaLink::Poll() {
  MutexLock hold(&lock_);
  if (!alive_) return;
  if (!Progress() && done_ != posted_ && NowNs() >= deadline_ns()) Die(Status::Code::kTimeout);
}

void RdmaLink::Wait(LinkOp* op) {
  uint64_t idle_since = 0;
  bool spinning = false;
  while (!IsDone(*op)) {
    int fd;
    uint64_t left;
    {
      MutexLock hold(&lock_);
      // Somebody else may have ended it, and even have closed the link.
      if (IsDone(*op)) return;
      FARPOOL_ASSERT(done_ != posted_);  // `op` was posted here, or the caller has a bug.
      const bool progress = Progress();
      if (progress && spinning) spin_history_.Ended(true);
      if (IsDone(*op)) return;
      const uint64_t now = NowNs();
      if (now >= deadline_ns()) return Die(Status::Code::kTimeout);
      if (progress || idle_since == 0) {
        idle_since = now;
        spinning = spin_history_.ShouldSpin();
      }
      if (spinning && now - idle_since >= options_.spin_ns) {
        spin_history_.Ended(false);
        spinning = false;
      }
      fd = fd_;
      left = deadline_ns() - now;
    }
    if (spinning) {
      SpinPause();
    } else if (Pause(fd, left)) {
      MutexLock hold(&lock_);
      if (!IsDone(*op)) CheckPeer();
    }
  }
}

// Something may be read from the connection: an answer that another thread was waiting for and has taken, or,
// since the donor says nothing unasked, the end.
void RdmaLink::CheckPeer() {
  std::byte byte;
  const long n = sys::Call(SYS_recvfrom, fd_, &byte, 1, MSG_PEEK | MSG_DONTWAIT, nullptr, nullptr);
  if (n == -EAGAIN || n == -EINTR) return;
  Progress();  // What was done before is done.
  Die(Status::Code::kUnavailable);
}

void RdmaLink::Die(Status::Code code) {
  if (!alive_) return;
  alive_ = false;
  const NoCancellation no_cancellation;
  // Nothing that is still under way may reach the donor any more, and the donor lets go, too.
  ibv_qp_attr attr = {};
  attr.qp_state = IBV_QPS_ERR;
  device_.verbs().modify_qp(queue_, &attr, IBV_QP_STATE);
  sys::Call(SYS_shutdown, fd_, SHUT_RDWR);
  while (done_ != prepared_) Complete(code);
}

}  // namespace farpool
