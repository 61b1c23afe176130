// Every system call is either in the table or known to need no entry.

#include "run/syscalls.h"

#include <gtest/gtest.h>
#include <sys/syscall.h>

#include <set>

namespace farpool {
namespace {

constexpr unsigned kHighest = 469;  // file_setattr, Linux 6.17.

// No pointers, or addresses that are nothing but numbers to the kernel.
const std::set<unsigned> kWithoutPointers = {SYS_close,
                                             SYS_lseek,
                                             SYS_sched_yield,
                                             SYS_shmget,
                                             SYS_dup,
                                             SYS_dup2,
                                             SYS_pause,
                                             SYS_alarm,
                                             SYS_getpid,
                                             SYS_socket,
                                             SYS_shutdown,
                                             SYS_listen,
                                             SYS_vfork,
                                             SYS_kill,
                                             SYS_semget,
                                             SYS_shmdt,
                                             SYS_msgget,
                                             SYS_flock,
                                             SYS_fsync,
                                             SYS_fdatasync,
                                             SYS_ftruncate,
                                             SYS_fchdir,
                                             SYS_fchmod,
                                             SYS_fchown,
                                             SYS_umask,
                                             SYS_getuid,
                                             SYS_getgid,
                                             SYS_geteuid,
                                             SYS_getegid,
                                             SYS_setpgid,
                                             SYS_getppid,
                                             SYS_getpgrp,
                                             SYS_setsid,
                                             SYS_getpgid,
                                             SYS_setfsuid,
                                             SYS_setfsgid,
                                             SYS_getsid,
                                             SYS_personality,
                                             SYS_getpriority,
                                             SYS_setpriority,
                                             SYS_sched_getscheduler,
                                             SYS_sched_get_priority_max,
                                             SYS_sched_get_priority_min,
                                             SYS_vhangup,
                                             SYS_sync,
                                             SYS_iopl,
                                             SYS_ioperm,
                                             SYS_gettid,
                                             SYS_readahead,
                                             SYS_tkill,
                                             SYS_epoll_create,
                                             SYS_restart_syscall,
                                             SYS_fadvise64,
                                             SYS_timer_getoverrun,
                                             SYS_timer_delete,
                                             SYS_exit_group,
                                             SYS_tgkill,
                                             SYS_ioprio_set,
                                             SYS_ioprio_get,
                                             SYS_inotify_init,
                                             SYS_inotify_rm_watch,
                                             SYS_tee,
                                             SYS_sync_file_range,
                                             SYS_timerfd_create,
                                             SYS_eventfd,
                                             SYS_fallocate,
                                             SYS_eventfd2,
                                             SYS_epoll_create1,
                                             SYS_dup3,
                                             SYS_inotify_init1,
                                             SYS_fanotify_init,
                                             SYS_syncfs,
                                             SYS_userfaultfd,
                                             SYS_membarrier,
                                             SYS_pkey_alloc,
                                             SYS_pkey_free,
                                             SYS_fsmount,
                                             SYS_pidfd_open,
                                             SYS_pidfd_getfd,
                                             SYS_memfd_secret,
                                             SYS_process_mrelease};

// The kernel has no such call any more, or never had one of 64 bits.
const std::set<unsigned> kNotThere = {
    SYS_uselib,         SYS__sysctl,         SYS_create_module,   SYS_get_kernel_syms, SYS_query_module,
    SYS_nfsservctl,     SYS_getpmsg,         SYS_putpmsg,         SYS_afs_syscall,     SYS_tuxcall,
    SYS_security,       SYS_set_thread_area, SYS_get_thread_area, SYS_lookup_dcookie,  SYS_epoll_ctl_old,
    SYS_epoll_wait_old, SYS_vserver};

// With pointers, and passed on all the same.
const std::set<unsigned> kPassed = {
    // Made with all signals blocked, or where a thread begins or ends: a trap would kill. The runtime deals
    // with
    // what they name (threads' descriptors, robust lists).
    SYS_rt_sigreturn, SYS_arch_prctl, SYS_set_tid_address, SYS_set_robust_list, SYS_rseq, SYS_clone3,
    // Of mappings that cannot be far: shared files, shadow stacks, policies.
    SYS_remap_file_pages, 453, 450,
    // The kernel's own probes.
    335, 336,
    // Refused by the filter as a whole, and what cannot be called without it.
    425, SYS_io_uring_enter, SYS_io_uring_register,
    // Another kernel, as root.
    SYS_kexec_load};

TEST(SyscallTableTest, EveryCallIsClassified) {
  for (unsigned number = 0; number <= kHighest; ++number) {
    if (number >= 337 && number <= 423) continue;  // Never given out.
    const SyscallSpec& spec = SyscallSpecOf(number);
    const bool in_table = spec.route != SyscallSpec::kPlain || spec.PointerMask() != 0;
    EXPECT_EQ(
        in_table + kWithoutPointers.contains(number) + kNotThere.contains(number) + kPassed.contains(number),
        1)
        << number;
  }
}

}  // namespace
}  // namespace farpool
