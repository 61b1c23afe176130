// processes KIND [MiB]: a program with much memory that ends up in other processes in the ways programs do.
// - daemon: two forks, every descriptor closed
// - killed: children killed while they use memory of their own
// - killed-unseen: children killed while the supervisor does not run, and its memory wanted at once
// - written-late: pages arrive at their donor when others have been written over them
// - killed-late: the same, of children that were killed
// - killed-vforked: children of vfork killed while they use their parent's memory
// - commands: vfork, posix_spawn, system, popen, exec; arguments and environment are on the heap
// - spawns: starts programs while other threads walk through all memory
// - child: what `commands` starts; prints what it got
// - sandbox: children that allow themselves few system calls
// - credentials: gives up rights, which no thread may keep
// - code: mappings that are written, executed and read; a library loaded late
// - limits: few descriptors allowed before memory is used
// - unseen: forks by an instruction of its own, or that share the table of descriptors
// - output: forks while several threads write through stdio whose buffers were not touched for long
// - exit: its only thread ends, nobody ends the process
// - abort: ends itself with a core

#include <dlfcn.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <malloc.h>
#include <pthread.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <atomic>
#include <cerrno>
#include <climits>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "check.h"

extern char** environ;

namespace {

class Heap {
 public:
  Heap(uint64_t mib, uint64_t seed) : words_((mib << 20) / sizeof(uint64_t)) { Write(seed); }
  void Write(uint64_t seed) {
    seed_ = seed;
    for (size_t i = 0; i < words_.size(); ++i) words_[i] = Mix(seed << 40 | i);
  }
  // Reads all of it, so that everything else has not been touched for long.
  void Verify(const char* who) const {
    for (size_t i = 0; i < words_.size(); ++i)
      CHECK(words_[i] == Mix(seed_ << 40 | i), "%s: word %zu", who, i);
  }
  const char* bytes() const { return reinterpret_cast<const char*>(words_.data()); }
  // Whole pages of it.
  void PageOut() const {
    const uintptr_t begin = (reinterpret_cast<uintptr_t>(words_.data()) + 4095) & ~uintptr_t{4095};
    const uintptr_t end = reinterpret_cast<uintptr_t>(words_.data() + words_.size()) & ~uintptr_t{4095};
    CHECK(madvise(reinterpret_cast<void*>(begin), end - begin, MADV_PAGEOUT) == 0, "MADV_PAGEOUT: %s",
          strerror(errno));
  }

 private:
  uint64_t seed_ = 0;
  std::vector<uint64_t> words_;
};

void WaitFor(pid_t child, int want, const char* what) {
  int status;
  CHECK(child > 0 && waitpid(child, &status, 0) == child, "%s: %s", what, strerror(errno));
  status &= ~0x80;  // Whether there was room for a core.
  CHECK(status == want, "%s: status %x, not %x", what, static_cast<unsigned>(status),
        static_cast<unsigned>(want));
}

// Shared with children; says 0 until somebody sets it.
std::atomic<int>* SharedFlag() {
  void* at = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(at != MAP_FAILED, "mmap");
  return static_cast<std::atomic<int>*>(at);
}

void Daemon(Heap* heap) {
  std::atomic<int>* done = SharedFlag();
  const pid_t child = fork();
  if (child == 0) {
    setsid();
    const pid_t grandchild = fork();
    if (grandchild != 0) _exit(grandchild > 0 ? 0 : 1);
    const int high = fcntl(0, F_DUPFD, 2000);  // Beyond the runtime's, if descriptors go so far.
    CHECK(close_range(2, UINT_MAX, CLOSE_RANGE_CLOEXEC) == 0, "close_range: %s", strerror(errno));
    CHECK(high < 0 || fcntl(high, F_GETFD) == FD_CLOEXEC, "close-on-exec of %d", high);
    closefrom(1);
    CHECK(fcntl(1, F_GETFD) == -1 && fcntl(high, F_GETFD) == -1 && fcntl(0, F_GETFD) == 0, "closefrom");
    CHECK(close_range(0, UINT_MAX, 0) == 0, "close_range: %s", strerror(errno));
    for (int fd = 0; fd < 65536; ++fd) close(fd);
    CHECK(open("/dev/null", O_RDWR) == 0 && dup(0) == 1, "the first descriptors are free");
    heap->Verify("daemon, inherited");
    heap->Write(2);
    heap->Verify("daemon, own");
    *done = 1;
    _exit(0);
  }
  WaitFor(child, 0, "daemon's parent");
  heap->Write(3);
  while (*done == 0) sched_yield();
  heap->Verify("parent of a daemon");
  puts("processes daemon: verified");
}

void Killed(Heap* heap, uint64_t mib) {
  for (int round = 0; round < 8; ++round) {
    std::atomic<int>* ready = SharedFlag();
    const pid_t child = fork();
    CHECK(child >= 0, "fork");
    if (child == 0) {
      Heap own(mib, static_cast<uint64_t>(round) + 10);
      *ready = 1;
      for (;;) {
        own.Verify("child");
        heap->Verify("child, inherited");
      }
    }
    while (*ready == 0) sched_yield();
    CHECK(kill(child, SIGKILL) == 0, "kill");
    WaitFor(child, SIGKILL, "killed child");
    heap->Verify("parent of killed children");
  }
  puts("processes killed: verified");
}

bool Asleep(pid_t thread) {
  std::ifstream stat("/proc/" + std::to_string(thread) + "/stat");
  std::string id, name, state;
  stat >> id >> name >> state;
  return state == "S";
}

// What holding_proxy.py is told by the existence of `hold`.
void Await(const std::string& hold, const char* word) {
  const std::string name = hold + word;
  while (access(name.c_str(), F_OK) != 0) usleep(1000);
  CHECK(unlink(name.c_str()) == 0, "unlink: %s", strerror(errno));
}
void Hold(const std::string& hold) {
  close(open(hold.c_str(), O_CREAT | O_WRONLY, 0666));
  Await(hold, ".held");
}
void LetGo(const std::string& hold) {
  CHECK(unlink(hold.c_str()) == 0, "unlink: %s", strerror(errno));
  Await(hold, ".sent");
}

// What we write is held up, until farpool tries anew by another connection, and arrives when we have written
// something else there.
void WrittenLate(Heap* heap, uint64_t mib, const std::string& hold) {
  heap->PageOut();
  Hold(hold);
  Heap other(mib, 2);
  other.PageOut();
  Await(hold, ".newer");
  heap->Write(3);
  other.Write(4);
  heap->PageOut();
  other.PageOut();
  LetGo(hold);
  heap->Verify("what was written again");
  other.Verify("what was written again");
  puts("processes written-late: verified");
}

// The same of a child that is killed meanwhile: there is room only where its pages were.
void KilledLate(Heap* heap, uint64_t mib, const std::string& hold) {
  mallopt(M_MMAP_THRESHOLD, 1 << 20);  // What is freed is given back.
  heap->PageOut();
  for (uint64_t round = 0; round < 4; ++round) {
    std::atomic<int>* writes = SharedFlag();
    const pid_t child = fork();
    CHECK(child >= 0, "fork");
    if (child == 0) {
      for (uint64_t seed = 100;; ++seed) {  // It never reads what it has written.
        const Heap own(mib, seed);
        own.PageOut();
        *writes = 1;
      }
    }
    while (*writes == 0) sched_yield();
    Hold(hold);
    // Until it waits for long: for the donor. Ordinarily it does not.
    for (int asleep = 0, looks = 0; asleep < 20 && looks < 200; ++looks, usleep(2000))
      asleep = Asleep(child) ? asleep + 1 : 0;
    CHECK(kill(child, SIGKILL) == 0, "kill");
    WaitFor(child, SIGKILL, "killed child");
    Heap more(mib + mib / 3, round + 20);
    more.PageOut();
    LetGo(hold);
    more.Verify("what took the place of a killed child");
    heap->Verify("parent of a killed child");
    heap->PageOut();
  }
  puts("processes killed-late: verified");
}

// Children are killed while the supervisor does not run, which next hears at once of that and of what we want
// then: it fits only where the pages of the last one were, in all slabs that there are.
void KilledUnseen(Heap* heap, uint64_t mib) {
  std::atomic<int>* ready = SharedFlag();
  std::atomic<int>* stopped = SharedFlag();
  const pid_t supervisor = getppid();
  std::string parent;
  std::getline(std::ifstream("/proc/" + std::to_string(supervisor) + "/comm"), parent);
  const bool far = parent == "farpool";
  constexpr int kChildren = 16;
  pid_t children[kChildren];
  heap->PageOut();
  for (int i = 0; i < kChildren; ++i) {
    children[i] = fork();
    CHECK(children[i] >= 0, "fork");
    if (children[i] == 0 && i == kChildren - 1) {
      const Heap own(4 * mib + 8, 2);
      own.PageOut();
      *ready = 1;
      for (;;) pause();
    }
    while (children[i] == 0) pause();
  }
  while (*ready == 0) sched_yield();
  // The last slab is known here, too.
  const Heap last(2, 4);
  last.PageOut();
  const pid_t us = getpid();
  const pid_t helper = fork();
  CHECK(helper >= 0, "fork");
  if (helper == 0) {
    while (*stopped == 0) sched_yield();
    // Until its parent waits for long: for an answer.
    for (int asleep = 0; asleep < 50; usleep(2000)) asleep = Asleep(us) ? asleep + 1 : 0;
    CHECK(kill(supervisor, SIGCONT) == 0, "SIGCONT: %s", strerror(errno));
    _exit(0);
  }
  CHECK(!far || kill(supervisor, SIGSTOP) == 0, "SIGSTOP: %s", strerror(errno));
  for (const pid_t child : children) CHECK(kill(child, SIGKILL) == 0, "kill");
  for (const pid_t child : children) WaitFor(child, SIGKILL, "killed child");
  *stopped = 1;
  Heap more(3 * mib, 3);
  WaitFor(helper, 0, "helper");
  last.Verify("parent of killed children");
  more.Verify("what took the place of a killed child");
  heap->Verify("parent of a killed child");
  puts("processes killed-unseen: verified");
}

// A vfork child that says who it is and then touches pages until it is killed.
__attribute__((noinline)) pid_t Victim(const char* bytes, size_t count, std::atomic<pid_t>* who) {
  const pid_t child = vfork();
  if (child != 0) return child;
  *who = getpid();
  constexpr size_t kStep = 97 * 4096;
  for (size_t at = 0;; at = (at + kStep) % count) (void)*static_cast<const volatile char*>(bytes + at);
}

// Nearly always in the middle of a fault, while their parent waits in vfork.
void KilledVforked(Heap* heap, uint64_t mib) {
  for (unsigned round = 0; round < 100; ++round) {
    std::atomic<pid_t> pid{0};
    std::thread killer([&pid, round] {
      while (pid == 0) sched_yield();
      usleep(100 * (round % 16));
      CHECK(kill(pid, SIGKILL) == 0, "kill");
    });
    WaitFor(Victim(heap->bytes(), mib << 20, &pid), SIGKILL, "killed child");
    killer.join();
    heap->Verify("parent of a killed child");
  }
  puts("processes killed-vforked: verified");
}

// What is in core files and what is not, however it came to be accessible.
void Dumped() {
  constexpr size_t kPages = 256, kPage = 4096;
  const auto protect = [](char* at, size_t pages, int protection) {
    CHECK(mprotect(at, pages * kPage, protection) == 0, "mprotect: %s", strerror(errno));
  };
  const auto advise = [](char* at, size_t pages, int advice) {
    CHECK(madvise(at, pages * kPage, advice) == 0, "madvise %d: %s", advice, strerror(errno));
  };
  const auto reserve = [] {
    void* at = mmap(nullptr, kPages * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(at != MAP_FAILED, "mmap: %s", strerror(errno));
    return static_cast<char*>(at);
  };
  const auto note = [](char* at, const char* what, size_t page) {
    snprintf(at + page * kPage, kPage, "%s page %zu of a heap", what, page);
  };
  // A heap that grows, shrinks and grows again.
  char* heap = reserve();
  for (const char* what : {"shrunk", "grown"}) {
    protect(heap, kPages, PROT_NONE);
    for (size_t i = 0; i < kPages; ++i) {
      protect(heap + i * kPage, 1, PROT_READ | PROT_WRITE);
      note(heap, what, i);
    }
  }
  // What was marked stays so, when nobody may touch it for a while, beside what grows, and where it moves to.
  char* marked = reserve();
  protect(marked + 100 * kPage, 1, PROT_READ | PROT_WRITE);
  advise(marked + 100 * kPage, 1, MADV_DONTDUMP);
  protect(marked + 100 * kPage, 1, PROT_NONE);
  protect(marked + 99 * kPage, 1, PROT_READ | PROT_WRITE);
  protect(marked + 101 * kPage, 1, PROT_READ | PROT_WRITE);
  protect(marked + 100 * kPage, 1, PROT_READ | PROT_WRITE);
  note(marked, "secret", 100);
  char* marked_early = reserve();
  advise(marked_early, kPages, MADV_DONTDUMP);
  for (size_t i = 0; i < 20; ++i) {
    protect(marked_early + i * kPage, 1, PROT_READ | PROT_WRITE);
    note(marked_early, "secret", i);
  }
  char* moved = static_cast<char*>(mremap(marked_early, 20 * kPage, 2 * kPages * kPage, MREMAP_MAYMOVE));
  CHECK(moved != MAP_FAILED && moved != marked_early, "mremap: %s", strerror(errno));
  note(moved, "secret", kPages);
  // It grows into what went along with a page before it.
  const uintptr_t block =
      (reinterpret_cast<uintptr_t>(reserve()) + 64 * kPage - 1) / (64 * kPage) * (64 * kPage);
  char* before = reinterpret_cast<char*>(block);
  protect(before, 1, PROT_READ | PROT_WRITE);
  CHECK(munmap(before + kPage, 63 * kPage) == 0, "munmap: %s", strerror(errno));
  CHECK(mmap(before + kPage, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
            before + kPage,
        "mmap: %s", strerror(errno));
  advise(before + kPage, 1, MADV_DONTDUMP);
  CHECK(mremap(before + kPage, kPage, 20 * kPage, 0) == before + kPage, "mremap: %s", strerror(errno));
  note(before, "secret", 10);
  // Marked no more.
  char* unmarked = reserve();
  advise(unmarked, kPages, MADV_DONTDUMP);
  protect(unmarked, kPages, PROT_READ | PROT_WRITE);
  advise(unmarked, kPages / 2, MADV_DODUMP);
  for (const size_t page : {10, 20}) note(unmarked, "unmarked", page);
  note(unmarked, "secret", kPages / 2);
}

// Heap strings, made long before they are used.
struct Words {
  std::vector<char*> list;
  Words(std::initializer_list<const char*> texts) {
    for (const char* text : texts) {
      char* copy = static_cast<char*>(malloc(70'000));
      CHECK(copy != nullptr, "malloc");
      list.push_back(strcpy(copy, text));
    }
    list.push_back(nullptr);
  }
  char** data() { return list.data(); }
};

// A vfork child that sends itself a signal.
__attribute__((noinline)) pid_t VforkAndSend(int signal) {
  const pid_t child = vfork();
  if (child != 0) return child;
  kill(getpid(), signal);
  _exit(127);
}

void Commands(Heap* heap, const char* self) {
  const std::string long_value(20'000, 'v');
  CHECK(setenv("PROCESSES_VALUE", long_value.c_str(), 1) == 0, "setenv");
  Words path{self}, arguments{self, "child", "first argument", "second"};
  Words shell{"/bin/sh"}, script{"sh", "-c", "echo sh ${#PROCESSES_VALUE} \"$0\" $#", "zero", "one", "two"};
  Words small{"PROCESSES_VALUE=small"};
  char* command = strdup("echo system ${#PROCESSES_VALUE}");
  fflush(stdout);
  pid_t child;
  heap->Verify("before posix_spawn");
  CHECK(posix_spawn(&child, path.list[0], nullptr, nullptr, arguments.data(), environ) == 0, "posix_spawn");
  WaitFor(child, 7 << 8, "posix_spawn");
  heap->Verify("before vfork");
  child = vfork();
  if (child == 0) {
    execve(shell.list[0], script.data(), environ);
    _exit(127);
  }
  WaitFor(child, 0, "vfork");
  for (const int signal : {SIGBUS, SIGSYS})  // The runtime's own.
    WaitFor(VforkAndSend(signal), signal, "vfork and a signal");
  heap->Verify("before fork and exec");
  child = fork();
  if (child == 0) {
    execve(path.list[0], arguments.data(), small.data());
    _exit(127);
  }
  WaitFor(child, 7 << 8, "execve");
  heap->Verify("before exec without an environment");
  child = fork();
  if (child == 0) {
    char* none[] = {nullptr};
    execve(path.list[0], arguments.data(), none);
    _exit(127);
  }
  WaitFor(child, 7 << 8, "execve");
  heap->Verify("before execvp of nothing");
  child = fork();
  if (child == 0) {
    execvp("no-such-program-anywhere", arguments.data());
    _exit(errno == ENOENT ? 3 : 4);
  }
  WaitFor(child, 3 << 8, "execvp");
  heap->Verify("before system");
  CHECK(system(command) == 0, "system");
  heap->Verify("before popen");
  FILE* pipe = popen("cat; echo popen", "w");
  CHECK(pipe != nullptr, "popen");
  for (int i = 0; i < 2000; ++i) fprintf(pipe, "line %d\n", i);
  CHECK(pclose(pipe) == 0, "pclose");
  heap->Verify("at the end");
}

// Arguments in many pages, each of which others have every reason to take away before the kernel reads it.
void Spawns(Heap* heap) {
  constexpr int kArguments = 60;
  std::vector<std::string> texts;
  for (int i = 0; i < kArguments; ++i) texts.push_back(std::string(30'000, static_cast<char>('a' + i % 26)));
  std::vector<char*> arguments;
  const std::string script = "test $# = " + std::to_string(kArguments) + " && test ${#1} = 30000";
  std::vector<std::string> words = {"sh", "-c", script, "sh"};
  for (std::string& word : words) arguments.push_back(word.data());
  for (std::string& text : texts) arguments.push_back(text.data());
  arguments.push_back(nullptr);
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int t = 0; t < 2; ++t)
    threads.emplace_back([&stop, heap] {
      while (!stop) heap->Verify("while others start programs");
    });
  for (int i = 0; i < 40; ++i) {
    pid_t child;
    const int error = posix_spawn(&child, "/bin/sh", nullptr, nullptr, arguments.data(), environ);
    CHECK(error == 0, "posix_spawn: %s", strerror(error));
    WaitFor(child, 0, "posix_spawn");
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  puts("processes spawns: verified");
}

// What `commands` starts: prints its arguments and environment, and uses far memory itself.
int Child(int argc, char** argv) {
  const char* value = getenv("PROCESSES_VALUE");
  int variables = 0;
  for (char** at = environ; *at != nullptr; ++at) ++variables;
  printf("child: %d arguments, %s, value of %zu bytes, %d variables%s\n", argc, argv[2],
         value != nullptr ? strlen(value) : 0, variables == 0 || variables == 1 ? variables : -1,
         getenv("LD_PRELOAD") != nullptr ? ", a preload" : "");
  fflush(stdout);
  Heap(48, 5).Verify("started program");
  return 7;
}

void Code() {
  using Function = int (*)(int);
  constexpr size_t kBytes = 1 << 20;
  const auto emit = [](unsigned char* at, int constant) {  // lea constant(%rdi), %eax; ret
    at[0] = 0x8d;
    at[1] = 0x87;
    memcpy(at + 2, &constant, sizeof(constant));
    at[6] = 0xc3;
  };
  const auto run = [](unsigned char* at, int argument) { return reinterpret_cast<Function>(at)(argument); };
  // Written, then made executable; then the other way round, again and again.
  auto* flip = static_cast<unsigned char*>(
      mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  auto* both = static_cast<unsigned char*>(
      mmap(nullptr, kBytes, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  auto* reserved =
      static_cast<unsigned char*>(mmap(nullptr, kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  CHECK(flip != MAP_FAILED && both != MAP_FAILED && reserved != MAP_FAILED, "mmap");
  CHECK(mprotect(reserved, kBytes / 2, PROT_READ | PROT_WRITE | PROT_EXEC) == 0, "mprotect");
  Heap heap(48, 9);
  for (int round = 1; round < 6; ++round) {
    CHECK(mprotect(flip, kBytes, PROT_READ | PROT_WRITE) == 0, "mprotect");
    for (size_t at = 0; at < kBytes / 2; at += 512) {
      emit(flip + at, round + static_cast<int>(at));
      emit(both + at, round * 2 + static_cast<int>(at));
      emit(reserved + at, round * 3 + static_cast<int>(at));
    }
    CHECK(mprotect(flip, kBytes, PROT_READ | PROT_EXEC) == 0, "mprotect");
    heap.Verify("between writing and running code");
    for (size_t at = 0; at < kBytes / 2; at += 512) {
      const int offset = static_cast<int>(at);
      CHECK(run(flip + at, 5) == round + offset + 5, "r-x at %zu", at);
      CHECK(run(both + at, 5) == round * 2 + offset + 5, "rwx at %zu", at);
      CHECK(run(reserved + at, 5) == round * 3 + offset + 5, "made rwx at %zu", at);
    }
  }
  void* library = dlopen("libm.so.6", RTLD_NOW | RTLD_LOCAL);
  CHECK(library != nullptr, "dlopen");
  const auto floor = reinterpret_cast<double (*)(double)>(dlsym(library, "floor"));
  CHECK(floor != nullptr && floor(2.5) == 2, "dlsym");
  CHECK(dlclose(library) == 0, "dlclose");
  puts("processes code: verified");
}

// Allows `allowed`, answers the rest with `otherwise`.
void Sandbox(const std::vector<int>& allowed, uint32_t otherwise) {
  std::vector<sock_filter> code = {
      {BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(seccomp_data, nr)},
  };
  for (int number : allowed) {
    code.push_back({BPF_JMP | BPF_JEQ | BPF_K, 0, 1, static_cast<uint32_t>(number)});
    code.push_back({BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW});
  }
  code.push_back({BPF_RET | BPF_K, 0, 0, otherwise});
  const sock_fprog program = {static_cast<unsigned short>(code.size()), code.data()};
  CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "no_new_privs");
  CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0, "seccomp: %s", strerror(errno));
}

// As memcached does: fewer descriptors for itself and its children, before it uses memory.
void Limits() {
  rlimit limit = {64, 128};
  CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0, "setrlimit");
  Heap heap(48, 11);
  heap.Verify("with few descriptors");
  CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur == 64 && limit.rlim_max == 128,
        "getrlimit: %llu %llu", static_cast<unsigned long long>(limit.rlim_cur),
        static_cast<unsigned long long>(limit.rlim_max));
  int last = 0;
  for (int fd; (fd = dup(0)) >= 0;) last = fd;
  CHECK(errno == EMFILE && last == 63, "the last descriptor is %d", last);
  limit = {100, 64};
  CHECK(setrlimit(RLIMIT_NOFILE, &limit) == -1 && errno == EINVAL, "more than the hard limit");
  const pid_t child = fork();
  if (child == 0) {
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_max == 128, "inherited");
    heap.Verify("child with few descriptors");
    _exit(3);
  }
  WaitFor(child, 3 << 8, "child with few descriptors");
  puts("processes limits: verified");
}

// The child has what its parent had, or it dies; and what it gives back stays its parent's. Nothing else will
// do.
void Unseen(Heap* heap) {
  constexpr size_t kBytes = 1 << 20;
  const rlimit no_core = {0, 0};
  CHECK(setrlimit(RLIMIT_CORE, &no_core) == 0, "setrlimit");
  static uint64_t* words;
  words = static_cast<uint64_t*>(
      mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  CHECK(words != MAP_FAILED, "mmap");
  for (size_t i = 0; i < kBytes / 8; ++i) words[i] = Mix(i);
  static char stack[64 * 1024] __attribute__((aligned(16)));
  const auto body = [](void* heap_or_null) {
    if (heap_or_null != nullptr) static_cast<Heap*>(heap_or_null)->Verify("child of an unseen fork");
    if (heap_or_null == nullptr) munmap(words, kBytes);
    return 0;
  };
  for (int i = 0; i < 8; ++i) {
    long child = SYS_fork;
    if (i % 4 == 3) {
      child = clone(body, stack + sizeof(stack), CLONE_FILES | SIGCHLD, i < 4 ? heap : nullptr);
    } else {
      asm volatile("syscall" : "+a"(child) : : "rcx", "r11", "memory");
    }
    if (child == 0) {
      if (i % 4 == 0) heap->Verify("child of an unseen fork");
      if (i % 4 == 1) munmap(words, kBytes);
      if (i % 4 == 2) madvise(words, kBytes, MADV_DONTNEED);
      _exit(0);
    }
    int status;
    CHECK(child > 0 && waitpid(static_cast<pid_t>(child), &status, 0) == child, "unseen fork: %ld", child);
    CHECK(status == 0 || (WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV), "unseen fork: status %x",
          static_cast<unsigned>(status));
    heap->Verify("parent of an unseen fork");
    for (size_t word = 0; word < kBytes / 8; ++word)
      CHECK(words[word] == Mix(word), "word %zu after child %d gave it back", word, i);
  }
  puts("processes unseen: verified");
}

// Lines that wait in buffers on the heap; each process that ends writes its copy of them.
class Lines {
 public:
  explicit Lines(int first) : first_(first), file_(tmpfile()), buffer_(malloc(kBytes)) {
    CHECK(file_ != nullptr && buffer_ != nullptr, "tmpfile: %s", strerror(errno));
    CHECK(setvbuf(file_, static_cast<char*>(buffer_), _IOFBF, kBytes) == 0, "setvbuf");
  }
  ~Lines() {
    fclose(file_);
    free(buffer_);
  }
  void Write() {
    for (int i = 0; i < kLines; ++i) fprintf(file_, "line %d\n", first_ + i);
  }
  void Flush() { CHECK(fflush(file_) == 0, "fflush: %s", strerror(errno)); }
  // `times` copies of all lines, whoever wrote them.
  void Verify(int times) {
    rewind(file_);
    for (int n = 0; n < times * kLines; ++n) {
      int line = -1;
      CHECK(fscanf(file_, "line %d\n", &line) == 1 && line == first_ + n % kLines, "line %d: %d", n, line);
    }
    CHECK(fgetc(file_) == EOF, "more lines");
  }

 private:
  static constexpr size_t kBytes = 1 << 20;
  static constexpr int kLines = 40'000;
  int first_;
  FILE* file_;
  void* buffer_;
};

void Output(Heap* heap) {
  fflush(stdout);
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int t = 0; t < 2; ++t)
    threads.emplace_back([&stop] {
      FILE* null = fopen("/dev/null", "w");
      CHECK(null != nullptr, "fopen");
      while (!stop) fprintf(null, "what nobody reads\n");
      fclose(null);
    });
  for (int round = 0; round < 4; ++round) {
    Lines lines(round * 1000);
    lines.Write();
    heap->Verify("before fork");
    const pid_t child = fork();
    if (child == 0) {
      heap->Verify("child");
      lines.Flush();
      _exit(3);
    }
    WaitFor(child, 3 << 8, "child with output");
    heap->Verify("before the flush");
    lines.Flush();
    lines.Verify(2);
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  puts("processes output: verified");
}

volatile sig_atomic_t g_trapped = 0;
void OnTrap(int, siginfo_t* info, void*) { g_trapped = g_trapped + info->si_syscall; }

// What a thread may do, by its entry in /proc.
std::string Rights(const std::string& thread) {
  std::string rights;
  std::ifstream status(thread + "/status");
  for (std::string line; std::getline(status, line);)
    for (const char* field : {"Uid:", "Gid:", "Groups:", "CapPrm:", "CapEff:", "CapInh:"})
      if (line.rfind(field, 0) == 0) rights += line + "\n";
  return rights;
}

// Nobody has other rights than we have, neither at once nor when memory has come and gone.
void RightsAreEverybodys(const Heap& heap, const char* after) {
  for (int look = 0; look < 2; ++look) {
    const std::string ours = Rights("/proc/thread-self");
    for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
      const std::string theirs = Rights(task.path());
      CHECK(theirs.empty() || theirs == ours, "after %s a thread has\n%s, not\n%s", after, theirs.c_str(),
            ours.c_str());
    }
    heap.Verify(after);
    heap.PageOut();
  }
}

// setgroups is called in a thread that waits for a datagram, too, with a list in far memory as that has. The
// thread's stack lies below all others.
void ReceivedAllTheSame(const Heap& heap) {
  constexpr size_t kBytes = 8000, kStack = 1 << 20;
  const Heap room(1, 7);
  char* const into = const_cast<char*>(room.bytes()) + 5000;
  auto* const groups = reinterpret_cast<gid_t*>(const_cast<char*>(heap.bytes()));
  const gid_t before = groups[0];
  groups[0] = 65534;
  int ends[2];
  CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, ends) == 0, "socketpair: %s", strerror(errno));
  for (int round = 0; round < 3; ++round) {
    void* const stack = mmap(reinterpret_cast<void*>(0x100000000), kStack, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    CHECK(stack != MAP_FAILED, "mmap: %s", strerror(errno));
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    CHECK(pthread_attr_setstack(&attributes, stack, kStack) == 0, "setstack");
    struct Receiver {
      int socket;
      char* into;
      std::atomic<pid_t> thread{0};
      ssize_t got = 0;
    } receiver = {ends[0], into};
    pthread_t thread;
    const auto receive = [](void* argument) -> void* {
      auto* const r = static_cast<Receiver*>(argument);
      r->thread = gettid();
      r->got = recv(r->socket, r->into, kBytes, 0);
      return nullptr;
    };
    CHECK(pthread_create(&thread, &attributes, receive, &receiver) == 0, "pthread_create");
    const auto until_asleep = [&receiver] {
      while (receiver.thread == 0) sched_yield();
      for (int asleep = 0; asleep < 10; usleep(1000)) asleep = Asleep(receiver.thread) ? asleep + 1 : 0;
    };
    until_asleep();
    CHECK(setgroups(1, groups) == 0, "setgroups: %s", strerror(errno));
    until_asleep();
    room.PageOut();
    const std::string text(kBytes, static_cast<char>('a' + round));
    CHECK(send(ends[1], text.data(), kBytes, 0) == kBytes, "send: %s", strerror(errno));
    CHECK(send(ends[1], "", 1, 0) == 1, "send: %s", strerror(errno));  // For whom the first is lost.
    pthread_join(thread, nullptr);
    char end;
    CHECK(receiver.got == kBytes && recv(ends[0], &end, 1, MSG_DONTWAIT) == 1 &&
              memcmp(into, text.data(), kBytes) == 0,
          "received %zd", receiver.got);
    munmap(stack, kStack);
  }
  groups[0] = before;
  close(ends[0]);
  close(ends[1]);
}

void Credentials(Heap* heap) {
  heap->PageOut();
  heap->Verify("before");
  if (geteuid() == 0) {
    ReceivedAllTheSame(*heap);
    // Of all threads, while those have memory evicted.
    std::atomic<bool> done{false};
    std::vector<std::thread> threads;
    for (uint64_t i = 0; i < 2; ++i)
      threads.emplace_back([&, i] {
        for (Heap own(8, i + 2); !done;) own.Verify("a thread");
      });
    const gid_t groups[] = {65534, 65533};
    CHECK(setgroups(2, groups) == 0, "setgroups: %s", strerror(errno));
    RightsAreEverybodys(*heap, "setgroups");
    CHECK(setresgid(65534, 65534, 65534) == 0, "setresgid: %s", strerror(errno));
    RightsAreEverybodys(*heap, "setresgid");
    CHECK(setresuid(65534, 65534, 65534) == 0, "setresuid: %s", strerror(errno));
    RightsAreEverybodys(*heap, "setresuid");
    done = true;
    for (std::thread& thread : threads) thread.join();
  }
  while (unshare(CLONE_NEWUSER) != 0) {
    // A thread that is joined may still be about to leave, and who is not alone may not do this.
    if (errno == EINVAL) continue;
    printf("unshare: %s\n", strerror(errno));
    return;
  }
  RightsAreEverybodys(*heap, "unshare");
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  const __user_cap_data_struct none[2] = {};
  CHECK(syscall(SYS_capset, &header, none) == 0, "capset: %s", strerror(errno));
  RightsAreEverybodys(*heap, "capset");
  puts("processes credentials: verified");
}

// A thread that waits for its child, as CLONE_VFORK has it, keeps no other from far memory, which the child
// may wait for.
void Suspended(Heap* heap) {
  fflush(stdout);
  int there[2], done[2];
  CHECK(pipe(there) == 0 && pipe(done) == 0, "pipe: %s", strerror(errno));
  std::thread other([&] {
    char byte;
    CHECK(read(there[0], &byte, 1) == 1, "read: %s", strerror(errno));
    heap->Verify("while another waits for its child");
    CHECK(write(done[1], &byte, 1) == 1, "write: %s", strerror(errno));
  });
  const auto child = static_cast<pid_t>(syscall(SYS_clone, CLONE_VFORK | SIGCHLD, 0, 0, 0, 0));
  if (child == 0) {
    char byte = 1;
    _exit(write(there[1], &byte, 1) == 1 && read(done[0], &byte, 1) == 1 ? 9 : 1);
  }
  WaitFor(child, 9 << 8, "child that is waited for");
  other.join();
  for (const int fd : {there[0], there[1], done[0], done[1]}) close(fd);
}

// What would have the fault handler itself trapped.
void Trapped(Heap* heap) {
  fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    static volatile char selector;
    const bool dispatched = prctl(59 /*PR_SET_SYSCALL_USER_DISPATCH*/, 1, 0, 0, &selector) == 0;
    selector = 1;  // From here on every system call is a SIGSYS.
    heap->Verify("child that traps its system calls");
    selector = 0;
    if (dispatched) CHECK(prctl(59, 0, 0, 0, 0) == 0, "prctl: %s", strerror(errno));
    prctl(PR_SET_TSC, PR_TSC_SIGSEGV);
    heap->Verify("child that traps reads of the clock");
    prctl(PR_SET_TSC, PR_TSC_ENABLE);
    _exit(8);
  }
  WaitFor(child, 8 << 8, "child that traps");
}

// A sandbox that answers calls itself, as browsers do, finds in its handler the call where it was made.
void Answered(Heap* heap) {
  fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    static volatile int calls, wrong;
    struct sigaction action = {};
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    action.sa_sigaction = [](int, siginfo_t* info, void* context) {
      greg_t* const registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
      calls = calls + 1;
      if (reinterpret_cast<greg_t>(info->si_call_addr) != registers[REG_RIP] ||
          info->si_syscall != registers[REG_RAX])
        wrong = wrong + 1;
      registers[REG_RAX] = -EPERM;
    };
    CHECK(sigaction(SIGSYS, &action, nullptr) == 0, "sigaction");
    Sandbox({SYS_write, SYS_exit_group, SYS_rt_sigreturn, SYS_mmap, SYS_munmap}, SECCOMP_RET_TRAP);
    char near_room[64];
    for (const char* room : {static_cast<const char*>(near_room), heap->bytes()})
      CHECK(syscall(SYS_getcwd, room, 64) == -1 && errno == EPERM, "getcwd");
    CHECK(calls == 2 && wrong == 0, "%d calls, %d wrong", calls, wrong);
    heap->Verify("child that answers its calls");
    _exit(8);
  }
  WaitFor(child, 8 << 8, "child that answers its calls");
}

void Sandboxed(Heap* heap) {
  const std::vector<int> few = {SYS_write, SYS_exit_group, SYS_rt_sigreturn, SYS_mmap, SYS_munmap, SYS_brk};
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    Sandbox(few, SECCOMP_RET_ERRNO | EPERM);
    heap->Verify("sandboxed child, inherited");
    heap->Write(4);
    heap->Verify("sandboxed child, own");
    CHECK(syscall(SYS_getppid) == -1 && errno == EPERM, "getppid is refused");
    CHECK(open("/dev/null", O_RDONLY) == -1 && errno == EPERM, "open is refused");
    CHECK(mprotect(heap, 4096, PROT_NONE) == -1 && errno == EPERM, "mprotect is refused");
    const char text[] = "sandboxed: verified\n";
    CHECK(write(1, text, sizeof(text) - 1) > 0, "write is allowed");
    _exit(5);
  }
  WaitFor(child, 5 << 8, "sandboxed child");
  std::atomic<int>* written = SharedFlag();
  child = fork();
  if (child == 0) {
    const int file = memfd_create("written", 0);
    Sandbox(few, SECCOMP_RET_KILL_PROCESS);
    heap->Verify("child that a wrong call kills");
    constexpr size_t kBytes = 900'000;  // Many more than are kept here for a call.
    CHECK(write(file, heap->bytes(), kBytes) == kBytes, "write of a child that a wrong call kills");
    *written = 1;
    getppid();
    _exit(6);
  }
  WaitFor(child, SIGSYS, "child that makes a wrong call");
  CHECK(*written == 1, "a write was a wrong call");
  child = fork();
  if (child == 0) {
    struct sigaction action = {};
    action.sa_sigaction = OnTrap;
    action.sa_flags = SA_SIGINFO;
    CHECK(sigaction(SIGSYS, &action, nullptr) == 0, "sigaction");
    Sandbox(few, SECCOMP_RET_TRAP);
    heap->Verify("child with trapped calls");
    getppid();
    CHECK(g_trapped == SYS_getppid, "trapped %d", static_cast<int>(g_trapped));
    open("/dev/null", O_RDONLY);
    CHECK(g_trapped == SYS_getppid + SYS_openat, "trapped %d", static_cast<int>(g_trapped));
    (void)!fork();  // Neither is there a child nor an error: the handler has not said what came of it.
    CHECK(g_trapped == SYS_getppid + SYS_openat + SYS_clone, "trapped %d", static_cast<int>(g_trapped));
    heap->Verify("child with trapped calls, again");
    _exit(7);
  }
  WaitFor(child, 7 << 8, "child with trapped calls");
  child = fork();
  if (child == 0) {
    // Four calls and no more; memory goes on to be there, or this is refused.
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) != 0) CHECK(errno == EINVAL, "strict: %d", errno);
    heap->Verify("child in strict mode");
    syscall(SYS_exit, 8);
  }
  WaitFor(child, 8 << 8, "child in strict mode");
  heap->Verify("parent of sandboxed children");
  puts("processes sandbox: verified");
}

}  // namespace

int main(int argc, char** argv) {
  const std::string kind = argc > 1 ? argv[1] : "daemon";
  if (kind == "child") return Child(argc, argv);
  if (kind == "code") {
    Code();
    return 0;
  }
  if (kind == "limits") {
    Limits();
    return 0;
  }
  const uint64_t mib = Argument(argc, argv, 2, 48);
  Heap heap(mib, 1);
  if (kind == "abort") {
    // Memory that came and went leaves nothing behind.
    for (const size_t bytes : {size_t{100'000}, size_t{1} << 20, size_t{64} << 20}) {
      char* at = static_cast<char*>(malloc(bytes));
      CHECK(at != nullptr, "malloc");
      memset(at, 1, bytes);
      free(at);
    }
    Dumped();
    abort();
  }
  if (kind == "daemon") Daemon(&heap);
  if (kind == "killed") Killed(&heap, mib);
  if (kind == "killed-unseen") KilledUnseen(&heap, mib);
  if (kind == "killed-vforked") KilledVforked(&heap, mib);
  if (kind == "killed-late") KilledLate(&heap, mib, argv[3]);
  if (kind == "written-late") WrittenLate(&heap, mib, argv[3]);
  if (kind == "commands") Commands(&heap, argv[0]);
  if (kind == "spawns") {
    Suspended(&heap);
    Spawns(&heap);
  }
  if (kind == "sandbox") {
    Trapped(&heap);
    Answered(&heap);
    Sandboxed(&heap);
  }
  if (kind == "credentials") Credentials(&heap);
  if (kind == "unseen") Unseen(&heap);
  if (kind == "output") Output(&heap);
  if (kind == "exit") {
    heap.Verify("before the end");
    syscall(SYS_exit, 0);
  }
  return 0;
}
