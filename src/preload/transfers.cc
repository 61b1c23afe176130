// read, write, their vector forms and messages. Large far buffers go in pieces, so that no more than a piece
// must be present at once; more far ranges than can be pinned go by way of near memory where the kernel must
// see them all in one call, since a fault in the middle of a message would cost the message.

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <cerrno>
#include <cstring>

#include "base/clock.h"
#include "preload/guard.h"
#include "preload/prepare.h"
#include "preload/runtime.h"
#include "preload/thread.h"

namespace farpool {

namespace {

constexpr uint64_t kTransferMax = 0x7ffff000;  // The kernel's own bound of one read or write.
constexpr uint64_t kPipeAtomic = 4096;         // PIPE_BUF: a write of so much is not torn apart.
constexpr uint64_t kBounceMax = uint64_t{1} << 30;
constexpr uint64_t kRecordMax = uint64_t{16} << 20;  // Kept together, in near memory beyond the limit.

uintptr_t Address(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer); }

// What a vector of the program asks for.
struct Demand {
  bool valid = true;  // False: the kernel refuses it.
  uint64_t bytes = 0, buffers = 0;
  uint64_t far_bytes = 0, far_buffers = 0;
  iovec far[kRangesMax];  // What is far of it, as long as it is not large.
  unsigned far_count = 0;
  // Four ranges are for what is not a buffer: the vector, a message's header, name and control data.
  bool Large() const { return far_bytes > kPieceBytes || far_buffers + 4 > kRangesMax; }
  void AddFar(uintptr_t begin, uint64_t size) {
    if (InArena(begin) && size > 0 && far_count < kRangesMax)
      far[far_count++] = {reinterpret_cast<void*>(begin), size};
  }
};

Demand DemandOf(uintptr_t address, uint64_t count) {
  Demand demand;
  if (count == 0) return demand;
  demand.valid = address != 0 && count <= kIovecsMax;
  demand.AddFar(address, count * sizeof(iovec));
  iovec part[kRangesMax];
  for (uint64_t done = 0; demand.valid && done < count;) {
    const uint64_t n = Min(count - done, kRangesMax);
    demand.valid = CopyIn(part, address + done * sizeof(iovec), n * sizeof(iovec));
    for (uint64_t i = 0; demand.valid && i < n; ++i) {
      const uint64_t bytes = part[i].iov_len;
      demand.valid = bytes <= INT64_MAX - demand.bytes;
      if (bytes == 0) continue;
      demand.bytes += bytes;
      ++demand.buffers;
      if (!InArena(Address(part[i].iov_base))) continue;
      demand.far_bytes += bytes;
      ++demand.far_buffers;
      demand.AddFar(Address(part[i].iov_base), bytes);
    }
    done += n;
  }
  return demand;
}

// Walks a program's vector and cuts pieces off it: few enough far bytes and ranges to be pinned.
class Cutter {
 public:
  Cutter(uintptr_t address, uint64_t count, uint64_t bytes)
      : address_(address), count_(count), left_(bytes) {}
  // Fills `piece`; how many of it are used, 0 at the end. `*bytes`: what they hold.
  unsigned Next(iovec* piece, unsigned max, uint64_t* bytes) {
    uint64_t far = 0;
    unsigned n = 0;
    *bytes = 0;
    while (index_ < count_ && n < max && far < kPieceBytes && left_ > 0) {
      iovec one;
      if (!CopyElement(&one, address_, index_)) break;
      char* base = static_cast<char*>(one.iov_base) + offset_;
      uint64_t take = one.iov_len > offset_ ? Min(one.iov_len - offset_, left_) : 0;
      if (InArena(Address(base))) {
        take = Min(take, kPieceBytes - far);
        far += take;
      }
      if (take > 0) piece[n++] = {base, take};
      *bytes += take;
      left_ -= take;
      offset_ += take;
      if (offset_ >= one.iov_len) {
        ++index_;
        offset_ = 0;
      }
    }
    return n;
  }

 private:
  uintptr_t address_;
  uint64_t count_, left_;
  uint64_t index_ = 0, offset_ = 0;
};

// A vector whose far buffers are replaced by near ones.
class Bounce {
 public:
  // False if there is no memory for it; then the call is made as it is.
  bool Open(uintptr_t address, uint64_t count, const Demand& demand, bool reads) {
    if (demand.far_bytes > kBounceMax) return false;
    bytes_ = count * sizeof(iovec) + demand.far_bytes;
    const long map = sys::Call(SYS_mmap, nullptr, bytes_, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (sys::Failed(map)) return false;
    vector_ = reinterpret_cast<iovec*>(map);
    count_ = count;
    if (!CopyIn(vector_, address, count * sizeof(iovec))) return false;
    char* next = reinterpret_cast<char*>(vector_ + count);
    char* const end = reinterpret_cast<char*>(vector_) + bytes_;
    for (uint64_t i = 0; i < count; ++i) {
      iovec& one = vector_[i];
      if (!InArena(Address(one.iov_base)) || one.iov_len == 0) continue;
      if (one.iov_len > static_cast<uint64_t>(end - next)) return false;  // Changed meanwhile.
      // What the program may not touch itself stays as it is: the kernel answers EFAULT.
      if (reads ? !Allows(Address(one.iov_base), one.iov_len, PROT_WRITE)
                : !CopyAllIn(next, Address(one.iov_base), one.iov_len))
        continue;
      one.iov_base = next;
      next += one.iov_len;
    }
    return true;
  }
  ~Bounce() {
    if (vector_ != nullptr) sys::Call(SYS_munmap, vector_, bytes_);
  }
  Bounce() = default;
  Bounce(const Bounce&) = delete;
  Bounce& operator=(const Bounce&) = delete;

  // What `bytes` of the call's answer brought goes to where the program wants it.
  void Scatter(uintptr_t address, uint64_t bytes) const {
    for (uint64_t i = 0; i < count_ && bytes > 0; ++i) {
      const uint64_t here = Min(bytes, vector_[i].iov_len);
      iovec one;
      if (!CopyElement(&one, address, i)) return;
      if (one.iov_base != vector_[i].iov_base) std::memcpy(one.iov_base, vector_[i].iov_base, here);
      bytes -= here;
    }
  }
  iovec* vector() const { return vector_; }

 private:
  // Of any size: no more than a piece must be here at once.
  static bool CopyAllIn(char* to, uintptr_t from, uint64_t bytes) {
    for (uint64_t done = 0; done < bytes; done += kPieceBytes)
      if (!CopyIn(to + done, from + done, Min(bytes - done, kPieceBytes))) return false;
    return true;
  }

  iovec* vector_ = nullptr;
  uint64_t count_ = 0, bytes_ = 0;
};

// A write that comes to the limit on the size of files ends there; one that begins there raises SIGXFSZ, and
// the next piece must not. `offset`: or -1, the descriptor's own position.
bool AtSizeLimit(uint64_t fd, int64_t offset) {
  // By the runtime's own entry and on the near stack, as in DivisionOf().
  const auto ask = [](GuardFrame* frame) -> long {
    rlimit limit;
    if (sys::Call(SYS_prlimit64, 0, RLIMIT_FSIZE, nullptr, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY)
      return 0;
    auto at = static_cast<int64_t>(frame->args[1]);
    if (at < 0) at = sys::Call(SYS_lseek, frame->args[0], 0, SEEK_CUR);
    return at >= 0 && static_cast<uint64_t>(at) >= limit.rlim_cur;
  };
  return OnNearStack(ask, {0, {fd, static_cast<uint64_t>(offset)}, 0}) != 0;
}

// Piece by piece; stops at the first short answer, like the call itself would.
long CallInPieces(const GuardFrame* frame, unsigned buffer_arg, unsigned count_arg, int offset_arg,
                  bool first_only = false) {
  GuardFrame piece = *frame;
  uint64_t done = 0;
  const uint64_t total = Min(frame->args[count_arg], kTransferMax);
  while (done < total) {
    piece.args[buffer_arg] = frame->args[buffer_arg] + done;
    piece.args[count_arg] = Min(total - done, kPieceBytes);
    if (offset_arg >= 0) piece.args[offset_arg] = frame->args[offset_arg] + done;
    const long r = CallPrepared(&piece);
    if (r < 0) return done > 0 ? static_cast<long>(done) : r;
    done += static_cast<uint64_t>(r);
    if (first_only || static_cast<uint64_t>(r) < piece.args[count_arg]) break;
    const bool writes = frame->number == SYS_write || frame->number == SYS_pwrite64;
    const int64_t offset = offset_arg < 0 ? -1 : static_cast<int64_t>(frame->args[offset_arg] + done);
    if (writes && done < total && AtSizeLimit(frame->args[0], offset)) break;
  }
  return static_cast<long>(done);
}

// A write or pwrite that appends: by way of near memory, unless that is too much to ask or a part is not
// there.
long CallRecord(const GuardFrame* frame) {
  const iovec all = {reinterpret_cast<void*>(frame->args[1]), frame->args[2]};
  Demand demand;
  demand.bytes = demand.far_bytes = all.iov_len;
  Bounce bounce;
  if (all.iov_len > kRecordMax || !bounce.Open(Address(&all), 1, demand, false) ||
      bounce.vector()->iov_base == all.iov_base)
    return CallInPieces(frame, 1, 2, frame->number == SYS_pwrite64 ? 3 : -1);
  GuardFrame call = *frame;
  call.args[1] = Address(bounce.vector()->iov_base);
  return CallPrepared(&call);
}

// A stream's sendmsg or recvmsg. Name and control data go with the first piece; a receive ends with it.
long CallStreamMessage(const GuardFrame* frame, const msghdr& header, const Demand& demand) {
  const bool sends = frame->number == SYS_sendmsg;
  iovec piece[kRangesMax - 4];
  Cutter cutter(Address(header.msg_iov), header.msg_iovlen, Min(demand.bytes, kTransferMax));
  uint64_t done = 0;
  for (;;) {
    uint64_t bytes;
    const unsigned n = cutter.Next(piece, kRangesMax - 4, &bytes);
    if (n == 0) return static_cast<long>(done);
    msghdr part = done == 0 ? header : msghdr{};
    part.msg_iov = piece;
    part.msg_iovlen = n;
    const long r = CallPrepared(frame->number, frame->args[0], &part, frame->args[2]);
    if (r < 0) return done > 0 ? static_cast<long>(done) : r;
    done += static_cast<uint64_t>(r);
    if (sends && static_cast<uint64_t>(r) == bytes) continue;
    if (sends) return static_cast<long>(done);
    part.msg_iov = header.msg_iov;
    part.msg_iovlen = header.msg_iovlen;
    return CopyOut(frame->args[1], &part, sizeof(part)) ? r : -EFAULT;
  }
}

long CallWholeMessage(const GuardFrame* frame, const msghdr& header, const Demand& demand) {
  const bool reads = frame->number == SYS_recvmsg;
  Bounce bounce;
  if (!bounce.Open(Address(header.msg_iov), header.msg_iovlen, demand, reads)) return CallPrepared(frame);
  msghdr near = header;
  near.msg_iov = bounce.vector();
  const long r = CallPrepared(frame->number, frame->args[0], &near, frame->args[2]);
  if (r < 0 || !reads) return r;
  bounce.Scatter(Address(header.msg_iov), static_cast<uint64_t>(r));
  near.msg_iov = header.msg_iov;
  return CopyOut(frame->args[1], &near, sizeof(near)) ? r : -EFAULT;
}

Demand DemandOf(uintptr_t message, msghdr* header) {
  Demand demand;
  if (message == 0 || !CopyIn(header, message, sizeof(*header)))
    demand.valid = false;
  else
    demand = DemandOf(Address(header->msg_iov), header->msg_iovlen);
  return demand;
}

}  // namespace

long CallAt(const GuardFrame* frame, unsigned buffer_arg, unsigned count_arg, int offset_arg) {
  if (!InArena(frame->args[buffer_arg]) || frame->args[count_arg] <= kPieceBytes) return CallPrepared(frame);
  if (frame->number == SYS_pwrite64 && DivisionOf(frame->args[0], true) == Division::kRecord)
    return CallRecord(frame);
  return CallInPieces(frame, buffer_arg, count_arg, offset_arg);
}

// The descriptor decides: to go on reading a stream could wait for bytes that the program did not insist on;
// half a message is none.
long CallTransfer(const GuardFrame* frame) {
  if (!InArena(frame->args[1]) || frame->args[2] <= kPieceBytes) return CallPrepared(frame);
  const Division division = DivisionOf(frame->args[0], frame->number == SYS_write);
  if (division == Division::kWhole) return CallPrepared(frame);
  if (division == Division::kRecord) return CallRecord(frame);
  bool first_only =
      division == Division::kStream && (frame->number == SYS_read || frame->number == SYS_recvfrom);
  if (frame->number == SYS_recvfrom && (frame->args[3] & MSG_WAITALL) != 0) {
    if ((frame->args[3] & MSG_PEEK) != 0) return CallPrepared(frame);  // Each piece would be the first.
    first_only = false;
  }
  return CallInPieces(frame, 1, 2, -1, first_only);
}

long CallVector(const GuardFrame* frame) {
  const uint64_t address = frame->args[1];
  const uint64_t count = frame->args[2];
  const Demand demand = DemandOf(address, count);
  if (!demand.valid) return CallPrepared(frame);
  if (!demand.Large()) return CallPrepared(frame, demand.far, demand.far_count);
  const bool reads =
      frame->number == SYS_readv || frame->number == SYS_preadv || frame->number == SYS_preadv2;
  GuardFrame call = *frame;
  const Division division = DivisionOf(frame->args[0], !reads);
  // What is not much goes as one call: a stream takes all of it or, if the last buffer is bad, none. So do
  // many small buffers, as of a log line: others' must not come in between.
  const bool appends =
      division == Division::kRecord || (frame->number == SYS_pwritev2 && (frame->args[5] & RWF_APPEND) != 0);
  const bool small_write = !reads && demand.bytes <= kPipeAtomic;
  if (division == Division::kWhole || small_write || (appends && demand.far_bytes <= kRecordMax) ||
      (division == Division::kStream && demand.far_bytes <= kPieceBytes)) {
    Bounce bounce;
    if (!bounce.Open(address, count, demand, reads)) return CallPrepared(frame);
    call.args[1] = Address(bounce.vector());
    const long r = CallPrepared(&call);
    if (reads && r > 0) bounce.Scatter(address, static_cast<uint64_t>(r));
    return r;
  }
  // The "2" calls take -1 for the descriptor's own position.
  const bool positioned =
      frame->number == SYS_preadv || frame->number == SYS_pwritev ||
      ((frame->number == SYS_preadv2 || frame->number == SYS_pwritev2) && frame->args[3] != ~uint64_t{0});
  iovec piece[kRangesMax];
  call.args[1] = Address(piece);
  Cutter cutter(address, count, Min(demand.bytes, kTransferMax));
  uint64_t done = 0;
  for (;;) {
    uint64_t bytes;
    call.args[2] = cutter.Next(piece, kRangesMax - 1, &bytes);  // The vector itself may be on a far stack.
    if (call.args[2] == 0) break;
    if (positioned) call.args[3] = frame->args[3] + done;
    const long r = CallPrepared(&call);
    if (r < 0) return done > 0 ? static_cast<long>(done) : r;
    done += static_cast<uint64_t>(r);
    if (static_cast<uint64_t>(r) < bytes || (reads && division == Division::kStream)) break;
    if (!reads && AtSizeLimit(frame->args[0], positioned ? static_cast<int64_t>(frame->args[3] + done) : -1))
      break;
  }
  return static_cast<long>(done);
}

long CallMessage(const GuardFrame* frame) {
  msghdr header;
  Demand demand = DemandOf(frame->args[1], &header);
  if (!demand.valid) return CallPrepared(frame);
  if (!demand.Large()) {
    demand.AddFar(frame->args[1], sizeof(header));
    demand.AddFar(Address(header.msg_name), header.msg_namelen);
    demand.AddFar(Address(header.msg_control), header.msg_controllen);
    return CallPrepared(frame, demand.far, demand.far_count);
  }
  constexpr uint64_t kInsists = MSG_WAITALL | MSG_PEEK;
  const bool divides = demand.far_bytes > kPieceBytes &&
                       DivisionOf(frame->args[0], false) == Division::kStream &&
                       (frame->number == SYS_sendmsg || (frame->args[2] & kInsists) == 0);
  return divides ? CallStreamMessage(frame, header, demand) : CallWholeMessage(frame, header, demand);
}

// sendmmsg and recvmmsg: at once if all they name can be pinned, else message by message as the kernel does.
long CallMessages(const GuardFrame* frame) {
  const uint64_t address = frame->args[1];
  const uint64_t count = Min(frame->args[2], kIovecsMax);
  const bool receives = frame->number == SYS_recvmmsg;
  uint64_t ranges = 2, bytes = 0;  // The vector itself, a timeout.
  for (uint64_t i = 0; i < count; ++i) {
    msghdr header;
    const Demand demand = DemandOf(address + i * sizeof(mmsghdr), &header);
    if (!demand.valid) break;
    ranges += demand.far_buffers + InArena(Address(header.msg_name)) + InArena(Address(header.msg_control)) +
              InArena(Address(header.msg_iov));
    bytes += demand.far_bytes;
  }
  if (ranges <= kRangesMax && bytes <= kPieceBytes) return CallPrepared(frame);

  timespec timeout = {};
  const bool timed = receives && frame->args[4] != 0;
  if (timed && !CopyIn(&timeout, frame->args[4], sizeof(timeout))) return -EFAULT;
  constexpr long kNsMax = 1'000'000'000;
  if (timed && (timeout.tv_sec < 0 || timeout.tv_nsec < 0 || timeout.tv_nsec >= kNsMax)) return -EINVAL;
  const uint64_t began = NowNs();
  const uint64_t allowed = timeout.tv_sec < INT64_MAX / kNsMax
                               ? static_cast<uint64_t>(timeout.tv_sec * kNsMax + timeout.tv_nsec)
                               : INT64_MAX;
  uint64_t flags = frame->args[3] & ~uint64_t{MSG_WAITFORONE};
  uint64_t done = 0;
  for (; done < count; ++done) {
    const uintptr_t message = address + done * sizeof(mmsghdr);
    const GuardFrame one = {receives ? SYS_recvmsg : SYS_sendmsg, {frame->args[0], message, flags}, 0};
    long r = CallMessage(&one);
    const auto transferred = static_cast<unsigned>(r);
    if (r >= 0 && !CopyOut(message + offsetof(mmsghdr, msg_len), &transferred, sizeof(transferred)))
      r = -EFAULT;
    if (r < 0) {
      if (done == 0) return r;
      break;
    }
    // As in the kernel, the time is looked at only when a message came.
    if (timed && NowNs() - began >= allowed) {
      ++done;
      break;
    }
    if (receives && (frame->args[3] & MSG_WAITFORONE) != 0) flags |= MSG_DONTWAIT;
  }
  if (timed && done > 0) {
    const uint64_t passed = NowNs() - began;
    const uint64_t left = passed < allowed ? allowed - passed : 0;
    timeout = {static_cast<time_t>(left / kNsMax), static_cast<long>(left % kNsMax)};
    if (!CopyOut(frame->args[4], &timeout, sizeof(timeout))) return -EFAULT;
  }
  return static_cast<long>(done);
}

// The pipe would go on referring to far pages that soon hold something else. So the bytes are copied.
long GuardVmsplice(const GuardFrame* frame) {
  const uint64_t fd = frame->args[0];
  const uint64_t address = frame->args[1];
  const uint64_t count = frame->args[2];
  const Demand demand = DemandOf(address, count);
  if (!demand.valid || demand.far_bytes == 0) return CallPrepared(frame);
  iovec first = {};
  for (uint64_t i = 0; i < count && first.iov_len == 0; ++i)
    if (!CopyElement(&first, address, i)) return -EFAULT;
  struct stat info;
  const long flags = sys::Call(SYS_fcntl, fd, F_GETFL);
  if (sys::Failed(flags) || CallPrepared(SYS_fstat, fd, &info) != 0 || !S_ISFIFO(info.st_mode)) return -EBADF;
  const bool reads = (flags & O_ACCMODE) == O_RDONLY;
  const bool waits = (frame->args[3] & SPLICE_F_NONBLOCK) == 0;  // O_NONBLOCK does not count here.
  for (;;) {
    // Like vmsplice: waits for some room or some bytes, then takes what there is.
    pollfd wait = {static_cast<int>(fd), static_cast<short>(reads ? POLLIN : POLLOUT), 0};
    const long ready = CallPrepared(SYS_poll, &wait, 1, waits ? -1 : 0);
    if (ready < 0) return ready;
    if (ready == 0) return -EAGAIN;
    GuardFrame call = {
        reads ? SYS_preadv2 : SYS_pwritev2, {fd, address, count, ~uint64_t{0}, 0, RWF_NOWAIT}, 0};
    long r = CallVector(&call);
    if (r == -EOPNOTSUPP) {  // Before Linux 6.4. A pipe that is ready has room for a page.
      iovec page = {first.iov_base, Min(first.iov_len, kPipeAtomic)};
      r = CallPrepared(reads ? SYS_readv : SYS_writev, fd, &page, 1);
    }
    if (r != -EAGAIN || !waits) return r;
  }
}

// process_vm_readv and _writev: the other side may be oneself. Piece by piece of both sides; the kernel, too,
// stops between bytes where memory ends.
long CallOtherMemory(const GuardFrame* frame) {
  const Demand local = DemandOf(frame->args[1], frame->args[2]);
  const Demand remote = DemandOf(frame->args[3], frame->args[4]);
  if (!local.valid || !remote.valid || (!local.Large() && !remote.Large())) return CallPrepared(frame);
  Cutter locals(frame->args[1], frame->args[2], local.bytes);
  Cutter remotes(frame->args[3], frame->args[4], remote.bytes);
  iovec here, there;
  uint64_t here_bytes = 0, there_bytes = 0, done = 0;
  for (;;) {
    if (here_bytes == 0 && locals.Next(&here, 1, &here_bytes) == 0) break;
    if (there_bytes == 0 && remotes.Next(&there, 1, &there_bytes) == 0) break;
    here.iov_len = there.iov_len = Min(here_bytes, there_bytes);
    const long r = CallPrepared(frame->number, frame->args[0], &here, 1, &there, 1, frame->args[5]);
    if (r < 0 && done == 0) return r;
    if (r < 0) break;
    const auto bytes = static_cast<uint64_t>(r);
    done += bytes;
    if (bytes < here.iov_len) break;
    here.iov_base = static_cast<char*>(here.iov_base) + bytes;
    there.iov_base = static_cast<char*>(there.iov_base) + bytes;
    here_bytes -= bytes;
    there_bytes -= bytes;
  }
  return static_cast<long>(done);
}

}  // namespace farpool
