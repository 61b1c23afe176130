#include "preload/own_thread.h"

#include <linux/sched.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <atomic>
#include <cstdint>

#include "base/sys.h"
#include "preload/runtime.h"
#include "preload/thread.h"

namespace farpool {

namespace {

std::atomic<unsigned> g_started{0};

constexpr uint64_t kStackBytes = 128 * 1024;
constexpr uint64_t kStorageBytes =
    16 * 1024;  // Below the thread pointer lie libraries' initial-exec variables.

}  // namespace

Status StartOwnThread(void (*entry)()) {
  const long map = sys::Call(SYS_mmap, 0, kStackBytes + kStorageBytes + kPageBytes, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (sys::Failed(map)) return Status::FromErrno("mmap of a thread's stack", static_cast<int>(-map));
  const auto stack_top = static_cast<uint64_t>(map) + kStackBytes;
  const uint64_t storage = stack_top + kStorageBytes;
  // The thread pointer points to itself (x86-64 ABI), and so does glibc's own field in its third word, by
  // which the cancellation points of libibverbs' libc find the thread.
  reinterpret_cast<uint64_t*>(storage)[0] = reinterpret_cast<uint64_t*>(storage)[2] = storage;
  // The kernel is entered by the trampoline as ever, which ends in `ret`: on the new stack that goes to
  // `entry`, as if called from nowhere.
  auto* const top = reinterpret_cast<uint64_t*>(stack_top) - 2;
  top[0] = reinterpret_cast<uint64_t>(entry);
  top[1] = 0;
  const SignalsBlocked blocked;  // The thread starts so, and stays so.
  const long r = sys::Call(
      SYS_clone,
      CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_SETTLS, top,
      nullptr, nullptr, storage);
  if (r < 0) return Status::FromErrno("starting a thread of farpool's", static_cast<int>(-r));
  g_started.fetch_add(1);
  return Status::Ok();
}

void OwnThread::Start() {
  if (running_.load(std::memory_order_relaxed) || InVforkChild() || running_.exchange(true)) return;
  if (!StartOwnThread(entry_).ok()) running_.store(false);
}

void OwnThreadsAfterFork() { g_started.store(0); }

bool OnlyOwnThreadsStay() {
  const unsigned own = g_started.load();
  struct stat tasks;
  // A folder for each thread, and the names of itself and its parent.
  return own > 0 && sys::Call(SYS_stat, "/proc/self/task", &tasks) == 0 && tasks.st_nlink == 2 + own + 1;
}

}  // namespace farpool
