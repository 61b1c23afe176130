#include "preload/guard.h"

#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <cerrno>
#include <cstring>

#include "base/sys.h"
#include "preload/runtime.h"
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
      range.pin = g_runtime.engine.pins().Pin(
          begin, end, reinterpret_cast<uintptr_t>(__builtin_thread_pointer()), stack_, count_ == 0);
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
    constexpr int kReadWrite = PROT_READ | PROT_WRITE;
    SignalsBlocked blocked;
    MutexLock hold(g_runtime.engine.lock());
    for (unsigned i = 0; i < count_; ++i)
      for (uint64_t page = (ranges_[i].begin - kArenaBase) / kPageBytes;
           page <= (ranges_[i].end - 1 - kArenaBase) / kPageBytes;) {
        const Area* area = g_runtime.engine.areas().Find(page);
        if (area == nullptr || (area->protection & kReadWrite) != kReadWrite) return false;
        page = area->last;
      }
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
    // Memory that only the call itself knows of (ioctl). More of the neighbourhood, then the truth.
    if (attempt >= 3 || !prepared.complete()) {
      if (prepared.complete() && prepared.Accessible()) Count(g_runtime.segment->stats.efault_uncured);
      return -EFAULT;
    }
    opaque_bytes *= 8;
  }
}

// read, write and their like with a large far buffer: piece by piece, so that no more than a piece must be
// present at once. Stops at the first short answer, like the call itself would.
long CallInPieces(const GuardFrame* frame, unsigned buffer_arg, unsigned count_arg, int offset_arg) {
  GuardFrame piece = *frame;
  uint64_t done = 0;
  const uint64_t total = frame->args[count_arg];
  while (done < total) {
    piece.args[buffer_arg] = frame->args[buffer_arg] + done;
    piece.args[count_arg] = Min(total - done, kPieceBytes);
    if (offset_arg >= 0) piece.args[offset_arg] = frame->args[offset_arg] + done;
    const long r = CallPrepared(&piece);
    if (r < 0) return done > 0 ? static_cast<long>(done) : r;
    done += static_cast<uint64_t>(r);
    if (static_cast<uint64_t>(r) < piece.args[count_arg]) break;
  }
  return static_cast<long>(done);
}

// A mask inside another call: the same without our signals.
long CallWithMask(GuardFrame* frame, unsigned mask_arg) {
  uint64_t mask;
  if (frame->args[mask_arg] != 0 && MakePresent(frame->args[mask_arg], sizeof(mask))) {
    std::memcpy(&mask, reinterpret_cast<const void*>(frame->args[mask_arg]), sizeof(mask));
    mask &= ~kOurSignals;
    frame->args[mask_arg] = reinterpret_cast<uint64_t>(&mask);
  }
  return CallPrepared(frame);
}

long CallPselect(GuardFrame* frame) {
  struct {
    const uint64_t* mask;
    uint64_t bytes;
  } argument;
  uint64_t mask;
  if (frame->args[5] != 0 && MakePresent(frame->args[5], sizeof(argument))) {
    std::memcpy(&argument, reinterpret_cast<const void*>(frame->args[5]), sizeof(argument));
    if (argument.mask != nullptr && MakePresent(reinterpret_cast<uintptr_t>(argument.mask), sizeof(mask))) {
      mask = *argument.mask & ~kOurSignals;
      argument.mask = &mask;
    }
    frame->args[5] = reinterpret_cast<uint64_t>(&argument);
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
    const long r = Forward(frame);
    if (r != -EFAULT || !far || attempt >= kFaultRetriesMax) return r;
  }
}

}  // namespace

bool MakePresent(uintptr_t begin, uint64_t bytes) {
  uint64_t end;
  if (!InArena(begin) || bytes == 0) return true;
  if (__builtin_add_overflow(begin, bytes, &end) || !g_runtime.started.load(std::memory_order_relaxed))
    return false;
  if (AllResident(begin, end)) return true;
  SignalsBlocked blocked;
  Engine& engine = g_runtime.engine;
  const uint64_t first = (begin - kArenaBase) / kPageBytes;
  uint64_t last = (end - 1 - kArenaBase) / kPageBytes + 1;
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
    case SYS_rt_sigsuspend:
      return CallWithMask(frame, 0);
    case SYS_ppoll:
      return CallWithMask(frame, 3);
    case SYS_epoll_pwait:
      return CallWithMask(frame, 4);
    case SYS_epoll_pwait2:
      return CallWithMask(frame, 4);
    case SYS_pselect6:
      return CallPselect(frame);
    case SYS_fork:
    case SYS_clone:
      return GuardFork(frame);
    case SYS_execve:
    case SYS_execveat:
      return GuardExec(frame);
    case SYS_read:
    case SYS_write:
    case SYS_sendto:
    case SYS_recvfrom:
      if (InArena(args[1]) && args[2] > kPieceBytes && frame->number < 2)
        return CallInPieces(frame, 1, 2, -1);
      return CallPrepared(frame);
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
