#pragma once
// What the runtime keeps for each thread of the program, in near memory: the stack on which the kernel
// delivers signals, what the program asked of sigaltstack, and its view of the two signals that are ours.
//
// A thread gets its record at its first guarded call or signal; for libc's threads that is at the latest the
// call that sets their signal mask, before any code of the program. Records of ended threads are found again
// when new ones are wanted.

#include <csignal>
#include <cstdint>

#include "preload/guard.h"

// In entry.S: call(argument), on the stack that ends at `top`.
extern "C" __attribute__((visibility("hidden"))) long farpool_on_stack(void* call, void* argument,
                                                                       uint64_t top);

namespace farpool {

// As the kernel's stack_t.
struct AltStack {
  uint64_t base;
  int32_t flags;
  int32_t pad;
  uint64_t bytes;
};
inline constexpr AltStack kNoAltStack = {0, SS_DISABLE, 0, 0};

struct Thread {
  // The kernel's alternate stack of this thread. Only the runtime runs there, never a handler of the program.
  static constexpr uint64_t kStackBytes = 64 * 1024;
  // Where a signal frame is put that the kernel shall return through.
  static constexpr uint64_t kFrameBytes = 24 * 1024;

  AltStack asked = kNoAltStack;  // What the program set.
  uint64_t blocked = 0;          // Of kOurSignals: what the program believes to have blocked.
  uint64_t pending = 0;          // Of those: sent meanwhile, to be delivered when the program unblocks them.
  siginfo_t held[2] = {};        // Of the pending ones: SIGBUS, SIGSYS.
  // Faults are served with the program's signals open. One that came meanwhile is delivered behind that.
  uint32_t interrupted = 0;  // There is one, or something of `pending`.
  int deferred = 0;
  int64_t deferred_in = 0;  // The thread it came in.
  siginfo_t deferred_info = {};
  uint64_t mask = 0;  // The program's mask while OnNearStack() has everything blocked.

  // A call that changes the mask for as long as it waits (sigsuspend, ppoll, ...).
  uint64_t call_mask = 0;        // For the kernel.
  uint64_t waiting_mask = 0;     // What the program asked for.
  uint64_t waiting_blocked = 0;  // `blocked` outside the call.
  uint64_t waiting_stack = 0;    // Stack pointer in the call; 0: none is under way.

  uint64_t stack_page = 0;  // A page of the stack the program runs on that was found to be readable.

  // The innermost call that the guard is at, and how many it has made of the kernel for it (farpool_forward
  // in entry.S). A handler that finds none made may never come back to it, so that is then forgotten.
  const GuardFrame* call = nullptr;
  uint32_t forwards = 0;

  bool near_in_use = false;  // The near stack is; see EnterNear().
  uint32_t near_uses = 0;    // So often, so far.

  uint64_t stack = 0;  // Lowest address of the stack; the frame buffer follows it.
  int64_t id = 0;      // In the kernel; 0: no thread's.

  uint64_t stack_top() const { return stack + kStackBytes; }
  uint64_t frame_buffer() const { return stack_top(); }
  bool OnStack(uint64_t sp) const { return sp > stack && sp <= stack_top(); }
};

// This thread's record, made if there is none yet. Any context, a signal handler that interrupts the making
// of one too: nothing is locked.
Thread* CurrentThread();

// Whether some thread's near stack begins there. Any context.
bool IsNearStack(uint64_t stack);

// A thread is about to start that shares its parent's thread-local storage.
void StorageIsShared();

// Runs `call` on this thread's near stack with the program's signals blocked: far memory can be evicted
// there, the program's own stack too, and locks be held. `call` gets a near copy of `frame`.
long OnNearStack(long (*call)(GuardFrame*), const GuardFrame& frame);

// What a vfork child was doing on the near stack when it was killed, with locks it held and pages it waited
// for, is never done for its parent, which has the same record: that ends the run. Off the near stack;
// returns when nothing is being done there, or a child that lives has gone on.
void AwaitNearFree(const Thread* thread);
inline void ExpectNearFree(const Thread* thread) {
  if (__builtin_expect(thread->near_in_use, 0)) AwaitNearFree(thread);
}
// On the near stack, when this thread has come there from one of the program's and before it goes back.
inline void EnterNear(Thread* thread) {
  ExpectNearFree(thread);
  thread->near_in_use = true;
  ++thread->near_uses;
}
inline void LeaveNear(Thread* thread) { thread->near_in_use = false; }

// The answer to a call for the program that was made on the near stack and trapped by a filter of the
// program's: its handler cannot run there.
inline constexpr long kTrappedOnNearStack = -4095;

// True in a child that shares its parent's memory (vfork, posix_spawn): what is remembered here is the
// parent's.
bool InVforkChild();

// In a forked child: `self`, as it was before the fork, is the only thread.
void ThreadsAfterFork(const Thread* self);

// A wait under another mask than the thread's own. Holds for its lifetime.
class WaitingMask {
 public:
  explicit WaitingMask(uint64_t mask);
  ~WaitingMask();
  WaitingMask(const WaitingMask&) = delete;
  WaitingMask& operator=(const WaitingMask&) = delete;
  // The mask without our signals, in near memory.
  const uint64_t* kernel_mask() const { return &thread_->call_mask; }

 private:
  Thread* thread_;
  bool closed_ = false;
  uint64_t outer_[4];  // Of the call that was interrupted by the handler that makes this one.
};

// Sends what was held back and is no longer blocked.
void SendHeld(Thread* thread);

}  // namespace farpool
