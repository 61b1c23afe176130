#include "preload/sites.h"

#include <sys/syscall.h>

#include <cstddef>
#include <cstring>

#include "run/syscalls.h"

extern "C" {
void farpool_site_entry();
void farpool_function_entry();
void farpool_clone_entry();
}

namespace farpool {

namespace {

// What a stub ends with.
struct Origin {
  int32_t site;         // Relative to the stub.
  uint16_t bytes;       // Of the stub, until it leaves.
  uint8_t equivalent;   // 1: what stands at the site behind the jump does the same.
  uint8_t cancellable;  // 1: the site is that of IsCancellable().
};
constexpr size_t kStubBytes = 64;
constexpr uint8_t kJump = 0xe9;     // jmp, with 32 bits of distance
constexpr size_t kMovBytes = 5;     // mov $nr, %eax; such a jump
constexpr size_t kMiddleMax = 24;   // Bytes between that and the syscall.
constexpr size_t kLeaBytes = 7;     // How a stub leaves: lea target(%rip), %rcx
constexpr size_t kLeaveBytes = 13;  // jmp *entry(%rip)
constexpr size_t kAroundMax = 192;  // Looked at around one.
constexpr uint8_t kLea[] = {0x48, 0x8d, 0x0d};
constexpr uint8_t kJumpThrough[] = {0xff, 0x25};
static_assert(kMovBytes + kMiddleMax + kLeaveBytes + sizeof(Origin) <= kStubBytes);

Origin OriginOf(const uint8_t* stub) {
  Origin origin;
  std::memcpy(&origin, stub + kStubBytes - sizeof(origin), sizeof(origin));
  return origin;
}

// Where stubs lead to, through addresses at the beginning of their first page.
enum Entry : uint8_t { kSiteEntry, kFunctionEntry, kCloneEntry };

int32_t Read32(const uint8_t* at) {
  int32_t value;
  std::memcpy(&value, at, sizeof(value));
  return value;
}

// That the site at `at` leads to; null: it is none.
const uint8_t* StubAt(Code code, Code stubs, uint64_t at) {
  const size_t into = at - reinterpret_cast<uintptr_t>(code.begin);
  if (into >= code.bytes() || code.bytes() - into < kMovBytes) return nullptr;
  const uint8_t* const site = code.begin + into;
  if (*site != kJump) return nullptr;
  const uint8_t* const stub = site + kMovBytes + Read32(site + 1);
  const auto from = static_cast<size_t>(stub - stubs.begin);
  if (from < kPageBytes || from >= stubs.bytes() || from % kStubBytes != 0) return nullptr;
  return stub + OriginOf(stub).site == site ? stub : nullptr;
}

// A simple instruction that may stand between mov and syscall.
struct Instruction {
  size_t bytes = 0;       // 0 if it is not one we know.
  size_t rip_at = 0;      // Where its displacement relative to the next instruction is, if it has one.
  bool sets_eax = false;  // The number of the call, then.
};

Instruction InstructionAt(const uint8_t* p) {
  constexpr uint8_t kB = 1, kR = 4;  // The registers 8 to 15.
  size_t n = 0;
  const uint8_t rex = (p[n] & 0xf0) == 0x40 ? p[n++] : 0;
  const uint8_t op = p[n++];
  size_t immediate = 0;
  bool to_memory = true;  // Or to the register of its first operand: what it sets.
  switch (op) {
    case 0x8b:
    case 0x8d:
    case 0x33:
      to_memory = false;
      break;
    case 0x89:
    case 0x31:
    case 0x85:
    case 0x01:
    case 0x29:
      break;
    case 0x81:
    case 0xc7:
      immediate = 4;
      break;
    case 0x80:
    case 0x83:
    case 0xc6:
      immediate = 1;
      break;
    case 0xb8:
      if ((rex & kB) == 0) return {};
      return {.bytes = n + 4};
    case 0xb9:
    case 0xba:
    case 0xbb:
    case 0xbd:
    case 0xbe:
    case 0xbf:
      return {.bytes = n + 4};
    default:
      return {};
  }
  const uint8_t modrm = p[n++];
  const uint8_t mode = modrm >> 6;
  const uint8_t reg = modrm >> 3 & 7;
  const uint8_t rm = modrm & 7;
  const bool sets_eax =
      op != 0x85 && (to_memory ? mode == 3 && rm == 0 && (rex & kB) == 0 : reg == 0 && (rex & kR) == 0);
  if (mode == 3) return {.bytes = n + immediate, .sets_eax = sets_eax};
  if (rm == 4) {  // SIB
    if (mode == 0 && (p[n] & 7) == 5) return {};
    ++n;
  }
  if (mode == 0 && rm == 5) return {.bytes = n + 4 + immediate, .rip_at = n, .sets_eax = sets_eax};
  return {.bytes = n + (mode == 1 ? 1 : mode == 2 ? 4 : 0) + immediate, .sets_eax = sets_eax};
}

// fork's clone, on the same stack: `mov $CLONE_CHILD_SETTID|CLONE_CHILD_CLEARTID|SIGCHLD, %edi` is just
// before.
bool IsFork(const uint8_t* mov) {
  static const uint8_t kForkFlags[] = {0xbf, 0x11, 0x00, 0x20, 0x01};
  for (const uint8_t* p = mov - 32; p < mov; ++p)
    if (std::memcmp(p, kForkFlags, sizeof(kForkFlags)) == 0) return true;
  return false;
}

class Patcher {
 public:
  Patcher(Code code, uint8_t* stubs)
      : code_(code), stubs_(stubs), end_(stubs + kStubsBytes), next_(stubs + kPageBytes) {}

  size_t PatchAll() {
    for (uint8_t* p = code_.begin; p < code_.end; ++p) {
      p = static_cast<uint8_t*>(std::memchr(p, 0x0f, static_cast<size_t>(code_.end - p)));
      if (p == nullptr) break;
      Patch(p);
    }
    return patched_ ? static_cast<size_t>(next_ - stubs_) : 0;
  }

 private:
  // Patches `p` if it is a `syscall` of one of the shapes below.
  void Patch(uint8_t* p) {
    if (p < code_.begin + kAroundMax || p >= code_.end - kAroundMax || p[0] != 0x0f || p[1] != 0x05) return;
    if (!PatchMov(p) && !PatchFunction(p) && !PatchCancelled(p) && !PatchForEachThread(p) &&
        !PatchThreadExit(p))
      PatchRead(p);
  }
  // The nearest `mov $nr, %eax` before `end` behind which only simple instructions stand, none of which sets
  // eax. Null if there is none within `bytes`.
  static uint8_t* FindMov(uint8_t* end, size_t bytes) {
    for (size_t back = kMovBytes; back <= bytes; ++back) {
      uint8_t* const mov = end - back;
      if (*mov != 0xb8 || static_cast<uint32_t>(Read32(mov + 1)) >= kSyscallsMax) continue;
      uint8_t* at = mov + kMovBytes;
      while (at < end) {
        const Instruction next = InstructionAt(at);
        if (next.bytes == 0 || next.sets_eax) break;
        at += next.bytes;
      }
      if (at == end) return mov;
    }
    return nullptr;
  }
  // mov $nr, %eax; (simple instructions); syscall
  bool PatchMov(uint8_t* syscall) {
    uint8_t* mov = FindMov(syscall, kMovBytes + kMiddleMax);
    if (mov == nullptr) return false;
    // With that prefix it sets r8d, if the number has been set before. (It may be the last byte of another
    // instruction.)
    constexpr uint8_t kRexB = 0x41;
    if (mov[-1] == kRexB) {
      const auto used = static_cast<size_t>(syscall - mov) + 1;
      uint8_t* const before = used > kMiddleMax ? nullptr : FindMov(mov - 1, kMovBytes + kMiddleMax - used);
      if (before != nullptr) mov = before;
    }
    const auto number = static_cast<uint32_t>(Read32(mov + 1));
    // A clone that starts a thread changes the stack and must not return through a stub.
    const bool starts_thread = number == SYS_clone3 || (number == SYS_clone && !IsFork(mov));
    const SyscallSpec::Route route = SyscallSpecOf(number).route;
    if (!starts_thread && route == SyscallSpec::kPlain) return true;
    uint8_t* stub = NewStub();
    if (stub == nullptr) return false;
    uint8_t* out = stub;
    std::memcpy(out, mov, kMovBytes);
    out += kMovBytes;
    for (const uint8_t* at = mov + kMovBytes; at < syscall;) {
      const Instruction next = InstructionAt(at);
      std::memcpy(out, at, next.bytes);
      if (next.rip_at != 0) {
        const int64_t target = Read32(at + next.rip_at) + reinterpret_cast<int64_t>(at + next.bytes);
        Write32(out + next.rip_at, target - reinterpret_cast<int64_t>(out + next.bytes));
      }
      at += next.bytes;
      out += next.bytes;
    }
    // Where only far pointers concern us the filter sends what the `syscall` in place does to the guard, too.
    Finish(stub, out, mov, starts_thread ? syscall : syscall + 2, starts_thread ? kCloneEntry : kSiteEntry,
           route == SyscallSpec::kPointers);
    return true;
  }

  // syscall(): mov 8(%rsp), %r9; syscall; cmp ..., with the number in rax from the caller.
  bool PatchFunction(uint8_t* syscall) {
    static const uint8_t kBefore[] = {0x48, 0x89, 0xf8};  // mov %rdi, %rax, some way before
    static const uint8_t kMov[] = {0x4c, 0x8b, 0x4c, 0x24, 0x08};
    if (std::memcmp(syscall - 5, kMov, sizeof(kMov)) != 0 ||
        std::memcmp(syscall - 23, kBefore, sizeof(kBefore)) != 0)
      return false;
    return Replace(syscall - sizeof(kMov), sizeof(kMov), syscall + 2, kFunctionEntry);
  }

  // Since 2.41, what can be cancelled: mov n(%rsp), %rax; syscall where nobody can, else
  // __syscall_cancel_arch, which ends with mov %r11, 8(%rsp); syscall.
  bool PatchCancelled(uint8_t* syscall) {
    static const uint8_t kNumber[] = {0x48, 0x8b, 0x44, 0x24};
    static const uint8_t kCancellable[] = {0x4c, 0x89, 0x5c, 0x24, 0x08};
    uint8_t* mov = syscall - kMovBytes;
    const bool cancellable = std::memcmp(mov, kCancellable, sizeof(kCancellable)) == 0;
    if (!cancellable && std::memcmp(mov, kNumber, sizeof(kNumber)) != 0) return false;
    return Replace(mov, kMovBytes, syscall + 2, kFunctionEntry, cancellable);
  }

  // What setuid and its like have each thread call: mov 24(%reg), %rdx; mov (%reg), %eax; syscall.
  bool PatchForEachThread(uint8_t* syscall) {
    constexpr size_t kBytes = 6;
    uint8_t* mov = syscall - kBytes;
    const uint8_t reg = mov[5];
    const uint8_t shape[kBytes] = {0x48, 0x8b, static_cast<uint8_t>(0x50 | reg), 24, 0x8b, reg};
    constexpr uint8_t kSib = 4, kRip = 5;  // Not registers.
    if (reg > 7 || reg == kSib || reg == kRip || std::memcmp(mov, shape, kBytes) != 0) return false;
    return Replace(mov, kBytes, syscall + 2);
  }

  // The end of a thread: mov $60, %edx; (padding); xor %edi, %edi; mov %edx, %eax; syscall, for ever.
  bool PatchThreadExit(uint8_t* syscall) {
    static const uint8_t kBefore[] = {0x31, 0xff, 0x89, 0xd0};
    static const uint8_t kMov[] = {0xba, SYS_exit, 0, 0, 0};
    constexpr int kPaddingMax = 8;
    if (std::memcmp(syscall - sizeof(kBefore), kBefore, sizeof(kBefore)) != 0) return false;
    uint8_t* mov = syscall - sizeof(kBefore) - sizeof(kMov);
    for (int padding = 0; std::memcmp(mov, kMov, sizeof(kMov)) != 0; --mov)
      if (++padding > kPaddingMax) return false;
    uint8_t* stub = NewStub();
    if (stub == nullptr) return false;
    std::memcpy(stub, kMov, sizeof(kMov));
    std::memcpy(stub + sizeof(kMov), kBefore, sizeof(kBefore));
    Finish(stub, stub + sizeof(kMov) + sizeof(kBefore), mov, syscall + 2);
    return true;
  }

  // read: xor %eax, %eax; syscall; cmp $-4096, %rax. The jump reaches into the cmp, which the entry has done
  // when it goes on; only if nothing near jumps to the cmp.
  void PatchRead(uint8_t* syscall) {
    static const uint8_t kBefore[] = {0x31, 0xc0};
    static const uint8_t kAfter[] = {0x48, 0x3d, 0x00, 0xf0, 0xff, 0xff};
    if (std::memcmp(syscall - 2, kBefore, sizeof(kBefore)) != 0 ||
        std::memcmp(syscall + 2, kAfter, sizeof(kAfter)) != 0)
      return;
    for (uint8_t* p = syscall + 2 - 130; p < syscall + 2 + 128; ++p) {
      const bool jump = (*p & 0xf0) == 0x70 || *p == 0xeb;
      if (jump && p + 2 + static_cast<int8_t>(p[1]) == syscall + 2) return;
    }
    Replace(syscall - sizeof(kBefore), sizeof(kBefore), syscall + 2 + sizeof(kAfter));
  }

  // By a stub of the `bytes` at `site`, which can be begun anew.
  bool Replace(uint8_t* site, size_t bytes, const uint8_t* target, Entry entry = kSiteEntry,
               bool cancellable = false) {
    uint8_t* stub = NewStub();
    if (stub == nullptr) return false;
    std::memcpy(stub, site, bytes);
    Finish(stub, stub + bytes, site, target, entry, false, cancellable);
    return true;
  }
  // From `out` on `stub` leaves: lea target(%rip), %rcx; jmp *entry(%rip). `site` begins with a jump to it.
  void Finish(uint8_t* stub, uint8_t* out, uint8_t* site, const uint8_t* target, Entry entry = kSiteEntry,
              bool equivalent = false, bool cancellable = false) {
    const Origin origin = {static_cast<int32_t>(site - stub), static_cast<uint16_t>(out - stub), equivalent,
                           cancellable};
    std::memcpy(stub + kStubBytes - sizeof(origin), &origin, sizeof(origin));
    std::memcpy(out, kLea, sizeof(kLea));
    Write32(out + sizeof(kLea), target - (out + kLeaBytes));
    std::memcpy(out + kLeaBytes, kJumpThrough, sizeof(kJumpThrough));
    Write32(out + kLeaBytes + sizeof(kJumpThrough), stubs_ + entry * sizeof(void*) - (out + kLeaveBytes));
    site[0] = kJump;
    Write32(site + 1, stub - (site + kMovBytes));
    patched_ = true;
  }
  static void Write32(uint8_t* at, int64_t value) {
    const auto narrow = static_cast<int32_t>(value);
    std::memcpy(at, &narrow, sizeof(narrow));
  }
  uint8_t* NewStub() {
    if (next_ + kStubBytes > end_) return nullptr;
    uint8_t* stub = next_;
    next_ += kStubBytes;
    return stub;
  }

  Code code_;
  uint8_t* stubs_;
  uint8_t* end_;
  uint8_t* next_;
  bool patched_ = false;
};

}  // namespace

void WriteEntries(uint8_t* stubs) {
  const void* const entries[] = {reinterpret_cast<const void*>(&farpool_site_entry),
                                 reinterpret_cast<const void*>(&farpool_function_entry),
                                 reinterpret_cast<const void*>(&farpool_clone_entry)};
  std::memcpy(stubs, entries, sizeof(entries));
}

size_t PatchCallSites(Code code, uint8_t* stubs) { return Patcher(code, stubs).PatchAll(); }

void LeaveStub(Code stubs, uint64_t* rip, uint64_t* rcx) {
  const size_t from = *rip - reinterpret_cast<uintptr_t>(stubs.begin);
  if (from < kPageBytes || from >= stubs.bytes()) return;
  const uint8_t* const stub = stubs.begin + from / kStubBytes * kStubBytes;
  const Origin origin = OriginOf(stub);
  const size_t done = from % kStubBytes;
  if (done < origin.bytes) {
    if (done == 0 || origin.equivalent) *rip = reinterpret_cast<uintptr_t>(stub + origin.site + done);
    return;
  }
  if (origin.cancellable) {  // Still inside.
    *rip = reinterpret_cast<uintptr_t>(stub + origin.site + kMovBytes);
    return;
  }
  const uint8_t* const leave = stub + origin.bytes;
  const uint8_t* const jump = leave + kLeaBytes;
  *rcx = reinterpret_cast<uintptr_t>(jump + Read32(leave + sizeof(kLea)));
  std::memcpy(rip, leave + kLeaveBytes + Read32(jump + sizeof(kJumpThrough)), sizeof(*rip));
}

uint64_t ReturnToStub(Code code, Code stubs, uint64_t at) {
  const uint8_t* const stub = StubAt(code, stubs, at);
  return stub != nullptr ? reinterpret_cast<uintptr_t>(stub) : at;
}

bool IsCancellable(Code code, Code stubs, uint64_t at) {
  const uint8_t* const stub = StubAt(code, stubs, at - kMovBytes);
  return stub != nullptr && OriginOf(stub).cancellable;
}

}  // namespace farpool
