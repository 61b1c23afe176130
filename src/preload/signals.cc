// Signals as the program sees them. Two of them are ours: SIGBUS is a far fault, SIGSYS a trapped system
// call. Both must always get through, so no mask and no handler of the program may block or replace them;
// what the program sets for them is remembered and emulated for the signals that are not ours.
//
// The kernel writes a signal's frame where it cannot wait for a page, and the program's stacks may be far. So
// every signal with a handler is delivered to us first, on a near stack of the thread's own with everything
// blocked. We move the frame to where the kernel would have put it (the interrupted stack or the program's
// own alternate one), bringing in pages as needed, and return into the program's handler there. Nothing of
// ours stays on the near stack, so handlers may fault, nest and jump out as ever. Their return goes through a
// near copy of the frame.

#include <signal.h>
#include <sys/syscall.h>

#include <cerrno>
#include <cstring>

#include "base/mutex.h"
#include "base/sys.h"
#include "preload/eviction_threads.h"
#include "preload/guard.h"
#include "preload/prepare.h"
#include "preload/runtime.h"
#include "preload/thread.h"
#include "preload/trace.h"
#include "run/layout.h"
#include "run/syscalls.h"

extern "C" {
void farpool_sigreturn();
void farpool_restorer();
void farpool_call_again();
void farpool_own_call_again();
void farpool_call_done();
void farpool_site_entry();
void farpool_site_looks();
void farpool_site_calls();
void farpool_forward();
void farpool_forward_end();
void farpool_trap_entry();
[[noreturn]] void farpool_fault_return(const void* frame, const uint32_t* interrupted);
void farpool_fault_return_again();
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

// As the kernel lays them out.
enum Register {
  kR8,
  kR9,
  kR10,
  kR11,
  kR12,
  kR13,
  kR14,
  kR15,
  kRdi,
  kRsi,
  kRbp,
  kRbx,
  kRdx,
  kRax,
  kRcx,
  kRsp,
  kRip,
  kFlags
};

// The kernel's ucontext and signal frame.
struct Context {
  uint64_t flags, link;
  AltStack stack;
  uint64_t registers[23];
  uint64_t fpstate;  // Address.
  uint64_t reserved[8];
  uint64_t mask;
};
struct Frame {
  uint64_t return_address;
  Context context;
  siginfo_t info;
};
static_assert(sizeof(Context) == 304 && sizeof(siginfo_t) == 128 && sizeof(Frame) == 440);

constexpr int kSignals = 64;
constexpr int kSysSeccomp = 1;
constexpr int kCancel = 32;  // glibc's SIGCANCEL.
constexpr int kAutoDisarm = static_cast<int>(1U << 31);
constexpr uint64_t kStackBytesMin = 2048;  // MINSIGSTKSZ.
constexpr uint64_t kRedZone = 128;
constexpr uint64_t kKnownFlags = SA_NOCLDSTOP | SA_NOCLDWAIT | SA_SIGINFO | 0x800 /*SA_EXPOSE_TAGBITS*/ |
                                 SA_RESTORER | SA_ONSTACK | SA_RESTART | SA_NODEFER |
                                 0x80000000 /*SA_RESETHAND*/;
constexpr uint64_t kResetHand = 0x80000000;
constexpr uint64_t kNestedTask = 0x4000;        // A flag that iretq refuses to run with.
constexpr uint64_t kLegacyBytes = 512;          // Of a frame's vector state that is not extended.
constexpr uint64_t kGuardStackMax = 64 * 1024;  // More than the guard has of the program's stack.

// Where a call's arguments are.
constexpr Register kArguments[6] = {kRdi, kRsi, kRdx, kR10, kR8, kR9};

// What the program set, by signal. `known`: set here; otherwise the kernel's word holds.
struct ProgramAction {
  KernelSigaction action;
  bool known;
};
Mutex g_actions_lock;
ProgramAction g_actions[kSignals + 1];

constexpr bool Ours(int signal) { return signal == SIGBUS || signal == SIGSYS; }

long RawSigaction(int signal, const KernelSigaction* action, KernelSigaction* old) {
  return sys::Call(SYS_rt_sigaction, signal, action, old, sizeof(uint64_t));
}

// --- the program's alternate stack, as the kernel would keep it

bool OnAltStack(const AltStack& stack, uint64_t sp) {
  return (stack.flags & kAutoDisarm) == 0 && sp > stack.base && sp - stack.base <= stack.bytes;
}

long SetAltStack(Thread* thread, const AltStack& stack, uint64_t sp) {
  if (OnAltStack(thread->asked, sp)) return -EPERM;
  const int mode = stack.flags & ~kAutoDisarm;
  if (mode != SS_DISABLE && mode != SS_ONSTACK && mode != 0) return -EINVAL;
  AltStack set = stack;
  if (mode == SS_DISABLE) {
    set.base = set.bytes = 0;
  } else if (set.bytes < kStackBytesMin) {
    return -ENOMEM;
  }
  thread->asked = set;
  return 0;
}

// --- delivery

uint64_t FpstateBytes(uint64_t fpstate) {
  if (fpstate == 0) return 0;
  uint32_t words[2];  // _fpx_sw_bytes: magic, size of all of it.
  std::memcpy(words, reinterpret_cast<const void*>(fpstate + 464), sizeof(words));
  return words[0] == 0x46505853 ? words[1] : 512;
}

// Ends the process as by `signal` without a handler.
void Die(int signal) {
  const KernelSigaction fallback = {};
  RawSigaction(signal, &fallback, nullptr);
  LeaveNear(CurrentThread());  // If this is a vfork child, it leaves nothing undone.
  const uint64_t bit = SignalBit(signal);
  sys::Call(SYS_tgkill, sys::Call(SYS_getpid), sys::Call(SYS_gettid), signal);
  sys::Call(SYS_rt_sigprocmask, SIG_UNBLOCK, &bit, nullptr, sizeof(bit));
}

// The kernel's frame for this signal; our record of this thread. From here on this thread has our near stack,
// even if the program took it away behind our back or started the thread so.
Frame* FrameOf(void* context, Thread** thread) {
  auto* frame = reinterpret_cast<Frame*>(static_cast<char*>(context) - sizeof(uint64_t));
  Thread* t = CurrentThread();
  AltStack& stack = frame->context.stack;
  if (stack.base != t->stack) {
    if ((stack.flags & SS_DISABLE) == 0 && stack.bytes != 0 && !IsNearStack(stack.base)) t->asked = stack;
    stack = {t->stack, 0, 0, Thread::kStackBytes};
  }
  *thread = t;
  return frame;
}

// glibc since 2.41 cancels a thread in a call only if that is seen to be in __syscall_cancel_arch: there
// `registers` go, if nothing of the call has happened yet or it is to be begun again.
bool ToCancellable(Thread* thread, uint64_t* registers) {
  const uint64_t at = registers[kRip];
  uint64_t call;
  if (at >= reinterpret_cast<uint64_t>(&farpool_site_looks) &&
      at <= reinterpret_cast<uint64_t>(&farpool_site_calls)) {
    call = *reinterpret_cast<const uint64_t*>(registers[kRsp]) - 2;
    if (!IsCancellable(call)) return false;
    registers[kRsp] += sizeof(uint64_t) + kRedZone;
  } else {
    const GuardFrame* const frame = thread->call;
    const bool enters =
        at == kTrampoline + sys::kProgramEntry || (at >= reinterpret_cast<uint64_t>(&farpool_forward) &&
                                                   at < reinterpret_cast<uint64_t>(&farpool_forward_end));
    if (frame == nullptr || thread->forwards > 1 || (thread->forwards == 1 && !enters)) return false;
    thread->call = nullptr;
    // Not that of a vfork child that was killed, on a stack of its own.
    if (reinterpret_cast<uint64_t>(frame) - registers[kRsp] > kGuardStackMax) return false;
    call = frame->resume - 2;
    if (!IsCancellable(call)) return false;
    const KeptRegisters kept = reinterpret_cast<const KeptRegisters*>(frame)[-1];
    registers[kRbp] = kept.rbp;
    registers[kRbx] = kept.rbx;
    registers[kR12] = kept.r12;
    registers[kR13] = kept.r13;
    registers[kR14] = kept.r14;
    registers[kR15] = kept.r15;
    registers[kRsp] = reinterpret_cast<uint64_t>(frame + 1) + kRedZone;
    registers[kRax] = static_cast<uint64_t>(frame->number);
    for (unsigned i = 0; i < 6; ++i) registers[kArguments[i]] = frame->args[i];
  }
  registers[kRip] = call;
  return true;
}

// No unwinder knows the trampoline or the stubs, but cancellation unwinds from where a call was interrupted,
// and profilers do. Handlers see a place that is known and does the same.
void ToKnownPlace(int signal, Thread* thread, uint64_t* registers) {
  // No other handler of libc's asks; and what the guard has done for the call is given up.
  if (signal == kCancel) {
    if (ToCancellable(thread, registers)) return;
  } else if (thread->forwards == 0) {
    thread->call = nullptr;  // The handler may never come back to it.
  }
  uint64_t& at = registers[kRip];
  if (at == kTrampoline) at = reinterpret_cast<uint64_t>(&farpool_own_call_again);
  if (at == kTrampoline + sys::kProgramEntry) at = reinterpret_cast<uint64_t>(&farpool_call_again);
  if (at == kTrampoline + 2 || at == kTrampoline + sys::kProgramEntry + 2)
    at = reinterpret_cast<uint64_t>(&farpool_call_done);
  LeaveStub(&at, &registers[kRcx]);
}

// Where a thread goes on whose handler has returned.
void FromKnownPlace(uint64_t* registers) {
  uint64_t& at = registers[kRip];
  if (IsCancellable(at)) {
    registers[kRcx] = at + 2;
    at = reinterpret_cast<uint64_t>(&farpool_site_entry);
  } else if (at == reinterpret_cast<uint64_t>(&farpool_own_call_again)) {
    at = kTrampoline;
  } else if (at == reinterpret_cast<uint64_t>(&farpool_call_again)) {
    at = kTrampoline + sys::kProgramEntry;
  } else {
    at = ReturnToStub(at);
  }
}

// Turns the kernel's frame into a jump to the program's handler, which finds the frame where the kernel would
// have put it.
void Deliver(int signal, Frame* frame, const KernelSigaction& action, Thread* thread) {
  Context& context = frame->context;
  uint64_t* registers = context.registers;
  // A wait under another mask was interrupted: that mask holds in the handler, the thread's own afterwards.
  uint64_t mask = context.mask | thread->blocked;
  uint64_t saved = mask;
  const uint64_t sp = registers[kRsp];
  if (thread->waiting_stack != 0 && registers[kRip] == kTrampoline + sys::kProgramEntry + 2 &&
      registers[kRax] == static_cast<uint64_t>(-EINTR) && sp < thread->waiting_stack &&
      thread->waiting_stack - sp < 4096) {
    mask = thread->waiting_mask;
    saved = context.mask | thread->waiting_blocked;
    thread->waiting_stack = 0;
  }
  mask |= action.mask;
  if ((action.flags & SA_NODEFER) == 0) mask |= SignalBit(signal);

  const AltStack stack = thread->asked;
  const bool nested = OnAltStack(stack, sp);
  const bool enters = (action.flags & SA_ONSTACK) != 0 && stack.bytes != 0 && !nested;
  uint64_t to = enters ? stack.base + stack.bytes : sp - kRedZone;
  auto here = reinterpret_cast<uint64_t>(__builtin_frame_address(0));
  if (thread->OnStack(here)) here = reinterpret_cast<uint64_t>(frame);
  if (!thread->OnStack(here) && to - here < 64 * 1024) to = here - 4096;  // Not over what is still in use.
  const uint64_t fpstate_bytes = FpstateBytes(context.fpstate);
  const uint64_t fpstate = (to - fpstate_bytes) & ~uint64_t{63};
  to = ((fpstate - sizeof(Frame)) & ~uint64_t{15}) - 8;
  if ((nested || enters) && to - stack.base > stack.bytes) {
    Die(SIGSEGV);
    return;
  }
  if (context.fpstate != 0)
    std::memcpy(reinterpret_cast<void*>(fpstate), reinterpret_cast<const void*>(context.fpstate),
                fpstate_bytes);
  auto* copy = reinterpret_cast<Frame*>(to);
  std::memcpy(copy, frame, sizeof(*copy));
  copy->return_address = reinterpret_cast<uint64_t>(&farpool_restorer);
  ToKnownPlace(signal, thread, copy->context.registers);
  // Sandboxes (Chromium's, Firefox's) want both to name the same call.
  if (signal == SIGSYS && copy->info.si_code == kSysSeccomp)
    copy->info.si_call_addr = reinterpret_cast<void*>(copy->context.registers[kRip]);
  copy->context.stack = stack;
  copy->context.mask = saved;
  if (context.fpstate != 0) copy->context.fpstate = fpstate;
  if ((stack.flags & kAutoDisarm) != 0) thread->asked = kNoAltStack;

  thread->blocked = mask & kOurSignals;
  context.mask = mask & ~kOurSignals;
  context.fpstate = 0;  // As a handler finds it: initial.
  registers[kRdi] = static_cast<uint64_t>(signal);
  registers[kRsi] = reinterpret_cast<uint64_t>(&copy->info);
  registers[kRdx] = reinterpret_cast<uint64_t>(&copy->context);
  registers[kRax] = 0;
  registers[kRsp] = to;
  registers[kRip] = action.handler;
  registers[kFlags] &= ~uint64_t{0x10500};  // Resume, direction, trap.
}

KernelSigaction TakeAction(int signal) {
  MutexLock hold(&g_actions_lock);
  KernelSigaction& action = g_actions[signal].action;
  const KernelSigaction taken = action;
  if ((action.flags & kResetHand) != 0 && action.handler > 1) action.handler = 0;
  return taken;
}

// Before the near stack is left: what came in while it was in use is delivered at once behind it. No far
// memory may be touched any more.
void Leave(uint64_t to_stack, Thread* thread) {
  if (thread->OnStack(to_stack)) return;
  const uint64_t ours = kOurSignals;
  sys::Call(SYS_rt_sigprocmask, SIG_BLOCK, &ours, nullptr, sizeof(ours));
  if ((thread->pending & ~thread->blocked) != 0) SendHeld(thread);
}

void Handle(int signal, Frame* frame, Thread* thread) {
  const KernelSigaction action = TakeAction(signal);
  if (action.handler > 1) {
    Deliver(signal, frame, action, thread);
  } else if (action.handler == 0) {
    // Changed by another thread just now: what it asked for.
    const KernelSigaction fallback = {};
    RawSigaction(signal, &fallback, nullptr);
    LeaveNear(thread);
    sys::Call(SYS_tkill, sys::Call(SYS_gettid), signal);
  }
  Leave(frame->context.registers[kRsp], thread);
}

// The fault handler of `thread` was interrupted at `frame`: something is to be done before it is left.
void Interrupted(Frame* frame, Thread* thread) {
  thread->interrupted = 1;
  uint64_t& rip = frame->context.registers[kRip];
  const auto again = reinterpret_cast<uint64_t>(&farpool_fault_return_again);
  if (rip > reinterpret_cast<uint64_t>(&farpool_fault_return) && rip < again) rip = again;
}

void OnSignal(int signal, siginfo_t* info, Frame* frame, Thread* thread) {
  if (!thread->OnStack(frame->context.registers[kRsp])) {
    Handle(signal, frame, thread);
    return;
  }
  // A fault is being served. This signal waits for its end, and all others for this one.
  thread->deferred = signal;
  thread->deferred_in = sys::Call(SYS_gettid);
  thread->deferred_info = *info;
  frame->context.mask = ~kOurSignals;
  Interrupted(frame, thread);
}

// Until the kernel's frame is left, nothing more of the program's comes in.
void BlockAll() {
  static constexpr uint64_t kAll = ~kOurSignals;
  sys::Call(SYS_rt_sigprocmask, SIG_SETMASK, &kAll, nullptr, sizeof(kAll));
}

// What came while a fault was served, with everything blocked; `frame` is where the program goes on.
void HandleDeferred(Frame* frame, Thread* thread) {
  if (thread->OnStack(frame->context.registers[kRsp])) {
    // A fault is still being served, and has room for one.
    if (thread->deferred == 0) return;
    frame->context.mask = ~kOurSignals;
    Interrupted(frame, thread);
    return;
  }
  thread->interrupted = 0;
  // A vfork child that was killed has left its own in the record it shares.
  const bool mine = thread->deferred != 0 && thread->deferred_in == sys::Call(SYS_gettid);
  const int signal = mine ? thread->deferred : 0;
  thread->deferred = 0;
  if (signal == 0) {
    Leave(frame->context.registers[kRsp], thread);
  } else if ((frame->context.mask & SignalBit(signal)) != 0) {
    // The program's handler for this very fault has it blocked.
    sys::Call(SYS_rt_tgsigqueueinfo, sys::Call(SYS_getpid), sys::Call(SYS_gettid), signal,
              &thread->deferred_info);
    Leave(frame->context.registers[kRsp], thread);
  } else {
    frame->info = thread->deferred_info;
    Handle(signal, frame, thread);
  }
}

// A SIGBUS or SIGSYS that is not ours: what the program would have got.
void PassOn(int signal, const siginfo_t* info, Frame* frame, Thread* thread) {
  const bool sent = info->si_code <= 0;
  const bool blocked = (thread->blocked & SignalBit(signal)) != 0;
  const bool nested = thread->OnStack(frame->context.registers[kRsp]);
  if (sent && (blocked || nested)) {
    if ((thread->pending & SignalBit(signal)) != 0) return;  // One is kept, as by the kernel.
    thread->held[signal == SIGBUS ? 0 : 1] = *info;
    thread->pending |= SignalBit(signal);
    if (nested) Interrupted(frame, thread);
    return;
  }
  const KernelSigaction action = TakeAction(signal);
  if (action.handler > 1 && !blocked) {
    Deliver(signal, frame, action, thread);
  } else if (!sent && signal == SIGBUS) {
    // A fault cannot be ignored or blocked. It comes again by itself, with the right core dump.
    const KernelSigaction fallback = {};
    RawSigaction(signal, &fallback, nullptr);
  } else if (!sent || action.handler == 0) {
    Die(signal);
  }
}

// Shadow stacks know which calls were signals; only rt_sigreturn tells them that one has ended.
bool HasShadowStack() {
  uint64_t top = 0;
  asm volatile("rdsspq %0" : "+r"(top));
  return top != 0;
}

// The one handler that runs with the program's signals open, so that its frame can be left without a system
// call: setting a mask and having rt_sigreturn set it back would cost a tenth of a fault.
void OnBus(int signal, siginfo_t* info, Frame* frame, Thread* thread) {
  const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  // If not, only rt_sigreturn gives this thread its near stack.
  const bool on_near_stack = thread->OnStack(reinterpret_cast<uintptr_t>(frame));
  if (!on_near_stack) BlockAll();
  if (info->si_code == BUS_ADRERR && InArena(address) && g_runtime.has_started()) {
    bool foreign = false;
    if ((g_runtime.segment->flags & RunSegment::kTrace) != 0) SampleFault(address, frame->context.registers);
    if (Status s = g_runtime.engine->Fault(address, &foreign); !s.ok()) Fatal(s);
    if (!foreign) {
      if (g_runtime.engine->evicts()) StartEvictionThreads();
      if (on_near_stack && FpstateBytes(frame->context.fpstate) > kLegacyBytes &&
          (frame->context.registers[kFlags] & kNestedTask) == 0 && !HasShadowStack()) {
        if (!thread->OnStack(frame->context.registers[kRsp])) LeaveNear(thread);
        farpool_fault_return(frame, &thread->interrupted);
      }
      BlockAll();
      HandleDeferred(frame, thread);
      return;
    }
  }
  BlockAll();
  PassOn(signal, info, frame, thread);
  HandleDeferred(frame, thread);
}

// The program may have a filter of its own that traps; ours does so for far pointers only.
bool TrappedByUs(const siginfo_t* info, const uint64_t* registers) {
  if (info->si_code != kSysSeccomp || (registers[kRip] & ~(kPageBytes - 1)) == kTrampoline) return false;
  const unsigned mask = SyscallSpecOf(static_cast<unsigned>(info->si_syscall)).PointerMask();
  for (unsigned i = 0; i < 6; ++i)
    if ((mask >> i & 1) != 0 && InArena(registers[kArguments[i]])) return true;
  return false;
}

void OnSys(int signal, siginfo_t* info, Frame* frame, Thread* thread) {
  uint64_t* registers = frame->context.registers;
  if (!TrappedByUs(info, registers)) {
    if (info->si_code == kSysSeccomp && thread->OnStack(registers[kRsp])) {
      registers[kRax] = static_cast<uint64_t>(kTrappedOnNearStack);
      return;
    }
    BlockAll();  // But SIGBUS: the program's stacks may be far.
    PassOn(signal, info, frame, thread);
    Leave(registers[kRsp], thread);
    return;
  }
  // Nothing is done here: with all signals blocked a blocking call could not be interrupted. The interrupted
  // context goes on in the guard instead, with its own mask and stack. rcx is free: `syscall` clobbers it.
  registers[kRcx] = registers[kRip];
  registers[kRip] = reinterpret_cast<uint64_t>(&farpool_trap_entry);
  registers[kRax] = static_cast<uint64_t>(info->si_syscall);
  Count(g_runtime.segment->stats.syscalls_trapped);
}

using Serve = void(int signal, siginfo_t* info, Frame* frame, Thread* thread);
struct Arrival {
  int signal;
  siginfo_t* info;
  Frame* frame;
  Thread* thread;
};
template <Serve serve>
void ServeNear(const Arrival* arrival) {
  Thread* const thread = arrival->thread;
  // Not on an alternate stack that was set behind our back.
  const bool enters = thread->OnStack(reinterpret_cast<uint64_t>(__builtin_frame_address(0))) &&
                      !thread->OnStack(arrival->frame->context.registers[kRsp]);
  if (enters) EnterNear(thread);
  serve(arrival->signal, arrival->info, arrival->frame, thread);
  if (enters) LeaveNear(thread);
}

// What the kernel calls. The first signal of a thread comes on the program's stack; it is served on the near
// one, too, so that what is sent meanwhile finds that in use and waits: locks are held. Not so if the kernel
// has another alternate stack, set behind our back: it would put the next signal where this one's frame is.
template <Serve serve>
void On(int signal, siginfo_t* info, void* context) {
  const bool on_alternate =
      OnAltStack(static_cast<const Context*>(context)->stack, reinterpret_cast<uint64_t>(context));
  Arrival arrival = {signal, info, nullptr, nullptr};
  arrival.frame = FrameOf(context, &arrival.thread);
  if (on_alternate || arrival.thread->OnStack(arrival.frame->context.registers[kRsp])) {
    ServeNear<serve>(&arrival);
  } else {
    farpool_on_stack(reinterpret_cast<void*>(&ServeNear<serve>), &arrival, arrival.thread->stack_top());
  }
}

template <Serve serve>
KernelSigaction NearHandler(uint64_t flags) {
  return {reinterpret_cast<uint64_t>(&On<serve>), flags | SA_SIGINFO | SA_ONSTACK | SA_RESTORER,
          reinterpret_cast<uint64_t>(&farpool_sigreturn), ~kOurSignals};
}

KernelSigaction OurAction(int signal) {
  KernelSigaction action = signal == SIGBUS ? NearHandler<OnBus>(SA_NODEFER) : NearHandler<OnSys>(0);
  action.mask = signal == SIGBUS ? 0 : ~uint64_t{0};
  return action;
}

long SetAction(GuardFrame* frame) {
  const auto signal = static_cast<int>(frame->args[0]);
  const auto* action = reinterpret_cast<const KernelSigaction*>(frame->args[1]);
  auto* old = reinterpret_cast<KernelSigaction*>(frame->args[2]);
  // Pages are brought in here, before the lock.
  KernelSigaction set = {};
  if (action != nullptr) {
    set = *action;
    set.flags &= kKnownFlags;
    set.mask &= ~(SignalBit(SIGKILL) | SignalBit(SIGSTOP));
  }
  const bool handled = action != nullptr && set.handler > 1;
  const bool child = InVforkChild();
  KernelSigaction kernel = set;
  kernel.mask &= ~kOurSignals;
  if (handled && child) {
    kernel.flags &=
        ~uint64_t{SA_ONSTACK};  // Its handlers are not remembered: they run as the kernel runs them.
  } else if (handled) {
    kernel = NearHandler<OnSignal>(set.flags & ~uint64_t{SA_NODEFER});
  }
  KernelSigaction before;
  {
    MutexLock hold(&g_actions_lock);
    ProgramAction& program = g_actions[signal];
    const bool was_known = program.known;
    // Before the kernel's: see PlainAction().
    if (action != nullptr && !child) __atomic_store_n(&program.known, true, __ATOMIC_SEQ_CST);
    if (!Ours(signal)) {
      if (long r = RawSigaction(signal, action != nullptr ? &kernel : nullptr, &before); r != 0) {
        __atomic_store_n(&program.known, was_known, __ATOMIC_SEQ_CST);
        return r;
      }
    }
    // A vfork child has actions of its own, which only the kernel knows.
    if (was_known && (!child || Ours(signal) || before.handler == reinterpret_cast<uint64_t>(&On<OnSignal>)))
      before = program.action;
    if (action != nullptr && !child) program.action = set;
  }
  if (old != nullptr) *old = before;
  return 0;
}

// The new mask of a thread with `now`, or false.
bool ChangeMask(uint64_t how, uint64_t set, uint64_t* now) {
  switch (how) {
    case SIG_BLOCK:
      *now |= set;
      return true;
    case SIG_UNBLOCK:
      *now &= ~set;
      return true;
    case SIG_SETMASK:
      *now = set;
      return true;
    default:
      return false;
  }
}

void SetBlocked(Thread* thread, uint64_t mask) {
  if ((mask & kOurSignals) == thread->blocked || InVforkChild()) return;
  thread->blocked = mask & kOurSignals;
  if ((thread->pending & ~thread->blocked) != 0) SendHeld(thread);
}

// On the near stack the program's mask is at hand, and takes effect when that is left.
long SetMask(GuardFrame* frame) {
  Thread* thread = CurrentThread();
  const uint64_t before = thread->mask | thread->blocked;
  uint64_t now = before;
  if (frame->args[1] != 0) {
    const uint64_t set = *reinterpret_cast<const uint64_t*>(frame->args[1]);
    if (!ChangeMask(frame->args[0], set, &now)) return -EINVAL;
  }
  if (frame->args[2] != 0) *reinterpret_cast<uint64_t*>(frame->args[2]) = before;
  thread->mask = now & ~kOurSignals;
  SetBlocked(thread, now);
  return 0;
}

long GetPending(GuardFrame* frame) {
  uint64_t pending = 0;
  const long r = sys::Call(SYS_rt_sigpending, &pending, frame->args[1]);
  if (r != 0) return r;
  pending |= CurrentThread()->pending;
  std::memcpy(reinterpret_cast<void*>(frame->args[0]), &pending, frame->args[1]);
  return 0;
}

}  // namespace

void InstallHandlers() {
  Thread* thread = CurrentThread();
  for (const int signal : {SIGBUS, SIGSYS}) {
    // SA_RESTART does not matter: these interrupt no call.
    const KernelSigaction action = OurAction(signal);
    RawSigaction(signal, &action, &g_actions[signal].action);
    g_actions[signal].known = true;
  }
  // Blocked signals survive exec: a parent may have blocked everything.
  const uint64_t ours = kOurSignals;
  uint64_t inherited = 0;
  sys::Call(SYS_rt_sigprocmask, SIG_UNBLOCK, &ours, &inherited, sizeof(ours));
  thread->blocked = inherited & kOurSignals;
}

void SignalsAfterFork() { g_actions_lock.Reset(); }

namespace {

// What posix_spawn's child does twice for every signal: a look at, and then a reset of, what is the kernel's
// own business, for which no lock and no other stack is needed. False: neither, and nothing has happened.
bool PlainAction(const GuardFrame* frame, long* result) {
  const auto signal = static_cast<int>(frame->args[0]);
  const auto* action = reinterpret_cast<const KernelSigaction*>(frame->args[1]);
  auto* old = reinterpret_cast<KernelSigaction*>(frame->args[2]);
  if (Ours(signal) || InArena(reinterpret_cast<uintptr_t>(frame)) || (action != nullptr && old != nullptr))
    return false;
  const auto known = [signal] { return __atomic_load_n(&g_actions[signal].known, __ATOMIC_RELAXED); };
  if (action != nullptr) {
    KernelSigaction set = *action;
    if (set.handler > 1) return false;
    // Only of an action that we remember, in part or whole, does it matter whose it is.
    const bool remembered = known();
    if ((remembered || (set.mask & kOurSignals) != 0) && !InVforkChild()) return false;
    set.mask &= ~kOurSignals;
    *result = RawSigaction(signal, &set, nullptr);
    return known() == remembered;  // Or another thread sets it just now: once more, with the lock.
  }
  KernelSigaction now;
  *result = RawSigaction(signal, nullptr, &now);
  if (*result != 0) return true;
  if (now.handler == reinterpret_cast<uint64_t>(&On<OnSignal>)) return false;
  if (known()) return false;  // What was read may be half of a change.
  if (old != nullptr) *old = now;
  return true;
}

}  // namespace

long GuardSigaction(GuardFrame* frame) {
  const uint64_t signal = frame->args[0];
  if (frame->args[3] != sizeof(uint64_t) || signal < 1 || signal > kSignals) return -EINVAL;
  if (!MayRead(frame->args[1], sizeof(KernelSigaction)) || !MayWrite(frame->args[2], sizeof(KernelSigaction)))
    return -EFAULT;
  long result;
  return PlainAction(frame, &result) ? result : OnNearStack(&SetAction, *frame);
}

long GuardSigprocmask(GuardFrame* frame) {
  if (frame->args[3] != sizeof(uint64_t)) return -EINVAL;
  if (!MayRead(frame->args[1], sizeof(uint64_t)) || !MayWrite(frame->args[2], sizeof(uint64_t)))
    return -EFAULT;
  if (InArena(reinterpret_cast<uint64_t>(frame))) return OnNearStack(&SetMask, *frame);
  Thread* thread = CurrentThread();
  uint64_t now = thread->blocked;
  uint64_t set = 0;
  if (frame->args[1] != 0) {
    set = *reinterpret_cast<const uint64_t*>(frame->args[1]);
    if (!ChangeMask(frame->args[0], set, &now)) return -EINVAL;
    if (frame->args[0] != SIG_UNBLOCK) set &= ~kOurSignals;
  }
  uint64_t before;
  const long r = sys::Call(SYS_rt_sigprocmask, frame->args[0], frame->args[1] != 0 ? &set : nullptr, &before,
                           sizeof(before));
  if (r != 0) return r;
  before |= thread->blocked;
  if (frame->args[2] != 0) *reinterpret_cast<uint64_t*>(frame->args[2]) = before;
  SetBlocked(thread, now);
  return 0;
}

long GuardSigpending(GuardFrame* frame) {
  if (frame->args[1] > sizeof(uint64_t)) return -EINVAL;
  if (!MakePresent(frame->args[0], frame->args[1])) return Forward(frame);
  return OnNearStack(&GetPending, *frame);
}

bool TakeHeld(uint64_t set, siginfo_t* info) {
  Thread* thread = CurrentThread();
  const uint64_t ready = set & thread->pending;
  if (ready == 0) return false;
  const int signal = (ready & SignalBit(SIGBUS)) != 0 ? SIGBUS : SIGSYS;
  *info = thread->held[signal == SIGBUS ? 0 : 1];
  thread->pending &= ~SignalBit(signal);
  return true;
}

// The kernel never hears of the program's alternate stack: its own is ours.
long GuardSigaltstack(GuardFrame* frame) {
  if (!MayRead(frame->args[0], sizeof(AltStack)) || !MayWrite(frame->args[1], sizeof(AltStack)))
    return -EFAULT;
  Thread* thread = CurrentThread();
  const AltStack before = thread->asked;
  const uint64_t sp = reinterpret_cast<uint64_t>(frame + 1) + kRedZone;
  if (frame->args[0] != 0) {
    const AltStack stack = *reinterpret_cast<const AltStack*>(frame->args[0]);
    if (long r = SetAltStack(thread, stack, sp); r != 0) return r;
  }
  if (frame->args[1] != 0) {
    AltStack old = before;
    old.flags = (before.flags & kAutoDisarm) | (before.bytes == 0        ? SS_DISABLE
                                                : OnAltStack(before, sp) ? SS_ONSTACK
                                                                         : 0);
    *reinterpret_cast<AltStack*>(frame->args[1]) = old;
  }
  return 0;
}

// What the new image inherits: blocked and ignored signals, also the two that are ours.
InheritedSignals::InheritedSignals() {
  if (InVforkChild()) return;
  const uint64_t blocked = CurrentThread()->blocked;
  const KernelSigaction ignore = {1, 0, 0, 0};
  for (const int signal : {SIGBUS, SIGSYS}) {
    if (g_actions[signal].action.handler == 1) {
      RawSigaction(signal, &ignore, nullptr);
      ignored_ |= SignalBit(signal);
    }
  }
  // Not on a far stack, where a fault may come at any time.
  if (blocked == 0 || InArena(reinterpret_cast<uint64_t>(this))) return;
  blocked_ = blocked;
  sys::Call(SYS_rt_sigprocmask, SIG_BLOCK, &blocked_, nullptr, sizeof(blocked_));
}

InheritedSignals::~InheritedSignals() {
  if (blocked_ != 0) sys::Call(SYS_rt_sigprocmask, SIG_UNBLOCK, &blocked_, nullptr, sizeof(blocked_));
  for (const int signal : {SIGBUS, SIGSYS}) {
    if ((ignored_ & SignalBit(signal)) == 0) continue;
    const KernelSigaction action = OurAction(signal);
    RawSigaction(signal, &action, nullptr);
  }
}

}  // namespace farpool

// From entry.S: a handler of the program has returned. With the program's signals blocked it goes on on the
// near stack, whose top is the answer: there a SIGBUS or SIGSYS that was sent does not start another handler,
// whose own return would need the same room.
extern "C" __attribute__((visibility("hidden"))) uint64_t farpool_near_top() {
  using namespace farpool;
  Thread* thread = CurrentThread();
  BlockAll();
  return thread->stack_top();
}

// The frame goes to near memory, where the kernel can read it at any time; the answer is where.
extern "C" __attribute__((visibility("hidden"))) uint64_t farpool_signal_return(
    const farpool::Context* context) {
  using namespace farpool;
  Thread* thread = CurrentThread();
  EnterNear(thread);
  auto* copy = reinterpret_cast<Context*>(thread->frame_buffer());
  std::memcpy(copy, context, sizeof(*copy));
  FromKnownPlace(copy->registers);
  if (copy->fpstate != 0) {
    const uint64_t fpstate = thread->frame_buffer() + 512;
    const uint64_t bytes = FpstateBytes(copy->fpstate);
    if (bytes > Thread::kFrameBytes - 512) Die(SIGSEGV);
    std::memcpy(reinterpret_cast<void*>(fpstate), reinterpret_cast<const void*>(copy->fpstate), bytes);
    copy->fpstate = fpstate;
  }
  SetAltStack(thread, copy->stack, copy->registers[kRsp]);  // As the kernel: whatever comes of it.
  copy->stack = {thread->stack, 0, 0, Thread::kStackBytes};
  if (!InVforkChild()) thread->blocked = copy->mask & kOurSignals;
  Leave(copy->registers[kRsp], thread);
  copy->mask &= ~kOurSignals;
  LeaveNear(thread);
  return thread->frame_buffer();
}

// From entry.S: a fault has been served and a signal came meanwhile.
extern "C" __attribute__((visibility("hidden"))) void farpool_fault_return_slowly(farpool::Frame* frame) {
  using namespace farpool;
  Thread* const thread = CurrentThread();
  const bool enters = !thread->OnStack(frame->context.registers[kRsp]);
  if (enters) EnterNear(thread);
  BlockAll();
  HandleDeferred(frame, thread);
  if (enters) LeaveNear(thread);
}
