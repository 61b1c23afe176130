#include "preload/writer.h"

#include "preload/own_thread.h"
#include "preload/runtime.h"

namespace farpool {

namespace {

[[noreturn]] void Write() {
  for (;;) {
    for (bool more = true; more;)
      if (Status s = g_runtime.engine->WriteBack(&more); !s.ok()) Fatal(s);
    g_runtime.engine->AwaitCall();
  }
}

// Without it faults do all that themselves.
OwnThread g_writer(&Write);

}  // namespace

void StartWriter() { g_writer.Start(); }

void WriterAfterFork() { g_writer.AfterFork(); }

}  // namespace farpool
