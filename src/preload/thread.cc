#include "preload/thread.h"

#include <sys/mman.h>
#include <sys/syscall.h>

#include <atomic>
#include <cerrno>
#include <new>

#include "base/mutex.h"
#include "base/sys.h"
#include "preload/runtime.h"
#include "run/layout.h"

extern "C" __attribute__((visibility("hidden"))) long farpool_on_stack(void* call, void* argument,
                                                                       uint64_t top);

namespace farpool {

namespace {

constexpr uint64_t kRecordBytes = kPageBytes;
constexpr uint64_t kMappingBytes = Thread::kStackBytes + Thread::kFrameBytes + kRecordBytes;
static_assert(sizeof(Thread) <= kRecordBytes);
// SIGBUS stays open: the program's stack and arguments are touched.
constexpr uint64_t kBlockable = ~kOurSignals;
constexpr uint64_t kOurs = kOurSignals;

thread_local Thread* t_thread = nullptr;

Mutex g_threads_lock;
Thread* g_threads = nullptr;  // All records; none is ever unmapped.
uint64_t g_thread_count = 0;
Thread* g_free = nullptr;
uint64_t g_look_at = 64;  // With so many records, look for threads that have ended.
long g_process = 0;
// Set once some thread was started without thread-local storage of its own: t_thread may be another's then.
std::atomic<bool> g_storage_shared{false};

void Free(Thread* thread) {
  thread->next_free = g_free;
  g_free = thread;
}

// libc tells nobody when a thread is about to end for good. So the kernel is asked, whenever the number of
// records has doubled: a constant cost for each thread.
void CollectEnded() {
  uint64_t live = 0;
  for (Thread* t = g_threads; t != nullptr; t = t->next) {
    if (sys::ThreadEnded(static_cast<uint64_t>(t->id))) {
      Free(t);
    } else {
      ++live;
    }
  }
  g_look_at = live < 32 ? 64 : 2 * live;
}

Thread* TakeRecord() {
  MutexLock hold(&g_threads_lock);
  if (g_process == 0) g_process = sys::Call(SYS_getpid);
  if (g_free == nullptr && g_thread_count >= g_look_at) CollectEnded();
  Thread* thread = g_free;
  if (thread != nullptr) {
    g_free = thread->next_free;
    Thread* next = thread->next;
    const uint64_t stack = thread->stack;
    new (thread) Thread;
    thread->next = next;
    thread->stack = stack;
  } else {
    const long map =
        sys::Call(SYS_mmap, 0, kMappingBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (sys::Failed(map)) Fatal(Status::Exhausted("no memory for a thread's signal stack"));
    const auto stack = static_cast<uint64_t>(map);
    thread = new (reinterpret_cast<void*>(stack + kMappingBytes - kRecordBytes)) Thread;
    thread->stack = stack;
    thread->next = g_threads;
    __atomic_store_n(&g_threads, thread, __ATOMIC_RELEASE);
    ++g_thread_count;
  }
  thread->id = sys::Call(SYS_gettid);
  return thread;
}

__attribute__((noinline)) Thread* NewThread() {
  uint64_t old;
  sys::Call(SYS_rt_sigprocmask, SIG_SETMASK, &kBlockable, &old, sizeof(old));
  Thread* thread = TakeRecord();
  AltStack program;
  const AltStack ours = {thread->stack, 0, 0, Thread::kStackBytes};
  if (sys::Call(SYS_sigaltstack, &ours, &program) == 0 && (program.flags & SS_DISABLE) == 0)
    thread->asked = program;  // Set by a call that did not come by the guard.
  if (t_thread == nullptr) t_thread = thread;
  sys::Call(SYS_rt_sigprocmask, SIG_SETMASK, &old, nullptr, sizeof(old));
  return thread;
}

// Without a lock: records are only ever added, at the front.
__attribute__((noinline)) Thread* FindThread() {
  const long id = sys::Call(SYS_gettid);
  if (t_thread->id == id) return t_thread;
  // A vfork child has its parent's stack while that waits.
  AltStack now;
  if (sys::Call(SYS_sigaltstack, nullptr, &now) == 0 && now.base == t_thread->stack) return t_thread;
  for (Thread* t = __atomic_load_n(&g_threads, __ATOMIC_ACQUIRE); t != nullptr; t = t->next)
    if (t->id == id) return t;
  return NewThread();
}

struct NearCall {
  long (*call)(GuardFrame*);
  const GuardFrame* frame;
};

long CallNear(NearCall* near_call) {
  const NearCall call = *near_call;
  GuardFrame frame = *call.frame;
  return call.call(&frame);
}

}  // namespace

Thread* CurrentThread() {
  Thread* thread = t_thread;
  if (__builtin_expect(thread == nullptr, 0)) return NewThread();
  if (__builtin_expect(g_storage_shared.load(std::memory_order_relaxed), 0)) return FindThread();
  return thread;
}

void StorageIsShared() { g_storage_shared.store(true, std::memory_order_relaxed); }

long OnNearStack(long (*call)(GuardFrame*), const GuardFrame& frame) {
  Thread* thread = CurrentThread();
  NearCall near_call = {call, &frame};
  if (thread->OnStack(reinterpret_cast<uint64_t>(__builtin_frame_address(0)))) return CallNear(&near_call);
  sys::Call(SYS_rt_sigprocmask, SIG_SETMASK, &kBlockable, &thread->mask, sizeof(thread->mask));
  const long r = farpool_on_stack(reinterpret_cast<void*>(&CallNear), &near_call, thread->stack_top());
  sys::Call(SYS_rt_sigprocmask, SIG_SETMASK, &thread->mask, nullptr, sizeof(thread->mask));
  if (__builtin_expect((thread->pending & ~thread->blocked) != 0, 0)) SendHeld(thread);
  return r;
}

bool InVforkChild() { return sys::Call(SYS_getpid) != g_process; }

void ThreadsAfterFork() {
  g_threads_lock.Reset();
  g_process = sys::Call(SYS_getpid);
  Thread* self = CurrentThread();
  self->id = sys::Call(SYS_gettid);
  self->pending = 0;  // As the kernel's own.
  g_free = nullptr;
  for (Thread* t = g_threads; t != nullptr; t = t->next)
    if (t != self) Free(t);
}

WaitingMask::WaitingMask(uint64_t mask) : thread_(CurrentThread()) {
  Thread& t = *thread_;
  outer_[0] = t.call_mask;
  outer_[1] = t.waiting_mask;
  outer_[2] = t.waiting_blocked;
  outer_[3] = t.waiting_stack;
  t.waiting_stack = 0;
  t.call_mask = mask & ~kOurSignals;
  t.waiting_mask = mask;
  t.waiting_blocked = t.blocked;
  t.blocked = mask & kOurSignals;
  t.waiting_stack = reinterpret_cast<uint64_t>(this);
  if ((t.pending & ~t.blocked) == 0) return;
  // What was held back must interrupt the call, so it waits in the kernel until that is made.
  sys::Call(SYS_rt_sigprocmask, SIG_BLOCK, &kOurs, nullptr, sizeof(kOurs));
  SendHeld(&t);
  closed_ = true;
}

WaitingMask::~WaitingMask() {
  Thread& t = *thread_;
  if (closed_) sys::Call(SYS_rt_sigprocmask, SIG_UNBLOCK, &kOurs, nullptr, sizeof(kOurs));
  t.blocked = t.waiting_blocked;
  t.waiting_stack = 0;
  t.call_mask = outer_[0];
  t.waiting_mask = outer_[1];
  t.waiting_blocked = outer_[2];
  t.waiting_stack = outer_[3];
}

void SendHeld(Thread* thread) {
  for (const int signal : {SIGBUS, SIGSYS}) {
    if ((thread->pending & ~thread->blocked & SignalBit(signal)) == 0) continue;
    thread->pending &= ~SignalBit(signal);
    sys::Call(SYS_rt_tgsigqueueinfo, g_process, thread->id, signal, &thread->held[signal == SIGBUS ? 0 : 1]);
  }
}

}  // namespace farpool
