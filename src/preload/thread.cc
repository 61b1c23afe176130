#include "preload/thread.h"

#include <sys/mman.h>
#include <sys/syscall.h>

#include <atomic>
#include <cerrno>
#include <new>

#include "base/sys.h"
#include "preload/runtime.h"
#include "run/layout.h"

namespace farpool {

namespace {

// What is mapped for each thread: its near stack, its frame buffer, this. Never unmapped.
struct alignas(kPageBytes) Record {
  Thread thread;
  Record* next = nullptr;  // Of all records.
  std::atomic<Record*> next_free{nullptr};
};
constexpr uint64_t kRecordAt = Thread::kStackBytes + Thread::kFrameBytes;
constexpr uint64_t kMappingBytes = kRecordAt + sizeof(Record);
static_assert(sizeof(Record) == kPageBytes);
// SIGBUS stays open: the program's stack and arguments are touched.
constexpr uint64_t kBlockable = ~kOurSignals;
constexpr uint64_t kOurs = kOurSignals;

thread_local Thread* t_thread = nullptr;

// A thread that makes its record may be interrupted by a fault of its stack or by a signal that was sent to
// it, and makes another there. So there is no lock: records are added at the front and never leave the list.
std::atomic<Record*> g_records{nullptr};
std::atomic<uint64_t> g_record_count{0};
std::atomic<uint64_t> g_look_at{64};  // With so many records, look for threads that have ended.
long g_process = 0;
// Set once some thread was started without thread-local storage of its own: t_thread may be another's then.
std::atomic<bool> g_storage_shared{false};

// The first free record's page number, and above it a count of changes: a record that was taken and given
// back meanwhile does not look as if nothing had happened. (R. K. Treiber, "Systems Programming: Coping with
// Parallelism", 1986.)
std::atomic<uint64_t> g_free{0};
constexpr unsigned kPageNumberBits = 35;  // Of addresses of 47 bits.

Record* RecordAt(uint64_t top) {
  return reinterpret_cast<Record*>((top & ((uint64_t{1} << kPageNumberBits) - 1)) * kPageBytes);
}
uint64_t TopAfter(uint64_t top, const Record* record) {
  return ((top >> kPageNumberBits) + 1) << kPageNumberBits | reinterpret_cast<uint64_t>(record) / kPageBytes;
}

int64_t IdOf(const Thread& thread) { return __atomic_load_n(&thread.id, __ATOMIC_RELAXED); }
void SetId(Thread* thread, int64_t id) { __atomic_store_n(&thread->id, id, __ATOMIC_RELAXED); }

// Frees the record of thread `id`, unless somebody else does.
void Free(Record* record, int64_t id) {
  if (!__atomic_compare_exchange_n(&record->thread.id, &id, 0, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
    return;
  uint64_t top = g_free.load(std::memory_order_relaxed);
  do {
    record->next_free.store(RecordAt(top), std::memory_order_relaxed);
  } while (!g_free.compare_exchange_weak(top, TopAfter(top, record), std::memory_order_release,
                                         std::memory_order_relaxed));
}

Record* TakeFree() {
  uint64_t top = g_free.load(std::memory_order_acquire);
  for (;;) {
    Record* record = RecordAt(top);
    if (record == nullptr) return nullptr;
    const Record* next = record->next_free.load(std::memory_order_relaxed);
    if (g_free.compare_exchange_weak(top, TopAfter(top, next), std::memory_order_acquire)) return record;
  }
}

// libc tells nobody when a thread is about to end for good. So the kernel is asked, whenever the number of
// records has doubled: a constant cost for each thread.
void CollectEnded() {
  uint64_t live = 0;
  for (Record* r = g_records.load(std::memory_order_acquire); r != nullptr; r = r->next) {
    const int64_t id = IdOf(r->thread);
    if (id != 0 && sys::ThreadEnded(static_cast<uint64_t>(id))) {
      Free(r, id);
    } else {
      ++live;
    }
  }
  g_look_at.store(live < 32 ? 64 : 2 * live, std::memory_order_relaxed);
}

Record* MapRecord() {
  const long map =
      sys::Call(SYS_mmap, 0, kMappingBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (sys::Failed(map)) Fatal(Status::Exhausted("no memory for a thread's signal stack"));
  auto* record = new (reinterpret_cast<void*>(static_cast<uint64_t>(map) + kRecordAt)) Record;
  record->next = g_records.load(std::memory_order_relaxed);
  while (!g_records.compare_exchange_weak(record->next, record, std::memory_order_release,
                                          std::memory_order_relaxed)) {
  }
  g_record_count.fetch_add(1, std::memory_order_relaxed);
  return record;
}

Record* TakeRecord() {
  if (g_process == 0) g_process = sys::Call(SYS_getpid);
  Record* record = TakeFree();
  if (record == nullptr &&
      g_record_count.load(std::memory_order_relaxed) >= g_look_at.load(std::memory_order_relaxed)) {
    CollectEnded();
    record = TakeFree();
  }
  if (record == nullptr) record = MapRecord();
  record->thread = Thread{};
  record->thread.stack = reinterpret_cast<uint64_t>(record) - kRecordAt;
  SetId(&record->thread, sys::Call(SYS_gettid));
  return record;
}

// The record of the thread `id`, but not `but`.
Thread* Find(int64_t id, const Record* but) {
  for (Record* r = g_records.load(std::memory_order_acquire); r != nullptr; r = r->next)
    if (r != but && IdOf(r->thread) == id) return &r->thread;
  return nullptr;
}

// Makes `mine` this thread's, unless a handler has come in between and made one.
Thread* Settle(Record* mine) {
  const int64_t id = mine->thread.id;
  Thread* found = nullptr;
  if (__atomic_compare_exchange_n(&t_thread, &found, &mine->thread, false, __ATOMIC_RELEASE,
                                  __ATOMIC_RELAXED))
    return &mine->thread;
  // If not the handler's, then that of a thread whose storage this one shares.
  if (IdOf(*found) != id) found = Find(id, mine);
  if (found == nullptr) return &mine->thread;
  Free(mine, id);
  return found;
}

__attribute__((noinline)) Thread* NewThread() {
  const SignalsBlocked blocked(kBlockable);
  Thread* thread = Settle(TakeRecord());
  AltStack program;
  const AltStack ours = {thread->stack, 0, 0, Thread::kStackBytes};
  if (sys::Call(SYS_sigaltstack, &ours, &program) == 0 && (program.flags & SS_DISABLE) == 0 &&
      !IsNearStack(program.base))
    thread->asked = program;  // Set by a call that did not come by the guard.
  return thread;
}

__attribute__((noinline)) Thread* FindThread() {
  const long id = sys::Call(SYS_gettid);
  if (t_thread->id == id) return t_thread;
  // A vfork child has its parent's stack while that waits.
  AltStack now;
  if (sys::Call(SYS_sigaltstack, nullptr, &now) == 0 && now.base == t_thread->stack) return t_thread;
  Thread* thread = Find(id, nullptr);
  return thread != nullptr ? thread : NewThread();
}

struct NearCall {
  long (*call)(GuardFrame*);
  const GuardFrame* frame;
  Thread* thread;
};

long CallNear(NearCall* near_call) {
  const NearCall call = *near_call;
  GuardFrame frame = *call.frame;
  return call.call(&frame);
}

long EnterAndCall(NearCall* near_call) {
  Thread* const thread = near_call->thread;
  EnterNear(thread);
  const long r = CallNear(near_call);
  LeaveNear(thread);
  return r;
}

}  // namespace

Thread* CurrentThread() {
  Thread* thread = t_thread;
  if (__builtin_expect(thread == nullptr, 0)) return NewThread();
  if (__builtin_expect(g_storage_shared.load(std::memory_order_relaxed), 0)) return FindThread();
  return thread;
}

bool IsNearStack(uint64_t stack) {
  for (const Record* r = g_records.load(std::memory_order_acquire); r != nullptr; r = r->next)
    if (r->thread.stack == stack) return true;
  return false;
}

void StorageIsShared() { g_storage_shared.store(true, std::memory_order_relaxed); }

void AwaitNearFree(const Thread* thread) {
  constexpr int kLooks = 2000;
  constexpr timespec kPause = {0, 1'000'000};
  const uint32_t uses = __atomic_load_n(&thread->near_uses, __ATOMIC_RELAXED);
  for (int i = 0; i < kLooks; ++i) {
    const bool free = !__atomic_load_n(&thread->near_in_use, __ATOMIC_RELAXED);
    if (free || __atomic_load_n(&thread->near_uses, __ATOMIC_RELAXED) != uses) return;
    sys::Call(SYS_nanosleep, &kPause, nullptr);
  }
  Fatal(Status(Status::Code::kInternal,
               "a vfork or posix_spawn child was killed while it used far memory of its parent"));
}

long OnNearStack(long (*call)(GuardFrame*), const GuardFrame& frame) {
  Thread* thread = CurrentThread();
  NearCall near_call = {call, &frame, thread};
  if (thread->OnStack(reinterpret_cast<uint64_t>(__builtin_frame_address(0)))) return CallNear(&near_call);
  sys::Call(SYS_rt_sigprocmask, SIG_SETMASK, &kBlockable, &thread->mask, sizeof(thread->mask));
  const long r = farpool_on_stack(reinterpret_cast<void*>(&EnterAndCall), &near_call, thread->stack_top());
  sys::Call(SYS_rt_sigprocmask, SIG_SETMASK, &thread->mask, nullptr, sizeof(thread->mask));
  if (__builtin_expect((thread->pending & ~thread->blocked) != 0, 0)) SendHeld(thread);
  return r;
}

bool InVforkChild() { return sys::Call(SYS_getpid) != g_process; }

void ThreadsAfterFork(const Thread* self) {
  g_process = sys::Call(SYS_getpid);
  g_free = 0;
  for (Record* r = g_records; r != nullptr; r = r->next) {
    Thread& thread = r->thread;
    if (&thread == self) {
      thread.id = sys::Call(SYS_gettid);
      thread.pending = 0;  // As the kernel's own.
    } else if (thread.id != 0) {
      Free(r, thread.id);
    }
  }
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
