// handlers [MiB]: what a program may rely on about signal handlers: which stack they run on, what is masked,
// what sigaction and sigaltstack tell, what reaches them, and how they may be left; with far memory walked in
// between.

#include <fcntl.h>
#include <linux/aio_abi.h>
#include <poll.h>
#include <pthread.h>
#include <spawn.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csetjmp>
#include <csignal>
#include <cstring>
#include <ctime>

#include "far.h"

extern char** environ;

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kStackBytes = 128 * 1024;

uint64_t* words;
size_t pages;

void VerifyPage(size_t page) {
  for (size_t i = page * (kPage / 8); i < (page + 1) * (kPage / 8); ++i)
    CHECK(words[i] == Mix(i), "word %zu: %llx", i, static_cast<unsigned long long>(words[i]));
}
void Walk() {
  for (size_t page = 0; page < pages; ++page) VerifyPage(page);
}

sigset_t Set(int a = 0, int b = 0, int c = 0) {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {a, b, c})
    if (signal != 0) sigaddset(&set, signal);
  return set;
}
uint64_t Bits(const sigset_t& set) {
  uint64_t bits;
  memcpy(&bits, &set, sizeof(bits));
  return bits;
}
uint64_t Masked() {
  sigset_t now;
  CHECK(sigprocmask(SIG_SETMASK, nullptr, &now) == 0, "sigprocmask");
  return Bits(now);
}
void Install(int signal, void (*handler)(int, siginfo_t*, void*), unsigned flags = 0, sigset_t mask = Set()) {
  struct sigaction action = {};
  action.sa_sigaction = handler;
  action.sa_flags = static_cast<int>(flags | SA_SIGINFO);
  action.sa_mask = mask;
  CHECK(sigaction(signal, &action, nullptr) == 0, "sigaction %d", signal);
}
void Forget(int signal) { CHECK(::signal(signal, SIG_DFL) != SIG_ERR, "signal %d", signal); }

bool Within(const void* at, const void* begin, size_t bytes) {
  return at >= begin && at < static_cast<const char*>(begin) + bytes;
}

// --- stacks

char* alternate;
const char* interrupted;
std::atomic<int> seen{0};
stack_t as_asked;

void OnInterruptedStack(int, siginfo_t*, void*) {
  const char* here = static_cast<const char*>(__builtin_frame_address(0));
  CHECK(here < interrupted && interrupted - here < 65536, "handler at %p, interrupted at %p", here,
        interrupted);
  ++seen;
}

void OnNested(int, siginfo_t*, void* context) {
  const auto sp = static_cast<uintptr_t>(static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RSP]);
  CHECK(Within(&sp, alternate, kStackBytes) && reinterpret_cast<uintptr_t>(&sp) < sp, "nested at %p", &sp);
  ++seen;
}

void OnAlternateStack(int, siginfo_t*, void* context) {
  stack_t now;
  CHECK(Within(&now, alternate, kStackBytes), "handler at %p, alternate stack %p", &now, alternate);
  CHECK(sigaltstack(nullptr, &now) == 0 && now.ss_flags == SS_ONSTACK && now.ss_sp == alternate &&
            now.ss_size == kStackBytes,
        "flags %d", now.ss_flags);
  CHECK(sigaltstack(&as_asked, nullptr) == -1 && errno == EPERM, "changed while in use: %d", errno);
  const auto* user = static_cast<const ucontext_t*>(context);
  CHECK(user->uc_stack.ss_sp == alternate && user->uc_stack.ss_size == kStackBytes, "uc_stack");
  VerifyPage(seen % pages);
  CHECK(raise(SIGUSR2) == 0, "raise");
  ++seen;
}

void OnDisarmed(int, siginfo_t*, void*) {
  stack_t now;
  CHECK(Within(&now, alternate, kStackBytes), "handler at %p", &now);
  CHECK(sigaltstack(nullptr, &now) == 0 && now.ss_flags == SS_DISABLE, "armed: %x",
        static_cast<unsigned>(now.ss_flags));
  ++seen;
}

sigjmp_buf back;
void JumpBack(int, siginfo_t*, void*) { siglongjmp(back, 1); }

void Overflow(volatile char* above) {
  volatile char local[4096];
  if (above[0] == 0) return;
  local[0] = above[0];
  Overflow(local);
  local[1] = above[1];
}

void Stacks() {
  interrupted = static_cast<const char*>(__builtin_frame_address(0));
  Install(SIGUSR1, OnInterruptedStack);
  CHECK(raise(SIGUSR1) == 0 && seen == 1, "raise");
  alternate = static_cast<char*>(malloc(kStackBytes));
  as_asked = {};
  as_asked.ss_sp = alternate;
  as_asked.ss_size = 1024;
  CHECK(sigaltstack(&as_asked, nullptr) == -1 && errno == ENOMEM, "1 KiB: %d", errno);
  as_asked.ss_size = kStackBytes;
  as_asked.ss_flags = 77;
  CHECK(sigaltstack(&as_asked, nullptr) == -1 && errno == EINVAL, "bad flags: %d", errno);
  as_asked.ss_flags = 0;
  CHECK(sigaltstack(&as_asked, nullptr) == 0, "sigaltstack");
  CHECK(raise(SIGUSR1) == 0 && seen == 2, "an action without SA_ONSTACK stays on its stack");
  Install(SIGUSR1, OnAlternateStack, SA_ONSTACK);
  Install(SIGUSR2, OnNested, SA_ONSTACK);
  for (int i = 0; i < 20; ++i) {
    Walk();
    CHECK(raise(SIGUSR1) == 0 && seen == 4 + 2 * i, "raise");
  }
  // Out of the alternate stack by a jump, many times: it is free again each time.
  Install(SIGUSR1, JumpBack, SA_ONSTACK);
  volatile int jumps = 0;
  while (jumps < 1000) {
    if (sigsetjmp(back, 1) == 0) raise(SIGUSR1);
    jumps = jumps + 1;
  }
  stack_t now;
  CHECK(sigaltstack(nullptr, &now) == 0 && now.ss_flags == 0 && now.ss_sp == alternate, "after jumps");
  // The way languages catch the end of their stack.
  Install(SIGSEGV, JumpBack, SA_ONSTACK);
  volatile char first[2] = {1, 2};
  if (sigsetjmp(back, 1) == 0) {
    Overflow(first);
    CHECK(false, "an endless recursion ended");
  }
  Forget(SIGSEGV);
  as_asked.ss_flags = static_cast<int>(1U << 31);  // SS_AUTODISARM
  CHECK(sigaltstack(&as_asked, nullptr) == 0, "SS_AUTODISARM");
  seen = 0;
  Install(SIGUSR1, OnDisarmed, SA_ONSTACK);
  CHECK(raise(SIGUSR1) == 0 && raise(SIGUSR1) == 0 && seen == 2, "raise");
  CHECK(sigaltstack(nullptr, &now) == 0 && now.ss_sp == alternate &&
            static_cast<unsigned>(now.ss_flags) == 1U << 31,
        "armed again: %x", static_cast<unsigned>(now.ss_flags));
  as_asked.ss_flags = SS_DISABLE;
  CHECK(sigaltstack(&as_asked, nullptr) == 0 && sigaltstack(nullptr, &now) == 0 && now.ss_flags == SS_DISABLE,
        "off");
  interrupted = static_cast<const char*>(__builtin_frame_address(0));
  Install(SIGUSR1, OnInterruptedStack, SA_ONSTACK);
  CHECK(raise(SIGUSR1) == 0, "raise");
  free(alternate);
  Forget(SIGUSR1);
  Forget(SIGUSR2);
  printf("handlers: interrupted and alternate stacks\n");
}

void OnSmallStack(int, siginfo_t*, void*) {
  for (size_t i = 1; i < 8; ++i) VerifyPage(pages / 8 * i);
  ++seen;
}

// As small as they work, and smaller.
void SmallStacks() {
  const auto least = static_cast<size_t>(sysconf(_SC_MINSIGSTKSZ));
  Install(SIGUSR1, OnSmallStack, SA_ONSTACK);
  seen = 0;
  int rounds = 0;
  for (const size_t bytes : {least + 1024, size_t{2048}}) {
    auto* stack = static_cast<char*>(malloc(1 << 20));
    memset(stack, 3, 1 << 20);
    stack_t set = {};
    set.ss_sp = stack + (1 << 19) - bytes;
    set.ss_size = bytes;
    Walk();
    const pid_t child = fork();
    if (child == 0) {
      if (sigaltstack(&set, nullptr) != 0) _exit(errno);
      raise(SIGUSR1);
      for (size_t i = 0; i < 1 << 20; ++i)
        CHECK(stack[i] == 3 || Within(stack + i, set.ss_sp, bytes), "byte %zu", i);
      _exit(100 + seen);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child, "waitpid");
    printf("handlers: a small alternate stack, %d: %x\n", ++rounds, static_cast<unsigned>(status) & ~0x80U);
    free(stack);
  }
  Forget(SIGUSR1);
}

// --- masks and actions

uint64_t expected_mask;
void CheckMask(int, siginfo_t*, void*) {
  for (size_t i = 1; i < 8; ++i) VerifyPage(pages / 8 * i);
  CHECK(Masked() == expected_mask, "%llx in the handler, not %llx", static_cast<unsigned long long>(Masked()),
        static_cast<unsigned long long>(expected_mask));
  ++seen;
}
void BlockBehind(int, siginfo_t*, void* context) {
  sigaddset(&static_cast<ucontext_t*>(context)->uc_sigmask, SIGUSR2);
  ++seen;
}

void Masks() {
  CHECK(Masked() == 0, "%llx", static_cast<unsigned long long>(Masked()));
  expected_mask = Bits(Set(SIGUSR1, SIGHUP, SIGBUS));
  Install(SIGUSR1, CheckMask, 0, Set(SIGHUP, SIGBUS));
  seen = 0;
  CHECK(raise(SIGUSR1) == 0 && seen == 1 && Masked() == 0, "raise");
  expected_mask = Bits(Set(SIGHUP));
  Install(SIGUSR1, CheckMask, SA_NODEFER, Set(SIGHUP));
  CHECK(raise(SIGUSR1) == 0 && seen == 2 && Masked() == 0, "raise");
  Install(SIGUSR1, BlockBehind);
  CHECK(raise(SIGUSR1) == 0 && seen == 3 && Masked() == Bits(Set(SIGUSR2)), "a mask changed by the handler");
  sigset_t set = Set();
  sigprocmask(SIG_SETMASK, &set, nullptr);

  // A wait's own mask holds in the handler; the thread's comes back behind it.
  const sigset_t outside = Set(SIGUSR1, SIGTERM, SIGSYS);
  const sigset_t inside = Set(SIGWINCH, SIGBUS);
  sigprocmask(SIG_SETMASK, &outside, nullptr);
  expected_mask = Bits(Set(SIGWINCH, SIGBUS, SIGUSR1));
  // On a stack that was not touched for long: the mask must not keep it away.
  stack_t stack = {};
  stack.ss_sp = FarRoom(kStackBytes);
  stack.ss_size = kStackBytes;
  CHECK(sigaltstack(&stack, nullptr) == 0, "sigaltstack");
  Install(SIGUSR1, CheckMask, SA_ONSTACK);
  const timespec second = {1, 0};
  const int epoll = epoll_create1(0);
  for (int i = 0; i < 6; ++i) {
    raise(SIGUSR1);
    Walk();
    int r = 0;
    epoll_event event;
    struct {
      const sigset_t* mask;
      size_t bytes;
    } const argument = {&inside, sizeof(uint64_t)};
    if (i == 0) r = sigsuspend(&inside);
    if (i == 1) r = ppoll(nullptr, 0, &second, &inside);
    if (i == 2) r = pselect(0, nullptr, nullptr, nullptr, &second, &inside);
    if (i == 3) r = epoll_pwait(epoll, &event, 1, 1000, &inside);
    if (i == 4) r = epoll_pwait2(epoll, &event, 1, &second, &inside);
    if (i == 5) {
      aio_context_t context = 0;
      io_event done;
      CHECK(syscall(SYS_io_setup, 1, &context) == 0, "io_setup: %d", errno);
      r = static_cast<int>(syscall(SYS_io_pgetevents, context, 1, 1, &done, &second, &argument));
      const int error = errno;
      syscall(SYS_io_destroy, context);
      errno = error;
    }
    CHECK(r == -1 && errno == EINTR && seen == 4 + i, "wait %d: %d", i, errno);
    CHECK(Masked() == Bits(outside), "wait %d leaves %llx", i, static_cast<unsigned long long>(Masked()));
  }
  close(epoll);
  stack.ss_flags = SS_DISABLE;
  CHECK(sigaltstack(&stack, nullptr) == 0, "sigaltstack");
  sigprocmask(SIG_SETMASK, &set, nullptr);

  // Each action reads back as it was set, also those of the signals that memory is served with.
  for (const int signal : {SIGBUS, SIGSYS, SIGSEGV, SIGUSR1}) {
    const sigset_t mask = Set(SIGBUS, SIGSYS, SIGALRM);
    Install(signal, CheckMask, SA_RESTART | SA_NODEFER, mask);
    struct sigaction old;
    Walk();
    CHECK(sigaction(signal, nullptr, &old) == 0 && old.sa_sigaction == CheckMask &&
              Bits(old.sa_mask) == Bits(mask),
          "action of %d", signal);
    CHECK((old.sa_flags & ~0x04000000) == (SA_RESTART | SA_NODEFER | SA_SIGINFO), "flags %x",
          static_cast<unsigned>(old.sa_flags));
    CHECK(::signal(signal, SIG_IGN) != SIG_ERR && sigaction(signal, nullptr, &old) == 0 &&
              old.sa_handler == SIG_IGN,
          "ignored");
    struct sigaction ignored = {};
    ignored.sa_handler = SIG_IGN;
    ignored.sa_mask = mask;
    CHECK(sigaction(signal, &ignored, nullptr) == 0 && sigaction(signal, nullptr, &old) == 0 &&
              old.sa_handler == SIG_IGN && Bits(old.sa_mask) == Bits(mask),
          "ignored, with a mask");
    Forget(signal);
  }
  struct sigaction old = {};
  CHECK(sigaction(SIGKILL, nullptr, &old) == 0 && ::signal(SIGKILL, SIG_IGN) == SIG_ERR && errno == EINVAL,
        "SIGKILL");
  Install(SIGUSR1, CheckMask, SA_RESETHAND);
  expected_mask = Bits(Set(SIGUSR1));
  raise(SIGUSR1);
  CHECK(sigaction(SIGUSR1, nullptr, &old) == 0 && old.sa_handler == SIG_DFL, "SA_RESETHAND");
  printf("handlers: masks and actions\n");
}

// --- our two signals, sent

int sent_value;
void OnSent(int signal, siginfo_t* info, void*) {
  CHECK(info->si_signo == signal && info->si_pid == getpid(), "from %d", info->si_pid);
  sent_value = info->si_code == SI_QUEUE ? info->si_value.sival_int : -1;
  ++seen;
}

int sends;
void OnSending(int, siginfo_t*, void*) {
  const int before = seen;
  CHECK(raise(sends) == 0 && seen == before, "a signal came although the handler blocks it");
}

void Sent() {
  for (const int signal : {SIGBUS, SIGSYS, SIGUSR1}) {
    seen = 0;
    Install(signal, OnSent);
    sigval value;
    value.sival_int = 4711;
    CHECK(raise(signal) == 0 && seen == 1 && sent_value == -1, "raise");
    CHECK(sigqueue(getpid(), signal, value) == 0 && seen == 2 && sent_value == 4711, "sigqueue");
    CHECK(pthread_kill(pthread_self(), signal) == 0 && seen == 3, "pthread_kill");
    // Blocked, it waits; the memory is served all the same.
    const sigset_t set = Set(signal);
    CHECK(sigprocmask(SIG_BLOCK, &set, nullptr) == 0 && raise(signal) == 0 && seen == 3, "blocked");
    Walk();
    sigset_t pending;
    CHECK(sigpending(&pending) == 0 && Bits(pending) == Bits(set), "pending");
    CHECK(sigprocmask(SIG_UNBLOCK, &set, nullptr) == 0 && seen == 4, "unblocked");
    sigprocmask(SIG_BLOCK, &set, nullptr);
    siginfo_t info;
    CHECK(raise(signal) == 0 && sigwaitinfo(&set, &info) == signal && info.si_signo == signal && seen == 4,
          "sigwaitinfo");
    sigprocmask(SIG_UNBLOCK, &set, nullptr);
    const sigset_t none = Set();
    sigprocmask(SIG_BLOCK, &set, nullptr);
    CHECK(raise(signal) == 0 && sigsuspend(&none) == -1 && seen == 5, "sigsuspend");
    sigprocmask(SIG_UNBLOCK, &set, nullptr);
    // What a handler holds back comes as soon as it is over.
    sends = signal;
    Install(SIGUSR2, OnSending, 0, set);
    CHECK(raise(SIGUSR2) == 0 && seen == 6, "held back by a handler");
    Forget(SIGUSR2);
    ::signal(signal, SIG_IGN);
    CHECK(raise(signal) == 0 && seen == 6, "ignored");
    Walk();
    Forget(signal);
    const pid_t child = fork();
    if (child == 0) {
      raise(signal);
      _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == signal,
          "default: %x", static_cast<unsigned>(status));
  }
  printf("handlers: signals that were sent\n");
}

// --- faults of the program's own

volatile uintptr_t fault_at;
volatile int fault_code;
void OnFault(int, siginfo_t* info, void*) {
  fault_at = reinterpret_cast<uintptr_t>(info->si_addr);
  fault_code = info->si_code;
  siglongjmp(back, 1);
}

void Expect(volatile char* at, int code) {
  fault_at = 0;
  if (sigsetjmp(back, 1) == 0) {
    *at = 1;
    CHECK(false, "no fault at %p", const_cast<char*>(at));
  }
  CHECK(fault_at == reinterpret_cast<uintptr_t>(at) && fault_code == code, "at %p, code %d, not %p, %d",
        reinterpret_cast<void*>(fault_at), fault_code, const_cast<char*>(at), code);
}

// The handler that was there before is called by the one in front of it.
struct sigaction chained[2];
void OnFaultInFront(int signal, siginfo_t* info, void* context) {
  ++seen;
  chained[signal == SIGBUS ? 0 : 1].sa_sigaction(signal, info, context);
}
void Chain(int signal) {
  struct sigaction action = {};
  action.sa_sigaction = OnFaultInFront;
  action.sa_flags = SA_SIGINFO;
  seen = 0;
  CHECK(sigaction(signal, &action, &chained[signal == SIGBUS ? 0 : 1]) == 0, "sigaction");
}

char* barrier;
constexpr size_t kBarrierBytes = 8 << 20;
std::atomic<size_t> barrier_hits{0};
void OnBarrier(int, siginfo_t* info, void*) {
  auto at = reinterpret_cast<uintptr_t>(info->si_addr);
  CHECK(Within(info->si_addr, barrier, kBarrierBytes), "fault at %p", info->si_addr);
  at &= ~uintptr_t{kPage - 1};
  CHECK(mprotect(reinterpret_cast<void*>(at), kPage, PROT_READ | PROT_WRITE) == 0, "mprotect");
  ++barrier_hits;
}

void SkipWrite(int, siginfo_t*, void* context) {
  static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP] += 3;  // movb $imm8, (%rax)
  ++seen;
}

void Faults() {
  char path[] = "/tmp/farpool-handlers-XXXXXX";
  const int fd = mkstemp(path);
  CHECK(fd >= 0 && unlink(path) == 0 && ftruncate(fd, kPage) == 0, "a file of one page");
  Install(SIGBUS, OnFault);
  auto* near = static_cast<char*>(mmap(nullptr, 4 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
  CHECK(near != MAP_FAILED, "mmap");
  near[0] = 5;
  Expect(near + 2 * kPage + 17, BUS_ADRERR);
  Chain(SIGBUS);
  Walk();
  Expect(near + 2 * kPage + 17, BUS_ADRERR);
  CHECK(seen == 1, "a chain of handlers for SIGBUS: %d", seen.load());
  Install(SIGBUS, OnFault);
  // The same over a part of a large mapping.
  auto* large =
      static_cast<char*>(mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  memset(large, 7, 1 << 20);
  CHECK(mmap(large + 16 * kPage, 4 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) ==
            large + 16 * kPage,
        "mmap over a part");
  for (int i = 0; i < 10; ++i) {
    Expect(large + 18 * kPage + 17, BUS_ADRERR);
    Walk();
  }
  CHECK(large[16 * kPage] == 5 && large[15 * kPage] == 7 && large[20 * kPage] == 7, "around it");
  Install(SIGBUS, OnFault, SA_RESETHAND);
  Expect(near + 3 * kPage, BUS_ADRERR);
  const pid_t child = fork();
  if (child == 0) {
    near[3 * kPage] = 1;
    _exit(0);
  }
  int status;
  CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS, "%x",
        static_cast<unsigned>(status));
  close(fd);
  munmap(near, 4 * kPage);
  munmap(large, 1 << 20);

  barrier = static_cast<char*>(
      mmap(nullptr, kBarrierBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  for (size_t i = 0; i < kBarrierBytes / 8; ++i) reinterpret_cast<uint64_t*>(barrier)[i] = Mix(i);
  Install(SIGSEGV, OnFault);
  CHECK(mprotect(barrier + 5 * kPage, kPage, PROT_NONE) == 0, "a guard page");
  Chain(SIGSEGV);
  Walk();
  Expect(barrier + 5 * kPage + 99, SEGV_ACCERR);
  CHECK(seen == 1, "a chain of handlers for SIGSEGV: %d", seen.load());
  CHECK(mprotect(barrier, kBarrierBytes, PROT_READ) == 0, "mprotect");
  Walk();
  Install(SIGSEGV, OnBarrier);
  for (size_t page = 0; page < kBarrierBytes / kPage; page += 2)
    ++reinterpret_cast<uint64_t*>(barrier + page * kPage)[3];
  CHECK(barrier_hits == kBarrierBytes / kPage / 2, "%zu pages were written", barrier_hits.load());
  for (size_t i = 0; i < kBarrierBytes / 8; ++i) {
    const uint64_t more = i % 1024 == 3 ? 1 : 0;
    CHECK(reinterpret_cast<uint64_t*>(barrier)[i] == Mix(i) + more, "word %zu", i);
  }
  Install(SIGSEGV, SkipWrite);
  seen = 0;
  asm volatile("movb $1, (%%rax)" : : "a"(barrier + kPage) : "memory");
  CHECK(seen == 1 && barrier[kPage] == static_cast<char>(Mix(kPage / 8)), "a write that was skipped");
  Forget(SIGSEGV);
  munmap(barrier, kBarrierBytes);
  printf("handlers: faults of the program's own\n");
}

// --- leaving a handler

ucontext_t resume_at;
void GoOn(int, siginfo_t*, void*) { setcontext(&resume_at); }

void SetContext() {
  Install(SIGUSR1, GoOn, 0, Set(SIGUSR2));
  volatile int times = 0;
  CHECK(getcontext(&resume_at) == 0, "getcontext");
  CHECK(Masked() == 0, "mask %llx", static_cast<unsigned long long>(Masked()));
  VerifyPage(static_cast<size_t>(times) % pages);
  times = times + 1;
  if (times < 200) raise(SIGUSR1);
  CHECK(times == 200, "%d", times);
  Forget(SIGUSR1);
}

std::atomic<bool> spinning{false};
std::atomic<int> destroyed{0};
struct Cleanup {
  ~Cleanup() { ++destroyed; }
};
__attribute__((noinline)) void Spin() {
  spinning = true;
  for (;;) asm volatile("");
}
void (*volatile spin)() = Spin;  // The compiler must not find out that it throws nothing.
void* Cancelled(void*) {
  const Cleanup cleanup;
  pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, nullptr);
  spin();
  return nullptr;
}
// Cancellation unwinds from the handler through the signal's frame.
void Cancel() {
  for (int i = 0; i < 20; ++i) {
    spinning = false;
    pthread_t thread;
    CHECK(pthread_create(&thread, nullptr, Cancelled, nullptr) == 0, "pthread_create");
    while (!spinning) sched_yield();
    void* result;
    CHECK(pthread_cancel(thread) == 0 && pthread_join(thread, &result) == 0 && result == PTHREAD_CANCELED,
          "join");
    CHECK(destroyed == i + 1, "%d destructors ran", destroyed.load());
  }
}

void ReturnOnly(int, siginfo_t*, void*) { ++seen; }
void Abort() {
  for (int i = 0; i < 2; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      if (i == 1) Install(SIGABRT, ReturnOnly);
      abort();
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT, "%x",
          static_cast<unsigned>(status));
  }
}

std::atomic<int> expired{0};
void OnExpiry(sigval value) {
  CHECK(value.sival_int == 99, "value %d", value.sival_int);
  Walk();
  ++expired;
}
void TimerThread() {
  auto* event = static_cast<sigevent*>(calloc(1, 200000));
  event->sigev_notify = SIGEV_THREAD;
  event->sigev_notify_function = OnExpiry;
  event->sigev_value.sival_int = 99;
  timer_t timer;
  CHECK(timer_create(CLOCK_MONOTONIC, event, &timer) == 0, "timer_create");
  const itimerspec soon = {{0, 0}, {0, 1000000}};
  for (int i = 0; i < 5; ++i) {
    CHECK(timer_settime(timer, 0, &soon, nullptr) == 0, "timer_settime");
    while (expired <= i) sched_yield();
  }
  timer_delete(timer);
  free(event);
}

// --- a storm during faults; arithmetic goes on undisturbed

// Where a fault takes longer than the timer, handlers that may interrupt themselves would nest until the
// stack ends, as without farpool: those eight deep let it be.
void OnStorm(int, siginfo_t*, void*) {
  static uint64_t state = 7;
  static volatile sig_atomic_t depth = 0;
  depth = depth + 1;
  if (depth <= 8) {
    state = Mix(state);
    VerifyPage(state % pages);
    volatile double x = static_cast<double>(state);
    x = x * 3.5 + 1.25;
  }
  depth = depth - 1;
  ++seen;
}
// Every 200 us, or as often as what the handler does leaves most of the time to what it interrupts.
itimerval StormTimer() {
  constexpr int kTimes = 2000;
  timespec begin, end;
  clock_gettime(CLOCK_MONOTONIC, &begin);
  for (uint64_t i = 0; i < kTimes; ++i) VerifyPage(Mix(i) % pages);
  clock_gettime(CLOCK_MONOTONIC, &end);
  const auto us = (end.tv_sec - begin.tv_sec) * 1000000 + (end.tv_nsec - begin.tv_nsec) / 1000;
  const timeval period = {0, std::max<long>(200, 4 * us / kTimes)};
  return {period, period};
}
void Storm() {
  const itimerval timer = StormTimer();
  for (const unsigned flags : {unsigned{SA_RESTART}, 0U, unsigned{SA_NODEFER | SA_RESTART}}) {
    seen = 0;
    Install(SIGALRM, OnStorm, flags);
    CHECK(setitimer(ITIMER_REAL, &timer, nullptr) == 0, "setitimer");
    double sum = 0;
    for (int round = 0; round < 3 || seen < 300; ++round) {
      for (size_t page = 0; page < pages; ++page) {
        VerifyPage(page);
        sum += static_cast<double>(page) * 0.5;
      }
      CHECK(sum == static_cast<double>(pages) * static_cast<double>(pages - 1) * 0.25 * (round + 1), "sum %f",
            sum);
    }
    const itimerval off = {};
    setitimer(ITIMER_REAL, &off, nullptr);
  }
  Forget(SIGALRM);
  printf("handlers: a storm of timers during faults\n");
}

// What lies below a leaf function's stack pointer is its own (128 bytes): no handler may write there. Answers
// how many of `rounds` found it changed.
extern "C" uint64_t UseRedZone(uint64_t rounds);
asm(R"(
        .text
        .globl UseRedZone
        .type UseRedZone, @function
UseRedZone:
        xor %eax, %eax
1:      mov %rdi, -8(%rsp)
        mov %rdi, -64(%rsp)
        mov %rdi, -128(%rsp)
        mov $200, %ecx
2:      dec %ecx
        jnz 2b
        xor %edx, %edx
        cmp %rdi, -8(%rsp)
        setne %dl
        add %rdx, %rax
        cmp %rdi, -64(%rsp)
        setne %dl
        add %rdx, %rax
        cmp %rdi, -128(%rsp)
        setne %dl
        add %rdx, %rax
        dec %rdi
        jnz 1b
        ret
        .size UseRedZone, .-UseRedZone
)");

void RedZone() {
  seen = 0;
  Install(SIGALRM, ReturnOnly);
  const itimerval timer = {{0, 200}, {0, 200}};
  setitimer(ITIMER_REAL, &timer, nullptr);
  while (seen < 200) CHECK(UseRedZone(1000) == 0, "a handler wrote below the stack pointer");
  const itimerval off = {};
  setitimer(ITIMER_REAL, &off, nullptr);
  Forget(SIGALRM);
  printf("handlers: what lies below the stack pointer\n");
}

// Sends `signal`, whose handler is ReturnOnly(), so many times, from seen == 0: each arrives, and none twice.
void SendEach(pthread_t receiver, int signal, int times) {
  const time_t patience = time(nullptr) + 60;
  for (int i = 0; i < times; ++i) {
    CHECK(pthread_kill(receiver, signal) == 0, "pthread_kill");
    while (seen <= i) {
      sched_yield();
      CHECK(time(nullptr) < patience, "signal %d did not come, time %d", signal, i);
    }
    CHECK(seen == i + 1, "signal %d came %d times, not %d", signal, seen.load(), i + 1);
  }
}
// Sent while the receiver is busy with calls on mappings.
void SentDuringCalls() {
  constexpr int kTimes = 3000;
  constexpr size_t kBytes = 1 << 20;
  for (const int signal : {SIGBUS, SIGSYS, SIGUSR1}) {
    static std::atomic<bool> stop;
    stop = false;
    seen = 0;
    Install(signal, ReturnOnly);
    pthread_t receiver;
    const auto run = [](void*) -> void* {
      auto* at = static_cast<char*>(
          mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
      CHECK(at != MAP_FAILED, "mmap");
      for (int i = 0; !stop; ++i)
        CHECK(mprotect(at + kBytes / 2, kPage, i % 2 == 0 ? PROT_READ : PROT_READ | PROT_WRITE) == 0,
              "mprotect: %d", errno);
      CHECK(munmap(at, kBytes) == 0, "munmap");
      return nullptr;
    };
    CHECK(pthread_create(&receiver, nullptr, run, nullptr) == 0, "pthread_create");
    SendEach(receiver, signal, kTimes);
    stop = true;
    CHECK(pthread_join(receiver, nullptr) == 0, "pthread_join");
    Forget(signal);
  }
  printf("handlers: signals sent during calls on mappings\n");
}

long RawSigaltstack(const stack_t* stack) {
  long result;
  asm volatile("syscall"
               : "=a"(result)
               : "a"(SYS_sigaltstack), "D"(stack), "S"(nullptr)
               : "rcx", "r11", "memory");
  return result;
}
// Sent to a thread that sets its alternate stack past the runtime, for each call anew.
void SentToRawStack() {
  constexpr int kTimes = 2000;
  static char room[256 << 10];
  static std::atomic<bool> stop;
  stop = false;
  seen = 0;
  Install(SIGBUS, ReturnOnly, SA_ONSTACK);
  pthread_t receiver;
  const auto run = [](void*) -> void* {
    auto* at = static_cast<char*>(
        mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    CHECK(at != MAP_FAILED, "mmap");
    const stack_t stack = {room, 0, sizeof(room)};
    for (int i = 0; !stop; ++i) {
      CHECK(RawSigaltstack(&stack) == 0, "sigaltstack");
      CHECK(mprotect(at, kPage, i % 2 == 0 ? PROT_READ : PROT_READ | PROT_WRITE) == 0, "mprotect: %d", errno);
    }
    CHECK(munmap(at, 1 << 20) == 0, "munmap");
    return nullptr;
  };
  CHECK(pthread_create(&receiver, nullptr, run, nullptr) == 0, "pthread_create");
  SendEach(receiver, SIGBUS, kTimes);
  stop = true;
  CHECK(pthread_join(receiver, nullptr) == 0, "pthread_join");
  Forget(SIGBUS);
  printf("handlers: signals sent to a thread whose stack was set raw\n");
}

// Sent while the receiver starts: the first that the runtime sees of a thread may be a signal, and the next.
void SentToStarting() {
  constexpr int kTimes = 1000;
  const int pairs[][2] = {{SIGBUS, SIGSYS}, {SIGSYS, SIGUSR1}, {SIGUSR1, SIGBUS}};
  for (const auto& pair : pairs) {
    seen = 0;
    for (const int signal : pair) Install(signal, ReturnOnly);
    for (int i = 0; i < kTimes; ++i) {
      const time_t patience = time(nullptr) + 60;
      static std::atomic<bool> stop;
      stop = false;
      pthread_t receiver;
      const auto run = [](void*) -> void* {
        while (!stop) sched_yield();
        return nullptr;
      };
      CHECK(pthread_create(&receiver, nullptr, run, nullptr) == 0, "pthread_create");
      for (volatile int wait = i % 100 * 20; wait > 0;) wait = wait - 1;  // Each time a little later.
      for (const int signal : pair) CHECK(pthread_kill(receiver, signal) == 0, "pthread_kill");
      while (seen < 2 * (i + 1)) {
        sched_yield();
        CHECK(time(nullptr) < patience, "signals %d and %d: %d came, time %d", pair[0], pair[1], seen - 2 * i,
              i);
      }
      stop = true;
      CHECK(pthread_join(receiver, nullptr) == 0, "pthread_join");
      CHECK(seen == 2 * (i + 1), "signals %d and %d came %d times", pair[0], pair[1], seen - 2 * i);
    }
    for (const int signal : pair) Forget(signal);
  }
  printf("handlers: signals sent to threads that start\n");
}

// --- children of a process whose threads throw

bool Throws(int value) {
  try {
    if (value >= 0) throw value;
  } catch (int caught) {
    return caught == value;
  }
  return false;
}

// Nothing that threads do while they unwind may be left locked in a child.
void ThrowingParent() {
  static volatile bool stop = false;
  pthread_t threads[3];
  for (pthread_t& thread : threads) {
    const auto run = [](void*) -> void* {
      for (int i = 0; !stop; i = (i + 1) % 1000) CHECK(Throws(i), "an exception");
      return nullptr;
    };
    CHECK(pthread_create(&thread, nullptr, run, nullptr) == 0, "pthread_create");
  }
  for (int i = 0; i < 60; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      alarm(30);
      _exit(Throws(i) ? 0 : 1);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0, "a child that throws: %x",
          static_cast<unsigned>(status));
  }
  stop = true;
  for (pthread_t thread : threads) pthread_join(thread, nullptr);
  printf("handlers: exceptions in children of threads\n");
}

// --- children that share our memory for a while

void Children() {
  Install(SIGBUS, OnSent);
  Install(SIGUSR1, OnSent);
  seen = 0;
  auto* text = static_cast<char*>(malloc(200000));
  strcpy(text, "/bin/sh");
  char* argv[4];
  for (char*& argument : argv) argument = static_cast<char*>(malloc(100000));
  strcpy(argv[0], "sh");
  strcpy(argv[1], "-c");
  strcpy(argv[2], "read line; test \"$line\" = child && kill -USR1 $$");
  free(argv[3]);
  argv[3] = nullptr;
  auto* file = static_cast<char*>(malloc(100000));
  strcpy(file, "/tmp/farpool-handlers-XXXXXX");
  const int fd = mkstemp(file);
  CHECK(fd >= 0 && write(fd, "child\n", 6) == 6, "a file");
  close(fd);
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, file, O_RDONLY, 0);
  posix_spawnattr_init(&attributes);
  sigset_t all;
  sigfillset(&all);
  posix_spawnattr_setsigdefault(&attributes, &all);
  const sigset_t mask = Set(SIGBUS, SIGSYS, SIGHUP);
  posix_spawnattr_setsigmask(&attributes, &mask);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
  Install(SIGURG, CheckMask, SA_RESTART, mask);  // The child resets it, for itself.
  for (int i = 0; i < 5; ++i) {
    Walk();
    pid_t child;
    CHECK(posix_spawn(&child, text, &actions, &attributes, argv, environ) == 0, "posix_spawn");
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGUSR1, "%x",
          static_cast<unsigned>(status));
  }
  struct sigaction kept;
  CHECK(sigaction(SIGURG, nullptr, &kept) == 0 && kept.sa_sigaction == CheckMask &&
            Bits(kept.sa_mask) == Bits(mask),
        "after posix_spawn");
  Forget(SIGURG);
  unlink(file);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  CHECK(system("exit 5") == 5 << 8, "system");
  FILE* pipe = popen("echo through a pipe", "r");
  char line[64] = {};
  CHECK(
      pipe != nullptr && fgets(line, sizeof(line), pipe) != nullptr && strcmp(line, "through a pipe\n") == 0,
      "popen");
  pclose(pipe);
  // The children's resets were theirs.
  CHECK(raise(SIGBUS) == 0 && raise(SIGUSR1) == 0 && seen == 2 && Masked() == 0, "after children: %d",
        seen.load());
  Forget(SIGBUS);
  Forget(SIGUSR1);
  free(text);
  printf("handlers: children of all kinds\n");
}

// What exec hands on, also of the two signals that memory is served with.
void Inherit(char** argv) {
  const pid_t child = fork();
  if (child == 0) {
    const sigset_t mask = Set(SIGBUS, SIGSYS, SIGWINCH);
    sigprocmask(SIG_SETMASK, &mask, nullptr);
    ::signal(SIGSYS, SIG_IGN);
    ::signal(SIGUSR2, SIG_IGN);
    Install(SIGBUS, OnSent);
    execl("/proc/self/exe", argv[0], "inherited", nullptr);
    _exit(9);
  }
  int status;
  CHECK(waitpid(child, &status, 0) == child && status == 0, "%x", static_cast<unsigned>(status));
  printf("handlers: what exec hands on\n");
}

// --- vectors across a call that is not libc's

// read() by an instruction of our own, with every register of the widest kind holding what `held` says; what
// they hold afterwards goes to `got`.
extern "C" long ReadHoldingYmm(int fd, void* buffer, size_t bytes, const void* held, void* got);
extern "C" long ReadHoldingZmm(int fd, void* buffer, size_t bytes, const void* held, void* got);
asm(R"(
        .text
        .macro all_registers low
        .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
        \low \n
        .endr
        .endm
        .macro upper_registers move
        .irp n, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
        \move \n
        .endr
        .endm
        .macro load_ymm n
        vmovdqu 32*\n(%rcx), %ymm\n
        .endm
        .macro store_ymm n
        vmovdqu %ymm\n, 32*\n(%r8)
        .endm
        .macro load_zmm n
        vmovdqu64 64*\n(%rcx), %zmm\n
        .endm
        .macro store_zmm n
        vmovdqu64 %zmm\n, 64*\n(%r8)
        .endm
        .globl ReadHoldingYmm
        .type ReadHoldingYmm, @function
ReadHoldingYmm:
        all_registers load_ymm
        xor %eax, %eax
        syscall
        all_registers store_ymm
        vzeroupper
        ret
        .size ReadHoldingYmm, .-ReadHoldingYmm
        .globl ReadHoldingZmm
        .type ReadHoldingZmm, @function
ReadHoldingZmm:
        all_registers load_zmm
        upper_registers load_zmm
        .irp n, 1, 2, 3, 4, 5, 6, 7
        kmovq 2048+8*\n(%rcx), %k\n
        .endr
        xor %eax, %eax
        syscall
        .irp n, 1, 2, 3, 4, 5, 6, 7
        kmovq %k\n, 2048+8*\n(%r8)
        .endr
        all_registers store_zmm
        upper_registers store_zmm
        vzeroupper
        ret
        .size ReadHoldingZmm, .-ReadHoldingZmm
)");

void Vectors() {
  constexpr size_t kBytes = 32 * 1024;
  constexpr size_t kWords = 32 * 8 + 8;
  const bool masks = __builtin_cpu_supports("avx512bw") != 0;
  int ends[2];
  CHECK(pipe(ends) == 0, "pipe");
  auto* buffer = static_cast<char*>(FarRoom(kBytes));
  uint64_t held[kWords], got[kWords];
  for (uint64_t i = 0; i < kWords; ++i) held[i] = Mix(i);
  for (int i = 0; i < 20 && __builtin_cpu_supports("avx") != 0; ++i) {
    char text[kBytes];
    memset(text, 'a' + i, kBytes);
    CHECK(write(ends[1], text, kBytes) == kBytes, "write");
    Walk();
    memcpy(got, held, sizeof(got));
    const long r =
        (masks && i % 2 == 0 ? ReadHoldingZmm : ReadHoldingYmm)(ends[0], buffer, kBytes, held, got);
    CHECK(r == kBytes && memcmp(buffer, text, kBytes) == 0, "read: %ld", r);
    for (size_t word = 0; word < kWords; ++word)
      CHECK(got[word] == held[word], "word %zu of the registers changed", word);
  }
  close(ends[0]);
  close(ends[1]);
  printf("handlers: vectors across a trapped call\n");
}

}  // namespace

int main(int argc, char** argv) {
  setvbuf(stdout, nullptr, _IOLBF, 0);
  if (argc > 1 && strcmp(argv[1], "inherited") == 0) {
    CHECK(Masked() == Bits(Set(SIGBUS, SIGSYS, SIGWINCH)), "mask %llx",
          static_cast<unsigned long long>(Masked()));
    struct sigaction old;
    CHECK(sigaction(SIGSYS, nullptr, &old) == 0 && old.sa_handler == SIG_IGN, "SIGSYS");
    CHECK(sigaction(SIGUSR2, nullptr, &old) == 0 && old.sa_handler == SIG_IGN, "SIGUSR2");
    CHECK(sigaction(SIGBUS, nullptr, &old) == 0 && old.sa_handler == SIG_DFL, "SIGBUS");
    return 0;
  }
  const uint64_t mib = Argument(argc, argv, 1, 96);
  pages = (mib << 20) / kPage;
  TakeFirstMemory();
  words = static_cast<uint64_t*>(malloc(mib << 20));
  CHECK(words != nullptr, "malloc");
  for (size_t i = 0; i < pages * (kPage / 8); ++i) words[i] = Mix(i);
  Stacks();
  SmallStacks();
  Masks();
  Sent();
  Faults();
  SetContext();
  Cancel();
  Abort();
  TimerThread();
  printf("handlers: left by contexts, cancellation and abort\n");
  Storm();
  RedZone();
  SentDuringCalls();
  SentToRawStack();
  SentToStarting();
  ThrowingParent();
  Children();
  Inherit(argv);
  Vectors();
  Walk();
  printf("handlers: %zu pages verified at the end\n", pages);
  return 0;
}
