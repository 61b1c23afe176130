// forker KIND [MiB]: processes that fork with much heap memory each keep exactly their own view of it.
// KIND: fork, _Fork, syscall-fork, clone, clone3, clone-stack (libc's clone, with a stack in far memory), or
// threads (fork while other threads keep touching memory). The parent forks three children, the first of
// which forks a grandchild; between and after the forks everybody rewrites blocks of his own and blocks that
// all rewrite, and verifies every block. Children report by status.

#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <atomic>
#include <csignal>
#include <cstring>

#include "check.h"

namespace {

constexpr size_t kUnit = 4096;  // What is rewritten at a time; not aligned to pages, so pages are shared too.
constexpr size_t kWords = kUnit / sizeof(uint64_t);
constexpr uint64_t kVersions = 1u << 24;  // A word is a function of its place, with the version mixed in.

// Who was forked is told in far memory.
pid_t Clone() {
  struct Ids {
    pid_t parents, childs;
    uint64_t beside[kWords];
  };
  static auto* const ids = static_cast<Ids*>(
      mmap(nullptr, 256 * sizeof(Ids), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  CHECK(ids != MAP_FAILED, "mmap of ids");
  static int forks = 0;
  Ids& here = ids[forks++];
  for (uint64_t& word : here.beside) word = 1;
  const auto child = static_cast<pid_t>(syscall(SYS_clone, CLONE_PARENT_SETTID | CLONE_CHILD_SETTID | SIGCHLD,
                                                nullptr, &here.parents, &here.childs, nullptr));
  CHECK(here.parents == (child > 0 ? child : 0), "the parent was told %d of %d", here.parents, child);
  CHECK(here.childs == (child == 0 ? getpid() : 0), "the child was told %d", here.childs);
  for (const uint64_t word : here.beside) CHECK(word == 1, "beside the ids");
  return child;
}

// The child goes back to the caller's frames, which it has a copy of.
pid_t CloneWithStack() {
  constexpr size_t kBytes = 256 * 1024;
  static std::byte* const stack = static_cast<std::byte*>(
      mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  CHECK(stack != MAP_FAILED, "mmap of a stack");
  static jmp_buf caller;
  if (_setjmp(caller) != 0) return 0;
  const auto go_back = [](void*) -> int { longjmp(caller, 1); };
  return clone(go_back, stack + kBytes, SIGCHLD, nullptr);
}

pid_t Fork(const char* kind) {
  if (strcmp(kind, "_Fork") == 0) return _Fork();
  if (strcmp(kind, "syscall-fork") == 0) return static_cast<pid_t>(syscall(SYS_fork));
  if (strcmp(kind, "clone") == 0) return Clone();
  if (strcmp(kind, "clone3") == 0) {
    clone_args args = {};
    args.exit_signal = SIGCHLD;
    return static_cast<pid_t>(syscall(SYS_clone3, &args, sizeof(args)));
  }
  if (strcmp(kind, "clone-stack") == 0) return CloneWithStack();
  return fork();
}

// Blocks of many sizes, so that brk's heap and malloc's own mappings both hold some.
class Heap {
 public:
  explicit Heap(size_t bytes) : units_(bytes / kUnit) {
    units_at_ = static_cast<uint64_t**>(malloc(units_ * sizeof(uint64_t*)));
    versions_ = static_cast<uint32_t*>(calloc(units_, sizeof(uint32_t)));
    CHECK(units_at_ != nullptr && versions_ != nullptr, "tables");
    for (size_t unit = 0, block = 0; unit < units_; ++block) {
      const size_t count = block % 11 == 0 ? 128 : 1 + block % 13;
      auto* at = static_cast<uint64_t*>(malloc(count * kUnit));
      CHECK(at != nullptr, "malloc of %zu units", count);
      for (size_t i = 0; i < count && unit < units_; ++i, ++unit) units_at_[unit] = at + i * kWords;
    }
    for (size_t unit = 0; unit < units_; ++unit) Write(unit, 1);
  }

  static uint64_t Place(size_t unit, size_t word) { return Mix(unit * kWords + word) * kVersions; }
  void Write(size_t unit, uint32_t version) {
    versions_[unit] = version;
    for (size_t w = 0; w < kWords; ++w) units_at_[unit][w] = Place(unit, w) + version;
  }
  void Verify(size_t unit, const char* who) const {
    for (size_t w = 0; w < kWords; ++w)
      CHECK(units_at_[unit][w] == Place(unit, w) + versions_[unit], "%s: unit %zu word %zu: %llx, version %u",
            who, unit, w, static_cast<unsigned long long>(units_at_[unit][w]), versions_[unit]);
  }
  // For a unit that another thread was writing when this process was forked: any version, but no other bytes.
  void VerifyAnyVersion(size_t unit, const char* who) const {
    for (size_t w = 0; w < kWords; ++w)
      CHECK(units_at_[unit][w] - Place(unit, w) < kVersions, "%s: unit %zu word %zu: %llx", who, unit, w,
            static_cast<unsigned long long>(units_at_[unit][w]));
  }
  size_t units() const { return units_; }

 private:
  size_t units_;
  uint64_t** units_at_;
  uint32_t* versions_;
};

constexpr uint32_t kProcesses = 5;
// Units the busy threads own (KIND threads): nobody else in the parent touches them.
bool Busy(size_t unit) { return unit % 8 == 7; }

void Modify(Heap& heap, uint32_t process, uint32_t step, bool threads) {
  for (size_t unit = 0; unit < heap.units(); ++unit) {
    if (threads && Busy(unit)) continue;
    if (unit % kProcesses == process || unit % 7 == 3 || unit % 97 == step)
      heap.Write(unit, process * 1000 + step);
  }
}

void VerifyAll(const Heap& heap, bool threads, const char* who) {
  for (size_t unit = 0; unit < heap.units(); ++unit) {
    if (threads && Busy(unit)) {
      heap.VerifyAnyVersion(unit, who);
    } else {
      heap.Verify(unit, who);
    }
  }
}

[[noreturn]] void Child(Heap& heap, const char* kind, bool threads, uint32_t process) {
  VerifyAll(heap, threads, "child, inherited");
  Modify(heap, process, 20, threads);
  pid_t grandchild = -1;
  if (process == 1) {
    grandchild = Fork(kind);
    CHECK(grandchild >= 0, "fork of the grandchild");
    if (grandchild == 0) {
      VerifyAll(heap, threads, "grandchild, inherited");
      Modify(heap, 4, 30, threads);
      VerifyAll(heap, threads, "grandchild, own");
      _exit(44);
    }
    Modify(heap, process, 21, threads);
  }
  VerifyAll(heap, threads, "child, own");
  if (grandchild > 0) {
    int status = 0;
    CHECK(waitpid(grandchild, &status, 0) == grandchild, "waitpid of the grandchild");
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 44, "grandchild status %x",
          static_cast<unsigned>(status));
  }
  _exit(40 + static_cast<int>(process));
}

struct BusyThread {
  Heap* heap;
  size_t first;
  std::atomic<bool>* stop;
  uint64_t rounds;
};

void* KeepTouching(void* argument) {
  auto* self = static_cast<BusyThread*>(argument);
  for (uint32_t version = 2; !self->stop->load(); ++version) {
    for (size_t unit = self->first; unit < self->heap->units() && !self->stop->load(); unit += 16) {
      self->heap->Verify(unit, "busy thread");
      self->heap->Write(unit, version);
    }
    ++self->rounds;
  }
  return nullptr;
}

}  // namespace

int main(int argc, char** argv) {
  setvbuf(stdout, nullptr, _IOLBF, 0);
  const char* kind = argc > 1 ? argv[1] : "fork";
  const uint64_t mib = Argument(argc, argv, 2, 96);
  const bool threads = strcmp(kind, "threads") == 0;
  Heap heap(mib << 20);

  std::atomic<bool> stop{false};
  BusyThread busy[2] = {{&heap, 7, &stop, 0}, {&heap, 15, &stop, 0}};
  pthread_t ids[2];
  if (threads)
    for (int i = 0; i < 2; ++i)
      CHECK(pthread_create(&ids[i], nullptr, KeepTouching, &busy[i]) == 0, "pthread_create");

  pid_t children[3];
  for (uint32_t i = 0; i < 3; ++i) {
    Modify(heap, 0, 10 + i, threads);
    children[i] = Fork(kind);
    CHECK(children[i] >= 0, "fork");
    if (children[i] == 0) Child(heap, kind, threads, i + 1);
  }
  Modify(heap, 0, 13, threads);
  for (size_t unit = 0; unit < heap.units(); ++unit)
    if (!threads || !Busy(unit)) heap.Verify(unit, "parent, while children run");
  for (uint32_t i = 0; i < 3; ++i) {
    int status = 0;
    CHECK(waitpid(children[i], &status, 0) == children[i], "waitpid");
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 41 + static_cast<int>(i), "child %u: status %x", i + 1,
          static_cast<unsigned>(status));
    printf("forker %s: child %u had its own view\n", kind, i + 1);
  }
  stop = true;
  if (threads)
    for (pthread_t id : ids) pthread_join(id, nullptr);
  for (size_t unit = 0; unit < heap.units(); ++unit) heap.Verify(unit, "parent, at the end");
  printf("forker %s: parent's %zu units of %zu bytes verified\n", kind, heap.units(), kUnit);
  return 0;
}
