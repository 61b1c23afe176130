#include "preload/eviction_threads.h"

#include "preload/own_thread.h"
#include "preload/runtime.h"

namespace farpool {

namespace {

[[noreturn]] void Evict();
[[noreturn]] void Write();

OwnThread g_evictor(&Evict, [] { WakeListeners(&g_runtime.segment->budget); });
OwnThread g_writer(&Write, [] { g_runtime.engine->WakeWriter(); });

void Evict() {
  BudgetState& budget = g_runtime.segment->budget;
  static uint32_t seen = 0;  // By the one before, too.
  for (;;) {
    seen = AwaitHunger(&budget, seen, g_evictor.asked());
    g_evictor.EndIfAsked();
    if (Status s = g_runtime.engine->YieldShare(); !s.ok()) Fatal(s);
  }
}

void Write() {
  for (;;) {
    for (bool more = true; more; g_writer.EndIfAsked())
      if (Status s = g_runtime.engine->WriteBack(&more); !s.ok()) Fatal(s);
    g_runtime.engine->AwaitCall();
  }
}

}  // namespace

void StartEvictionThreads() {
  g_evictor.Start();
  g_writer.Start();
}

bool StopEvictionThreads() {
  const bool evictor = g_evictor.Stop();
  return g_writer.Stop() || evictor;
}

void EvictionThreadsAfterFork() {
  g_evictor.AfterFork();
  g_writer.AfterFork();
}

}  // namespace farpool
