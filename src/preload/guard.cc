#include "preload/guard.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <atomic>
#include <cerrno>
#include <cstring>

#include "preload/prepare.h"
#include "preload/runtime.h"
#include "preload/thread.h"
#include "run/layout.h"

namespace farpool {

namespace {

// A mask inside another call: the same without our signals.
long CallWithMask(GuardFrame* frame, unsigned mask_arg) {
  uint64_t asked;
  if (frame->args[mask_arg] == 0 || !CopyIn(&asked, frame->args[mask_arg], sizeof(asked)))
    return CallPrepared(frame);
  const WaitingMask mask(asked);
  frame->args[mask_arg] = reinterpret_cast<uint64_t>(mask.kernel_mask());
  return CallPrepared(frame);
}

long CallPselect(GuardFrame* frame) {
  const auto call = frame->number == SYS_pselect6 ? static_cast<long (*)(const GuardFrame*)>(&CallPrepared)
                                                  : &CallIoGetevents;
  struct {
    uintptr_t mask;
    uint64_t bytes;
  } argument;
  uint64_t asked;
  if (frame->args[5] == 0 || !CopyIn(&argument, frame->args[5], sizeof(argument)) || argument.mask == 0 ||
      !CopyIn(&asked, argument.mask, sizeof(asked)))
    return call(frame);
  const WaitingMask mask(asked);
  argument.mask = reinterpret_cast<uintptr_t>(mask.kernel_mask());
  frame->args[5] = reinterpret_cast<uint64_t>(&argument);
  return call(frame);
}

long CallSigtimedwait(GuardFrame* frame) {
  uint64_t set;
  siginfo_t info;
  if (frame->args[3] == sizeof(set) && CopyIn(&set, frame->args[0], sizeof(set)) && TakeHeld(set, &info)) {
    if (frame->args[1] != 0 && !CopyOut(frame->args[1], &info, sizeof(info))) return -EFAULT;
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
    bool complete = true;
    const unsigned environment = at ? 3 : 2;
    if (far) StringBytes(path);
    for (unsigned i = environment - 1; i <= environment; ++i) {
      uintptr_t vector = frame->args[i];
      LastPage elements, strings;
      for (uintptr_t text; vector != 0 && (complete &= elements.MayRead(vector, sizeof(text)));
           vector += sizeof(text)) {
        std::memcpy(&text, reinterpret_cast<const void*>(vector), sizeof(text));
        if (text == 0) break;
        far |= InArena(vector) || InArena(text);
        // The environment's are looked at here, too.
        if (InArena(text) || i == environment) complete &= MayReadString(text, &strings);
      }
    }
    GuardFrame call = *frame;
    if (complete) call.args[environment] = ExecEnvironment(frame->args[environment]);
    long r;
    {
      InheritedSignals inherited;
      r = Forward(&call);
    }
    if (r != -EFAULT || !far || attempt >= kFaultRetriesMax) return r;
  }
}

// Is `pidfd` this process? Kernels that allow advice that destroys contents know the question.
bool IsSelf(uint64_t pidfd) {
  struct {
    uint64_t mask, cgroup;
    uint32_t pid, rest[11];
  } info = {};
  static_assert(sizeof(info) == 64);
  constexpr uint64_t kWantPid = 1;
  constexpr int kSelfThread = -10000, kSelfProcess = -10001;  // PIDFD_SELF_*
  const int fd = static_cast<int>(pidfd);
  if (fd == kSelfThread || fd == kSelfProcess) return true;
  info.mask = kWantPid;
  return sys::Call(SYS_ioctl, pidfd, _IOC(_IOC_READ | _IOC_WRITE, 0xff, 11, sizeof(info)), &info) == 0 &&
         info.pid == static_cast<uint32_t>(sys::Call(SYS_getpid));
}

// Far ranges are ours to advise on; the rest is the kernel's.
long GuardProcessMadvise(const GuardFrame* frame) {
  const uint64_t count = frame->args[2];
  const int advice = static_cast<int>(frame->args[3]);
  bool far = false;
  iovec one;
  if (count > kIovecsMax) return CallPrepared(frame);
  for (uint64_t i = 0; i < count; ++i) {
    if (!CopyElement(&one, frame->args[1], i)) return CallPrepared(frame);
    far |= InArena(reinterpret_cast<uintptr_t>(one.iov_base));
  }
  if (!far) return CallPrepared(frame);
  // Another process's memory, which may look like ours: there the kernel allows hints only. Its far memory
  // needs none.
  const bool self = IsSelf(frame->args[0]);
  uint64_t done = 0;
  for (uint64_t i = 0; i < count; ++i) {
    if (!CopyElement(&one, frame->args[1], i)) return -EFAULT;
    const auto begin = reinterpret_cast<uintptr_t>(one.iov_base);
    long r;
    if (!InArena(begin)) {
      r = CallPrepared(SYS_process_madvise, frame->args[0], &one, 1, advice, frame->args[4]);
      if (r > 0) r = 0;
    } else if (self) {
      r = GuardMadvise(begin, one.iov_len, advice);
    } else {
      const bool hint = advice == MADV_COLD || advice == MADV_PAGEOUT || advice == MADV_WILLNEED;
      r = hint ? 0 : -EINVAL;
    }
    if (r < 0) return done > 0 ? static_cast<long>(done) : r;
    done += one.iov_len;
  }
  return static_cast<long>(done);
}

// Far memory behaves as if it were all there.
long GuardMincore(const GuardFrame* frame) {
  if (!InArena(frame->args[0])) return CallPrepared(frame);
  const unsigned char here[64] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                                  1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                                  1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
  if (frame->args[0] % kPageBytes != 0) return -EINVAL;
  if (!Allows(frame->args[0], frame->args[1], PROT_NONE)) return -ENOMEM;
  const uint64_t pages = (frame->args[1] + kPageBytes - 1) / kPageBytes;
  for (uint64_t done = 0; done < pages; done += sizeof(here))
    if (!CopyOut(frame->args[2] + done, here, Min(pages - done, sizeof(here)))) return -EFAULT;
  return 0;
}

long Answer(GuardFrame* frame) {
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
    case SYS_mbind:
      return InArena(args[0]) ? 0 : CallPrepared(frame);
    case SYS_msync:
      return GuardMsync(frame);
    case SYS_shmat:
      // It would replace far memory (SHM_REMAP) without a word to the engine; what is free there is reserved.
      return InArena(args[1]) ? -EINVAL : Forward(frame);
    case SYS_mlockall:
    case SYS_munlockall:
      // Far memory cannot be locked: it would all be populated, or could not be dropped. Near memory stays
      // unlocked with it, as the kernel knows no mlockall for a part.
      return 0;
    case 462:  // mseal: sealed far memory could not be dropped. Before Linux 6.10 there is none.
      return InArena(args[0]) ? -ENOSYS : CallPrepared(frame);
    case SYS_mincore:
      return GuardMincore(frame);
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
    case SYS_epoll_pwait2:
      return CallWithMask(frame, 4);
    case SYS_pselect6:
    case SYS_io_pgetevents:
      return CallPselect(frame);
    case SYS_fork:
    case SYS_clone:
      return GuardFork(frame);
    case SYS_execve:
    case SYS_execveat:
      return GuardExec(frame);
    case SYS_wait4:
    case SYS_waitid:
      // Perhaps for a vfork child: before other threads wait for what that was doing.
      ExpectNearFree(CurrentThread());
      return CallPrepared(frame);
    case SYS_seccomp:
      return GuardSeccomp(frame);
    case SYS_prctl:
      return GuardPrctl(frame);
    case SYS_setuid:
    case SYS_setgid:
    case SYS_setreuid:
    case SYS_setregid:
    case SYS_setresuid:
    case SYS_setresgid:
    case SYS_setgroups:
    case SYS_capset:
    case SYS_unshare:
    case SYS_setns:
    case SYS_landlock_restrict_self:
      return GuardCredentials(frame);
    case SYS_getrlimit:
    case SYS_setrlimit:
    case SYS_prlimit64:
      return GuardLimit(frame);
    case SYS_close_range:
      return GuardCloseRange(frame);
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
    case SYS_sendmsg:
    case SYS_recvmsg:
      return CallMessage(frame);
    case SYS_sendmmsg:
    case SYS_recvmmsg:
      return CallMessages(frame);
    case SYS_process_vm_readv:
    case SYS_process_vm_writev:
      return CallOtherMemory(frame);
    case SYS_process_madvise:
      return GuardProcessMadvise(frame);
    case SYS_vmsplice:
      return GuardVmsplice(frame);
    case SYS_ioctl:
      NoteIoctl(*frame);
      return CallPrepared(frame);
    case SYS_futex_waitv:
      return CallFutexWaiters(frame, args[1]);
    case 456:  // futex_requeue: from one to another.
      return CallFutexWaiters(frame, 2);
    case SYS_futex:
      return CallFutex(frame);
    case SYS_exit:
      return GuardThreadExit(frame);
    case SYS_io_submit:
      return CallIoSubmit(frame);
    case SYS_io_getevents:
      return CallIoGetevents(frame);
    case SYS_io_cancel:
      return CallIoCancel(frame);
    case SYS_io_destroy:
      return CallIoDestroy(frame);
    case SYS_pread64:
    case SYS_pwrite64:
      return CallAt(frame, 1, 2, 3);
    case SYS_getrandom:
      return CallAt(frame, 0, 1, -1);
    default:
      return CallPrepared(frame);
  }
}

}  // namespace

}  // namespace farpool

// From entry.S, in the program's own context: its stack, its mask, its locks. May be interrupted and even
// left for good (longjmp out of a signal handler) wherever signals are not blocked.
extern "C" __attribute__((visibility("hidden"))) long farpool_guard(farpool::GuardFrame* frame) {
  using namespace farpool;
  Thread* const thread = CurrentThread();
  const GuardFrame* const outer = thread->call;
  const uint32_t outer_forwards = thread->forwards;
  // A handler never finds one call with what has been made of another.
  const auto set = [thread](const GuardFrame* call, uint32_t forwards) {
    thread->call = nullptr;
    std::atomic_signal_fence(std::memory_order_seq_cst);
    thread->forwards = forwards;
    std::atomic_signal_fence(std::memory_order_seq_cst);
    thread->call = call;
  };
  set(frame, 0);
  const long r = Answer(frame);
  set(outer, outer_forwards);
  return r;
}
