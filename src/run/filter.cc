#include "run/filter.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <cerrno>
#include <cstddef>

#include "base/sys.h"
#include "run/layout.h"
#include "run/syscalls.h"

namespace farpool {

namespace {

constexpr uint32_t Low(unsigned arg) { return static_cast<uint32_t>(offsetof(seccomp_data, args)) + arg * 8; }
constexpr uint32_t High(unsigned arg) { return Low(arg) + 4; }

constexpr uint32_t kArenaHigh = static_cast<uint32_t>(kArenaBase >> 32);
constexpr uint32_t kArenaHighMask = ~static_cast<uint32_t>((kArenaBytes >> 32) - 1);

// Emits instructions in order; jumps forward to a label are patched when the label is bound. Conditional
// jumps reach 255 instructions only, so they always skip over an unconditional one, which reaches everywhere.
class Assembler {
 public:
  struct Label {
    int at = -1;
    unsigned uses[600];
    unsigned use_count = 0;
  };
  explicit Assembler(sock_filter* code) : code_(code) {}

  void Load(uint32_t offset) { Emit(BPF_LD | BPF_W | BPF_ABS, 0, 0, offset); }
  void And(uint32_t mask) { Emit(BPF_ALU | BPF_AND | BPF_K, 0, 0, mask); }
  void Return(uint32_t value) { Emit(BPF_RET | BPF_K, 0, 0, value); }
  void JumpIf(uint16_t condition, uint32_t value, Label* label) {
    Emit(static_cast<uint16_t>(BPF_JMP | condition | BPF_K), 0, 1, value);
    label->uses[label->use_count++] = size_;
    Emit(BPF_JMP | BPF_JA, 0, 0, 0);
  }
  void Bind(Label* label) {
    for (unsigned i = 0; i < label->use_count; ++i) code_[label->uses[i]].k = size_ - label->uses[i] - 1;
    label->at = static_cast<int>(size_);
  }
  unsigned size() const { return size_; }
  bool fits() const { return size_ <= kFilterMax; }

 private:
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
  Assembler::Label close_call, dup2_call, close_range_call, no_uring, trap;
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
      case 425:
        return &no_uring;  // io_uring_setup: its buffers are hidden from us.
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
    const bool ours = number == SYS_close || number == SYS_dup2 || number == SYS_dup3 ||
                      number == SYS_close_range || number == 425;
    if (ours || SyscallSpecOf(number).PointerMask() != 0) b.numbers[b.count++] = number;
  }
  b.Search(0, b.count);
  for (unsigned mask = 1; mask < 64; ++mask) {
    if (b.masks[mask].use_count == 0) continue;
    a.Bind(&b.masks[mask]);
    for (unsigned arg = 0; arg < 6; ++arg) {
      if ((mask >> arg & 1) == 0) continue;
      a.Load(High(arg));
      a.And(kArenaHighMask);
      a.JumpIf(BPF_JEQ, kArenaHigh, &b.trap);
    }
    a.Return(SECCOMP_RET_ALLOW);
  }
  // A far pointer: only the runtime itself, from its trampoline, may pass.
  Assembler::Label trampoline_page, allow;
  a.Bind(&b.trap);
  a.Load(offsetof(seccomp_data, instruction_pointer) + 4);
  a.JumpIf(BPF_JEQ, static_cast<uint32_t>(kTrampoline >> 32), &trampoline_page);
  a.Return(SECCOMP_RET_TRAP);
  a.Bind(&trampoline_page);
  a.Load(offsetof(seccomp_data, instruction_pointer));
  a.And(0xfffff000);
  a.JumpIf(BPF_JEQ, static_cast<uint32_t>(kTrampoline), &allow);
  a.Return(SECCOMP_RET_TRAP);

  // Daemons close everything. A closed userfaultfd would turn absent pages into zeros.
  Assembler::Label check_close, in_range_page;
  a.Bind(&b.close_call);
  a.Load(Low(0));
  a.JumpIf(BPF_JGE, static_cast<uint32_t>(fd_base + fd_count), &allow);
  a.JumpIf(BPF_JGE, static_cast<uint32_t>(fd_base), &check_close);
  a.Return(SECCOMP_RET_ALLOW);
  a.Bind(&b.dup2_call);
  a.Load(Low(1));
  a.JumpIf(BPF_JGE, static_cast<uint32_t>(fd_base + fd_count), &allow);
  a.JumpIf(BPF_JGE, static_cast<uint32_t>(fd_base), &check_close);
  a.Return(SECCOMP_RET_ALLOW);
  a.Bind(&check_close);
  a.Load(offsetof(seccomp_data, instruction_pointer) + 4);
  a.JumpIf(BPF_JEQ, static_cast<uint32_t>(kTrampoline >> 32), &in_range_page);
  a.Return(SECCOMP_RET_ERRNO | EBADF);
  a.Bind(&in_range_page);
  a.Load(offsetof(seccomp_data, instruction_pointer));
  a.And(0xfffff000);
  a.JumpIf(BPF_JEQ, static_cast<uint32_t>(kTrampoline), &allow);
  a.Return(SECCOMP_RET_ERRNO | EBADF);
  a.Bind(&b.close_range_call);  // Touches ours if first <= our last and last >= our first.
  Assembler::Label no_close_range;
  a.Load(Low(0));
  a.JumpIf(BPF_JGE, static_cast<uint32_t>(fd_base + fd_count), &allow);
  a.Load(Low(1));
  a.JumpIf(BPF_JGE, static_cast<uint32_t>(fd_base), &no_close_range);
  a.Return(SECCOMP_RET_ALLOW);
  a.Bind(&no_close_range);
  a.Return(SECCOMP_RET_ERRNO | ENOSYS);
  a.Bind(&b.no_uring);
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
  long r = sys::Call(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
  if (r == -EACCES) {
    r = sys::Call(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (r == 0) r = sys::Call(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
  }
  if (r != 0) return Status::FromErrno("installing the system call filter (seccomp)", static_cast<int>(-r));
  return Status::Ok();
}

}  // namespace farpool
