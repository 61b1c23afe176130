// Calls by which a thread gives up or gains rights, or moves to other namespaces. They are for the calling
// thread only; libc makes them in each of the program's, but does not know of the runtime's own threads,
// which would keep what the program gave up. So those end first, and begin again, with the rights of the
// thread that needs them, when there is something to evict.

#include <sys/prctl.h>
#include <sys/syscall.h>

#include "preload/eviction_threads.h"
#include "preload/guard.h"
#include "preload/own_thread.h"
#include "preload/prefetcher.h"
#include "preload/prepare.h"
#include "preload/runtime.h"
#include "preload/thread.h"

namespace farpool {

namespace {

long CallAlone(GuardFrame* frame) {
  const OwnThreadsHeld held;
  StopEvictionThreads();
  StopPrefetcher();
  return CallPrepared(frame);
}

}  // namespace

long GuardCredentials(const GuardFrame* frame) {
  // A vfork child's are its own; its parent's threads go on.
  return g_runtime.has_started() && !InVforkChild() ? OnNearStack(&CallAlone, *frame) : CallPrepared(frame);
}

long GuardPrctl(GuardFrame* frame) {
  switch (frame->args[0]) {
    case PR_SET_SECCOMP:
      return GuardSeccomp(frame);
    case PR_CAPBSET_DROP:
    case PR_SET_SECUREBITS:
    case PR_CAP_AMBIENT:
      return GuardCredentials(frame);
    default:
      return CallPrepared(frame);
  }
}

}  // namespace farpool
