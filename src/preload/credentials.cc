// Calls by which a thread gives up or gains rights, or moves to other namespaces. They are for the calling
// thread only; libc makes them in each of the program's, but does not know of the runtime's own threads,
// which would keep what the program gave up. So those end first, and begin again with what the caller is
// then.

#include <sys/prctl.h>
#include <sys/syscall.h>

#include <cerrno>

#include "preload/eviction_threads.h"
#include "preload/guard.h"
#include "preload/own_thread.h"
#include "preload/prefetcher.h"
#include "preload/prepare.h"
#include "preload/runtime.h"
#include "preload/thread.h"

namespace farpool {

namespace {

// Of whoever holds the threads: what to undo.
uint64_t g_mask;
bool g_evicted, g_prefetched;

// On the near stack, which blocks the program's signals; they stay blocked when it is left.
long Begin(GuardFrame*) {
  HoldOwnThreads();
  g_evicted = StopEvictionThreads();
  g_prefetched = StopPrefetcher();
  Thread* thread = CurrentThread();
  g_mask = thread->mask;
  thread->mask = ~kOurSignals;
  return 0;
}

long End(GuardFrame*) {
  CurrentThread()->mask = g_mask;
  const bool evicted = g_evicted, prefetched = g_prefetched;
  LetOwnThreadsStart();
  if (evicted) StartEvictionThreads();
  if (prefetched) CallPrefetcher();
  return 0;
}

}  // namespace

// The call itself is made where it came from: what is pinned for it is known by its place on that stack.
long GuardCredentials(const GuardFrame* frame) {
  // A vfork child's are its own; its parent's threads go on.
  if (!g_runtime.has_started() || InVforkChild()) return CallPrepared(frame);
  OnNearStack(&Begin, *frame);
  const long r = CallPrepared(frame);
  OnNearStack(&End, *frame);
  return r;
}

long GuardPrctl(GuardFrame* frame) {
  constexpr uint32_t kPrSetSyscallUserDispatch = 59;  // Linux 5.11
  switch (static_cast<uint32_t>(frame->args[0])) {
    case PR_SET_SECCOMP:
      return GuardSeccomp(frame);
    case PR_CAPBSET_DROP:
    case PR_SET_SECUREBITS:
    case PR_CAP_AMBIENT:
      return GuardCredentials(frame);
    case PR_SET_TSC:
      // The fault handler reads the clock, which is that register's.
      return static_cast<uint32_t>(frame->args[1]) == PR_TSC_SIGSEGV ? -EINVAL : CallPrepared(frame);
    case kPrSetSyscallUserDispatch:
      // It would hand the runtime's own calls to the program.
      return -EINVAL;
    default:
      return CallPrepared(frame);
  }
}

}  // namespace farpool
