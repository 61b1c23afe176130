// signals [MiB]: handlers that touch far memory, far memory touched with every signal blocked, alternate
// stacks in the heap, and the calls that act on masks, all while a timer keeps interrupting.

#include <pthread.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <ucontext.h>

#include <atomic>
#include <cerrno>
#include <csetjmp>
#include <csignal>
#include <cstring>
#include <ctime>
#include <thread>

#include "far.h"

namespace {

constexpr size_t kPage = 4096;

uint64_t* words;
size_t count;
std::atomic<uint64_t> handled{0};
std::atomic<uint64_t> on_own_stack{0};
char* own_stack;
constexpr size_t kStackBytes = 256 * 1024;

void Fill() {
  for (size_t i = 0; i < count; ++i) words[i] = Mix(i);
}
void VerifyAt(size_t page) {
  const size_t first = page * (kPage / 8);
  for (size_t i = first; i < first + kPage / 8; ++i)
    CHECK(words[i] == Mix(i), "word %zu: %llx", i, static_cast<unsigned long long>(words[i]));
}
size_t Pages() { return count / (kPage / 8); }
void Walk() {
  for (size_t page = 0; page < Pages(); ++page) VerifyAt(page);
}

// Touches pages the interrupted code surely did not just touch.
void OnAlarm(int signal, siginfo_t* info, void* context) {
  static uint64_t state = 1;
  CHECK(signal == SIGALRM && info->si_signo == SIGALRM && context != nullptr, "signal %d", signal);
  state = Mix(state);
  VerifyAt(state % Pages());
  VerifyAt((state >> 32) % Pages());
  const char* here = reinterpret_cast<const char*>(&context);
  if (own_stack != nullptr && here >= own_stack && here < own_stack + kStackBytes) ++on_own_stack;
  ++handled;
}

void Timer(long microseconds) {
  const itimerval timer = {{0, microseconds}, {0, microseconds}};
  CHECK(setitimer(ITIMER_REAL, &timer, nullptr) == 0, "setitimer");
}

void Install(int flags) {
  auto* action = static_cast<struct sigaction*>(calloc(1, 200000));
  action->sa_sigaction = OnAlarm;
  action->sa_flags = SA_SIGINFO | SA_RESTART | flags;
  Walk();
  CHECK(sigaction(SIGALRM, action, nullptr) == 0, "sigaction");
  auto* old = static_cast<struct sigaction*>(calloc(1, 200000));
  Walk();
  CHECK(sigaction(SIGALRM, nullptr, old) == 0 && old->sa_sigaction == OnAlarm, "sigaction, read back");
  CHECK((old->sa_flags & (SA_SIGINFO | SA_RESTART)) == (SA_SIGINFO | SA_RESTART), "flags %x",
        static_cast<unsigned>(old->sa_flags));
  CHECK((old->sa_flags & SA_ONSTACK) == (flags & SA_ONSTACK), "SA_ONSTACK as given");
  free(action);
  free(old);
}

void Handlers() {
  Install(0);
  Timer(2000);
  while (handled < 50) Walk();
  Timer(0);
  printf("signals: handlers touch far memory while it is walked\n");
}

void Blocked() {
  auto* all = static_cast<sigset_t*>(malloc(200000));
  auto* before = static_cast<sigset_t*>(calloc(1, 200000));
  sigfillset(all);
  Walk();
  CHECK(sigprocmask(SIG_BLOCK, all, before) == 0, "sigprocmask");
  CHECK(sigismember(before, SIGALRM) == 0, "SIGALRM was blocked before");
  Timer(1000);
  const uint64_t seen = handled;
  Walk();
  CHECK(handled == seen, "a blocked signal was handled");
  sigset_t now;
  CHECK(sigprocmask(SIG_SETMASK, nullptr, &now) == 0 && sigismember(&now, SIGALRM) == 1 &&
            sigismember(&now, SIGTERM) == 1,
        "the mask reads back");
  sigset_t pending;
  CHECK(sigpending(&pending) == 0 && sigismember(&pending, SIGALRM) == 1, "SIGALRM is pending");
  sigset_t none;
  sigemptyset(&none);
  errno = 0;
  CHECK(sigsuspend(&none) == -1 && errno == EINTR && handled > seen, "sigsuspend");
  Walk();
  CHECK(sigprocmask(SIG_SETMASK, before, nullptr) == 0, "sigprocmask back");
  Timer(0);
  std::thread helper([] {
    sigset_t everything;
    sigfillset(&everything);
    CHECK(pthread_sigmask(SIG_SETMASK, &everything, nullptr) == 0, "pthread_sigmask");
    Walk();
  });
  helper.join();
  free(all);
  free(before);
  printf("signals: far memory is there with every signal blocked\n");
}

void OwnStack() {
  own_stack = static_cast<char*>(malloc(kStackBytes));
  stack_t stack = {};
  stack.ss_sp = own_stack;
  stack.ss_size = kStackBytes;
  CHECK(sigaltstack(&stack, nullptr) == 0, "sigaltstack");
  stack_t old = {};
  CHECK(sigaltstack(nullptr, &old) == 0 && old.ss_sp == own_stack && old.ss_size == kStackBytes,
        "sigaltstack reads back");
  Install(SA_ONSTACK);
  const uint64_t seen = handled;
  Timer(3000);
  while (handled < seen + 50) Walk();
  Timer(0);
  stack = {};
  stack.ss_flags = SS_DISABLE;
  CHECK(sigaltstack(&stack, nullptr) == 0, "sigaltstack off");
  CHECK(handled > seen, "handlers on an alternate stack");
  own_stack = nullptr;
  printf("signals: handlers with an alternate stack in the heap\n");
}

sigjmp_buf back;
void JumpOut(int) { siglongjmp(back, 1); }

// Leaving a handler by a jump must leave the mask and the stack usable, many times over.
void Jumps() {
  struct sigaction action = {};
  action.sa_handler = JumpOut;
  CHECK(sigaction(SIGSEGV, &action, nullptr) == 0, "sigaction");
  auto* none = static_cast<char*>(mmap(nullptr, 1 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  volatile int caught = 0;
  for (int i = 0; i < 100; ++i) {
    if (sigsetjmp(back, 1) == 0) {
      *static_cast<volatile char*>(none + i * 4096) = 1;
      CHECK(false, "wrote to a page without rights");
    }
    caught = caught + 1;
    VerifyAt(static_cast<size_t>(i) % Pages());
  }
  CHECK(caught == 100, "caught %d", caught);
  signal(SIGSEGV, SIG_DFL);
  munmap(none, 1 << 20);
  printf("signals: jumps out of a SIGSEGV handler\n");
}

void Waits() {
  sigset_t usr1;
  sigemptyset(&usr1);
  sigaddset(&usr1, SIGUSR1);
  CHECK(pthread_sigmask(SIG_BLOCK, &usr1, nullptr) == 0, "pthread_sigmask");
  auto* info = static_cast<siginfo_t*>(calloc(1, 200000));
  auto* wait = static_cast<timespec*>(calloc(1, 200000));
  wait->tv_sec = 10;
  CHECK(raise(SIGUSR1) == 0, "raise");
  Walk();
  CHECK(sigtimedwait(&usr1, info, wait) == SIGUSR1 && info->si_signo == SIGUSR1, "sigtimedwait");
  free(info);
  free(wait);
  printf("signals: waiting for a signal into far memory\n");
}

}  // namespace

int main(int argc, char** argv) {
  setvbuf(stdout, nullptr, _IOLBF, 0);
  const uint64_t mib = Argument(argc, argv, 1, 128);
  count = (mib << 20) / sizeof(uint64_t);
  TakeFirstMemory();
  words = static_cast<uint64_t*>(malloc(mib << 20));
  CHECK(words != nullptr, "malloc");
  Fill();
  Handlers();
  Blocked();
  OwnStack();
  Jumps();
  Waits();
  Walk();
  printf("signals: %zu words verified at the end\n", count);
  return 0;
}
