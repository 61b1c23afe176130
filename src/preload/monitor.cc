#include "preload/monitor.h"

#include <linux/sched.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <cerrno>

#include "base/sys.h"
#include "base/uffd_abi.h"
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
      if (Status s = g_runtime.engine.Fault(page); !s.ok()) Fatal(s);
      // Whoever waits looks again: placing the page has woken only those that were there by then.
      uffdio_range range = {page, kPageBytes};
      sys::Call(SYS_ioctl, uffd, UFFDIO_WAKE, &range);
    }
  }
}

// clone(2) of a thread that runs `entry` and never comes back.
long CloneThread(uint64_t flags, uint64_t stack_top, uint64_t storage, void (*entry)()) {
  long result = SYS_clone;
  register uint64_t child_tid asm("r10") = 0;
  register uint64_t tls asm("r8") = storage;
  register void (*start)() asm("r9") = entry;
  asm volatile(
      "syscall\n\t"
      "test %%rax, %%rax\n\t"
      "jnz 1f\n\t"
      "xor %%ebp, %%ebp\n\t"
      "call *%%r9\n\t"
      "1:"
      : "+a"(result)
      : "D"(flags), "S"(stack_top), "d"(uint64_t{0}), "r"(child_tid), "r"(tls), "r"(start)
      : "rcx", "r11", "memory");
  return result;
}

}  // namespace

Status StartMonitor() {
  const long map = sys::Call(SYS_mmap, 0, kStackBytes + kStorageBytes + kPageBytes, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (sys::Failed(map)) return Status::FromErrno("mmap of the monitor's stack", static_cast<int>(-map));
  const auto stack_top = static_cast<uint64_t>(map) + kStackBytes;
  const uint64_t storage = stack_top + kStorageBytes;
  *reinterpret_cast<uint64_t*>(storage) = storage;  // The thread pointer points to itself (x86-64 ABI).
  const SignalsBlocked blocked;                     // The thread starts so, and stays so.
  const long r = CloneThread(
      CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_SETTLS,
      stack_top, storage, &Monitor);
  if (r < 0) return Status::FromErrno("starting the monitor thread", static_cast<int>(-r));
  return Status::Ok();
}

}  // namespace farpool
