#include "preload/monitor.h"

#include <poll.h>
#include <sys/syscall.h>

#include "base/sys.h"
#include "base/uffd_abi.h"
#include "preload/eviction_threads.h"
#include "preload/own_thread.h"
#include "preload/runtime.h"
#include "run/layout.h"

namespace farpool {

namespace {

constexpr uint64_t kStackBytes = 128 * 1024;
constexpr uint64_t kStorageBytes =
    16 * 1024;  // Below the thread pointer lie libraries' initial-exec variables.
constexpr unsigned kEventsMax = 16;

[[noreturn]] void Monitor() {
  const int uffd = g_runtime.segment->fd_base + kFdUserfault;
  pollfd ready = {uffd, POLLIN, 0};
  uffd_msg events[kEventsMax];
  for (;;) {
    sys::Call(SYS_ppoll, &ready, 1, nullptr, nullptr, 8);
    const long bytes = sys::Call(SYS_read, uffd, events, sizeof(events));
    if (sys::Failed(bytes)) continue;  // EAGAIN: the faulting thread was killed.
    for (unsigned i = 0; i < static_cast<unsigned long>(bytes) / sizeof(events[0]); ++i) {
      if (events[i].event != UFFD_EVENT_PAGEFAULT) continue;
      const uint64_t page = events[i].arg.pagefault.address & ~(kPageBytes - 1);
      if (Status s = g_runtime.engine->Fault(page); !s.ok()) Fatal(s);
      if (g_runtime.engine->evicts()) StartEvictionThreads();
      // Whoever waits looks again: placing the page has woken only those that were there by then.
      uffdio_range range = {page, kPageBytes};
      sys::Call(SYS_ioctl, uffd, UFFDIO_WAKE, &range);
    }
  }
}

}  // namespace

Status StartMonitor() { return StartOwnThread(&Monitor); }

}  // namespace farpool
