// golike: does by `syscall` instructions of its own what Go's runtime does so, and carries its note: its
// handler and the handler's stack are unknown to libc, and it touches fresh memory with all signals blocked.
// Then it starts COMMAND..., if any, by fork and exec of libc.

#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "far.h"

asm(R"(
        .pushsection .note.go.buildid, "a", @note
        .balign 4
        .long 4, 4, 4
        .asciz "Go\0"
        .long 0
        .popsection
golike_return:
        mov $15, %eax
        syscall
)");
extern "C" void golike_return();

namespace {

long Raw(long number, long a, const void* b, const void* c, long d) {
  long r;
  register long r10 asm("r10") = d;
  asm volatile("syscall" : "=a"(r) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
  return r;
}

char stack[64 << 10];
volatile bool on_stack;

void Handle(int) {
  char here;
  on_stack = &here >= stack && &here < stack + sizeof(stack);
}

}  // namespace

int main(int argc, char** argv) {
  const struct {
    void (*handler)(int);
    unsigned long flags;
    void (*restorer)();
    unsigned long mask;
  } action = {Handle, SA_ONSTACK | 0x04000000 /*SA_RESTORER*/, golike_return, 0};
  for (int signal : {SIGBUS, SIGSYS, SIGURG})
    CHECK(Raw(SYS_rt_sigaction, signal, &action, nullptr, 8) == 0, "rt_sigaction");
  stack_t alternate = {};
  alternate.ss_sp = stack;
  alternate.ss_size = sizeof(stack);
  CHECK(Raw(SYS_sigaltstack, reinterpret_cast<long>(&alternate), nullptr, nullptr, 0) == 0, "sigaltstack");
  const unsigned long all = ~0UL, none = 0;
  CHECK(Raw(SYS_rt_sigprocmask, SIG_SETMASK, &all, nullptr, 8) == 0, "rt_sigprocmask");
  constexpr size_t kBytes = 24 << 20;
  char* buffer = Buffer(kBytes, 3);
  CHECK(Raw(SYS_rt_sigprocmask, SIG_SETMASK, &none, nullptr, 8) == 0, "rt_sigprocmask");
  Verify(buffer, kBytes, 3, "buffer");
  for (int signal : {SIGBUS, SIGSYS, SIGURG}) {
    on_stack = false;
    kill(getpid(), signal);
    CHECK(on_stack, "signal %d, and where its handler ran", signal);
  }
  puts("golike: signals as it asked for");
  fflush(stdout);
  if (argc < 2) return 0;
  const pid_t child = fork();
  if (child == 0) {
    execvp(argv[1], argv + 1);
    _exit(127);
  }
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status), "waitpid");
  return WEXITSTATUS(status);
}
