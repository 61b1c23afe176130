// interrupted [MiB [ROUNDS]]: one load at a time, of a page that is usually far, with every register full,
// while another thread sends a signal at a random moment of it. The load must change nothing but its own
// register; each signal must arrive once, with its value, in order, and soon: the next load waits for it.
// Then the same where the load is the first thing a thread does.

#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstring>
#include <ctime>
#include <initializer_list>

#include "check.h"

namespace {

constexpr size_t kWords = 4096 / 8;

uint64_t* array;
size_t pages = 1;
uint64_t rounds;
std::atomic<uint64_t> round_now{0};
volatile uint64_t arrived = 0;
pthread_t receiver;

// Not SIGBUS: like every standard signal it is lost while one is pending, and a far fault is one.
constexpr int kStandard[] = {SIGUSR1, SIGSYS, SIGUSR2, SIGWINCH};
int SignalOf(uint64_t round) {
  const uint64_t kind = Mix(round * 3) % 8;
  return kind < 4 ? kStandard[kind] : SIGRTMIN + static_cast<int>(kind % 2);
}
// Those that are queued come several at a time.
uint64_t SignalsIn(uint64_t round) { return SignalOf(round) < SIGRTMIN ? 1 : 1 + Mix(round * 17) % 3; }
size_t PageOf(uint64_t round) { return Mix(round * 5) % pages; }

void OnSignal(int signal, siginfo_t* info, void*) {
  const uint64_t number = arrived + 1;
  const uint64_t round = round_now.load();
  CHECK(signal == SignalOf(round), "round %zu: signal %d", static_cast<size_t>(round), signal);
  CHECK(info->si_signo == signal && info->si_code == SI_QUEUE && info->si_pid == getpid() &&
            info->si_value.sival_ptr == reinterpret_cast<void*>(number),
        "round %zu: signal %d with code %d, value %p", static_cast<size_t>(round), signal, info->si_code,
        info->si_value.sival_ptr);
  // Handlers have faults of their own.
  const size_t page = PageOf(number * 7);
  CHECK(array[page * kWords] == Mix(page), "page %zu", page);
  arrived = number;
}

void* Send(void*) {
  uint64_t number = 0;
  for (uint64_t round = 1; round <= rounds; ++round) {
    while (round_now.load(std::memory_order_acquire) < round) sched_yield();
    const uint64_t pause = Mix(round * 11) % 256;
    for (uint64_t i = 0; i < pause; ++i) __builtin_ia32_pause();
    for (uint64_t i = SignalsIn(round); i > 0; --i) {
      sigval value = {};
      value.sival_ptr = reinterpret_cast<void*>(++number);
      CHECK(pthread_sigqueue(receiver, SignalOf(round), value) == 0, "pthread_sigqueue");
    }
  }
  return nullptr;
}

struct Registers {
  uint64_t general[13];  // All but rax (address and result), rsp and rbp.
  uint64_t vectors[16][4];
  uint64_t flags;
};

// Fills the registers from `in`, loads the word at `at`, writes the registers to `out`.
__attribute__((target("avx"), noinline)) uint64_t Load(const uint64_t* at, const Registers* in,
                                                       Registers* out) {
  uint64_t result = reinterpret_cast<uint64_t>(at);
  asm volatile(
      "push %%rbp\n\t"
      "push %%rbx\n\t"
      "push %[out]\n\t"
      "mov %[in], %%rbp\n\t"
      ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n\t"
      "vmovdqu 104+32*\\n(%%rbp), %%ymm\\n\n\t"
      ".endr\n\t"
      "push 616(%%rbp)\n\t"
      "popf\n\t"
      "mov 0(%%rbp), %%rbx\n\t"
      "mov 8(%%rbp), %%rcx\n\t"
      "mov 16(%%rbp), %%rdx\n\t"
      "mov 24(%%rbp), %%rsi\n\t"
      "mov 32(%%rbp), %%rdi\n\t"
      ".irp n, 8,9,10,11,12,13,14,15\n\t"
      "mov 40+8*(\\n-8)(%%rbp), %%r\\n\n\t"
      ".endr\n\t"
      "mov (%%rax), %%rax\n\t"  // The load.
      "mov (%%rsp), %%rbp\n\t"
      "mov %%rbx, 0(%%rbp)\n\t"
      "mov %%rcx, 8(%%rbp)\n\t"
      "mov %%rdx, 16(%%rbp)\n\t"
      "mov %%rsi, 24(%%rbp)\n\t"
      "mov %%rdi, 32(%%rbp)\n\t"
      ".irp n, 8,9,10,11,12,13,14,15\n\t"
      "mov %%r\\n, 40+8*(\\n-8)(%%rbp)\n\t"
      ".endr\n\t"
      "pushf\n\t"
      "pop 616(%%rbp)\n\t"
      ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n\t"
      "vmovdqu %%ymm\\n, 104+32*\\n(%%rbp)\n\t"
      ".endr\n\t"
      "vzeroupper\n\t"
      "cld\n\t"
      "pop %[out]\n\t"
      "pop %%rbx\n\t"
      "pop %%rbp\n\t"
      : "+a"(result), [in] "+S"(in), [out] "+D"(out)
      :
      : "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "xmm0", "xmm1", "xmm2", "xmm3",
        "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15",
        "memory", "cc");
  return result;
}

std::atomic<uint64_t> first_loads{0};
std::atomic<uint64_t> first_arrived{0};
std::atomic<bool> first_ends{false};

void OnFirst(int) {
  const uint64_t number = first_arrived.load();
  const size_t page = PageOf(number * 7);
  CHECK(array[page * kWords] == Mix(page), "page %zu", page);
  first_arrived = number + 1;
}

// Begins in a thread that libc knows nothing of, and makes no call before its load nor any by way of libc.
int LoadFirst(void* argument) {
  const auto page = reinterpret_cast<size_t>(argument);
  const uint64_t got = *static_cast<volatile uint64_t*>(array + page * kWords);
  CHECK(got == Mix(page), "page %zu", page);
  ++first_loads;
  while (!first_ends.load()) __builtin_ia32_pause();
  asm volatile("syscall" : : "a"(SYS_exit), "D"(0) : "rcx", "r11", "memory");
  __builtin_unreachable();
}

// Signals at random moments of a thread's very first fault, when nothing of it has been prepared yet.
void FirstFaults() {
  signal(SIGUSR1, OnFirst);
  static char stack[64 * 1024] __attribute__((aligned(64)));
  static std::atomic<pid_t> id;
  for (uint64_t round = 0; round < rounds; ++round) {
    first_ends = false;
    id = 1;
    const int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM |
                      CLONE_CHILD_CLEARTID;
    const pid_t thread = clone(LoadFirst, stack + sizeof(stack), flags,
                               reinterpret_cast<void*>(PageOf(round)), nullptr, nullptr, &id);
    CHECK(thread > 0, "clone");
    const uint64_t pause = Mix(round * 11) % 2048;
    for (uint64_t i = 0; i < pause; ++i) __builtin_ia32_pause();
    CHECK(syscall(SYS_tgkill, getpid(), thread, SIGUSR1) == 0, "tgkill");
    timespec began;
    clock_gettime(CLOCK_MONOTONIC, &began);
    while (first_arrived <= round || first_loads <= round) {
      timespec now;
      clock_gettime(CLOCK_MONOTONIC, &now);
      CHECK(now.tv_sec - began.tv_sec < 60, "thread %zu: its load or its signal is lost",
            static_cast<size_t>(round));
      sched_yield();
    }
    first_ends = true;
    while (id != 0) sched_yield();
  }
  CHECK(first_arrived == rounds && first_loads == rounds, "%zu signals", static_cast<size_t>(first_arrived));
  printf("interrupted: %zu first loads\n", static_cast<size_t>(rounds));
}

struct Shared {
  volatile int sent;
  volatile bool stop;
};
volatile int traced_arrived = 0;
void OnTraced(int) { traced_arrived = traced_arrived + 1; }

[[noreturn]] void Traced(Shared* shared) {
  CHECK(ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) == 0, "PTRACE_TRACEME");
  signal(SIGUSR1, OnTraced);
  for (uint64_t round = 0; !shared->stop; ++round) {
    for (uint64_t i = 0; i < pages / 4; ++i) {  // Others go out.
      const size_t page = Mix(round * pages + i) % pages;
      CHECK(array[page * kWords] == Mix(page), "page %zu", page);
    }
    raise(SIGSTOP);
    const size_t page = PageOf(round);
    CHECK(*static_cast<volatile uint64_t*>(array + page * kWords) == Mix(page), "page %zu", page);
    CHECK(traced_arrived == shared->sent, "signal %d before instruction %d", shared->sent, shared->sent - 1);
  }
  _exit(0);
}

// One stop of the child; the signal that stopped it.
int Wait(pid_t child) {
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child, "waitpid");
  if (WIFEXITED(status)) exit(WEXITSTATUS(status));  // It said why.
  CHECK(WIFSTOPPED(status), "the child ended with status %x", static_cast<unsigned>(status));
  return WSTOPSIG(status);
}

int Step(pid_t child, int signal) {
  CHECK(ptrace(PTRACE_SINGLESTEP, child, nullptr, signal) == 0, "PTRACE_SINGLESTEP");
  return Wait(child);
}

user_regs_struct Position(pid_t child) {
  user_regs_struct registers;
  CHECK(ptrace(PTRACE_GETREGS, child, nullptr, &registers) == 0, "PTRACE_GETREGS");
  return registers;
}
uint32_t NextInstruction(pid_t child) {
  return static_cast<uint32_t>(ptrace(PTRACE_PEEKTEXT, child, Position(child).rip, nullptr));
}

// Where the last instructions that serve a fault begin.
unsigned long long EndOfAFault() {
  constexpr uint32_t kBegin = 0xd8678d48;  // lea -40(%rdi), %rsp
  FILE* maps = fopen("/proc/self/maps", "r");
  CHECK(maps != nullptr, "/proc/self/maps");
  unsigned long long found = 0, first, last;
  for (char line[512]; fgets(line, sizeof(line), maps) != nullptr;) {
    char rights[5];
    if (strstr(line, "libfarpool-preload") == nullptr) continue;
    if (sscanf(line, "%llx-%llx %4s", &first, &last, rights) != 3 || strcmp(rights, "r-xp") != 0) continue;
    const auto* text = reinterpret_cast<const char*>(first);
    while ((text = static_cast<const char*>(memmem(text, last - reinterpret_cast<uintptr_t>(text), &kBegin,
                                                   sizeof(kBegin)))) != nullptr) {
      CHECK(found == 0, "they begin at two places");
      found = reinterpret_cast<uintptr_t>(text++);
    }
  }
  fclose(maps);
  CHECK(found != 0, "they begin nowhere");
  return found;
}

// Lets the child, stopped by a fault's SIGBUS, run to the last instructions that serve it.
void RunToEnd(pid_t child) {
  static const unsigned long long begin = EndOfAFault();
  const long text = ptrace(PTRACE_PEEKTEXT, child, begin, nullptr);
  CHECK(ptrace(PTRACE_POKETEXT, child, begin, (text & ~0xffL) | 0xcc) == 0, "PTRACE_POKETEXT");
  CHECK(ptrace(PTRACE_CONT, child, nullptr, SIGBUS) == 0, "PTRACE_CONT");
  CHECK(Wait(child) == SIGTRAP, "no breakpoint");
  CHECK(ptrace(PTRACE_POKETEXT, child, begin, text) == 0, "PTRACE_POKETEXT");
  user_regs_struct registers = Position(child);
  registers.rip = begin;
  CHECK(ptrace(PTRACE_SETREGS, child, nullptr, &registers) == 0, "PTRACE_SETREGS");
}

// Ordinarily a page is simply there, and nothing is sent.
void SlowMotion() {
  constexpr uint32_t kEnd = 0xcf48;  // iretq
  void* map = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(map != MAP_FAILED, "mmap");
  auto* shared = static_cast<Shared*>(map);
  const pid_t child = fork();
  CHECK(child >= 0, "fork");
  if (child == 0) Traced(shared);
  bool loads = false;
  for (int loaded = 0; !shared->stop;) {
    int signal = Wait(child);
    if (signal == SIGSTOP) loads = true;
    if (signal == SIGBUS && loads) {
      loads = false;
      RunToEnd(child);
      for (int i = 0; i < shared->sent; ++i) Step(child, 0);
      shared->stop = (NextInstruction(child) & 0xffff) == kEnd;
      shared->sent = shared->sent + 1;
      signal = SIGUSR1;
    } else if (signal == SIGSTOP) {
      signal = 0;
      shared->stop = ++loaded == 400;
    }
    CHECK(ptrace(PTRACE_CONT, child, nullptr, signal) == 0, "PTRACE_CONT");
  }
  int status = 0;
  for (;;) {
    CHECK(waitpid(child, &status, 0) == child, "waitpid");
    if (!WIFSTOPPED(status)) break;
    ptrace(PTRACE_CONT, child, nullptr, WSTOPSIG(status) == SIGSTOP ? 0 : WSTOPSIG(status));
  }
  CHECK(status == 0, "the child ended with status %x", static_cast<unsigned>(status));
}

}  // namespace

int main(int argc, char** argv) {
  const uint64_t mib = Argument(argc, argv, 1, 64);
  rounds = Argument(argc, argv, 2, 8000);
  pages = (mib << 20) / 4096;
  array = static_cast<uint64_t*>(malloc(mib << 20));
  CHECK(array != nullptr && pages > 0, "malloc");
  for (size_t page = 0; page < pages; ++page)
    for (size_t word = 0; word < kWords; ++word) array[page * kWords + word] = Mix(page + word * pages);
  struct sigaction action = {};
  action.sa_sigaction = OnSignal;
  action.sa_flags = SA_SIGINFO;
  sigemptyset(&action.sa_mask);
  for (const int signal : {SIGUSR1, SIGUSR2, SIGWINCH, SIGSYS, SIGRTMIN, SIGRTMIN + 1})
    CHECK(sigaction(signal, &action, nullptr) == 0, "sigaction");
  receiver = pthread_self();
  pthread_t sender;
  CHECK(pthread_create(&sender, nullptr, Send, nullptr) == 0, "pthread_create");
  uint64_t expected = 0;
  for (uint64_t round = 1; round <= rounds; ++round) {
    expected += SignalsIn(round);
    Registers in;
    for (size_t i = 0; i < 13; ++i) in.general[i] = Mix(round * 100 + i);
    for (auto& vector : in.vectors)
      for (uint64_t& part : vector) part = Mix(round + static_cast<uint64_t>(&part - in.vectors[0]));
    in.flags = 0x202 | (Mix(round) & 0xcd5);  // Carry, parity, adjust, zero, sign, direction, overflow.
    Registers out = {};
    const size_t page = PageOf(round);
    const size_t word = Mix(round * 13) % kWords;
    round_now.store(round, std::memory_order_release);
    const uint64_t got = Load(array + page * kWords + word, &in, &out);
    CHECK(got == Mix(page + word * pages), "round %zu: a wrong word", static_cast<size_t>(round));
    CHECK(memcmp(&in, &out, sizeof(in)) == 0, "round %zu: a register has changed",
          static_cast<size_t>(round));
    timespec began;
    clock_gettime(CLOCK_MONOTONIC, &began);
    while (arrived < expected) {
      timespec now;
      clock_gettime(CLOCK_MONOTONIC, &now);
      CHECK(now.tv_sec - began.tv_sec < 60, "round %zu: signal %d is lost", static_cast<size_t>(round),
            SignalOf(round));
    }
  }
  CHECK(pthread_join(sender, nullptr) == 0, "pthread_join");
  printf("interrupted: %zu loads\n", static_cast<size_t>(rounds));
  FirstFaults();
  SlowMotion();
  return 0;
}
