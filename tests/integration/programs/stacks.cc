// stacks [MiB]: coroutines and threads whose stacks lie in the heap, small stacks, forks from coroutines,
// threads that come and go, all while more memory is walked than is said to be there and a timer interrupts.

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <ctime>

#include "far.h"

namespace {

constexpr size_t kPage = 4096;

uint64_t* words;
size_t pages;
std::atomic<uint64_t> handled{0};

void VerifyPage(size_t page) {
  for (size_t i = page * (kPage / 8); i < (page + 1) * (kPage / 8); ++i)
    CHECK(words[i] == Mix(i), "word %zu: %llx", i, static_cast<unsigned long long>(words[i]));
}
void Walk(size_t first, size_t last) {
  for (size_t page = first; page < last; ++page) VerifyPage(page % pages);
}

// The stack the program is on, as far as this program knows.
std::atomic<const char*> stack_low{nullptr};
std::atomic<const char*> stack_high{nullptr};

void OnAlarm(int, siginfo_t*, void* context) {
  const char* here = static_cast<const char*>(__builtin_frame_address(0));
  const char* low = stack_low;
  const char* high = stack_high;
  const auto* user = static_cast<const ucontext_t*>(context);
  const auto sp = static_cast<uintptr_t>(user->uc_mcontext.gregs[REG_RSP]);
  // Interrupted on the coroutine's stack, the handler runs on it too, below.
  if (low != nullptr && sp > reinterpret_cast<uintptr_t>(low) && sp <= reinterpret_cast<uintptr_t>(high))
    CHECK(here >= low && reinterpret_cast<uintptr_t>(here) < sp, "handler at %p, stack %p", here, low);
  static uint64_t state = 1;
  state = Mix(state);
  VerifyPage(state % pages);
  ++handled;
}

void Timer(long microseconds) {
  const itimerval timer = {{0, microseconds}, {0, microseconds}};
  CHECK(setitimer(ITIMER_REAL, &timer, nullptr) == 0, "setitimer");
}

// --- coroutines

constexpr size_t kCoroutines = 96;
constexpr size_t kCoroutineBytes = 96 * 1024;
constexpr size_t kLocalWords = 6 * 1024;  // 48 KiB of each stack hold something.

struct Coroutine {
  char* stack;
  void* sp;
  ucontext_t context;
  size_t index;
  int rounds;
  bool done;
};
Coroutine* coroutines;
Coroutine* current;
ucontext_t scheduler;
void* scheduler_sp;
bool by_hand;

// Saves the callee's registers on the stack and goes on where `to` was saved.
extern "C" void SwitchStack(void** save, void* to);
asm(R"(
        .text
        .globl SwitchStack
        .type SwitchStack, @function
SwitchStack:
        push %rbp
        push %rbx
        push %r12
        push %r13
        push %r14
        push %r15
        mov %rsp, (%rdi)
        mov %rsi, %rsp
        pop %r15
        pop %r14
        pop %r13
        pop %r12
        pop %rbx
        pop %rbp
        ret
        .size SwitchStack, .-SwitchStack
)");

void Yield() {
  Coroutine* self = current;
  if (by_hand) {
    SwitchStack(&self->sp, scheduler_sp);
  } else {
    CHECK(swapcontext(&self->context, &scheduler) == 0, "swapcontext");
  }
}

void Resume(Coroutine* coroutine) {
  current = coroutine;
  if (by_hand) {
    stack_low = coroutine->stack;
    stack_high = coroutine->stack + kCoroutineBytes;
    SwitchStack(&scheduler_sp, coroutine->sp);
    stack_low = nullptr;
  } else {
    CHECK(swapcontext(&scheduler, &coroutine->context) == 0, "swapcontext");
  }
}

// System calls whose every argument lives on a stack in the heap.
void Calls(size_t index, int round) {
  int ends[2];
  CHECK(pipe(ends) == 0, "pipe: %d", errno);
  uint64_t out[300], in[300] = {};
  for (size_t i = 0; i < 300; ++i) out[i] = Mix(index * 1000 + i);
  CHECK(write(ends[1], out, sizeof(out)) == sizeof(out), "write: %d", errno);
  pollfd ready = {ends[0], POLLIN, 0};
  CHECK(poll(&ready, 1, 1000) == 1 && ready.revents == POLLIN, "poll");
  const timespec second = {1, 0};
  sigset_t none;
  sigemptyset(&none);
  int r;
  do r = ppoll(&ready, 1, &second, &none);
  while (r < 0 && errno == EINTR);
  CHECK(r == 1, "ppoll: %d", errno);
  CHECK(read(ends[0], in, sizeof(in)) == sizeof(in) && memcmp(in, out, sizeof(in)) == 0, "read");
  close(ends[0]);
  close(ends[1]);
  sigset_t set, before;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  CHECK(sigprocmask(SIG_BLOCK, &set, &before) == 0, "sigprocmask");
  CHECK(sigprocmask(SIG_SETMASK, &before, &set) == 0 && sigismember(&set, SIGUSR1) == 1, "sigprocmask back");
  const size_t bytes = 256 * 1024;
  auto* map = static_cast<uint64_t*>(
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  CHECK(map != MAP_FAILED, "mmap");
  for (size_t i = 0; i < bytes / 8; i += 64) map[i] = Mix(i + index);
  for (size_t i = 0; i < bytes / 8; i += 64) CHECK(map[i] == Mix(i + index), "mapped word %zu", i);
  CHECK(mprotect(map, bytes, PROT_READ) == 0 && munmap(map, bytes) == 0, "munmap");
  struct sigaction action = {};
  CHECK(sigaction(SIGALRM, nullptr, &action) == 0 && action.sa_sigaction == OnAlarm, "sigaction");
  if (round != 1 || index % 16 != 0) return;
  const pid_t child = fork();
  CHECK(child >= 0, "fork: %d", errno);
  if (child == 0) {
    for (size_t i = 0; i < 300; ++i) CHECK(out[i] == Mix(index * 1000 + i), "the child's stack");
    Walk(index * 7, index * 7 + 200);
    _exit(17);
  }
  int status;
  do r = waitpid(child, &status, 0);
  while (r < 0 && errno == EINTR);
  CHECK(r == child && WIFEXITED(status) && WEXITSTATUS(status) == 17, "child: %x",
        static_cast<unsigned>(status));
}

void Body() {
  Coroutine* self = current;
  const size_t index = self->index;
  volatile uint64_t local[kLocalWords];
  for (size_t i = 0; i < kLocalWords; ++i) local[i] = Mix(index * kLocalWords + i);
  for (int round = 0; round < self->rounds; ++round) {
    Yield();
    CHECK(current == self, "another coroutine's turn");
    for (size_t i = 0; i < kLocalWords; ++i)
      CHECK(local[i] == Mix(index * kLocalWords + i), "coroutine %zu, word %zu", index, i);
    if (round % 2 == 1) Calls(index, round);
  }
  self->done = true;
  Yield();
}

void Prepare(Coroutine* c, size_t i) {
  c->stack = static_cast<char*>(malloc(kCoroutineBytes));
  c->index = i;
  c->rounds = 4;
  if (by_hand) {
    // Registers that nobody asks for, Body(), and an empty place that keeps the stack aligned.
    auto* top =
        reinterpret_cast<void**>((reinterpret_cast<uintptr_t>(c->stack) + kCoroutineBytes) & ~uintptr_t{15});
    memset(top - 8, 0, 8 * sizeof(void*));
    top[-2] = reinterpret_cast<void*>(&Body);
    c->sp = top - 8;
  } else {
    CHECK(getcontext(&c->context) == 0, "getcontext");
    c->context.uc_stack.ss_sp = c->stack;
    c->context.uc_stack.ss_size = kCoroutineBytes;
    c->context.uc_link = nullptr;
    makecontext(&c->context, &Body, 0);
  }
}

void Coroutines(bool hand) {
  by_hand = hand;
  coroutines = static_cast<Coroutine*>(calloc(kCoroutines, sizeof(Coroutine)));
  for (size_t i = 0; i < kCoroutines; ++i) Prepare(&coroutines[i], i);
  Timer(1000);
  size_t running = kCoroutines;
  for (int round = 0; running > 0; ++round) {
    running = 0;
    for (size_t i = 0; i < kCoroutines; ++i) {
      if (coroutines[i].done) continue;
      ++running;
      Resume(&coroutines[i]);
    }
    Walk(0, pages);  // By now the stacks are cold.
  }
  Timer(0);
  for (size_t i = 0; i < kCoroutines; ++i) free(coroutines[i].stack);
  free(coroutines);
  printf("stacks: %zu coroutines, %s\n", kCoroutines, hand ? "switched by hand" : "by swapcontext");
}

// --- threads

thread_local uint64_t of_thread[64];

uint64_t Recurse(int depth, uint64_t seed) {
  volatile uint64_t local[200];
  for (size_t i = 0; i < 200; ++i) local[i] = Mix(seed + i);
  const uint64_t below = depth > 0 ? Recurse(depth - 1, seed + 200) : 0;
  for (size_t i = 0; i < 200; ++i) CHECK(local[i] == Mix(seed + i), "depth %d, word %zu", depth, i);
  return below + local[7];
}

pthread_barrier_t meet;

void* OnSuppliedStack(void* argument) {
  const auto seed = reinterpret_cast<uintptr_t>(argument);
  for (size_t i = 0; i < 64; ++i) of_thread[i] = Mix(seed + i);
  for (int round = 0; round < 3; ++round) {
    Recurse(80, seed);
    // Asleep while the others walk: the kernel reads and writes the thread's descriptor by itself.
    pthread_barrier_wait(&meet);
    Walk(seed * 100, seed * 100 + 300);
    const timespec moment = {0, 200000};
    nanosleep(&moment, nullptr);
  }
  for (size_t i = 0; i < 64; ++i) CHECK(of_thread[i] == Mix(seed + i), "thread-local word %zu", i);
  return reinterpret_cast<void*>(seed + 1);
}

void SuppliedStacks() {
  constexpr size_t kThreads = 12;
  const size_t bytes = 512 * 1024;
  Timer(1000);
  for (int round = 0; round < 4; ++round) {
    CHECK(pthread_barrier_init(&meet, nullptr, kThreads + 1) == 0, "barrier");
    pthread_t threads[kThreads];
    void* stacks[kThreads];
    auto* attributes = static_cast<pthread_attr_t*>(calloc(1, 200000));
    for (size_t i = 0; i < kThreads; ++i) {
      CHECK(posix_memalign(&stacks[i], kPage, bytes) == 0, "posix_memalign");
      memset(stacks[i], 0x5a, bytes);
    }
    Walk(0, pages);
    for (size_t i = 0; i < kThreads; ++i) {
      CHECK(pthread_attr_init(attributes) == 0 && pthread_attr_setstack(attributes, stacks[i], bytes) == 0,
            "pthread_attr_setstack");
      CHECK(pthread_create(&threads[i], attributes, OnSuppliedStack, reinterpret_cast<void*>(i * 10000)) == 0,
            "pthread_create");
      pthread_attr_destroy(attributes);
    }
    for (int i = 0; i < 3; ++i) {
      Walk(0, pages);
      pthread_barrier_wait(&meet);
    }
    for (size_t i = 0; i < kThreads; ++i) {
      void* result;
      CHECK(pthread_join(threads[i], &result) == 0 && result == reinterpret_cast<void*>(i * 10000 + 1),
            "join");
      free(stacks[i]);
    }
    free(attributes);
    pthread_barrier_destroy(&meet);
  }
  Timer(0);
  printf("stacks: threads on stacks that the program supplied\n");
}

// As little as a thread may have.
void* OnSmallStack(void* argument) {
  const auto page = reinterpret_cast<uintptr_t>(argument);
  VerifyPage(page % pages);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGALRM);  // A frame and its handler are the program's own affair.
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  int ends[2];
  CHECK(pipe(ends) == 0, "pipe");
  auto* text = static_cast<char*>(malloc(100000));
  for (size_t i = 0; i < 100000; ++i) text[i] = static_cast<char>(i);
  iovec parts[3] = {{text + 10, 100}, {text + 50000, 200}, {text + 90000, 300}};
  CHECK(writev(ends[1], parts, 3) == 600, "writev");
  CHECK(readv(ends[0], parts, 3) == 600, "readv");
  CHECK(text[10] == 10 && text[50001] == static_cast<char>(50001), "read back");
  free(text);
  close(ends[0]);
  close(ends[1]);
  void* map = mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(map != MAP_FAILED, "mmap");
  memset(map, 1, 1 << 20);
  map = mremap(map, 1 << 20, 2 << 20, MREMAP_MAYMOVE);
  CHECK(map != MAP_FAILED && static_cast<char*>(map)[(1 << 20) - 1] == 1 && munmap(map, 2 << 20) == 0,
        "mremap");
  const pid_t child = page % 8 == 0 ? fork() : -1;
  if (child == 0) {
    VerifyPage((page + 1) % pages);
    _exit(3);
  }
  int status = 3 << 8;
  if (child > 0) CHECK(waitpid(child, &status, 0) == child, "waitpid");
  CHECK(status == 3 << 8, "child: %x", static_cast<unsigned>(status));
  VerifyPage((page * 31) % pages);
  return nullptr;
}

void SmallStacks() {
  auto* attributes = static_cast<pthread_attr_t*>(calloc(1, 200000));
  pthread_attr_init(attributes);
  CHECK(pthread_attr_setstacksize(attributes, 16384) == 0, "pthread_attr_setstacksize");
  for (size_t i = 0; i < 64; ++i) {
    pthread_t thread;
    Walk(i * 64, i * 64 + 64);
    CHECK(pthread_create(&thread, attributes, OnSmallStack, reinterpret_cast<void*>(i * 97)) == 0,
          "pthread_create");
    CHECK(pthread_join(thread, nullptr) == 0, "pthread_join");
  }
  pthread_attr_destroy(attributes);
  free(attributes);
  printf("stacks: threads with stacks of 16 KiB\n");
}

// Calls with buffers in the heap from a coroutine that has a page of stack. What lies below is not its own.
ucontext_t tiny_caller, tiny;
char* tiny_buffer;
int tiny_ends[2];

const char* tiny_trouble;

// No CHECK, which has text on the stack.
void TinyBody() {
  const auto all = [](ssize_t got, ssize_t wanted, const char* what) {
    if (got != wanted && tiny_trouble == nullptr) tiny_trouble = what;
  };
  iovec parts[24];
  for (size_t i = 0; i < 24; ++i) parts[i] = {tiny_buffer + i * 3 * kPage, 20};
  all(write(tiny_ends[1], tiny_buffer, 4000), 4000, "write");
  all(read(tiny_ends[0], tiny_buffer, 4000), 4000, "read");
  for (const int count : {3, 24}) {
    all(writev(tiny_ends[1], parts, count), 20 * count, "writev");
    all(readv(tiny_ends[0], parts, count), 20 * count, "readv");
  }
  msghdr message = {};
  message.msg_iov = parts;
  message.msg_iovlen = 2;
  all(sendmsg(tiny_ends[1], &message, 0), 40, "sendmsg");
  all(recvmsg(tiny_ends[0], &message, 0), 40, "recvmsg");
  strcpy(tiny_buffer, "/dev/zero");
  const int fd = open(tiny_buffer, O_RDONLY);
  all(read(fd, tiny_buffer, 1 << 20), 1 << 20, "a large read");
  all(close(fd), 0, "close");
  void* const map = mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  all(munmap(map, 1 << 20), 0, "munmap");
  const pid_t child = fork();
  if (child == 0) _exit(tiny_buffer[0]);
  int status = -1;
  all(waitpid(child, &status, 0), child, "waitpid");
  all(status, 0, "fork");
}

void TinyStacks() {
  constexpr size_t kBelow = 8 * kPage, kStack = kPage;
  tiny_buffer = Buffer(1 << 20, 5);
  CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, tiny_ends) == 0, "socketpair");
  TinyBody();  // The loader looks functions up on the first caller's stack.
  char* const below = Buffer(kBelow + kStack, 6);
  for (int round = 0; round < 3; ++round) {
    Walk(0, pages);
    CHECK(getcontext(&tiny) == 0, "getcontext");
    tiny.uc_stack.ss_sp = below + kBelow;
    tiny.uc_stack.ss_size = kStack;
    tiny.uc_link = &tiny_caller;
    makecontext(&tiny, TinyBody, 0);
    CHECK(swapcontext(&tiny_caller, &tiny) == 0 && tiny_trouble == nullptr, "%s", tiny_trouble);
  }
  Verify(below, kBelow, 6, "what lies below a tiny stack");
  close(tiny_ends[0]);
  close(tiny_ends[1]);
  puts("stacks: calls from a page of stack");
}

// Threads that share this one's thread-local storage: clone() without CLONE_SETTLS.
int WithoutStorage(void* argument) {
  const auto index = reinterpret_cast<uintptr_t>(argument);
  for (size_t round = 0; round < 20; ++round) {
    Walk(index * 2000 + round * 100, index * 2000 + round * 100 + 100);
    const size_t bytes = 1 << 20;
    auto* map = static_cast<uint64_t*>(
        mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    CHECK(map != MAP_FAILED, "mmap");
    for (size_t i = 0; i < bytes / 8; i += 64) map[i] = Mix(i + index);
    CHECK(mprotect(map, bytes, PROT_READ) == 0, "mprotect");
    for (size_t i = 0; i < bytes / 8; i += 64) CHECK(map[i] == Mix(i + index), "mapped word %zu", i);
    CHECK(munmap(map, bytes) == 0, "munmap");
  }
  return 0;
}

void SharedStorage() {
  constexpr size_t kThreads = 3;
  constexpr size_t kBytes = 256 * 1024;
  static std::atomic<pid_t> ids[kThreads];
  static char room[kThreads][kBytes] __attribute__((aligned(64)));
  for (size_t i = 0; i < kThreads; ++i) {
    ids[i] = 1;
    const int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM |
                      CLONE_CHILD_CLEARTID;
    CHECK(clone(WithoutStorage, room[i] + kBytes, flags, reinterpret_cast<void*>(i), nullptr, nullptr,
                &ids[i]) > 0,
          "clone: %d", errno);
  }
  for (const auto& id : ids)
    while (id != 0) Walk(9000, 9400);
  printf("stacks: threads without storage of their own\n");
}

// Sets the thread's alternate stack by an instruction that nobody sees, and then sends it a signal that is
// to be handled on a page of its far stack that was never touched.
void* UnseenAlternateStack(void*) {
  static char room[64 * 1024] __attribute__((aligned(4096)));
  static stack_t alternate;
  alternate = {room, 0, sizeof(room)};
  long result = SYS_sigaltstack;
  asm volatile("syscall" : "+a"(result) : "D"(&alternate), "S"(nullptr) : "rcx", "r11", "memory");
  CHECK(result == 0, "sigaltstack: %ld", result);
  const uint64_t before = handled;
  const auto here = reinterpret_cast<uintptr_t>(__builtin_frame_address(0));
  const uintptr_t below = ((here - 64 * 1024) & ~uintptr_t{kPage - 1}) + 256;
  const long process = getpid();
  const long thread = syscall(SYS_gettid);
  result = SYS_tgkill;
  asm volatile("mov %%rsp, %%rbx\n mov %[below], %%rsp\n syscall\n mov %%rbx, %%rsp"
               : "+a"(result)
               : "D"(process), "S"(thread), "d"(long{SIGALRM}), [below] "r"(below)
               : "rbx", "rcx", "r11", "memory");
  CHECK(result == 0 && handled > before, "tgkill: %ld", result);
  alternate = {nullptr, SS_DISABLE, 0};
  result = SYS_sigaltstack;
  asm volatile("syscall" : "+a"(result) : "D"(&alternate), "S"(nullptr) : "rcx", "r11", "memory");
  return nullptr;
}

// A child has its parent's stack, whoever supplied it.
void* ForkThere(void*) {
  const pid_t child = fork();
  if (child == 0) _exit(7);
  int status;
  CHECK(waitpid(child, &status, 0) == child && status == 7 << 8, "child of a thread: %x",
        static_cast<unsigned>(status));
  return nullptr;
}

// Runs a thread to its end on a stack in far memory, which is still there afterwards.
char* OnFarStack(size_t bytes, void* (*routine)(void*)) {
  void* const stack = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(stack != MAP_FAILED, "mmap");
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  CHECK(pthread_attr_setstack(&attributes, stack, bytes) == 0, "setstack");
  pthread_t thread;
  CHECK(pthread_create(&thread, &attributes, routine, nullptr) == 0, "thread");
  pthread_join(thread, nullptr);
  pthread_attr_destroy(&attributes);
  return static_cast<char*>(stack);
}

void Forks() {
  const size_t bytes = 1 << 20;
  char* const stack = OnFarStack(bytes, ForkThere);
  memset(stack, 1, bytes / 2);
  const pid_t child = fork();
  if (child == 0) {
    uint64_t sum = 0;
    for (size_t i = 0; i < bytes; i += kPage) sum += static_cast<unsigned char>(stack[i]);
    _exit(sum > 0 ? 8 : 1);
  }
  int status;
  CHECK(waitpid(child, &status, 0) == child && status == 8 << 8, "child of another: %x",
        static_cast<unsigned>(status));
  munmap(stack, bytes);
  printf("stacks: forks\n");
}

void AlternateStacks() {
  const size_t bytes = 1 << 20;
  munmap(OnFarStack(bytes, UnseenAlternateStack), bytes);
  printf("stacks: alternate stacks that nobody saw\n");
}

uint64_t VirtualKib() {
  char text[4096];
  const int fd = open("/proc/self/status", O_RDONLY);
  const ssize_t bytes = read(fd, text, sizeof(text) - 1);
  close(fd);
  CHECK(bytes > 0, "/proc/self/status");
  text[bytes] = 0;
  const char* line = strstr(text, "VmSize:");
  CHECK(line != nullptr, "VmSize");
  return strtoull(line + 7, nullptr, 10);
}

void* Touch(void* argument) {
  VerifyPage(reinterpret_cast<uintptr_t>(argument) % pages);
  return nullptr;
}

void ComeAndGo() {
  const auto round = [](size_t count) {
    for (size_t i = 0; i < count; ++i) {
      pthread_t threads[4];
      for (size_t k = 0; k < 4; ++k)
        CHECK(pthread_create(&threads[k], nullptr, Touch, reinterpret_cast<void*>(i * 4 + k)) == 0,
              "pthread_create");
      for (const pthread_t thread : threads) CHECK(pthread_join(thread, nullptr) == 0, "pthread_join");
    }
  };
  round(100);
  const uint64_t before = VirtualKib();
  round(500);
  const uint64_t after = VirtualKib();
  CHECK(after < before + 32 * 1024, "from %llu to %llu KiB", static_cast<unsigned long long>(before),
        static_cast<unsigned long long>(after));
  printf("stacks: 2000 threads came and went and left nothing\n");
}

}  // namespace

int main(int argc, char** argv) {
  setvbuf(stdout, nullptr, _IOLBF, 0);
  const uint64_t mib = Argument(argc, argv, 1, 96);
  pages = (mib << 20) / kPage;
  TakeFirstMemory();
  words = static_cast<uint64_t*>(malloc(mib << 20));
  CHECK(words != nullptr, "malloc");
  for (size_t i = 0; i < pages * (kPage / 8); ++i) words[i] = Mix(i);
  struct sigaction action = {};
  action.sa_sigaction = OnAlarm;
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  CHECK(sigaction(SIGALRM, &action, nullptr) == 0, "sigaction");
  Coroutines(false);
  Coroutines(true);
  SuppliedStacks();
  SmallStacks();
  TinyStacks();
  SharedStorage();
  AlternateStacks();
  Forks();
  ComeAndGo();
  Walk(0, pages);
  printf("stacks: %zu pages verified at the end\n", pages);
  return 0;
}
