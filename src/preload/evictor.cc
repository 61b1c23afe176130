#include "preload/evictor.h"

#include <atomic>

#include "preload/own_thread.h"
#include "preload/runtime.h"
#include "preload/thread.h"

namespace farpool {

namespace {

std::atomic<bool> g_running{false};

[[noreturn]] void Evict() {
  BudgetState& budget = g_runtime.segment->budget;
  for (uint32_t seen = 0;;) {
    seen = AwaitHunger(&budget, seen);
    if (Status s = g_runtime.engine->YieldShare(); !s.ok()) Fatal(s);
  }
}

}  // namespace

void StartEvictor() {
  if (g_running.load(std::memory_order_relaxed)) return;
  if (InVforkChild()) return;  // A thread started there would be the child's, and end with it.
  if (g_running.exchange(true)) return;
  // Without it others get less; nothing is wrong for that.
  if (!StartOwnThread(&Evict).ok()) g_running.store(false);
}

void EvictorAfterFork() { g_running.store(false); }

}  // namespace farpool
