#pragma once
// System calls without libc: no errno, no cancellation points, safe in a signal handler. Each returns the
// kernel's answer, -errno on failure. The instruction that enters the kernel can be redirected: the preloaded
// runtime points it at a trampoline that its own seccomp filter lets through.

#include <sys/syscall.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>

extern "C" {
// Address of a `syscall; ret` pair. Set once, before a second thread exists.
extern void (*farpool_syscall_entry)();
long farpool_syscall(long number, long a, long b, long c, long d, long e, long f);
}

namespace farpool::sys {

template <typename T>
inline long Word(T value) {
  if constexpr (requires { reinterpret_cast<long>(value); }) {
    return reinterpret_cast<long>(value);
  } else {
    return static_cast<long>(value);
  }
}
inline long Word(std::nullptr_t) { return 0; }

template <typename A = long, typename B = long, typename C = long, typename D = long, typename E = long,
          typename F = long>
inline long Call(long number, A a = 0, B b = 0, C c = 0, D d = 0, E e = 0, F f = 0) {
  return farpool_syscall(number, Word(a), Word(b), Word(c), Word(d), Word(e), Word(f));
}

// Behind farpool_syscall_entry there is another such pair, for what the program asked for. Also in sys.S and
// preload/entry.S.
inline constexpr long kProgramEntry = 16;

// Asked by thread id alone: in a vfork child the process is another, the threads are not.
inline bool ThreadEnded(uint64_t thread) { return Call(SYS_tkill, thread, 0) == -ESRCH; }

// True for a kernel answer that means failure.
inline bool Failed(long result) { return static_cast<unsigned long>(result) > -4096UL; }

}  // namespace farpool::sys
