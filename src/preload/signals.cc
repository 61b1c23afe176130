// Our two signals and the program's view of them. SIGBUS is a far fault, SIGSYS a trapped system call; both
// must always get through, so no mask and no handler of the program may block or replace them. What the
// program sets for them is remembered and called for the signals that are not ours.

#include <signal.h>
#include <sys/syscall.h>
#include <ucontext.h>

#include <cerrno>
#include <cstring>

#include "base/sys.h"
#include "preload/guard.h"
#include "preload/runtime.h"
#include "run/layout.h"

extern "C" {
void farpool_sigreturn();
void farpool_trap_entry();
}

#ifndef SA_RESTORER
#define SA_RESTORER 0x04000000
#endif

namespace farpool {

namespace {

struct KernelSigaction {
  uint64_t handler;
  uint64_t flags;
  uint64_t restorer;
  uint64_t mask;
};
static_assert(sizeof(KernelSigaction) == 32);

constexpr int kSigBus = 7, kSigSys = 31;
constexpr int kBusAdrErr = 2, kSysSeccomp = 1;

KernelSigaction g_program_action[2];  // SIGBUS, SIGSYS.

KernelSigaction& ProgramAction(int signal) { return g_program_action[signal == kSigBus ? 0 : 1]; }

long RawSigaction(int signal, const KernelSigaction* action, KernelSigaction* old) {
  return sys::Call(SYS_rt_sigaction, signal, action, old, sizeof(uint64_t));
}

// A SIGBUS or SIGSYS that is not ours: what the program would have got.
void PassOn(int signal, siginfo_t* info, void* context) {
  const KernelSigaction action = ProgramAction(signal);
  if (action.handler <= 1) {
    if (action.handler == 1 && info->si_code <= 0) return;  // Ignored, and sent by somebody.
    KernelSigaction fallback = {};
    RawSigaction(signal, &fallback, nullptr);
    if (info->si_code <= 0) {  // Sent: send it again. A fault comes again by itself.
      const long pid = sys::Call(SYS_getpid);
      sys::Call(SYS_tgkill, pid, sys::Call(SYS_gettid), signal);
    }
    return;
  }
  // The mask is ours (all blocked) until we return; the program's handler runs with what it asked for.
  auto* user = static_cast<ucontext_t*>(context);
  uint64_t mask;
  std::memcpy(&mask, &user->uc_sigmask, sizeof(mask));
  mask |= action.mask & ~kOurSignals;
  if ((action.flags & SA_RESETHAND) != 0) ProgramAction(signal) = {};
  uint64_t old;
  sys::Call(SYS_rt_sigprocmask, 2, &mask, &old, sizeof(mask));
  reinterpret_cast<void (*)(int, siginfo_t*, void*)>(action.handler)(signal, info, context);
  sys::Call(SYS_rt_sigprocmask, 2, &old, nullptr, sizeof(old));
}

void OnBus(int signal, siginfo_t* info, void* context) {
  const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  if (info->si_code == kBusAdrErr && InArena(address) && g_runtime.started.load(std::memory_order_relaxed)) {
    bool foreign = false;
    if (Status s = g_runtime.engine.Fault(address, &foreign); !s.ok()) Fatal(s);
    if (!foreign) return;
  }
  PassOn(signal, info, context);
}

void OnSys(int signal, siginfo_t* info, void* context) {
  if (info->si_code != kSysSeccomp) {
    PassOn(signal, info, context);
    return;
  }
  // Nothing is done here: with all signals blocked a blocking call could not be interrupted. The interrupted
  // context goes on in the guard instead, with its own mask and stack. rcx is free: `syscall` clobbers it.
  auto* user = static_cast<ucontext_t*>(context);
  user->uc_mcontext.gregs[REG_RCX] = user->uc_mcontext.gregs[REG_RIP];
  user->uc_mcontext.gregs[REG_RIP] = reinterpret_cast<greg_t>(&farpool_trap_entry);
  user->uc_mcontext.gregs[REG_RAX] = info->si_syscall;
  Count(g_runtime.segment->stats.syscalls_trapped);
}

}  // namespace

void InstallHandlers() {
  KernelSigaction action = {};
  action.flags = SA_SIGINFO | SA_RESTORER;
  action.restorer = reinterpret_cast<uint64_t>(&farpool_sigreturn);
  action.mask = ~uint64_t{0};
  action.handler = reinterpret_cast<uint64_t>(&OnBus);
  RawSigaction(kSigBus, &action, &g_program_action[0]);
  action.handler = reinterpret_cast<uint64_t>(&OnSys);
  RawSigaction(kSigSys, &action, &g_program_action[1]);
  // Blocked signals survive exec: a parent may have blocked everything.
  const uint64_t ours = kOurSignals;
  sys::Call(SYS_rt_sigprocmask, 1 /*SIG_UNBLOCK*/, &ours, nullptr, sizeof(ours));
}

long GuardSigaction(GuardFrame* frame) {
  const auto signal = static_cast<int>(frame->args[0]);
  const auto* action = reinterpret_cast<const KernelSigaction*>(frame->args[1]);
  auto* old = reinterpret_cast<KernelSigaction*>(frame->args[2]);
  if (frame->args[3] != sizeof(uint64_t)) return -EINVAL;
  if (!MakePresent(frame->args[1], sizeof(*action)) || !MakePresent(frame->args[2], sizeof(*old)))
    return Forward(frame);
  if (signal == kSigBus || signal == kSigSys) {
    KernelSigaction& mine = ProgramAction(signal);
    const KernelSigaction before = mine;
    if (action != nullptr) mine = *action;
    if (old != nullptr) *old = before;
    return 0;
  }
  KernelSigaction cleaned;
  if (action != nullptr) {
    cleaned = *action;
    cleaned.mask &= ~kOurSignals;
  }
  KernelSigaction before;
  const long r = RawSigaction(signal, action != nullptr ? &cleaned : nullptr, &before);
  if (r == 0 && old != nullptr) *old = before;
  return r;
}

long GuardSigprocmask(GuardFrame* frame) {
  const auto* set = reinterpret_cast<const uint64_t*>(frame->args[1]);
  auto* old = reinterpret_cast<uint64_t*>(frame->args[2]);
  if (frame->args[3] != sizeof(uint64_t)) return -EINVAL;
  if (!MakePresent(frame->args[1], sizeof(*set)) || !MakePresent(frame->args[2], sizeof(*old)))
    return Forward(frame);
  uint64_t cleaned = 0;
  if (set != nullptr) {
    cleaned = *set;
    if (frame->args[0] != 1 /*SIG_UNBLOCK*/) cleaned &= ~kOurSignals;
  }
  uint64_t before;
  const long r = sys::Call(SYS_rt_sigprocmask, frame->args[0], set != nullptr ? &cleaned : nullptr, &before,
                           sizeof(before));
  if (r == 0 && old != nullptr) *old = before;
  return r;
}

namespace {

struct AltStack {
  uint64_t base;
  int32_t flags;
  int32_t pad;
  uint64_t bytes;
};
constexpr int kOnStack = 1, kDisable = 2;
// A far fault inside a handler needs this much below whatever the handler uses.
constexpr uint64_t kFaultStackBytes = 64 * 1024;

// What this thread's program set, and the stack it really has.
thread_local AltStack t_asked_stack = {0, kDisable, 0, 0};
thread_local uint64_t t_near_stack = 0;
thread_local uint64_t t_near_stack_bytes = 0;

}  // namespace

// The kernel writes signal frames to the alternate stack, where it cannot wait for a page, and a far fault in
// a handler needs more room than a stack of the usual 8 KiB has. So each gets one of ours, near and larger;
// the program sees its own.
long GuardSigaltstack(GuardFrame* frame) {
  if (!MakePresent(frame->args[0], sizeof(AltStack)) || !MakePresent(frame->args[1], sizeof(AltStack)))
    return Forward(frame);
  const auto* asked = reinterpret_cast<const AltStack*>(frame->args[0]);
  auto* old = reinterpret_cast<AltStack*>(frame->args[1]);
  AltStack now;
  if (long r = sys::Call(SYS_sigaltstack, nullptr, &now); r != 0) return r;
  AltStack before = t_asked_stack;
  before.flags = now.flags;
  if (asked != nullptr) {
    AltStack stack = *asked;
    const uint64_t wanted = (stack.bytes + kFaultStackBytes + kPageBytes - 1) & ~(kPageBytes - 1);
    if ((now.flags & kOnStack) != 0) return -EPERM;
    if ((stack.flags & kDisable) == 0 && stack.bytes >= 2048 /*MINSIGSTKSZ*/) {
      if (wanted > t_near_stack_bytes) {
        const long map = sys::Call(SYS_mmap, nullptr, wanted, 3, 0x22 /*private, anonymous*/, -1, 0);
        if (sys::Failed(map)) return -ENOMEM;
        if (t_near_stack != 0) sys::Call(SYS_munmap, t_near_stack, t_near_stack_bytes);
        t_near_stack = static_cast<uint64_t>(map);
        t_near_stack_bytes = wanted;
      }
      stack.base = t_near_stack;
      stack.bytes = t_near_stack_bytes;
    }
    if (long r = sys::Call(SYS_sigaltstack, &stack, nullptr); r != 0) return r;
    t_asked_stack = *asked;
    if ((stack.flags & kDisable) != 0 && t_near_stack != 0) {  // Threads do this before they end.
      sys::Call(SYS_munmap, t_near_stack, t_near_stack_bytes);
      t_near_stack = t_near_stack_bytes = 0;
    }
  }
  if (old != nullptr) *old = before;
  return 0;
}

}  // namespace farpool
