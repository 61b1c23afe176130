#include "preload/prepare.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>

#include <cerrno>
#include <cstring>

#include "preload/runtime.h"
#include "preload/thread.h"
#include "run/layout.h"
#include "run/syscalls.h"

// In entry.S.
extern "C" __attribute__((visibility("hidden"))) long farpool_forward(const farpool::GuardFrame* frame,
                                                                      uint32_t* forwards);

namespace farpool {

namespace {

constexpr uint64_t kCountedMax = 64 * 1024 * 1024;
constexpr unsigned kNestedBytesMax = 256;  // Looked through for pointers.

// Would the kernel read from this page? rt_sigprocmask fetches the mask before it finds that `how` is
// nonsense.
bool Readable(uintptr_t page) {
  constexpr int kNoSuchHow = 99;
  // Not at the very start: a null pointer is no mask.
  return sys::Call(SYS_rt_sigprocmask, kNoSuchHow, page * kPageBytes + sizeof(uint64_t), nullptr,
                   sizeof(uint64_t)) != -EFAULT;
}

bool NearReadable(uintptr_t begin, uint64_t bytes) {
  // Structures made for a call are often on the stack. The page this function runs on needs no asking, and
  // one a little above it needs it once: what is in use of a stack does not go away.
  constexpr uintptr_t kLittle = 16;
  const uintptr_t here = reinterpret_cast<uintptr_t>(__builtin_frame_address(0)) / kPageBytes;
  Thread* thread = CurrentThread();
  for (uintptr_t page = begin / kPageBytes; page <= (begin + bytes - 1) / kPageBytes; ++page) {
    const bool stack = page - here < kLittle;
    if (page == here || (stack && page == thread->stack_page)) continue;
    if (!Readable(page)) return false;
    if (stack) thread->stack_page = page;
  }
  return true;
}

// Present, and not of a mapping without rights. Between the two looks it may go; and while it goes the table
// still calls it resident, so only the mapping tells whose the EFAULT is.
bool FarReadable(uintptr_t begin, uint64_t bytes) {
  if (!MakePresent(begin, bytes)) return false;
  for (uintptr_t page = begin / kPageBytes; page <= (begin + bytes - 1) / kPageBytes; ++page)
    for (int retry = 0; !Readable(page); ++retry) {
      if (retry == kFaultRetriesMax || !Allows(page * kPageBytes, 1, PROT_READ)) return false;
      MakePresent(page * kPageBytes, 1);
    }
  return true;
}

// The ranges one call needs, pinned from Add() to the end.
class Prepared {
 public:
  explicit Prepared(const GuardFrame* frame) : stack_(reinterpret_cast<uintptr_t>(frame)) {}
  ~Prepared() {
    for (unsigned i = 0; i < count_; ++i) g_runtime.engine->pins().Unpin(ranges_[i].pin);
  }
  Prepared(const Prepared&) = delete;
  Prepared& operator=(const Prepared&) = delete;

  // Near memory is no concern. What is not mapped is left for the kernel to refuse.
  void Add(uintptr_t begin, uint64_t bytes) {
    if (!InArena(begin) || bytes == 0 || !g_runtime.has_started()) return;
    uint64_t end;
    if (__builtin_add_overflow(begin, bytes, &end)) return;
    any_ = true;
    if (count_ < kRangesMax) {
      Range& range = ranges_[count_];
      range.begin = begin;
      range.end = end;
      Pins& pins = g_runtime.engine->pins();
      const Thread* self = CurrentThread();
      const auto thread = static_cast<uintptr_t>(self->id);
      const auto pin = [&] {
        return pins.Pin(begin, end, thread, stack_, count_ == 0, self->asked.base,
                        self->asked.base + self->asked.bytes);
      };
      range.pin = pin();
      if (range.pin < 0) {  // Threads that ended inside calls may hold them.
        pins.Reclaim(sys::ThreadEnded);
        range.pin = pin();
      }
      pinned_ &= range.pin >= 0;
      ++count_;
    } else {
      pinned_ = false;
    }
    if (!MakePresent(begin, bytes)) complete_ = false;
  }
  // As Add(), of memory whose size only the call itself knows.
  void AddOpaque(uintptr_t begin, uint64_t bytes) {
    if (!InArena(begin)) return;
    opaque_ = true;
    Add(begin, bytes - begin % kPageBytes);
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
  bool opaque() const { return opaque_; }
  // False: a part is not mapped, and more attempts are pointless.
  bool complete() const { return complete_; }
  // False: some were made present only, and may be gone again.
  bool pinned() const { return pinned_; }
  // The program itself may read and write all of it: then an EFAULT is ours, as far as we know. Which of the
  // two the call does is not known here; a pointer to near memory may be bad all the same.
  bool Accessible() const {
    for (unsigned i = 0; i < count_; ++i)
      if (!Allows(ranges_[i].begin, ranges_[i].end - ranges_[i].begin, PROT_READ | PROT_WRITE)) return false;
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
  bool opaque_ = false;
  bool complete_ = true;
  bool pinned_ = true;
};

void AddIovecs(Prepared* prepared, uintptr_t address, uint64_t count) {
  if (address == 0 || count == 0 || count > kIovecsMax) return;
  prepared->Add(address, count * sizeof(iovec));
  iovec part[kRangesMax];
  for (uint64_t done = 0; done < count;) {
    const uint64_t n = Min(count - done, kRangesMax);
    if (!CopyIn(part, address + done * sizeof(iovec), n * sizeof(iovec))) return;
    for (uint64_t i = 0; i < n; ++i)
      prepared->Add(reinterpret_cast<uintptr_t>(part[i].iov_base), part[i].iov_len);
    done += n;
  }
}

void AddMessage(Prepared* prepared, uintptr_t address) {
  prepared->Add(address, sizeof(msghdr));
  msghdr message;
  if (address == 0 || !CopyIn(&message, address, sizeof(message))) return;
  prepared->Add(reinterpret_cast<uintptr_t>(message.msg_name), message.msg_namelen);
  prepared->Add(reinterpret_cast<uintptr_t>(message.msg_control), message.msg_controllen);
  AddIovecs(prepared, reinterpret_cast<uintptr_t>(message.msg_iov), message.msg_iovlen);
}

// A structure that may hold pointers, of a call with too many variants to list: whatever in it could be a far
// pointer is taken for one.
void AddNested(Prepared* prepared, uintptr_t address, uint64_t bytes, uint64_t opaque_bytes) {
  LastPage page;
  for (uint64_t at = 0; at + sizeof(uint64_t) <= Min(bytes, kNestedBytesMax); at += sizeof(uint64_t)) {
    uint64_t word;
    if (!page.MayRead(address + at, sizeof(word))) return;
    std::memcpy(&word, reinterpret_cast<const void*>(address + at), sizeof(word));
    if (InArena(word) && Allows(word, 1, PROT_READ)) prepared->AddOpaque(word, opaque_bytes);
  }
}

// Size of the structure at argument `arg`, as far as the call says.
uint64_t NestedBytes(const GuardFrame* frame) {
  constexpr uint64_t kUnsaid = 64;  // What is older than sizes in request numbers is small.
  uint64_t bytes = 0;
  if (frame->number == SYS_ioctl) bytes = frame->args[1] >> 16 & 0x3fff;
  if (frame->number == SYS_setsockopt) bytes = static_cast<uint32_t>(frame->args[4]);
  return bytes == 0 ? kUnsaid : bytes;
}

void AddArgument(Prepared* prepared, const GuardFrame* frame, const SyscallArg& arg, uint64_t value,
                 uint64_t opaque_bytes) {
  const uint64_t count = frame->args[arg.count_arg];
  switch (arg.kind) {
    case SyscallArg::kNone:
    case SyscallArg::kMapping:
      return;
    case SyscallArg::kFixed:
      prepared->Add(value, arg.size);
      return;
    case SyscallArg::kCounted: {
      uint64_t bytes;
      if (__builtin_mul_overflow(count, uint64_t{arg.size}, &bytes)) return;
      prepared->Add(value, Min(bytes, kCountedMax) + arg.extra);
      return;
    }
    case SyscallArg::kBits:
      prepared->Add(value, Min((count + 63) / 64 * 8, kCountedMax));
      return;
    case SyscallArg::kString:
      if (InArena(value)) prepared->Add(value, StringBytes(value));
      return;
    case SyscallArg::kIovec:
      AddIovecs(prepared, value, count);
      return;
    case SyscallArg::kMessage:
      AddMessage(prepared, value);
      return;
    case SyscallArg::kMessages: {
      const uint64_t messages = Min(count, kIovecsMax);
      prepared->Add(value, messages * sizeof(mmsghdr));
      for (uint64_t i = 0; i < messages; ++i) AddMessage(prepared, value + i * sizeof(mmsghdr));
      return;
    }
    case SyscallArg::kNested:
      // Numbers may stand there as well.
      if (value >= kPageBytes) AddNested(prepared, value, NestedBytes(frame), opaque_bytes);
      if (arg.size != 0) {
        prepared->Add(value, static_cast<uint32_t>(count) * uint64_t{arg.size});
        return;
      }
      [[fallthrough]];
    case SyscallArg::kOpaque:
      prepared->AddOpaque(value, opaque_bytes);
      return;
  }
}

}  // namespace

bool AllResident(uintptr_t begin, uintptr_t end) {
  return g_runtime.engine->AllResident((begin - kArenaBase) / kPageBytes,
                                       (end - 1 - kArenaBase) / kPageBytes + 1);
}

namespace {

// Brings in [args[0], args[1]). True if all of it is mapped.
long BringIn(GuardFrame* frame) {
  Engine& engine = *g_runtime.engine;
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

// Whether [args[0], args[1]) is mapped with at least the protection args[2].
long IsAllowed(GuardFrame* frame) {
  const auto protection = static_cast<int>(frame->args[2]);
  MutexLock hold(g_runtime.engine->lock());
  for (uint64_t page = (frame->args[0] - kArenaBase) / kPageBytes;
       page <= (frame->args[1] - 1 - kArenaBase) / kPageBytes;) {
    const Area* area = g_runtime.engine->areas().Find(page);
    if (area == nullptr || (area->protection & protection) != protection) return 0;
    page = area->last;
  }
  return 1;
}

}  // namespace

bool MakePresent(uintptr_t begin, uint64_t bytes) {
  uint64_t end;
  if (!InArena(begin) || bytes == 0) return true;
  if (__builtin_add_overflow(begin, bytes, &end) || !g_runtime.has_started()) return false;
  if (end > kArenaBase + kArenaBytes) return false;
  if (AllResident(begin, end)) return true;
  return OnNearStack(&BringIn, {0, {begin, end}, 0}) != 0;
}

bool Allows(uintptr_t begin, uint64_t bytes, int protection) {
  uint64_t end;
  if (!InArena(begin) || bytes == 0) return true;
  if (__builtin_add_overflow(begin, bytes, &end) || !g_runtime.has_started()) return false;
  if (end > kArenaBase + kArenaBytes) return false;
  return OnNearStack(&IsAllowed, {0, {begin, end, static_cast<uint64_t>(protection)}, 0}) != 0;
}

bool CopyIn(void* to, uintptr_t from, uint64_t bytes) {
  uint64_t end;
  if (bytes == 0) return true;
  if (__builtin_add_overflow(from, bytes, &end) || end > kUserEnd) return false;
  if (InArena(from) ? !FarReadable(from, bytes) : !NearReadable(from, bytes)) return false;
  std::memcpy(to, reinterpret_cast<const void*>(from), bytes);
  return true;
}

// Written by the kernel, which knows what may be written. Not for calls that must be fast.
bool CopyOut(uintptr_t to, const void* from, uint64_t bytes) {
  const iovec source = {const_cast<void*>(from), bytes};
  const iovec target = {reinterpret_cast<void*>(to), bytes};
  const GuardFrame here = {};  // Where on the stack.
  Prepared pinned(&here);
  pinned.Add(to, bytes);
  for (int retry = 0; retry < kFaultRetriesMax; ++retry) {
    if (!MakePresent(to, bytes)) return false;
    const long r = sys::Call(SYS_process_vm_writev, sys::Call(SYS_getpid), &source, 1, &target, 1, 0);
    if (r == static_cast<long>(bytes)) return true;
    if (r == -ENOSYS || r == -EPERM) {  // A container's seccomp profile.
      if (!Allows(to, bytes, PROT_WRITE) || !(InArena(to) || NearReadable(to, bytes))) return false;
      std::memcpy(reinterpret_cast<void*>(to), from, bytes);
      return true;
    }
    if (!InArena(to) || !Allows(to, bytes, PROT_WRITE)) return false;
  }
  return false;
}

bool MayRead(uintptr_t at, uint64_t bytes) {
  uint64_t end;
  if (at == 0) return true;
  if (__builtin_add_overflow(at, bytes, &end) || end > kUserEnd) return false;
  return InArena(at) ? FarReadable(at, bytes) : NearReadable(at, bytes);
}

// FUTEX_WAKE_OP writes what is there already: it adds nothing to the word.
bool MayWrite(uintptr_t at, uint64_t bytes) {
  if (!MayRead(at, bytes)) return false;
  if (at == 0) return true;
  if (InArena(at)) return Allows(at, bytes, PROT_WRITE);
  const uintptr_t here = reinterpret_cast<uintptr_t>(__builtin_frame_address(0)) / kPageBytes;
  constexpr int kWakeOpPrivate = 5 | 128;
  constexpr unsigned kAddNothing = 1u << 28;
  for (uintptr_t word : {at, at + bytes - 1}) {
    word &= ~uintptr_t{3};
    if (word / kPageBytes != here &&
        sys::Call(SYS_futex, word, kWakeOpPrivate, 0, 0, word, kAddNothing) == -EFAULT)
      return false;
  }
  return true;
}

uint64_t StringBytes(uintptr_t begin) {
  // Page by page, so that nothing behind the string is asked for.
  for (uint64_t n = 0; n < kStringMax;) {
    const uint64_t left = kPageBytes - (begin + n) % kPageBytes;
    if (!FarReadable(begin + n, left)) return n;
    const auto* zero =
        static_cast<const char*>(std::memchr(reinterpret_cast<const void*>(begin + n), 0, left));
    if (zero != nullptr) return reinterpret_cast<uintptr_t>(zero) - begin + 1;
    n += left;
  }
  return kStringMax;  // Longer than any path: the kernel says so.
}

bool MayReadString(uintptr_t begin, LastPage* page) {
  for (uintptr_t at = begin;;) {
    const uint64_t left = kPageBytes - at % kPageBytes;
    if (!page->MayRead(at, left)) return false;
    if (std::memchr(reinterpret_cast<const void*>(at), 0, left) != nullptr) return true;
    at += left;
  }
}

long Forward(const GuardFrame* frame) { return farpool_forward(frame, &CurrentThread()->forwards); }

namespace {

// `add(prepared, opaque_bytes)` names the ranges.
template <typename Add>
inline long CallWith(const GuardFrame* frame, Add&& add) {
  uint64_t opaque_bytes = 2 * kPageBytes;
  for (int attempt = 0;; ++attempt) {
    Prepared prepared(frame);
    add(&prepared, opaque_bytes);
    if (prepared.any())
      g_runtime.segment->stats.syscalls_prepared.Add(static_cast<uint64_t>(CurrentThread()->id));
    for (int retry = 0;; ++retry) {
      const long r = Forward(frame);
      if (r != -EFAULT || !prepared.any()) return r;
      if (retry < kFaultRetriesMax && prepared.Missing()) continue;
      break;
    }
    // What could not be pinned may have been there and gone.
    if (!prepared.pinned() && attempt < kFaultRetriesMax) continue;
    // Memory that only the call itself knows of (ioctl). More of the neighbourhood, then the truth. Any other
    // call named it all: an EFAULT is the program's, and each repetition could cost it a datagram.
    if (!prepared.opaque() || attempt >= 3 || !prepared.complete()) {
      if (prepared.opaque() && prepared.complete() && prepared.Accessible())
        Count(g_runtime.segment->stats.efault_uncured);
      return -EFAULT;
    }
    opaque_bytes *= 8;
  }
}

}  // namespace

long CallPrepared(const GuardFrame* frame) {
  const SyscallSpec& spec = SyscallSpecOf(static_cast<unsigned>(frame->number));
  return CallWith(frame, [&](Prepared* prepared, uint64_t opaque_bytes) {
    for (unsigned i = 0; i < 6; ++i) AddArgument(prepared, frame, spec.args[i], frame->args[i], opaque_bytes);
  });
}

long CallPrepared(const GuardFrame* frame, const iovec* far, unsigned count) {
  return CallWith(frame, [&](Prepared* prepared, uint64_t) {
    for (unsigned i = 0; i < count; ++i)
      prepared->Add(reinterpret_cast<uintptr_t>(far[i].iov_base), far[i].iov_len);
  });
}

Division DivisionOf(uint64_t fd, bool writes) {
  const auto ask = [](GuardFrame* frame) -> long {
    auto* const answer = reinterpret_cast<struct stat*>(frame->args[1]);
    struct stat info;
    const long r = sys::Call(SYS_fstat, frame->args[0], &info);
    if (r == 0) *answer = info;
    return r;
  };
  // By the runtime's own entry, since the program's filter may not know this call; on the near stack, since
  // the program's may be far.
  struct stat info;
  if (OnNearStack(ask, {0, {fd, reinterpret_cast<uint64_t>(&info)}, 0}) != 0) return Division::kWhole;
  switch (info.st_mode & S_IFMT) {
    case S_IFREG:
      return writes && (sys::Call(SYS_fcntl, fd, F_GETFL) & O_APPEND) != 0 ? Division::kRecord
                                                                           : Division::kFile;
    case S_IFBLK:
      return Division::kFile;
    case S_IFIFO:
      return Division::kStream;
    case S_IFCHR: {
      // Documentation/admin-guide/devices.txt. Major 1 up to urandom (9): zero and its like never wait.
      // Terminals do. Others have records (FUSE answers a buffer for less than the largest with EINVAL), or
      // nobody knows.
      const unsigned major = gnu_dev_major(info.st_rdev);
      if (major == 1 && gnu_dev_minor(info.st_rdev) <= 9) return Division::kFile;
      const bool terminal = major == 4 || major == 5 || (major >= 136 && major <= 143);
      return terminal ? Division::kStream : Division::kWhole;
    }
    case S_IFSOCK: {
      int type = 0;
      socklen_t bytes = sizeof(type);
      const bool stream =
          CallPrepared(SYS_getsockopt, fd, SOL_SOCKET, SO_TYPE, &type, &bytes) == 0 && type == SOCK_STREAM;
      return stream ? Division::kStream : Division::kWhole;
    }
    default:
      return Division::kWhole;
  }
}

}  // namespace farpool
