#include "preload/evictor.h"

#include "preload/own_thread.h"
#include "preload/runtime.h"

namespace farpool {

namespace {

[[noreturn]] void Evict() {
  BudgetState& budget = g_runtime.segment->budget;
  for (uint32_t seen = 0;;) {
    seen = AwaitHunger(&budget, seen);
    if (Status s = g_runtime.engine->YieldShare(); !s.ok()) Fatal(s);
  }
}

// Without it others get less; nothing is wrong for that.
OwnThread g_evictor(&Evict);

}  // namespace

void StartEvictor() { g_evictor.Start(); }

void EvictorAfterFork() { g_evictor.AfterFork(); }

}  // namespace farpool
