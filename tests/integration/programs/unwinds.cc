// unwinds [MiB]: a signal arrives after each instruction of a call, and its handler finds who made the call,
// as a thread does that is cancelled, and a profiler.

#include <alloca.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <ucontext.h>
#include <unistd.h>
#include <unwind.h>

#include <csignal>
#include <cstddef>
#include <cstdint>

#include "far.h"

namespace {

constexpr uint64_t kTrap = 0x100;  // The flag: a signal after each instruction.

uint64_t caller;  // The frame of Stepwise().
volatile bool over = false;
size_t steps, lost;
uintptr_t first_lost;

struct Search {
  uint64_t frame;
  bool found;
};

_Unwind_Reason_Code Look(_Unwind_Context* context, void* argument) {
  auto* const search = static_cast<Search*>(argument);
  search->found |= _Unwind_GetCFA(context) == search->frame;
  return search->found ? _URC_END_OF_STACK : _URC_NO_REASON;
}

void OnTrap(int, siginfo_t*, void* argument) {
  auto* const context = static_cast<ucontext_t*>(argument);
  if (over) {
    context->uc_mcontext.gregs[REG_EFL] &= ~static_cast<greg_t>(kTrap);
    return;
  }
  ++steps;
  Search search = {caller, false};
  _Unwind_Backtrace(Look, &search);
  if (!search.found) {
    const auto at = static_cast<uintptr_t>(context->uc_mcontext.gregs[REG_RIP]);
    if (lost++ == 0) first_lost = at;
  }
}

_Unwind_Reason_Code Second(_Unwind_Context* context, void* argument) {
  auto* const frame = static_cast<uint64_t*>(argument);
  frame[1] = _Unwind_GetCFA(context);
  return ++frame[0] == 2 ? _URC_END_OF_STACK : _URC_NO_REASON;
}

// What `make` calls, instruction by instruction.
template <typename Make>
__attribute__((noinline)) void Stepwise(const char* name, Make make, size_t may_lose = 0) {
  // Its frame is found by the frame pointer: unwinders must bring that back, too.
  asm volatile("" : : "r"(alloca(16)));
  make();  // The dynamic linker has done its part.
  uint64_t frame[2] = {0, 0};
  _Unwind_Backtrace(Second, frame);
  caller = frame[1];
  over = false;
  steps = lost = 0;
  asm volatile("pushf; orq %0, (%%rsp); popf" : : "i"(kTrap) : "memory", "cc");
  make();
  over = true;
  asm volatile("nop");
  CHECK(steps > 3, "%s: %zu steps", name, steps);
  CHECK(lost <= may_lose, "%s: its caller is not found from %zu of %zu places, first at %#zx", name, lost,
        steps, first_lost);
  printf("unwinds: %s\n", name);
}

// With buffers that are far or near.
void Transfers(char* room) {
  int ends[2], pair[2];
  CHECK(pipe(ends) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0, "pipe, socketpair");
  Stepwise("write", [&] { CHECK(write(ends[1], room, 64) == 64, "write"); });
  Stepwise("read", [&] { CHECK(read(ends[0], room, 64) == 64, "read"); });
  Stepwise("sendto", [&] { CHECK(sendto(pair[0], room, 64, 0, nullptr, 0) == 64, "sendto"); });
  Stepwise("recvfrom", [&] { CHECK(recvfrom(pair[1], room, 64, 0, nullptr, nullptr) == 64, "recvfrom"); });
  Stepwise("write by an instruction of its own", [&] {
    long result = SYS_write;
    asm volatile("syscall"
                 : "+a"(result)
                 : "D"(long{ends[1]}), "S"(room), "d"(long{64})
                 : "rcx", "r11", "memory");
    CHECK(result == 64, "write");
  });
  Stepwise("syscall", [&] { CHECK(syscall(SYS_read, ends[0], room, 64) == 64, "read"); });
  for (const int fd : {ends[0], ends[1], pair[0], pair[1]}) close(fd);
}

void Calls() {
  char near[64] = {};
  Transfers(near);
  Transfers(static_cast<char*>(FarRoom(64)));
  int ends[2];
  CHECK(pipe(ends) == 0, "pipe");
  auto* const vector = Far(iovec{FarRoom(64), 64});
  Stepwise("writev", [&] { CHECK(writev(ends[1], vector, 1) == 64, "writev"); });
  auto* const ready = Far(pollfd{ends[0], POLLIN, 0});
  Stepwise("poll", [&] { CHECK(poll(ready, 1, 0) == 1, "poll"); });
  auto* const set = Far(fd_set{});
  Stepwise("select", [&] {
    FD_SET(ends[0], set);
    timeval at_once = {0, 0};
    CHECK(select(ends[0] + 1, set, nullptr, nullptr, &at_once) == 1, "select");
  });
  // The kernel would answer otherwise than farpool, which has descriptors of its own. Between two
  // instructions of such a call its caller may not be found.
  const rlimit few = {500, 500};
  CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0, "setrlimit");
  Stepwise(
      "getrlimit",
      [] {
        rlimit limit = {};
        CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur == 500 && limit.rlim_max == 500,
              "%zu of %zu descriptors", size_t{limit.rlim_cur}, size_t{limit.rlim_max});
      },
      1);
  for (const int fd : {ends[0], ends[1]}) close(fd);
}

struct Meeting {
  pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  pthread_cond_t call = PTHREAD_COND_INITIALIZER;
  bool waits = false;
};

void* Wait(void* argument) {
  auto* const meeting = static_cast<Meeting*>(argument);
  pthread_mutex_lock(&meeting->mutex);
  for (;;) {
    meeting->waits = true;
    pthread_cond_wait(&meeting->call, &meeting->mutex);
  }
}

// Those among them that can be cancelled are made in other places when there are two threads.
void CallsBesideAnother() {
  auto* const meeting = Far(Meeting{});
  pthread_t thread;
  CHECK(pthread_create(&thread, nullptr, Wait, meeting) == 0, "pthread_create");
  Calls();
  Stepwise("pthread_cond_signal", [&] {
    pthread_mutex_lock(&meeting->mutex);
    while (!meeting->waits) {
      pthread_mutex_unlock(&meeting->mutex);
      sched_yield();
      pthread_mutex_lock(&meeting->mutex);
    }
    meeting->waits = false;
    CHECK(pthread_cond_signal(&meeting->call) == 0, "pthread_cond_signal");
    pthread_mutex_unlock(&meeting->mutex);
  });
}

}  // namespace

int main(int argc, char** argv) {
  StirInit(Argument(argc, argv, 1, 32));
  struct sigaction action = {};
  action.sa_sigaction = OnTrap;
  action.sa_flags = SA_SIGINFO;
  CHECK(sigaction(SIGTRAP, &action, nullptr) == 0, "sigaction");
  Calls();
  CallsBesideAnother();
}
