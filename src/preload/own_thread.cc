#include "preload/own_thread.h"

#include <linux/futex.h>
#include <linux/sched.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <atomic>
#include <cstdint>

#include "base/clock.h"
#include "base/mutex.h"
#include "base/sys.h"
#include "preload/runtime.h"
#include "preload/thread.h"

namespace farpool {

namespace {

std::atomic<unsigned> g_started{0};  // And not ended.
Mutex g_hold_lock;
std::atomic<bool> g_held{false};

constexpr uint64_t kGoneNs = 100'000'000;
constexpr uint64_t kStackBytes = 128 * 1024;
constexpr uint64_t kStorageBytes =
    16 * 1024;  // Below the thread pointer lie libraries' initial-exec variables.

Status MapStack(uint64_t* stack) {
  const long map = sys::Call(SYS_mmap, 0, kStackBytes + kStorageBytes + kPageBytes, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (sys::Failed(map)) return Status::FromErrno("mmap of a thread's stack", static_cast<int>(-map));
  *stack = static_cast<uint64_t>(map);
  return Status::Ok();
}

// `*thread` holds its id until it has ended, if that is not null.
Status StartOn(uint64_t stack, void (*entry)(), std::atomic<uint32_t>* thread) {
  const uint64_t stack_top = stack + kStackBytes;
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
  uint64_t flags =
      CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_SETTLS;
  if (thread != nullptr) flags |= CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID;
  g_started.fetch_add(1);
  const long r = sys::Call(SYS_clone, flags, top, thread, thread, storage);
  if (r >= 0) return Status::Ok();
  g_started.fetch_sub(1);
  return Status::FromErrno("starting a thread of farpool's", static_cast<int>(-r));
}

}  // namespace

Status StartOwnThread(void (*entry)()) {
  uint64_t stack = 0;
  const Status s = MapStack(&stack);
  return s.ok() ? StartOn(stack, entry, nullptr) : s;
}

void OwnThread::Start() {
  if (running_.load(std::memory_order_relaxed) || g_held.load() || InVforkChild() || running_.exchange(true))
    return;
  if (g_held.load() || (stack_ == 0 && !MapStack(&stack_).ok()) || !StartOn(stack_, entry_, &thread_).ok())
    running_.store(false);
}

bool OwnThread::Stop() {
  const uint32_t thread = thread_.load();
  if (thread == 0) return false;  // Or another thread is just starting it, with rights of its own.
  asked_.store(true);
  // Again and again: it may look just before it sleeps.
  const timespec little = {0, 1'000'000};
  while (thread_.load() == thread) {
    wake_();
    sys::Call(SYS_futex, &thread_, FUTEX_WAIT, thread, &little);
  }
  // The kernel has let go of its memory; until it is no more, the process counts as one with threads. One
  // that is traced may stay for as long as its tracer likes.
  for (const uint64_t end = NowNs() + kGoneNs; !sys::ThreadEnded(thread) && NowNs() < end;)
    sys::Call(SYS_sched_yield);
  g_started.fetch_sub(1);
  asked_.store(false);
  running_.store(false);
  return true;
}

void OwnThread::EndIfAsked() {
  if (asked_.load()) sys::Call(SYS_exit, 0);
}

void OwnThread::AfterFork() {
  thread_.store(0);
  asked_.store(false);
  running_.store(false);
}

void HoldOwnThreads() {
  g_hold_lock.Lock();
  g_held.store(true);
}

void LetOwnThreadsStart() {
  g_held.store(false);
  g_hold_lock.Unlock();
}

void OwnThreadsAfterFork() {
  g_started.store(0);
  g_hold_lock.Reset();
  g_held.store(false);
}

bool OnlyOwnThreadsStay() {
  // A thread is counted before it begins, and until after it has ended: fewer than that change just now, and
  // more are the program's unless the count has changed.
  for (const uint64_t end = NowNs() + kGoneNs; NowNs() < end; sys::Call(SYS_sched_yield)) {
    const unsigned own = g_started.load();
    struct stat tasks;
    if (own == 0 || sys::Call(SYS_stat, "/proc/self/task", &tasks) != 0) return false;
    const auto threads = static_cast<unsigned>(tasks.st_nlink) - 2;  // The names of itself and its parent.
    if (threads == own + 1) return true;
    if (threads > own + 1 && g_started.load() == own) return false;
  }
  return false;
}

}  // namespace farpool
