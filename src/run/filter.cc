#include "run/filter.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <cerrno>
#include <cstddef>

#include "base/sys.h"
#include "run/layout.h"
#include "run/syscalls.h"

namespace farpool {

namespace {

constexpr unsigned kIoUringSetup = 425;

// Calls with rules of their own.
constexpr bool HasOwnRule(unsigned number) {
  return number == SYS_close || number == SYS_dup2 || number == SYS_dup3 || number == SYS_close_range ||
         number == SYS_vmsplice || number == SYS_setsockopt || number == SYS_mlockall ||
         number == SYS_socket || number == SYS_io_setup || number == kIoUringSetup;
}

constexpr uint32_t Low(unsigned arg) { return static_cast<uint32_t>(offsetof(seccomp_data, args)) + arg * 8; }
constexpr uint32_t High(unsigned arg) { return Low(arg) + 4; }

constexpr uint32_t kArenaHigh = static_cast<uint32_t>(kArenaBase >> 32);
constexpr uint32_t kArenaHighMask = ~static_cast<uint32_t>((kArenaBytes >> 32) - 1);

// Emits instructions in order; jumps forward to a label are patched when the label is bound. Conditional
// jumps reach 255 instructions only, so they always skip over an unconditional one, which reaches everywhere.
class Assembler {
 public:
  // Until it is bound the jumps to it are a list: each holds the one before where its target will be.
  struct Label {
    uint32_t last_use = kNone;
    bool used() const { return last_use != kNone; }
  };
  explicit Assembler(sock_filter* code) : code_(code) {}

  void Load(uint32_t offset) { Emit(BPF_LD | BPF_W | BPF_ABS, 0, 0, offset); }
  void And(uint32_t mask) { Emit(BPF_ALU | BPF_AND | BPF_K, 0, 0, mask); }
  void Return(uint32_t value) { Emit(BPF_RET | BPF_K, 0, 0, value); }
  void JumpIf(uint16_t condition, uint32_t value, Label* label) {
    Emit(static_cast<uint16_t>(BPF_JMP | condition | BPF_K), 0, 1, value);
    Emit(BPF_JMP | BPF_JA, 0, 0, label->last_use);
    if (fits()) label->last_use = size_ - 1;
  }
  void Bind(Label* label) {
    while (label->used()) {
      const uint32_t use = label->last_use;
      label->last_use = code_[use].k;
      code_[use].k = size_ - use - 1;
    }
  }
  unsigned size() const { return size_; }
  bool fits() const { return size_ <= kFilterMax; }

  // Argument `arg` is a far pointer.
  void JumpIfFar(unsigned arg, Label* label) {
    Load(High(arg));
    And(kArenaHighMask);
    JumpIf(BPF_JEQ, kArenaHigh, label);
  }
  // The call is made by the runtime itself, from its trampoline; otherwise the answer is `otherwise`.
  void JumpIfTrampoline(Label* label, uint32_t otherwise) {
    Label page;
    Load(offsetof(seccomp_data, instruction_pointer) + 4);
    JumpIf(BPF_JEQ, static_cast<uint32_t>(kTrampoline >> 32), &page);
    Return(otherwise);
    Bind(&page);
    Load(offsetof(seccomp_data, instruction_pointer));
    And(0xfffff000);
    JumpIf(BPF_JEQ, static_cast<uint32_t>(kTrampoline), label);
    Return(otherwise);
  }

 private:
  static constexpr uint32_t kNone = UINT32_MAX;
  void Emit(uint16_t code, uint8_t jt, uint8_t jf, uint32_t k) {
    if (size_ < kFilterMax) code_[size_] = sock_filter{code, jt, jf, k};
    ++size_;
  }
  sock_filter* code_;
  unsigned size_ = 0;
};

struct Builder {
  Assembler assembler;
  Assembler::Label masks[64];
  Assembler::Label close_call, dup2_call, close_range_call, vmsplice_call, setsockopt_call, socket_call,
      io_setup_call, no_mlockall, no_uring, trap;
  unsigned numbers[kSyscallsMax];
  unsigned count = 0;

  explicit Builder(sock_filter* code) : assembler(code) {}

  Assembler::Label* TargetOf(unsigned number) {
    switch (number) {
      case SYS_close:
        return &close_call;
      case SYS_dup2:
      case SYS_dup3:
        return &dup2_call;
      case SYS_close_range:
        return &close_range_call;
      case SYS_vmsplice:
        return &vmsplice_call;
      case SYS_setsockopt:
        return &setsockopt_call;
      case SYS_socket:
        return &socket_call;
      case SYS_io_setup:
        return &io_setup_call;
      case SYS_mlockall:
        return &no_mlockall;
      case kIoUringSetup:
        return &no_uring;
      default:
        return &masks[SyscallSpecOf(number).PointerMask()];
    }
  }
  // Binary search over the numbers that concern us; the rest is allowed at once.
  void Search(unsigned low, unsigned high) {
    if (high - low <= 3) {
      for (unsigned i = low; i < high; ++i) assembler.JumpIf(BPF_JEQ, numbers[i], TargetOf(numbers[i]));
      assembler.Return(SECCOMP_RET_ALLOW);
      return;
    }
    const unsigned middle = (low + high) / 2;
    Assembler::Label right;
    assembler.JumpIf(BPF_JGE, numbers[middle], &right);
    Search(low, middle);
    assembler.Bind(&right);
    Search(middle, high);
  }
};

}  // namespace

unsigned BuildFilter(sock_filter* code, int fd_base, int fd_count) {
  Builder b(code);
  Assembler& a = b.assembler;
  a.Load(offsetof(seccomp_data, arch));
  Assembler::Label x86;
  a.JumpIf(BPF_JEQ, AUDIT_ARCH_X86_64, &x86);
  a.Return(SECCOMP_RET_ALLOW);  // 32-bit programs have no far pointers.
  a.Bind(&x86);
  a.Load(offsetof(seccomp_data, nr));
  for (unsigned number = 0; number < kSyscallsMax; ++number) {
    if (HasOwnRule(number) || SyscallSpecOf(number).PointerMask() != 0) b.numbers[b.count++] = number;
  }
  b.Search(0, b.count);
  for (unsigned mask = 1; mask < 64; ++mask) {
    if (!b.masks[mask].used()) continue;
    a.Bind(&b.masks[mask]);
    for (unsigned arg = 0; arg < 6; ++arg) {
      if ((mask >> arg & 1) != 0) a.JumpIfFar(arg, &b.trap);
    }
    a.Return(SECCOMP_RET_ALLOW);
  }
  Assembler::Label allow;
  // What the kernel goes on using when the call is over must not be far memory, and here the memory hides
  // behind near structures or is named later. A program that does not come by the guard is told something
  // that it copes with; so are those without the runtime, whom a trap would kill.
  a.Bind(&b.vmsplice_call);
  a.JumpIfFar(1, &b.trap);
  a.JumpIfTrampoline(&allow, SECCOMP_RET_ERRNO | EINVAL);
  a.Bind(&b.io_setup_call);
  a.JumpIfFar(1, &b.trap);
  a.JumpIfTrampoline(&allow, SECCOMP_RET_ERRNO | ENOSYS);
  Assembler::Label no_family;
  a.Bind(&b.socket_call);
  a.Load(Low(0));
  a.JumpIf(BPF_JEQ, AF_XDP, &no_family);
  a.Return(SECCOMP_RET_ALLOW);
  a.Bind(&no_family);
  a.Return(SECCOMP_RET_ERRNO | EAFNOSUPPORT);
  Assembler::Label zerocopy, no_option;
  a.Bind(&b.setsockopt_call);
  a.Load(Low(2));
  a.JumpIf(BPF_JEQ, SO_ZEROCOPY, &zerocopy);
  a.JumpIfFar(3, &b.trap);
  a.Return(SECCOMP_RET_ALLOW);
  a.Bind(&zerocopy);
  a.Load(Low(1));
  a.JumpIf(BPF_JEQ, SOL_SOCKET, &no_option);
  a.JumpIfFar(3, &b.trap);
  a.Return(SECCOMP_RET_ALLOW);
  a.Bind(&no_option);
  a.Return(SECCOMP_RET_ERRNO | ENOPROTOOPT);
  // Locked far memory could not be evicted. To say that it is locked, as the guard does, would be a lie where
  // no memory is far.
  a.Bind(&b.no_mlockall);
  a.Return(SECCOMP_RET_ERRNO | EPERM);
  a.Bind(&b.no_uring);
  a.Return(SECCOMP_RET_ERRNO | ENOSYS);

  // A far pointer: only the runtime itself may pass.
  a.Bind(&b.trap);
  a.JumpIfTrampoline(&allow, SECCOMP_RET_TRAP);

  // Daemons close everything. A closed userfaultfd would turn absent pages into zeros. Those that found it in
  // /proc/self/fd are told that it is closed.
  Assembler::Label close_ours, dup2_ours;
  a.Bind(&b.close_call);
  a.Load(Low(0));
  a.JumpIf(BPF_JGE, static_cast<uint32_t>(fd_base + fd_count), &allow);
  a.JumpIf(BPF_JGE, static_cast<uint32_t>(fd_base), &close_ours);
  a.Return(SECCOMP_RET_ALLOW);
  a.Bind(&b.dup2_call);
  a.Load(Low(1));
  a.JumpIf(BPF_JGE, static_cast<uint32_t>(fd_base + fd_count), &allow);
  a.JumpIf(BPF_JGE, static_cast<uint32_t>(fd_base), &dup2_ours);
  a.Return(SECCOMP_RET_ALLOW);
  a.Bind(&close_ours);
  a.JumpIfTrampoline(&allow, SECCOMP_RET_ERRNO | 0);
  a.Bind(&dup2_ours);
  a.JumpIfTrampoline(&allow, SECCOMP_RET_ERRNO | EBADF);
  a.Bind(&b.close_range_call);  // Touches ours if first <= our last and last >= our first.
  Assembler::Label no_close_range;
  a.Load(Low(0));
  a.JumpIf(BPF_JGE, static_cast<uint32_t>(fd_base + fd_count), &allow);
  a.Load(Low(1));
  a.JumpIf(BPF_JGE, static_cast<uint32_t>(fd_base), &no_close_range);
  a.Return(SECCOMP_RET_ALLOW);
  a.Bind(&no_close_range);
  a.Return(SECCOMP_RET_ERRNO | ENOSYS);
  a.Bind(&allow);
  a.Return(SECCOMP_RET_ALLOW);
  return a.fits() ? a.size() : 0;
}

Status InstallFilter(int fd_base, int fd_count) {
  static sock_filter code[kFilterMax];
  const unsigned size = BuildFilter(code, fd_base, fd_count);
  if (size == 0) return Status(Status::Code::kInternal, "the system call filter is too long");
  sock_fprog program = {static_cast<unsigned short>(size), code};
  // It is no sandbox. Kernels before 5.16 would slow down all that runs under a filter, for protection from
  // its own code (Documentation/userspace-api/spec_ctrl.rst).
  constexpr unsigned kFlags = SECCOMP_FILTER_FLAG_SPEC_ALLOW;
  long r = sys::Call(SYS_seccomp, SECCOMP_SET_MODE_FILTER, kFlags, &program);
  if (r == -EACCES) {
    r = sys::Call(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (r == 0) r = sys::Call(SYS_seccomp, SECCOMP_SET_MODE_FILTER, kFlags, &program);
  }
  if (r != 0) return Status::FromErrno("installing the system call filter (seccomp)", static_cast<int>(-r));
  return Status::Ok();
}

}  // namespace farpool
