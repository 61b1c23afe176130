#include "preload/prefetcher.h"

#include <linux/futex.h>
#include <sys/syscall.h>

#include <atomic>

#include "base/sys.h"
#include "preload/own_thread.h"
#include "preload/runtime.h"

namespace farpool {

namespace {

std::atomic<uint32_t> g_calls{0};  // Futex.

[[noreturn]] void Prefetch();
void Wake() {
  g_calls.fetch_add(1);
  sys::Call(SYS_futex, &g_calls, FUTEX_WAKE_PRIVATE, 1);
}

// Without it the advice is lost; nothing is wrong for that.
OwnThread g_prefetcher(&Prefetch, &Wake);

void Prefetch() {
  for (;;) {
    const uint32_t seen = g_calls.load();
    for (bool more = true; more; g_prefetcher.EndIfAsked())
      if (Status s = g_runtime.engine->BringAhead(&more); !s.ok()) Fatal(s);
    sys::Call(SYS_futex, &g_calls, FUTEX_WAIT_PRIVATE, seen, nullptr);
  }
}

}  // namespace

void CallPrefetcher() {
  Wake();
  g_prefetcher.Start();
}

bool StopPrefetcher() { return g_prefetcher.Stop(); }

void PrefetcherAfterFork() { g_prefetcher.AfterFork(); }

}  // namespace farpool
