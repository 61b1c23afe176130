#include "preload/guard.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <cerrno>
#include <cstring>

#include "base/sys.h"
#include "preload/runtime.h"
#include "preload/thread.h"
#include "run/layout.h"
#include "run/syscalls.h"

namespace farpool {

namespace {

// Longest stretch of a buffer kept present at once; longer calls go in pieces.
constexpr uint64_t kPieceBytes = 256 * 1024;
// A call that keeps answering EFAULT although its memory was made present is tried again this often.
constexpr int kFaultRetriesMax = 16;
constexpr unsigned kIovecsMax = 1024;  // The kernel's own bound (UIO_MAXIOV).
constexpr unsigned kRangesMax = 16;    // Pinned at once by one call; further buffers rely on the retry.
constexpr uint64_t kTransferMax = 0x7ffff000;  // The kernel's own bound of one read or write.
constexpr uint64_t kPipeAtomic = 4096;         // PIPE_BUF: a write of so much is not torn apart.

// Present now, and mapped so that the kernel may use it? Cheap: reads the page table without a lock.
bool AllResident(uintptr_t begin, uintptr_t end) {
  const auto* table = reinterpret_cast<const PageEntry*>(kTableBase);
  for (uint64_t page = (begin - kArenaBase) / kPageBytes; page <= (end - 1 - kArenaBase) / kPageBytes;
       ++page) {
    uint32_t word;
    __atomic_load(reinterpret_cast<const uint32_t*>(&table[page]) + 5, &word, __ATOMIC_RELAXED);
    if ((word & 0xf) != static_cast<uint32_t>(PageEntry::State::kResident)) return false;
  }
  return true;
}

uint64_t Min(uint64_t a, uint64_t b) { return a < b ? a : b; }

// Whether the program may read and write all of [args[0], args[1]). On the near stack.
long IsWritable(GuardFrame* frame) {
  constexpr int kReadWrite = PROT_READ | PROT_WRITE;
  MutexLock hold(g_runtime.engine.lock());
  for (uint64_t page = (frame->args[0] - kArenaBase) / kPageBytes;
       page <= (frame->args[1] - 1 - kArenaBase) / kPageBytes;) {
    const Area* area = g_runtime.engine.areas().Find(page);
    if (area == nullptr || (area->protection & kReadWrite) != kReadWrite) return 0;
    page = area->last;
  }
  return 1;
}

// The ranges one call needs, pinned from Add() to the end.
class Prepared {
 public:
  explicit Prepared(const GuardFrame* frame) : stack_(reinterpret_cast<uintptr_t>(frame)) {}
  ~Prepared() {
    for (unsigned i = 0; i < count_; ++i) g_runtime.engine.pins().Unpin(ranges_[i].pin);
  }
  Prepared(const Prepared&) = delete;
  Prepared& operator=(const Prepared&) = delete;

  // Near memory is no concern. What is not mapped is left for the kernel to refuse.
  void Add(uintptr_t begin, uint64_t bytes) {
    if (!InArena(begin) || bytes == 0) return;
    uint64_t end;
    if (__builtin_add_overflow(begin, bytes, &end)) return;
    any_ = true;
    if (count_ < kRangesMax) {
      Range& range = ranges_[count_];
      range.begin = begin;
      range.end = end;
      Pins& pins = g_runtime.engine.pins();
      const auto thread = static_cast<uintptr_t>(CurrentThread()->id);
      range.pin = pins.Pin(begin, end, thread, stack_, count_ == 0);
      if (range.pin < 0) {  // Threads that were cancelled inside calls may hold them.
        const long process = sys::Call(SYS_getpid);
        pins.Reclaim([&](uintptr_t owner) { return sys::Call(SYS_tgkill, process, owner, 0) == -ESRCH; });
        range.pin = pins.Pin(begin, end, thread, stack_, count_ == 0);
      }
      ++count_;
    }
    if (!MakePresent(begin, bytes)) complete_ = false;
  }
  // After an EFAULT: was one of the ranges not there after all? Makes it so again.
  bool Missing() {
    bool missing = false;
    for (unsigned i = 0; i < count_; ++i) {
      if (AllResident(ranges_[i].begin, ranges_[i].end)) continue;
      missing |= MakePresent(ranges_[i].begin, ranges_[i].end - ranges_[i].begin);
    }
    return missing;
  }
  bool any() const { return any_; }
  // False: a part is not mapped, and more attempts are pointless.
  bool complete() const { return complete_; }
  // The program itself may read and write all of it: then an EFAULT is ours, as far as we know. Which of the
  // two the call does is not known here; a pointer to near memory may be bad all the same.
  bool Accessible() const {
    for (unsigned i = 0; i < count_; ++i)
      if (OnNearStack(&IsWritable, {0, {ranges_[i].begin, ranges_[i].end}, 0}) == 0) return false;
    return true;
  }

 private:
  struct Range {
    uintptr_t begin, end;
    int pin;
  };
  uintptr_t stack_;
  Range ranges_[kRangesMax];
  unsigned count_ = 0;
  bool any_ = false;
  bool complete_ = true;
};

uint64_t StringBytes(uintptr_t begin) {
  // Page by page, so that nothing behind the string is asked for.
  for (uint64_t n = 0; n < 4096 + 1;) {
    const uint64_t left = kPageBytes - (begin + n) % kPageBytes;
    if (!MakePresent(begin + n, left)) return n;
    const auto* zero =
        static_cast<const char*>(std::memchr(reinterpret_cast<const void*>(begin + n), 0, left));
    if (zero != nullptr) return reinterpret_cast<uintptr_t>(zero) - begin + 1;
    n += left;
  }
  return 4096 + 1;  // Longer than any path: the kernel says so.
}

void AddIovecs(Prepared* prepared, uintptr_t address, uint64_t count) {
  if (address == 0 || count == 0 || count > kIovecsMax) return;
  const uint64_t bytes = count * sizeof(iovec);
  prepared->Add(address, bytes);
  if (!MakePresent(address, bytes)) return;
  const auto* vector = reinterpret_cast<const iovec*>(address);
  for (uint64_t i = 0; i < count; ++i)
    prepared->Add(reinterpret_cast<uintptr_t>(vector[i].iov_base), vector[i].iov_len);
}

void AddMessage(Prepared* prepared, uintptr_t address) {
  prepared->Add(address, sizeof(msghdr));
  if (address == 0 || !MakePresent(address, sizeof(msghdr))) return;
  const auto* message = reinterpret_cast<const msghdr*>(address);
  prepared->Add(reinterpret_cast<uintptr_t>(message->msg_name), message->msg_namelen);
  prepared->Add(reinterpret_cast<uintptr_t>(message->msg_control), message->msg_controllen);
  AddIovecs(prepared, reinterpret_cast<uintptr_t>(message->msg_iov), message->msg_iovlen);
}

void AddArgument(Prepared* prepared, const GuardFrame* frame, const SyscallArg& arg, uint64_t value,
                 uint64_t opaque_bytes) {
  switch (arg.kind) {
    case SyscallArg::kNone:
    case SyscallArg::kMapping:
      return;
    case SyscallArg::kFixed:
      prepared->Add(value, arg.size);
      return;
    case SyscallArg::kCounted: {
      uint64_t bytes;
      if (__builtin_mul_overflow(frame->args[arg.count_arg], uint64_t{arg.size}, &bytes)) return;
      prepared->Add(value, Min(bytes, 64 * 1024 * 1024));
      return;
    }
    case SyscallArg::kString:
      if (InArena(value)) prepared->Add(value, StringBytes(value));
      return;
    case SyscallArg::kIovec:
      AddIovecs(prepared, value, frame->args[arg.count_arg]);
      return;
    case SyscallArg::kMessage:
      AddMessage(prepared, value);
      return;
    case SyscallArg::kMessages: {
      struct MultiMessage {
        msghdr header;
        unsigned bytes;
      };
      const uint64_t count = Min(frame->args[arg.count_arg], kIovecsMax);
      prepared->Add(value, count * sizeof(MultiMessage));
      if (!MakePresent(value, count * sizeof(MultiMessage))) return;
      for (uint64_t i = 0; i < count; ++i) AddMessage(prepared, value + i * sizeof(MultiMessage));
      return;
    }
    case SyscallArg::kOpaque:
      if (InArena(value)) prepared->Add(value, opaque_bytes - value % kPageBytes);
      return;
  }
}

long CallPrepared(const GuardFrame* frame) {
  const SyscallSpec& spec = SyscallSpecOf(static_cast<unsigned>(frame->number));
  uint64_t opaque_bytes = 2 * kPageBytes;
  bool opaque = false;
  for (unsigned i = 0; i < 6; ++i)
    opaque |= spec.args[i].kind == SyscallArg::kOpaque && InArena(frame->args[i]);
  for (int attempt = 0;; ++attempt) {
    Prepared prepared(frame);
    for (unsigned i = 0; i < 6; ++i)
      AddArgument(&prepared, frame, spec.args[i], frame->args[i], opaque_bytes);
    if (prepared.any()) Count(g_runtime.segment->stats.syscalls_prepared);
    for (int retry = 0;; ++retry) {
      const long r = Forward(frame);
      if (r != -EFAULT || !prepared.any()) return r;
      if (retry < kFaultRetriesMax && prepared.Missing()) continue;
      break;
    }
    // Memory that only the call itself knows of (ioctl). More of the neighbourhood, then the truth. Any other
    // call named it all: an EFAULT is the program's, and each repetition could cost it a datagram.
    if (!opaque || attempt >= 3 || !prepared.complete()) {
      if (opaque && prepared.complete() && prepared.Accessible())
        Count(g_runtime.segment->stats.efault_uncured);
      return -EFAULT;
    }
    opaque_bytes *= 8;
  }
}

// How a descriptor takes a call that is carried out in pieces.
enum class Division {
  kFile,    // Every piece is answered at once: as one call.
  kStream,  // Bytes without borders. What follows a read's first piece may be long in coming.
  kWhole,   // A call is a message, or nobody knows.
};

Division DivisionOf(uint64_t fd) {
  // Through CallPrepared(): a program may run on a far stack.
  struct stat info;
  const GuardFrame fstat_call = {SYS_fstat, {fd, reinterpret_cast<uint64_t>(&info)}, 0};
  if (CallPrepared(&fstat_call) != 0) return Division::kWhole;
  switch (info.st_mode & S_IFMT) {
    case S_IFREG:
    case S_IFBLK:
      return Division::kFile;
    case S_IFIFO:
      return Division::kStream;
    case S_IFCHR:
      // Major 1 up to urandom (9): zero and its like never wait. Others do, terminals above all.
      return info.st_rdev >> 8 == 1 && (info.st_rdev & 0xff) <= 9 ? Division::kFile : Division::kStream;
    case S_IFSOCK: {
      int type = 0;
      socklen_t bytes = sizeof(type);
      const GuardFrame type_call = {
          SYS_getsockopt,
          {fd, SOL_SOCKET, SO_TYPE, reinterpret_cast<uint64_t>(&type), reinterpret_cast<uint64_t>(&bytes)},
          0};
      const bool stream = CallPrepared(&type_call) == 0 && type == SOCK_STREAM;
      return stream ? Division::kStream : Division::kWhole;
    }
    default:
      return Division::kWhole;
  }
}

// read, write and their like with a large far buffer: piece by piece, so that no more than a piece must be
// present at once. Stops at the first short answer, like the call itself would.
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
  }
  return static_cast<long>(done);
}

// The same where the descriptor decides: to go on reading a stream could wait for bytes that the program did
// not insist on; half a message is none.
long CallTransfer(const GuardFrame* frame) {
  if (!InArena(frame->args[1]) || frame->args[2] <= kPieceBytes) return CallPrepared(frame);
  const Division division = DivisionOf(frame->args[0]);
  if (division == Division::kWhole) return CallPrepared(frame);
  bool first_only =
      division == Division::kStream && (frame->number == SYS_read || frame->number == SYS_recvfrom);
  if (frame->number == SYS_recvfrom && (frame->args[3] & MSG_WAITALL) != 0) {
    if ((frame->args[3] & MSG_PEEK) != 0) return CallPrepared(frame);  // Each piece would be the first.
    first_only = false;
  }
  return CallInPieces(frame, 1, 2, -1, first_only);
}

// readv, writev and their like: as CallTransfer(). No piece names more far buffers than can be pinned.
long CallVector(const GuardFrame* frame) {
  const uint64_t address = frame->args[1];
  const uint64_t count = frame->args[2];
  if (address == 0 || count == 0 || count > kIovecsMax || !MakePresent(address, count * sizeof(iovec)))
    return CallPrepared(frame);
  const auto* vector = reinterpret_cast<const iovec*>(address);
  uint64_t total = 0, far_bytes = 0, used = 0, far_used = 0;
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t bytes = vector[i].iov_len;
    if (bytes > INT64_MAX - total) return CallPrepared(frame);  // EINVAL.
    if (bytes == 0) continue;
    total += bytes;
    ++used;
    if (!InArena(reinterpret_cast<uintptr_t>(vector[i].iov_base))) continue;
    far_bytes += bytes;
    ++far_used;
  }
  // One range less: the vector itself may be far.
  if (far_bytes <= kPieceBytes && far_used < kRangesMax) return CallPrepared(frame);
  const Division division = DivisionOf(frame->args[0]);
  if (division == Division::kWhole) return CallPrepared(frame);

  const bool reads =
      frame->number == SYS_readv || frame->number == SYS_preadv || frame->number == SYS_preadv2;
  iovec piece[kRangesMax];
  GuardFrame call = *frame;
  call.args[1] = reinterpret_cast<uint64_t>(piece);
  if (!reads && total <= kPipeAtomic && far_used == used) {
    // Many small ones, as of a log line: others' must not come in between.
    char text[kPipeAtomic];
    uint64_t filled = 0;
    for (uint64_t i = 0; i < count && filled < total; ++i) {
      const uint64_t bytes = Min(vector[i].iov_len, total - filled);
      if (!MakePresent(reinterpret_cast<uintptr_t>(vector[i].iov_base), bytes)) return CallPrepared(frame);
      std::memcpy(text + filled, vector[i].iov_base, bytes);
      filled += bytes;
    }
    piece[0] = {text, filled};
    call.args[2] = 1;
    return CallPrepared(&call);
  }
  // The "2" calls take -1 for the descriptor's own position.
  const bool positioned =
      frame->number == SYS_preadv || frame->number == SYS_pwritev ||
      ((frame->number == SYS_preadv2 || frame->number == SYS_pwritev2) && frame->args[3] != ~uint64_t{0});
  total = Min(total, kTransferMax);
  uint64_t done = 0;
  for (uint64_t i = 0, offset = 0; done < total;) {
    uint64_t bytes = 0, far = 0;
    unsigned n = 0;
    while (i < count && n < kRangesMax && far < kPieceBytes && done + bytes < total) {
      char* base = static_cast<char*>(vector[i].iov_base) + offset;
      uint64_t take = Min(vector[i].iov_len - offset, total - done - bytes);
      if (InArena(reinterpret_cast<uintptr_t>(base))) {
        take = Min(take, kPieceBytes - far);
        far += take;
      }
      if (take > 0) piece[n++] = {base, take};
      bytes += take;
      offset += take;
      if (offset >= vector[i].iov_len) {
        ++i;
        offset = 0;
      }
    }
    if (n == 0) break;
    call.args[2] = n;
    if (positioned) call.args[3] = frame->args[3] + done;
    const long r = CallPrepared(&call);
    if (r < 0) return done > 0 ? static_cast<long>(done) : r;
    done += static_cast<uint64_t>(r);
    if (static_cast<uint64_t>(r) < bytes || (reads && division == Division::kStream)) break;
  }
  return static_cast<long>(done);
}

// The pipe would go on referring to far pages that soon hold something else. So the bytes are copied.
long GuardVmsplice(const GuardFrame* frame) {
  const uint64_t fd = frame->args[0];
  const uint64_t address = frame->args[1];
  const uint64_t count = frame->args[2];
  if (address == 0 || count == 0 || count > kIovecsMax || !MakePresent(address, count * sizeof(iovec)))
    return CallPrepared(frame);
  const auto* vector = reinterpret_cast<const iovec*>(address);
  const iovec* first = nullptr;
  bool far = false;
  for (uint64_t i = 0; i < count; ++i) {
    if (vector[i].iov_len == 0) continue;
    if (first == nullptr) first = &vector[i];
    far |= InArena(reinterpret_cast<uintptr_t>(vector[i].iov_base));
  }
  if (!far) return CallPrepared(frame);
  struct stat info;
  const GuardFrame fstat_call = {SYS_fstat, {fd, reinterpret_cast<uint64_t>(&info)}, 0};
  const long flags = sys::Call(SYS_fcntl, fd, F_GETFL);
  if (sys::Failed(flags) || CallPrepared(&fstat_call) != 0 || !S_ISFIFO(info.st_mode)) return -EBADF;
  const bool reads = (flags & O_ACCMODE) == O_RDONLY;
  const bool waits = (frame->args[3] & SPLICE_F_NONBLOCK) == 0;  // O_NONBLOCK does not count here.
  for (;;) {
    // Like vmsplice: waits for some room or some bytes, then takes what there is.
    pollfd wait = {static_cast<int>(fd), static_cast<short>(reads ? POLLIN : POLLOUT), 0};
    const GuardFrame poll_call = {
        SYS_poll, {reinterpret_cast<uint64_t>(&wait), 1, static_cast<uint64_t>(waits ? -1 : 0)}, 0};
    const long ready = CallPrepared(&poll_call);
    if (ready < 0) return ready;
    if (ready == 0) return -EAGAIN;
    GuardFrame call = {
        reads ? SYS_preadv2 : SYS_pwritev2, {fd, address, count, ~uint64_t{0}, 0, RWF_NOWAIT}, 0};
    long r = CallVector(&call);
    if (r == -EOPNOTSUPP) {  // Before Linux 6.4. A pipe that is ready has room for a page.
      iovec page = {first->iov_base, Min(first->iov_len, kPipeAtomic)};
      call = {reads ? SYS_readv : SYS_writev, {fd, reinterpret_cast<uint64_t>(&page), 1}, 0};
      r = CallPrepared(&call);
    }
    if (r != -EAGAIN || !waits) return r;
  }
}

// The words waited for are named in memory only.
long CallFutexWaitv(const GuardFrame* frame) {
  struct Waiter {
    uint64_t value, address;
    uint32_t flags, reserved;
  };
  const uint64_t count = frame->args[1];
  if (frame->args[0] == 0 || count > 128 || !MakePresent(frame->args[0], count * sizeof(Waiter)))
    return CallPrepared(frame);
  const auto* waiters = reinterpret_cast<const Waiter*>(frame->args[0]);
  for (int attempt = 0;; ++attempt) {
    bool far = false;
    for (uint64_t i = 0; i < count; ++i) {
      far |= InArena(waiters[i].address);
      MakePresent(waiters[i].address, sizeof(uint32_t));
    }
    const long r = CallPrepared(frame);
    if (r != -EFAULT || !far || attempt >= kFaultRetriesMax) return r;
  }
}

// A mask inside another call: the same without our signals.
long CallWithMask(GuardFrame* frame, unsigned mask_arg) {
  if (frame->args[mask_arg] == 0 || !MakePresent(frame->args[mask_arg], sizeof(uint64_t)))
    return CallPrepared(frame);
  const WaitingMask mask(*reinterpret_cast<const uint64_t*>(frame->args[mask_arg]));
  frame->args[mask_arg] = reinterpret_cast<uint64_t>(mask.kernel_mask());
  return CallPrepared(frame);
}

long CallPselect(GuardFrame* frame) {
  struct Argument {
    uint64_t mask;
    uint64_t bytes;
  };
  if (frame->args[5] == 0 || !MakePresent(frame->args[5], sizeof(Argument))) return CallPrepared(frame);
  Argument argument = *reinterpret_cast<const Argument*>(frame->args[5]);
  if (argument.mask == 0 || !MakePresent(argument.mask, sizeof(uint64_t))) return CallPrepared(frame);
  const WaitingMask mask(*reinterpret_cast<const uint64_t*>(argument.mask));
  argument.mask = reinterpret_cast<uint64_t>(mask.kernel_mask());
  frame->args[5] = reinterpret_cast<uint64_t>(&argument);
  return CallPrepared(frame);
}

long CallSigtimedwait(GuardFrame* frame) {
  siginfo_t info;
  if (frame->args[3] == sizeof(uint64_t) && MakePresent(frame->args[0], sizeof(uint64_t)) &&
      TakeHeld(*reinterpret_cast<const uint64_t*>(frame->args[0]), &info)) {
    if (frame->args[1] != 0) std::memcpy(reinterpret_cast<void*>(frame->args[1]), &info, sizeof(info));
    return info.si_signo;
  }
  return CallPrepared(frame);
}

// The kernel copies path, arguments and environment in before the old image goes. Everything they name must
// be present at that time; another thread may evict some of it meanwhile, then it is tried again.
long GuardExec(const GuardFrame* frame) {
  const bool at = frame->number == SYS_execveat;
  const uintptr_t path = frame->args[at ? 1 : 0];
  for (int attempt = 0;; ++attempt) {
    bool far = InArena(path);
    if (far) StringBytes(path);
    for (unsigned i = at ? 2 : 1; i < (at ? 4u : 3u); ++i) {
      uintptr_t vector = frame->args[i];
      while (vector != 0 && MakePresent(vector, sizeof(uintptr_t))) {
        far |= InArena(vector);
        uintptr_t text;
        std::memcpy(&text, reinterpret_cast<const void*>(vector), sizeof(text));
        if (text == 0) break;
        if (InArena(text)) {
          far = true;
          for (uintptr_t p = text;;) {  // Arguments may be longer than a path.
            const uint64_t bytes = StringBytes(p);
            if (bytes <= 4096) break;
            p += bytes;
          }
        }
        vector += sizeof(uintptr_t);
      }
    }
    long r;
    {
      InheritedSignals inherited;
      r = Forward(frame);
    }
    if (r != -EFAULT || !far || attempt >= kFaultRetriesMax) return r;
  }
}

// Brings in [args[0], args[1]). True if all of it is mapped.
long BringIn(GuardFrame* frame) {
  Engine& engine = g_runtime.engine;
  const uint64_t first = (frame->args[0] - kArenaBase) / kPageBytes;
  uint64_t last = (frame->args[1] - 1 - kArenaBase) / kPageBytes + 1;
  bool complete = true;
  {
    MutexLock hold(engine.lock());
    for (uint64_t page = first; page < last;) {
      const Area* area = engine.areas().Find(page);
      if (area == nullptr || area->protection == PROT_NONE) {
        last = page;
        complete = false;
        break;
      }
      page = area->last;
    }
  }
  for (uint64_t page = first; page < last; ++page) {
    const uintptr_t address = kArenaBase + page * kPageBytes;
    if (AllResident(address, address + 1)) continue;
    if (Status s = engine.Fault(address); !s.ok()) Fatal(s);
  }
  return complete;
}

}  // namespace

bool MakePresent(uintptr_t begin, uint64_t bytes) {
  uint64_t end;
  if (!InArena(begin) || bytes == 0) return true;
  if (__builtin_add_overflow(begin, bytes, &end) || !g_runtime.started.load(std::memory_order_relaxed))
    return false;
  if (AllResident(begin, end)) return true;
  return OnNearStack(&BringIn, {0, {begin, end}, 0}) != 0;
}

long Forward(const GuardFrame* frame) {
  return sys::Call(frame->number, frame->args[0], frame->args[1], frame->args[2], frame->args[3],
                   frame->args[4], frame->args[5]);
}

}  // namespace farpool

// From entry.S, in the program's own context: its stack, its mask, its locks. May be interrupted and even
// left for good (longjmp out of a signal handler) wherever signals are not blocked.
extern "C" __attribute__((visibility("hidden"))) long farpool_guard(farpool::GuardFrame* frame) {
  using namespace farpool;
  const uint64_t* args = frame->args;
  switch (frame->number) {
    case SYS_mmap:
      return GuardMmap(frame);
    case SYS_munmap:
      return GuardMunmap(args[0], args[1]);
    case SYS_mprotect:
    case SYS_pkey_mprotect:
      return GuardMprotect(args[0], args[1], static_cast<int>(args[2]));
    case SYS_mremap:
      return GuardMremap(frame);
    case SYS_madvise:
      return GuardMadvise(args[0], args[1], static_cast<int>(args[2]));
    case SYS_brk:
      return GuardBrk(args[0]);
    case SYS_mlock:
    case SYS_mlock2:
    case SYS_munlock:
    case SYS_msync:
    case SYS_mbind:
      return InArena(args[0]) ? 0 : CallPrepared(frame);
    case SYS_mlockall:
    case SYS_munlockall:
      // Far memory cannot be locked: it would all be populated, or could not be dropped. Near memory stays
      // unlocked with it, as the kernel knows no mlockall for a part.
      return 0;
    case SYS_mincore:
      if (!InArena(args[0])) return CallPrepared(frame);
      // Far memory behaves as if it were all there.
      std::memset(reinterpret_cast<void*>(args[2]), 1, (args[1] + kPageBytes - 1) / kPageBytes);
      return 0;
    case SYS_rt_sigaction:
      return GuardSigaction(frame);
    case SYS_rt_sigprocmask:
      return GuardSigprocmask(frame);
    case SYS_sigaltstack:
      return GuardSigaltstack(frame);
    case SYS_rt_sigpending:
      return GuardSigpending(frame);
    case SYS_rt_sigtimedwait:
      return CallSigtimedwait(frame);
    case SYS_rt_sigsuspend:
      return CallWithMask(frame, 0);
    case SYS_ppoll:
      return CallWithMask(frame, 3);
    case SYS_epoll_pwait:
      return CallWithMask(frame, 4);
    case SYS_epoll_pwait2:
      return CallWithMask(frame, 4);
    case SYS_pselect6:
    case SYS_io_pgetevents:
      return CallPselect(frame);
    case SYS_fork:
    case SYS_clone:
      return OnNearStack(&GuardFork, *frame);
    case SYS_execve:
    case SYS_execveat:
      return GuardExec(frame);
    case SYS_read:
    case SYS_write:
    case SYS_sendto:
    case SYS_recvfrom:
      return CallTransfer(frame);
    case SYS_readv:
    case SYS_writev:
    case SYS_preadv:
    case SYS_pwritev:
    case SYS_preadv2:
    case SYS_pwritev2:
      return CallVector(frame);
    case SYS_vmsplice:
      return GuardVmsplice(frame);
    case SYS_setsockopt:
      // MSG_ZEROCOPY would keep far pages in flight when the call is over. Programs can do without.
      if (args[1] == SOL_SOCKET && args[2] == SO_ZEROCOPY) return -ENOPROTOOPT;
      return CallPrepared(frame);
    case SYS_futex_waitv:
      return CallFutexWaitv(frame);
    case SYS_pread64:
    case SYS_pwrite64:
      if (InArena(args[1]) && args[2] > kPieceBytes) return CallInPieces(frame, 1, 2, 3);
      return CallPrepared(frame);
    case SYS_getrandom:
      if (InArena(args[0]) && args[1] > kPieceBytes) return CallInPieces(frame, 0, 1, -1);
      return CallPrepared(frame);
    default:
      return CallPrepared(frame);
  }
}
