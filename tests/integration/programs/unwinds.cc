// unwinds [MiB]: a signal arrives after each instruction of a call, and its handler finds who made the call,
// as a thread does that is cancelled, and a profiler.

#include <poll.h>
#include <pthread.h>
#include <sys/syscall.h>
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
__attribute__((noinline)) void Stepwise(const char* name, Make make) {
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
  CHECK(lost == 0, "%s: its caller is not found from %zu of %zu places, first at %#zx", name, lost, steps,
        first_lost);
  printf("unwinds: %s\n", name);
}

void* Wait(void*) {
  for (;;) pause();
}

void Calls() {
  int ends[2];
  CHECK(pipe(ends) == 0, "pipe");
  char* const room = static_cast<char*>(FarRoom(64));
  auto* const ready = Far(pollfd{ends[1], POLLOUT, 0});
  auto* const vector = Far(iovec{room, 64});
  Stepwise("write", [&] { CHECK(write(ends[1], room, 64) == 64, "write"); });
  Stepwise("read", [&] { CHECK(read(ends[0], room, 64) == 64, "read"); });
  Stepwise("writev", [&] { CHECK(writev(ends[1], vector, 1) == 64, "writev"); });
  Stepwise("syscall", [&] { CHECK(syscall(SYS_read, ends[0], room, 64) == 64, "read"); });
  Stepwise("poll", [&] { CHECK(poll(ready, 1, 0) == 1, "poll"); });
  Stepwise("trapped", [&] {
    long result = SYS_write;
    asm volatile("syscall"
                 : "+a"(result)
                 : "D"(long{ends[1]}), "S"(room), "d"(long{64})
                 : "rcx", "r11", "memory");
    CHECK(result == 64, "write");
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
  // With a second thread libc's calls are made in other places, where they can be cancelled.
  pthread_t thread;
  CHECK(pthread_create(&thread, nullptr, Wait, nullptr) == 0, "pthread_create");
  Calls();
}
