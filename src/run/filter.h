#pragma once
// The seccomp filter of a run: one constant program, the same in every process, inherited by all of them. It
// sends a system call to the guard (SIGSYS) when one of its true pointer arguments lies in the far arena and
// the call does not come from the trampoline. Programs without the runtime have no far pointers and never
// meet it.

#include "farpool/status.h"

struct sock_filter;

namespace farpool {

inline constexpr unsigned kFilterMax = 4096;  // Instructions; the kernel's own bound (BPF_MAXINSNS).

// Builds the program into `code` (kFilterMax entries). `fd_base`, `fd_count`: the runtime's descriptors,
// which the program may not close or replace. Returns its length, 0 if it does not fit.
unsigned BuildFilter(sock_filter* code, int fd_base, int fd_count);

// Installs it in the calling thread. Sets no_new_privs where the caller is not privileged.
Status InstallFilter(int fd_base, int fd_count);

}  // namespace farpool
