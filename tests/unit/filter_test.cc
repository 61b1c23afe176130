// The filter as the kernel would run it: its program on made-up calls, without installing it.

#include "run/filter.h"

#include <gtest/gtest.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <cerrno>
#include <cstring>
#include <random>
#include <set>
#include <vector>

#include "run/layout.h"
#include "run/syscalls.h"

namespace farpool {
namespace {

constexpr int kFdBase = 900;
constexpr uint64_t kFar = kArenaBase + 0x023456789000;
constexpr uint64_t kFarLast = kArenaBase + kArenaBytes - 1;
constexpr uint64_t kProgramCode = 0x555555554000;
constexpr unsigned kIoUringSetup = 425;

constexpr uint32_t Refused(int error) { return SECCOMP_RET_ERRNO | static_cast<uint32_t>(error); }

bool HasOwnRule(unsigned number) {
  return number == SYS_close || number == SYS_dup2 || number == SYS_dup3 || number == SYS_close_range ||
         number == SYS_vmsplice || number == SYS_mlockall || number == SYS_socket || number == SYS_io_setup ||
         number == kIoUringSetup;
}

struct FilterTest : testing::Test {
  FilterTest() : code(kFilterMax + 1, sock_filter{0xffff, 0xff, 0xff, 0xdeadbeef}) {
    size = BuildFilter(code.data(), kFdBase, kRuntimeFds);
  }

  // The few instructions seccomp filters are made of. Anything else, or running off the end, is a failure.
  uint32_t Run(const seccomp_data& data) const {
    uint32_t a = 0;
    for (unsigned pc = 0; pc < size; ++pc) {
      const sock_filter& i = code[pc];
      bool jump = false;
      switch (i.code) {
        case BPF_LD | BPF_W | BPF_ABS:
          if (i.k % 4 != 0 || i.k + 4 > sizeof(data)) return Bad("load outside of seccomp_data");
          std::memcpy(&a, reinterpret_cast<const char*>(&data) + i.k, 4);
          continue;
        case BPF_ALU | BPF_AND | BPF_K:
          a &= i.k;
          continue;
        case BPF_RET | BPF_K:
          return i.k;
        case BPF_JMP | BPF_JA:
          if (i.k >= size) return Bad("jump out of the program");
          pc += i.k;
          continue;
        case BPF_JMP | BPF_JEQ | BPF_K:
          jump = a == i.k;
          break;
        case BPF_JMP | BPF_JGE | BPF_K:
          jump = a >= i.k;
          break;
        case BPF_JMP | BPF_JGT | BPF_K:
          jump = a > i.k;
          break;
        default:
          return Bad("instruction unknown to this test");
      }
      pc += jump ? i.jt : i.jf;
    }
    return Bad("ran off the end");
  }
  static uint32_t Bad(const char* what) {
    ADD_FAILURE() << what;
    return 0xffffffff;
  }
  uint32_t Call(unsigned number, std::vector<uint64_t> args, uint64_t from = kProgramCode) const {
    seccomp_data data = {};
    data.nr = static_cast<int>(number);
    data.arch = AUDIT_ARCH_X86_64;
    data.instruction_pointer = from;
    for (size_t i = 0; i < args.size(); ++i) data.args[i] = args[i];
    return Run(data);
  }

  std::vector<sock_filter> code;
  unsigned size;
};

TEST_F(FilterTest, FitsAndWritesNoFurther) {
  EXPECT_GT(size, 0u);
  EXPECT_LT(size, kFilterMax);
  for (size_t i = size; i < code.size(); ++i) ASSERT_EQ(code[i].code, 0xffff);
}

// Method: every call number, a far pointer in each register by itself. Also numbers beyond the table, and the
// x32 numbers, which have bit 30 set.
TEST_F(FilterTest, TrapsExactlyOnTruePointersIntoTheArena) {
  for (unsigned number = 0; number < kSyscallsMax + 100; ++number) {
    if (HasOwnRule(number)) continue;
    const unsigned pointers = SyscallSpecOf(number).PointerMask();
    EXPECT_EQ(Call(number, {}), SECCOMP_RET_ALLOW) << number;
    for (unsigned arg = 0; arg < 6; ++arg) {
      std::vector<uint64_t> args(6, 0x7fff12345678);
      for (const uint64_t far : {uint64_t{kArenaBase}, kFar, kFarLast}) {
        args[arg] = far;
        EXPECT_EQ(Call(number, args), (pointers >> arg & 1) != 0 ? SECCOMP_RET_TRAP : SECCOMP_RET_ALLOW)
            << number << " argument " << arg;
      }
      for (const uint64_t near : {kArenaBase - 1, kArenaBase + kArenaBytes, uint64_t{0}, ~uint64_t{0},
                                  kFar | uint64_t{1} << 63, kFar & 0xffffffff}) {
        args[arg] = near;
        EXPECT_EQ(Call(number, args), SECCOMP_RET_ALLOW) << number << " argument " << arg;
      }
    }
  }
}

// Registers that a call does not use hold whatever was there before.
TEST_F(FilterTest, StaleRegistersNeverTrap) {
  for (unsigned number = 0; number < kSyscallsMax; ++number) {
    if (HasOwnRule(number)) continue;
    const unsigned pointers = SyscallSpecOf(number).PointerMask();
    std::vector<uint64_t> args(6);
    for (unsigned arg = 0; arg < 6; ++arg) args[arg] = (pointers >> arg & 1) != 0 ? kProgramCode : kFar;
    EXPECT_EQ(Call(number, args), SECCOMP_RET_ALLOW) << number;
  }
}

TEST_F(FilterTest, TrampolineMayPassFarPointers) {
  for (unsigned number = 0; number < kSyscallsMax; ++number) {
    if (HasOwnRule(number)) continue;
    const std::vector<uint64_t> args(6, kFar);
    EXPECT_EQ(Call(number, args, kTrampoline), SECCOMP_RET_ALLOW) << number;
    EXPECT_EQ(Call(number, args, kTrampoline + 2), SECCOMP_RET_ALLOW) << number;
  }
  const std::vector<uint64_t> args(6, kFar);
  for (const uint64_t from :
       {kTrampoline - 1, kTrampoline + kPageBytes, kTrampoline + (uint64_t{1} << 32), uint64_t{0}, kFar})
    EXPECT_EQ(Call(SYS_read, args, from), SECCOMP_RET_TRAP) << from;
}

// Where a trap would kill: glibc has all signals blocked there, or nobody is there to answer.
TEST_F(FilterTest, SomeCallsAreNeverTrapped) {
  const std::vector<uint64_t> args(6, kFar);
  for (unsigned number : {SYS_clone, SYS_clone3, SYS_fork, SYS_vfork, SYS_rt_sigreturn, SYS_exit,
                          SYS_exit_group, SYS_set_robust_list, SYS_arch_prctl})
    EXPECT_EQ(Call(number, args), SECCOMP_RET_ALLOW) << number;
}

// Calls that every program makes on buffers of its own: the table knows them.
TEST_F(FilterTest, KnowsTheCallsThatCarryBuffers) {
  const std::vector<uint64_t> args(6, kFar);
  for (unsigned number :
       {SYS_read,     SYS_write,      SYS_pread64,      SYS_readv,      SYS_writev,       SYS_sendto,
        SYS_recvfrom, SYS_sendmsg,    SYS_recvmsg,      SYS_open,       SYS_openat,       SYS_stat,
        SYS_fstat,    SYS_newfstatat, SYS_statx,        SYS_getdents64, SYS_readlink,     SYS_poll,
        SYS_select,   SYS_epoll_wait, SYS_futex,        SYS_nanosleep,  SYS_execve,       SYS_munmap,
        SYS_mprotect, SYS_madvise,    SYS_mremap,       SYS_getrandom,  SYS_ioctl,        SYS_wait4,
        SYS_pipe2,    SYS_socketpair, SYS_rt_sigaction, SYS_io_submit,  SYS_clock_gettime})
    EXPECT_EQ(Call(number, args), SECCOMP_RET_TRAP) << number;
}

TEST_F(FilterTest, RuntimesDescriptorsCannotBeClosedOrReplaced) {
  constexpr uint64_t kLast = kFdBase + kRuntimeFds - 1;
  for (uint64_t fd : {uint64_t{kFdBase}, uint64_t{kFdBase + kFdUserfault}, kLast}) {
    EXPECT_EQ(Call(SYS_close, {fd}), Refused(0)) << fd;
    EXPECT_EQ(Call(SYS_dup2, {1, fd}), Refused(EBADF)) << fd;
    EXPECT_EQ(Call(SYS_dup3, {1, fd, 0}), Refused(EBADF)) << fd;
    // The kernel looks at the lower half only.
    EXPECT_EQ(Call(SYS_close, {fd | uint64_t{1} << 32}), Refused(0)) << fd;
    for (unsigned number : {SYS_close, SYS_dup2, SYS_dup3}) {
      EXPECT_EQ(Call(number, {fd, fd}, kTrampoline), SECCOMP_RET_ALLOW) << fd;
      EXPECT_NE(Call(number, {fd, fd}, kTrampoline + kPageBytes), SECCOMP_RET_ALLOW) << fd;
    }
  }
  for (uint64_t fd : {uint64_t{0}, uint64_t{kFdBase - 1}, kLast + 1, uint64_t{0xffffffff}, kFar}) {
    const auto low = static_cast<uint32_t>(fd);
    if (low >= kFdBase && low <= kLast) continue;
    EXPECT_EQ(Call(SYS_close, {fd}), SECCOMP_RET_ALLOW) << fd;
    EXPECT_EQ(Call(SYS_dup2, {kFdBase, fd}), SECCOMP_RET_ALLOW) << fd;  // A copy of ours harms nobody.
    EXPECT_EQ(Call(SYS_dup3, {kFdBase, fd, 0}), SECCOMP_RET_ALLOW) << fd;
  }
}

// The guard leaves them out; who calls by an instruction of its own goes on with close() one by one.
TEST_F(FilterTest, CloseRangeAcrossTheRuntimesDescriptorsIsNotThere) {
  constexpr uint64_t kLast = kFdBase + kRuntimeFds - 1;
  struct {
    uint64_t first, last;
    bool across;
  } const cases[] = {{3, 0xffffffff, true},   {3, kFdBase, true},           {kLast, kLast, true},
                     {kLast, 5000, true},     {kFdBase + 1, kLast, true},   {3, kFdBase - 1, false},
                     {kLast + 1, ~0u, false}, {kLast + 1, kLast + 1, false}};
  for (const auto& c : cases)
    EXPECT_EQ(Call(SYS_close_range, {c.first, c.last, 0}), c.across ? Refused(ENOSYS) : SECCOMP_RET_ALLOW)
        << c.first << ".." << c.last;
}

// The pipe would go on naming far pages. Programs without the runtime are refused, not trapped: that would
// kill them.
TEST_F(FilterTest, VmspliceIsTheGuardsAlone) {
  EXPECT_EQ(Call(SYS_vmsplice, {1, kProgramCode, 1, 0}), Refused(EINVAL));
  EXPECT_EQ(Call(SYS_vmsplice, {1, kFar, 1, 0}), SECCOMP_RET_TRAP);
  EXPECT_EQ(Call(SYS_vmsplice, {1, kProgramCode, 1, 0}, kTrampoline), SECCOMP_RET_ALLOW);
  EXPECT_EQ(Call(SYS_vmsplice, {1, kFar, 1, 0}, kTrampoline), SECCOMP_RET_ALLOW);
  EXPECT_EQ(Call(SYS_vmsplice, {1, kProgramCode, 1, 0}, kTrampoline + kPageBytes), Refused(EINVAL));
}

// Later calls name buffers in near structures and return before they are done with. libaio's own instructions
// are not followed.
TEST_F(FilterTest, AsynchronousIoIsTheGuardsAlone) {
  EXPECT_EQ(Call(SYS_io_setup, {8, kProgramCode}), Refused(ENOSYS));
  EXPECT_EQ(Call(SYS_io_setup, {8, kFar}), SECCOMP_RET_TRAP);
  EXPECT_EQ(Call(SYS_io_setup, {8, kProgramCode}, kTrampoline), SECCOMP_RET_ALLOW);
}

TEST_F(FilterTest, NoSocketsThatKeepPages) {
  for (const uint64_t from : {kProgramCode, kTrampoline}) {
    EXPECT_EQ(Call(SYS_socket, {AF_XDP, SOCK_RAW, 0}, from), Refused(EAFNOSUPPORT));
    EXPECT_EQ(Call(SYS_socket, {AF_INET, SOCK_STREAM, 0}, from), SECCOMP_RET_ALLOW);
  }
}

// Level and option are ints: the kernel does not look at the upper halves.
TEST_F(FilterTest, ZeroCopyCannotBeSwitchedOn) {
  constexpr uint64_t kHigh = uint64_t{7} << 32;
  for (const uint64_t value : {kProgramCode, kFar})
    for (const uint64_t from : {kProgramCode, kTrampoline}) {
      EXPECT_EQ(Call(SYS_setsockopt, {3, SOL_SOCKET, SO_ZEROCOPY, value, 4}, from), Refused(ENOPROTOOPT));
      EXPECT_EQ(Call(SYS_setsockopt, {3, kHigh | SOL_SOCKET, kHigh | SO_ZEROCOPY, value, 4}, from),
                Refused(ENOPROTOOPT));
    }
  for (const uint64_t level : {0, 6, 41}) {
    EXPECT_EQ(Call(SYS_setsockopt, {3, level, SO_ZEROCOPY, kProgramCode, 4}), SECCOMP_RET_ALLOW) << level;
    EXPECT_EQ(Call(SYS_setsockopt, {3, level, SO_ZEROCOPY, kFar, 4}), SECCOMP_RET_TRAP) << level;
  }
  EXPECT_EQ(Call(SYS_setsockopt, {3, SOL_SOCKET, SO_SNDBUF, kProgramCode, 4}), SECCOMP_RET_ALLOW);
}

TEST_F(FilterTest, NobodyLocksAllMemory) {
  EXPECT_EQ(Call(SYS_mlockall, {3}), Refused(EPERM));
  EXPECT_EQ(Call(SYS_munlockall, {}), SECCOMP_RET_ALLOW);
}

TEST_F(FilterTest, IoUringIsNotThere) { EXPECT_EQ(Call(kIoUringSetup, {1, kFar}), Refused(ENOSYS)); }

TEST_F(FilterTest, ProgramsOf32BitsAreLeftAlone) {
  for (uint32_t arch : {uint32_t{AUDIT_ARCH_I386}, uint32_t{AUDIT_ARCH_ARM}, 0u})
    for (int number = 0; number < 500; ++number) {
      seccomp_data data = {};
      data.nr = number;
      data.arch = arch;
      for (auto& arg : data.args) arg = kFar;
      ASSERT_EQ(Run(data), SECCOMP_RET_ALLOW) << number;
    }
}

// Descriptors at other places, as a caller with a low RLIMIT_NOFILE gets them.
TEST_F(FilterTest, RangeOfDescriptorsIsTheCallers) {
  size = BuildFilter(code.data(), 40, 3);
  ASSERT_GT(size, 0u);
  for (uint64_t fd = 0; fd < 100; ++fd)
    EXPECT_EQ(Call(SYS_close, {fd}), fd >= 40 && fd < 43 ? Refused(0) : SECCOMP_RET_ALLOW) << fd;
}

// What the table says must make sense for the guard, too: counts name arguments that are not pointers.
TEST(SyscallTableTest, CountsAreArgumentsThatAreNotPointers) {
  for (unsigned number = 0; number < kSyscallsMax; ++number) {
    const SyscallSpec& spec = SyscallSpecOf(number);
    for (unsigned i = 0; i < 6; ++i) {
      const SyscallArg& arg = spec.args[i];
      if (arg.kind == SyscallArg::kFixed) {
        EXPECT_GT(arg.size, 0) << number << " argument " << i;
      }
      if (arg.kind != SyscallArg::kCounted && arg.kind != SyscallArg::kIovec &&
          arg.kind != SyscallArg::kMessages)
        continue;
      ASSERT_LT(arg.count_arg, 6) << number;
      EXPECT_NE(arg.count_arg, i) << number;
      EXPECT_EQ(spec.args[arg.count_arg].kind, SyscallArg::kNone) << number << " argument " << i;
    }
    if (spec.route == SyscallSpec::kPlain) {
      EXPECT_EQ(spec.PointerMask(), 0u) << number;
    }
  }
  EXPECT_EQ(SyscallSpecOf(kSyscallsMax).PointerMask(), 0u);
  EXPECT_EQ(SyscallSpecOf(~0u).PointerMask(), 0u);
}

}  // namespace
}  // namespace farpool
