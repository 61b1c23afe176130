#include "preload/prefetcher.h"

#include <linux/futex.h>
#include <sys/syscall.h>

#include <atomic>

#include "base/sys.h"
#include "preload/own_thread.h"
#include "preload/runtime.h"
#include "preload/thread.h"

namespace farpool {

namespace {

std::atomic<bool> g_running{false};
std::atomic<uint32_t> g_calls{0};  // Futex.

[[noreturn]] void Prefetch() {
  for (;;) {
    const uint32_t seen = g_calls.load();
    for (bool more = true; more;)
      if (Status s = g_runtime.engine->BringAhead(&more); !s.ok()) Fatal(s);
    sys::Call(SYS_futex, &g_calls, FUTEX_WAIT_PRIVATE, seen, nullptr);
  }
}

}  // namespace

void CallPrefetcher() {
  if (InVforkChild()) return;  // A thread started there would be the child's, and end with it.
  g_calls.fetch_add(1);
  sys::Call(SYS_futex, &g_calls, FUTEX_WAKE_PRIVATE, 1);
  if (g_running.load(std::memory_order_relaxed) || g_running.exchange(true)) return;
  // Without it the advice is lost; nothing is wrong for that.
  if (!StartOwnThread(&Prefetch).ok()) g_running.store(false);
}

void PrefetcherAfterFork() { g_running.store(false); }

}  // namespace farpool
