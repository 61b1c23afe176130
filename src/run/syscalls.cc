#include "run/syscalls.h"

#include <sys/syscall.h>

#include <initializer_list>

namespace farpool {

namespace {

constexpr SyscallArg N{};
constexpr SyscallArg S{SyscallArg::kString};
constexpr SyscallArg O{SyscallArg::kOpaque};
constexpr SyscallArg Q{SyscallArg::kNested};
constexpr SyscallArg M{SyscallArg::kMessage};
constexpr SyscallArg A{SyscallArg::kMapping};
constexpr SyscallArg P(uint16_t size) { return {SyscallArg::kFixed, 0, size}; }
constexpr SyscallArg L(uint8_t count_arg, uint16_t size = 1, uint16_t extra = 0) {
  return {SyscallArg::kCounted, count_arg, size, extra};
}
// An option or structure of known size that may hold pointers.
constexpr SyscallArg QL(uint8_t count_arg) { return {SyscallArg::kNested, count_arg, 1}; }
constexpr SyscallArg B(uint8_t count_arg) { return {SyscallArg::kBits, count_arg}; }
constexpr SyscallArg V(uint8_t count_arg) { return {SyscallArg::kIovec, count_arg}; }
constexpr SyscallArg MM(uint8_t count_arg) { return {SyscallArg::kMessages, count_arg}; }

constexpr uint16_t kStat = 144, kRusage = 144, kTimespec = 16, kTimerSpec = 32, kSigset = 8;

// Newer than some headers.
constexpr int kCachestat = 451, kFchmodat2 = 452, kFutexWake = 454, kFutexWait = 455, kFutexRequeue = 456,
              kStatmount = 457, kListmount = 458, kLsmGetSelfAttr = 459, kLsmSetSelfAttr = 460,
              kLsmListModules = 461, kMseal = 462, kSetxattrat = 463, kGetxattrat = 464, kListxattrat = 465,
              kRemovexattrat = 466, kOpenTreeAttr = 467, kFileGetattr = 468, kFileSetattr = 469;

struct Table {
  SyscallSpec specs[kSyscallsMax] = {};
  constexpr void Set(unsigned number, SyscallSpec::Route route, SyscallArg a = N, SyscallArg b = N,
                     SyscallArg c = N, SyscallArg d = N, SyscallArg e = N, SyscallArg f = N) {
    specs[number] = SyscallSpec{route, {a, b, c, d, e, f}};
  }
  constexpr void Add(unsigned number, SyscallArg a = N, SyscallArg b = N, SyscallArg c = N, SyscallArg d = N,
                     SyscallArg e = N, SyscallArg f = N) {
    Set(number, SyscallSpec::kPointers, a, b, c, d, e, f);
  }

  constexpr Table() {
    constexpr auto kAlways = SyscallSpec::kAlways;
    // Mappings.
    Set(SYS_mmap, kAlways, A);
    Set(SYS_brk, kAlways, A);
    Add(SYS_munmap, A);
    Add(SYS_mprotect, A);
    Set(SYS_mremap, SyscallSpec::kPointers, A, N, N, N, A);
    Add(SYS_madvise, A);
    Add(SYS_msync, A);
    Add(SYS_mlock, A);
    Add(SYS_munlock, A);
    Add(SYS_mlock2, A);
    Set(SYS_mlockall, kAlways);
    Set(SYS_munlockall, kAlways);
    Add(SYS_shmat, N, A);
    Add(SYS_mincore, A, N, O);
    Add(SYS_mbind, A, N, N, B(4));
    Add(SYS_get_mempolicy, P(4), B(2), N, P(1));
    Add(SYS_set_mempolicy, N, B(2));
    Add(SYS_migrate_pages, N, N, B(1), B(1));
    Add(SYS_move_pages, N, N, L(1, 8), L(1, 4), L(1, 4));
    Set(SYS_process_madvise, kAlways, N, V(2));
    Add(SYS_pkey_mprotect, A);
    Add(kMseal, A);
    // Signals.
    Set(SYS_rt_sigaction, kAlways, N, P(32), P(32));
    Set(SYS_rt_sigprocmask, kAlways, N, P(kSigset), P(kSigset));
    Set(SYS_rt_sigsuspend, kAlways, P(kSigset));
    Set(SYS_sigaltstack, kAlways, P(24), P(24));
    Set(SYS_rt_sigpending, kAlways, P(kSigset));
    Set(SYS_rt_sigtimedwait, kAlways, P(kSigset), P(128), P(kTimespec));
    Add(SYS_rt_sigqueueinfo, N, N, P(128));
    Add(SYS_rt_tgsigqueueinfo, N, N, N, P(128));
    Add(SYS_signalfd, N, P(kSigset));
    Add(SYS_signalfd4, N, P(kSigset));
    Add(SYS_pidfd_send_signal, N, N, P(128));
    // Processes. clone and fork are found at their call sites: a filter that trapped them would end static
    // programs, which have no runtime to answer.
    Set(SYS_execve, kAlways, S, O, O);
    Set(SYS_execveat, kAlways, N, S, O, O);
    Set(SYS_fork, kAlways);
    Set(SYS_clone, kAlways);
    Set(SYS_wait4, kAlways, N, P(4), N, P(kRusage));
    Set(SYS_waitid, kAlways, N, N, P(128), N, P(kRusage));
    Add(SYS_getrusage, N, P(kRusage));
    Set(SYS_getrlimit, kAlways, N, P(16));
    Set(SYS_setrlimit, kAlways, N, P(16));
    Set(SYS_prlimit64, kAlways, N, N, P(16), P(16));
    Add(SYS_times, P(32));
    Add(SYS_sysinfo, P(112));
    Add(SYS_uname, P(390));
    Set(SYS_prctl, kAlways, N, Q);
    Set(SYS_seccomp, kAlways, N, N, Q);
    Set(SYS_ptrace, kAlways, N, N, N, Q);
    Add(SYS_kcmp, N, N, N, N, P(12));
    Add(SYS_kexec_file_load, N, N, N, S);
    Add(SYS_sysfs, N, O, O);
    Set(SYS_exit, kAlways);
    Set(SYS_close_range, kAlways);
    Add(SYS_modify_ldt, N, L(2));
    Add(SYS_acct, S);
    Add(SYS_reboot, N, N, N, S);
    Add(SYS_sched_setaffinity, N, N, L(1));
    Add(SYS_sched_getaffinity, N, N, L(1));
    Add(SYS_sched_setparam, N, P(4));
    Add(SYS_sched_setscheduler, N, N, P(4));
    Add(SYS_sched_getparam, N, P(4));
    Add(SYS_sched_setattr, N, P(56));
    Add(SYS_sched_getattr, N, L(2));
    Add(SYS_sched_rr_get_interval, N, P(kTimespec));
    Add(SYS_getcpu, P(4), P(4));
    Add(SYS_getgroups, N, L(0, 4));
    Add(SYS_getresuid, P(4), P(4), P(4));
    Add(SYS_getresgid, P(4), P(4), P(4));
    Add(SYS_capget, P(8), P(24));
    // Rights that a thread gives up.
    Set(SYS_capset, kAlways, P(8), P(24));
    Set(SYS_setgroups, kAlways, N, L(0, 4));
    for (unsigned number : {SYS_setuid, SYS_setgid, SYS_setreuid, SYS_setregid, SYS_setresuid, SYS_setresgid,
                            SYS_unshare, SYS_setns, SYS_landlock_restrict_self})
      Set(number, kAlways);
    // Files.
    Add(SYS_read, N, L(2));
    Add(SYS_write, N, L(2));
    Add(SYS_pread64, N, L(2));
    Add(SYS_pwrite64, N, L(2));
    for (unsigned number : {SYS_readv, SYS_writev, SYS_preadv, SYS_pwritev, SYS_preadv2, SYS_pwritev2})
      Set(number, kAlways, N, V(2));
    Set(SYS_vmsplice, kAlways, N, V(2));
    for (unsigned number : {SYS_process_vm_readv, SYS_process_vm_writev})
      Set(number, kAlways, N, V(2), N, V(4));
    for (unsigned number : {SYS_open, SYS_creat, SYS_access, SYS_chdir, SYS_mkdir, SYS_rmdir, SYS_unlink,
                            SYS_chmod, SYS_chown, SYS_lchown, SYS_truncate, SYS_mknod, SYS_chroot,
                            SYS_memfd_create, SYS_swapon, SYS_swapoff, SYS_umount2})
      Add(number, S);
    for (unsigned number : {SYS_openat, SYS_mkdirat, SYS_mknodat, SYS_fchownat, SYS_unlinkat, SYS_fchmodat,
                            SYS_faccessat, SYS_faccessat2, SYS_inotify_add_watch, kFchmodat2})
      Add(number, N, S);
    for (unsigned number : {SYS_stat, SYS_lstat}) Add(number, S, P(kStat));
    Add(SYS_fstat, N, P(kStat));
    Add(SYS_newfstatat, N, S, P(kStat));
    Add(SYS_statx, N, S, N, N, P(256));
    Add(SYS_statfs, S, P(120));
    Add(SYS_fstatfs, N, P(120));
    for (unsigned number : {SYS_rename, SYS_link, SYS_symlink}) Add(number, S, S);
    for (unsigned number : {SYS_renameat, SYS_renameat2, SYS_linkat}) Add(number, N, S, N, S);
    Add(SYS_symlinkat, S, N, S);
    Add(SYS_readlink, S, L(2));
    Add(SYS_readlinkat, N, S, L(3));
    Add(SYS_getcwd, L(1));
    Add(SYS_getdents, N, L(2));
    Add(SYS_getdents64, N, L(2));
    Add(SYS_utime, S, P(16));
    Add(SYS_utimes, S, P(32));
    Add(SYS_futimesat, N, S, P(32));
    Add(SYS_utimensat, N, S, P(32));
    Add(SYS_openat2, N, S, L(3));
    Add(SYS_fcntl, N, N, O);
    Set(SYS_ioctl, kAlways, N, N, Q);
    Add(SYS_pipe, P(8));
    Add(SYS_pipe2, P(8));
    Add(SYS_sendfile, N, N, P(8));
    Add(SYS_splice, N, P(8), N, P(8));
    Add(SYS_copy_file_range, N, P(8), N, P(8));
    for (unsigned number : {SYS_setxattr, SYS_lsetxattr, SYS_getxattr, SYS_lgetxattr})
      Add(number, S, S, L(3));
    for (unsigned number : {SYS_fsetxattr, SYS_fgetxattr}) Add(number, N, S, L(3));
    for (unsigned number : {SYS_listxattr, SYS_llistxattr}) Add(number, S, L(2));
    Add(SYS_flistxattr, N, L(2));
    for (unsigned number : {SYS_removexattr, SYS_lremovexattr}) Add(number, S, S);
    Add(SYS_fremovexattr, N, S);
    Add(SYS_mount, S, S, S, N, O);
    Add(SYS_open_tree, N, S);
    Add(SYS_move_mount, N, S, N, S);
    Add(SYS_fsopen, S);
    Add(SYS_fsconfig, N, N, S, O);
    Add(SYS_fspick, N, S);
    Add(SYS_mount_setattr, N, S, N, L(4));
    Add(kOpenTreeAttr, N, S, N, L(4));
    Add(kStatmount, P(32), L(2));
    Add(kListmount, P(32), L(2, 8));
    Add(SYS_ustat, N, P(32));
    Add(SYS_quotactl_fd, N, N, N, O);
    Add(kCachestat, N, P(16), P(40));
    Add(kSetxattrat, N, S, N, S, Q);
    Add(kGetxattrat, N, S, N, S, Q);
    Add(kListxattrat, N, S, N, L(4));
    Add(kRemovexattrat, N, S, N, S);
    for (unsigned number : {kFileGetattr, kFileSetattr}) Add(number, N, S, L(3));
    Add(SYS_pivot_root, S, S);
    Add(SYS_quotactl, N, S, N, O);
    Add(SYS_fanotify_mark, N, N, N, N, S);
    Add(SYS_name_to_handle_at, N, S, O, P(4));
    Add(SYS_open_by_handle_at, N, O);
    // Waiting.
    Add(SYS_poll, L(1, 8));
    Set(SYS_ppoll, kAlways, L(1, 8), N, P(kTimespec), P(kSigset));
    Add(SYS_select, N, B(0), B(0), B(0), P(16));
    Set(SYS_pselect6, kAlways, N, B(0), B(0), B(0), P(kTimespec), P(16));
    Add(SYS_epoll_wait, N, L(2, 12));
    Set(SYS_epoll_pwait, kAlways, N, L(2, 12), N, N, P(kSigset));
    Set(SYS_epoll_pwait2, kAlways, N, L(2, 12), N, P(kTimespec), P(kSigset));
    Add(SYS_epoll_ctl, N, N, N, P(12));
    Set(SYS_futex, SyscallSpec::kPointers, P(4), N, N, P(kTimespec), P(4));
    Add(kFutexWake, P(4));
    Add(kFutexWait, P(4), N, N, N, P(kTimespec));
    Set(kFutexRequeue, kAlways, P(48));
    Set(SYS_futex_waitv, kAlways, L(1, 24), N, N, P(kTimespec));
    Add(SYS_get_robust_list, N, P(8), P(8));
    Set(SYS_io_setup, kAlways, N, P(8));
    Set(SYS_io_submit, kAlways, N, N, L(1, 8));
    Set(SYS_io_cancel, kAlways, N, P(64), P(32));
    Set(SYS_io_destroy, kAlways);
    Set(SYS_io_getevents, kAlways, N, N, N, L(2, 32), P(kTimespec));
    Set(SYS_io_pgetevents, kAlways, N, N, N, L(2, 32), P(kTimespec), P(16));
    // Sockets.
    Add(SYS_connect, N, L(2));
    Add(SYS_bind, N, L(2));
    for (unsigned number : {SYS_accept, SYS_accept4, SYS_getsockname, SYS_getpeername})
      Add(number, N, P(128), P(4));
    Add(SYS_sendto, N, L(2), N, N, L(5));
    Add(SYS_recvfrom, N, L(2), N, N, P(128), P(4));
    Set(SYS_sendmsg, kAlways, N, M);
    Set(SYS_recvmsg, kAlways, N, M);
    Set(SYS_sendmmsg, kAlways, N, MM(2));
    Set(SYS_recvmmsg, kAlways, N, MM(2), N, N, P(kTimespec));
    Add(SYS_socketpair, N, N, N, P(8));
    Set(SYS_setsockopt, kAlways, N, N, N, QL(4));
    Add(SYS_getsockopt, N, N, N, O, P(4));
    // Time and the rest.
    Add(SYS_nanosleep, P(kTimespec), P(kTimespec));
    Add(SYS_clock_nanosleep, N, N, P(kTimespec), P(kTimespec));
    for (unsigned number : {SYS_clock_gettime, SYS_clock_getres, SYS_clock_settime})
      Add(number, N, P(kTimespec));
    Add(SYS_clock_adjtime, N, O);
    Add(SYS_adjtimex, P(208));
    Add(SYS_gettimeofday, P(16), P(8));
    Add(SYS_settimeofday, P(16), P(8));
    Add(SYS_time, P(8));
    Add(SYS_getitimer, N, P(32));
    Add(SYS_setitimer, N, P(32), P(32));
    Add(SYS_timer_create, N, P(64), P(4));
    Add(SYS_timer_settime, N, N, P(kTimerSpec), P(kTimerSpec));
    Add(SYS_timer_gettime, N, P(kTimerSpec));
    Add(SYS_timerfd_settime, N, N, P(kTimerSpec), P(kTimerSpec));
    Add(SYS_timerfd_gettime, N, P(kTimerSpec));
    Add(SYS_getrandom, L(1));
    Add(SYS_semop, N, L(2, 6));
    Add(SYS_semtimedop, N, L(2, 6), N, P(kTimespec));
    // The type of a message goes before its bytes.
    for (unsigned number : {SYS_msgsnd, SYS_msgrcv}) Add(number, N, L(2, 1, 8));
    Add(SYS_shmctl, N, N, O);
    Add(SYS_semctl, N, N, N, O);
    Add(SYS_msgctl, N, N, O);
    Add(SYS_sethostname, L(1));
    Add(SYS_setdomainname, L(1));
    Add(SYS_syslog, N, L(2));
    Add(SYS_mq_open, S, N, N, P(64));
    Add(SYS_mq_unlink, S);
    Add(SYS_mq_timedsend, N, L(2), N, N, P(kTimespec));
    Add(SYS_mq_timedreceive, N, L(2), N, P(4), P(kTimespec));
    Add(SYS_mq_notify, N, P(64));
    Add(SYS_mq_getsetattr, N, P(64), P(64));
    Add(SYS_bpf, N, L(2));
    Add(SYS_perf_event_open, O);
    Add(SYS_add_key, S, S, L(3));
    Add(SYS_request_key, S, S, S);
    Add(SYS_keyctl, N, O, O, O, O);
    Add(SYS_landlock_create_ruleset, L(1));
    Add(SYS_landlock_add_rule, N, N, O);
    Add(kLsmGetSelfAttr, N, O, P(4));
    Add(kLsmSetSelfAttr, N, L(2));
    Add(kLsmListModules, O, P(4));
    Add(SYS_init_module, L(1), N, S);
    Add(SYS_finit_module, N, S);
    Add(SYS_delete_module, S);
  }
};

constexpr Table kTable;

constexpr SyscallsAlways Always() {
  SyscallsAlways always = {};
  for (unsigned i = 0; i < kSyscallsMax; ++i) always.is[i] = kTable.specs[i].route == SyscallSpec::kAlways;
  return always;
}

}  // namespace

constexpr SyscallsAlways farpool_syscall_always = Always();

const SyscallSpec& SyscallSpecOf(unsigned number) {
  static constexpr SyscallSpec kNothing{};
  return number < kSyscallsMax ? kTable.specs[number] : kNothing;
}

}  // namespace farpool
