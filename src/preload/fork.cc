// fork and exec.
//
// A forked child gets, before it runs any code of the program: a page table of its own (slots shared,
// counted), a userfaultfd of its own with the inherited arena registered, and a channel to the supervisor.

#include <linux/sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <cerrno>
#include <cstring>

#include "base/sys.h"
#include "preload/eviction_threads.h"
#include "preload/guard.h"
#include "preload/monitor.h"
#include "preload/own_thread.h"
#include "preload/prefetcher.h"
#include "preload/prepare.h"
#include "preload/runtime.h"
#include "preload/thread.h"
#include "run/layout.h"

namespace farpool {

namespace {

// Without far memory, on the program's stack: each page that is written around a fork is copied for it. False
// if there is some by now. Another thread may be just starting the runtime: a child must not inherit it half
// made.
bool ForkNear(const GuardFrame* frame, long* result) {
  const SignalsBlocked blocked(~kOurSignals);
  Thread* const thread = CurrentThread();
  g_runtime.start_lock.Lock();
  const bool started = g_runtime.started.load(std::memory_order_relaxed);
  *result = started ? -1 : Forward(frame);
  if (*result == 0) {
    ThreadsAfterFork(thread);
    SignalsAfterFork();
    g_runtime.start_lock.Reset();
  } else {
    g_runtime.start_lock.Unlock();
  }
  return !started;
}

long ForkFar(GuardFrame* frame) {
  Engine& engine = *g_runtime.engine;
  Thread* const thread = CurrentThread();
  int table_fd = -1, channel_fd = -1;
  engine.LockExclusive();  // The channel is used under it.
  Result<uint32_t> child = g_runtime.supervisor.PrepareFork(&table_fd, &channel_fd);
  engine.UnlockExclusive();
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
    AdviseArena(MADV_DOFORK);
    r = Forward(frame);
    if (r == 0) {
      ThreadsAfterFork(thread);
      SignalsAfterFork();
      g_runtime.start_lock.Reset();
      g_runtime.supervisor.BecomeChild(child.value(), channel_fd);
      if (Status s = MapTable(table_fd); !s.ok()) Fatal(s);
      g_runtime.store->AfterFork();
      int uffd = -1;
      bool move;  // The same kernel as the parent's.
      if (Status s = OpenUserfault(&uffd, &move); !s.ok()) Fatal(s);
      AdviseArena(MADV_DONTFORK);
      if (Status s = engine.AfterForkInChild(uffd, child_budget); !s.ok()) Fatal(s);
      OwnThreadsAfterFork();
      EvictionThreadsAfterFork();
      PrefetcherAfterFork();
      if (g_runtime.monitor())
        if (Status s = StartMonitor(); !s.ok()) Fatal(s);
      return 0;
    }
    AdviseArena(MADV_DONTFORK);
    engine.AfterForkInParent();
  }
  sys::Call(SYS_close, table_fd);
  sys::Call(SYS_close, channel_fd);
  if (r < 0) {
    ExclusiveLock hold(&engine);
    g_runtime.supervisor.ForkFailed(child.value());
  }
  return r;
}

}  // namespace

long GuardFork(const GuardFrame* frame) {
  long r;
  if (!g_runtime.has_started() && ForkNear(frame, &r)) return r;
  r = OnNearStack(&ForkFar, *frame);
  return r == kTrappedOnNearStack ? Forward(frame) : r;  // Its filter traps it again, here.
}

// --- clone

namespace {

constexpr uint64_t kFirstFramesBytes = 16 * 1024;

// `call` (clone or clone3) as a clone3. False if it is none that we know.
bool ReadClone(const GuardFrame& call, clone_args* args) {
  *args = {};
  if (call.number == SYS_clone3)
    return call.args[1] >= CLONE_ARGS_SIZE_VER0 && call.args[1] <= sizeof(*args) &&
           CopyIn(args, call.args[0], call.args[1]) && (args->stack == 0) == (args->stack_size == 0);
  args->flags = static_cast<uint32_t>(call.args[0]) & ~uint32_t{CSIGNAL};
  args->exit_signal = call.args[0] & CSIGNAL;
  args->stack = call.args[1];
  args->parent_tid = args->pidfd = call.args[2];
  args->child_tid = call.args[3];
  args->tls = call.args[4];
  return true;
}

// A child with memory of its own that shares nothing of the runtime's (the table of descriptors, thread-local
// storage) and keeps its handlers. What the kernel is to refuse is left to it.
bool IsFork(const clone_args& args) {
  constexpr uint64_t kOthers = CLONE_VM | CLONE_FILES | CLONE_SETTLS | CLONE_CLEAR_SIGHAND;
  return (args.flags & kOthers) == 0 && !InArena(args.set_tid) &&
         args.stack + args.stack_size >= args.stack && args.stack + args.stack_size < kUserEnd;
}

// Carries out `call`, that `args` stands for, on the caller's stack. The kernel writes ids while far memory
// is on its way to the child: those that belong there are put there afterwards. (That it clears one when the
// child ends, nobody could see.)
long ForkAsClone(const GuardFrame& call, const clone_args& args) {
  constexpr uint64_t kTellChild = CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID;
  static thread_local struct {
    clone_args args;
    int pidfd, parent_tid, child_tid;
  } t_near;  // The program's stack may be far, too.
  t_near.args = args;
  t_near.args.stack = t_near.args.stack_size = 0;
  t_near.args.flags &=
      ~uint64_t{CLONE_VFORK};  // Whoever waited for the child would do it with the engine's lock.
  const bool pidfd_far = (args.flags & CLONE_PIDFD) != 0 && InArena(args.pidfd);
  const bool parent_far = (args.flags & CLONE_PARENT_SETTID) != 0 && InArena(args.parent_tid);
  const bool child_far = (args.flags & kTellChild) != 0 && InArena(args.child_tid);
  if (pidfd_far) t_near.args.pidfd = reinterpret_cast<uint64_t>(&t_near.pidfd);
  if (parent_far) t_near.args.parent_tid = reinterpret_cast<uint64_t>(&t_near.parent_tid);
  if (child_far) t_near.args.flags &= ~kTellChild;
  GuardFrame fork = {call.number, {reinterpret_cast<uint64_t>(&t_near.args), call.args[1]}, 0};
  if (call.number == SYS_clone) {
    const clone_args& to = t_near.args;
    const uint64_t told = (to.flags & CLONE_PIDFD) != 0 ? to.pidfd : to.parent_tid;
    fork = {SYS_clone, {to.flags | to.exit_signal, 0, told, to.child_tid}, 0};
  }
  const long r = GuardFork(&fork);
  if (r > 0 && pidfd_far) CopyOut(args.pidfd, &t_near.pidfd, sizeof(int));
  if (r > 0 && parent_far) CopyOut(args.parent_tid, &t_near.parent_tid, sizeof(int));
  if (r == 0 && child_far && (args.flags & CLONE_CHILD_SETTID) != 0) {
    t_near.child_tid = static_cast<int>(sys::Call(SYS_gettid));
    CopyOut(args.child_tid, &t_near.child_tid, sizeof(int));
  }
  return r;
}

// How a clone goes on, for entry.S.
struct Cloned {
  enum : uint64_t { kNotYet = 0, kOnItsStack = 1 };  // Or a stack: the child's, which is to go on there.
  uint64_t how;
  long result;
};

}  // namespace

// From entry.S, for each clone of libc's, syscall(2) included; on the caller's stack.
//
// One that forks is carried out here. Of one that starts a thread, what the kernel writes to by itself must
// not be evicted if the program supplied the stack in far memory: the thread's descriptor (rseq, the word
// that tells of its end). Nor must the first frames, until the thread has its near stack.
extern "C" __attribute__((visibility("hidden"))) Cloned farpool_clone(const GuardFrame* call) {
  constexpr Cloned kNotYet = {Cloned::kNotYet, 0};
  CurrentThread()->call = nullptr;  // One that a longjmp has left behind.
  clone_args args;
  if (!ReadClone(*call, &args)) return kNotYet;
  const uint64_t sp = args.stack + args.stack_size;
  if ((args.flags & CLONE_VM) == 0) {
    if (!IsFork(args)) return kNotYet;
    const long r = ForkAsClone(*call, args);
    return {r == 0 && sp != 0 ? sp : uint64_t{Cloned::kOnItsStack}, r};
  }
  if ((args.flags & (CLONE_SETTLS | CLONE_VFORK)) == 0) StorageIsShared();
  if (!InArena(sp) || !g_runtime.has_started()) return kNotYet;
  const bool thread = (args.flags & CLONE_SETTLS) != 0 && args.tls >= sp && args.tls - sp < kFirstFramesBytes;
  const long r = KeepNear(sp - kFirstFramesBytes, thread ? args.tls + kPageBytes : sp);
  return r != 0 ? Cloned{Cloned::kOnItsStack, -EAGAIN} : kNotYet;
}

// --- exec
//
// A program sees the environment it would have without farpool; what the runtime needs is added on the way
// into the next program. So it does not matter whether a program passes its environment on, clears it or
// makes a new one.

namespace {

constexpr char kPreload[] = "LD_PRELOAD=";
constexpr char kDescriptor[] = "FARPOOL_RUNTIME_FD=";
constexpr char kTracing[] = "LD_TRACE_LOADED_OBJECTS=";  // ldd

// Of this thread; shared with a vfork child, which runs while its parent waits.
thread_local char* t_exec_room = nullptr;
thread_local size_t t_exec_room_bytes = 0;

bool StartsWith(const char* text, const char* start) {
  return std::strncmp(text, start, std::strlen(start)) == 0;
}

// Where the library stands in a list of preloaded ones (spaces or colons between), or null.
char* FindLibrary(char* list) {
  const char* library = g_runtime.segment->library;
  const size_t bytes = std::strlen(library);
  for (char* at = list; (at = std::strstr(at, library)) != nullptr; at += bytes) {
    const bool begins = at == list || at[-1] == ':' || at[-1] == ' ';
    const char after = at[bytes];
    if (begins && (after == 0 || after == ':' || after == ' ')) return at;
  }
  return nullptr;
}

char* Append(char* out, const char* text) {
  const size_t bytes = std::strlen(text);
  std::memcpy(out, text, bytes + 1);
  return out + bytes;
}

}  // namespace

void HideEnvironment(char** environment) {
  char** out = environment;
  for (char** in = environment; *in != nullptr; ++in) {
    if (StartsWith(*in, kDescriptor)) continue;
    if (StartsWith(*in, kPreload)) {
      char* const list = *in + sizeof(kPreload) - 1;
      if (char* at = FindLibrary(list); at != nullptr) {
        char* rest = at + std::strlen(g_runtime.segment->library);
        const bool alone = at == list && *rest == 0;  // Or the program's own is an empty one.
        if (*rest != 0) ++rest;
        std::memmove(at, rest, std::strlen(rest) + 1);
        if (alone) continue;
      }
    }
    *out++ = *in;
  }
  *out = nullptr;
}

uint64_t ExecEnvironment(uint64_t environment) {
  char* const none[] = {nullptr};
  char* const* in = environment != 0 ? reinterpret_cast<char* const*>(environment) : none;
  size_t count = 0;
  constexpr size_t kNowhere = SIZE_MAX;
  size_t preload_at = kNowhere;  // The loader takes the last.
  bool has_descriptor = false;
  for (; in[count] != nullptr; ++count) {
    if (StartsWith(in[count], kTracing)) return environment;  // The program is not going to run.
    if (StartsWith(in[count], kDescriptor)) has_descriptor = true;
    if (StartsWith(in[count], kPreload)) preload_at = count;
  }
  char* const preload = preload_at != kNowhere ? in[preload_at] + sizeof(kPreload) - 1 : nullptr;
  const bool has_library = preload != nullptr && FindLibrary(preload) != nullptr;
  if (has_library && has_descriptor) return environment;
  // Behind a chroot the loader would complain of it: what runs there is near.
  if (sys::Call(SYS_access, g_runtime.segment->library, R_OK) != 0) return environment;
  const size_t vector_bytes = (count + 3) * sizeof(char*);
  const size_t bytes = vector_bytes + sizeof(kPreload) + sizeof(kDescriptor) + 16 +
                       std::strlen(g_runtime.segment->library) + 2 +
                       (preload != nullptr ? std::strlen(preload) : 0);
  if (bytes > t_exec_room_bytes) {
    if (t_exec_room != nullptr) sys::Call(SYS_munmap, t_exec_room, t_exec_room_bytes);
    t_exec_room = nullptr;
    t_exec_room_bytes = 0;
    const size_t wanted = (bytes + kPageBytes - 1) & ~(kPageBytes - 1);
    const long map =
        sys::Call(SYS_mmap, nullptr, wanted, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (sys::Failed(map)) return environment;
    t_exec_room = reinterpret_cast<char*>(map);
    t_exec_room_bytes = wanted;
  }
  auto* vector = reinterpret_cast<char**>(t_exec_room);
  char* text = t_exec_room + vector_bytes;
  std::memcpy(vector, in, count * sizeof(char*));
  size_t n = count;
  if (!has_library) {
    vector[preload != nullptr ? preload_at : n++] = text;
    text = Append(Append(text, kPreload), g_runtime.segment->library);
    if (preload != nullptr) text = Append(Append(text, ":"), preload);
    ++text;
  }
  if (!has_descriptor) {
    vector[n++] = text;
    text = Append(text, kDescriptor);
    char digits[12];
    char* digit = digits + sizeof(digits) - 1;
    *digit = 0;
    for (int fd = g_runtime.segment->fd_base; fd > 0; fd /= 10) *--digit = static_cast<char>('0' + fd % 10);
    Append(text, digit);
  }
  vector[n] = nullptr;
  return reinterpret_cast<uint64_t>(vector);
}

}  // namespace farpool
