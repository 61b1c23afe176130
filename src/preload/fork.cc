// fork. The child gets, before it runs any code of the program: a page table of its own (slots shared,
// counted), a userfaultfd of its own with the inherited arena registered, and a channel to the supervisor.

#include <linux/sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <cerrno>

#include "base/sys.h"
#include "preload/evictor.h"
#include "preload/guard.h"
#include "preload/monitor.h"
#include "preload/runtime.h"
#include "preload/thread.h"
#include "run/layout.h"

namespace farpool {

long GuardFork(GuardFrame* frame) {
  const bool shares_memory = frame->number == SYS_clone && (frame->args[0] & CLONE_VM) != 0;
  if (shares_memory) return Forward(frame);
  if (!g_runtime.started.load(std::memory_order_acquire)) {
    // Another thread may be just starting the runtime: a child must not inherit it half made.
    g_runtime.start_lock.Lock();
    if (!g_runtime.started.load(std::memory_order_relaxed)) {
      const long r = Forward(frame);
      if (r == 0) {
        ThreadsAfterFork();
        SignalsAfterFork();
        g_runtime.start_lock.Reset();
      } else {
        g_runtime.start_lock.Unlock();
      }
      return r;
    }
    g_runtime.start_lock.Unlock();
  }
  Engine& engine = g_runtime.engine;
  int table_fd = -1, channel_fd = -1;
  engine.lock()->Lock();  // The channel is used under it.
  Result<uint32_t> child = g_runtime.supervisor.PrepareFork(&table_fd, &channel_fd);
  engine.lock()->Unlock();
  if (!child.ok()) {
    if (child.status().code() == Status::Code::kExhausted) return -EAGAIN;
    Fatal(child.status());
  }
  const size_t table_bytes = kArenaPages * sizeof(PageEntry);
  const long table = sys::Call(SYS_mmap, nullptr, table_bytes, PROT_READ | PROT_WRITE,
                               MAP_SHARED | MAP_NORESERVE, table_fd, 0);
  const Budget child_budget(&g_runtime.segment->budget,
                            &g_runtime.segment->processes[child.value()].resident);
  long r = -ENOMEM;
  if (!sys::Failed(table)) {
    if (Status s = engine.BeforeFork(reinterpret_cast<PageEntry*>(table), child_budget); !s.ok()) Fatal(s);
    sys::Call(SYS_munmap, table, table_bytes);
    sys::Call(SYS_madvise, kArenaBase, kArenaBytes, MADV_DOFORK);
    r = Forward(frame);
    if (r == 0) {
      ThreadsAfterFork();
      SignalsAfterFork();
      g_runtime.supervisor.BecomeChild(child.value(), channel_fd);
      const long map = sys::Call(SYS_mmap, kTableBase, table_bytes, PROT_READ | PROT_WRITE,
                                 MAP_SHARED | MAP_NORESERVE | MAP_FIXED, table_fd, 0);
      sys::Call(SYS_close, table_fd);
      if (sys::Failed(map)) Fatal(Status::FromErrno("mmap of the page table", static_cast<int>(-map)));
      g_runtime.store.AfterFork();
      int uffd = -1;
      bool move;  // The same kernel as the parent's.
      if (Status s = OpenUserfault(&uffd, &move); !s.ok()) Fatal(s);
      sys::Call(SYS_madvise, kArenaBase, kArenaBytes, MADV_DONTFORK);
      if (Status s = engine.AfterForkInChild(uffd, child_budget); !s.ok()) Fatal(s);
      EvictorAfterFork();
      if (g_runtime.monitor())
        if (Status s = StartMonitor(); !s.ok()) Fatal(s);
      return 0;
    }
    sys::Call(SYS_madvise, kArenaBase, kArenaBytes, MADV_DONTFORK);
    engine.AfterForkInParent();
  }
  sys::Call(SYS_close, table_fd);
  sys::Call(SYS_close, channel_fd);
  if (r < 0) {
    MutexLock hold(engine.lock());
    g_runtime.supervisor.ForkFailed(child.value());
  }
  return r;
}

}  // namespace farpool
