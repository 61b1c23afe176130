#include "preload/eviction_threads.h"

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

[[noreturn]] void Write() {
  for (;;) {
    for (bool more = true; more;)
      if (Status s = g_runtime.engine->WriteBack(&more); !s.ok()) Fatal(s);
    g_runtime.engine->AwaitCall();
  }
}

OwnThread g_evictor(&Evict);
OwnThread g_writer(&Write);

}  // namespace

void StartEvictionThreads() {
  g_evictor.Start();
  g_writer.Start();
}

void EvictionThreadsAfterFork() {
  g_evictor.AfterFork();
  g_writer.AfterFork();
}

}  // namespace farpool
