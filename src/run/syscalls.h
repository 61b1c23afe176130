#pragma once
// Which arguments of which system call (x86-64) are pointers, and to how many bytes. One table for both
// users: the seccomp filter, which must know where a far pointer can stand, and the guard, which makes the
// memory behind it present. Unused argument registers hold stale pointers, so only true pointer arguments
// count. Source: the kernel's include/linux/syscalls.h.

#include <cstdint>

namespace farpool {

struct SyscallArg {
  enum Kind : uint8_t {
    kNone,
    kFixed,     // `size` bytes.
    kCounted,   // `size` bytes times the value of argument `count_arg`, and `extra` bytes.
    kBits,      // As many bits as the value of argument `count_arg`, in words of 64.
    kString,    // Up to and with the terminating zero.
    kIovec,     // `count_arg` iovecs and the buffers they name.
    kMessage,   // A msghdr and all it names.
    kMessages,  // `count_arg` mmsghdrs.
    kOpaque,    // Depends on other arguments: the page it is on and the next.
    kNested,    // Holds further pointers, perhaps; as kCounted if `size` is not 0, else as kOpaque.
    kMapping,   // An address range, not memory to be read: the call itself is ours to carry out.
  };
  Kind kind = kNone;
  uint8_t count_arg = 0;
  uint16_t size = 0;
  uint16_t extra = 0;
};

struct SyscallSpec {
  enum Route : uint8_t {
    kPlain,     // Does not concern us.
    kPointers,  // Prepared when an argument is far.
    kAlways,    // Looked at in any case: hidden pointers, masks, mappings.
  };
  Route route = kPlain;
  SyscallArg args[6];
  // Bit i: argument i is a pointer.
  constexpr unsigned PointerMask() const {
    unsigned mask = 0;
    for (unsigned i = 0; i < 6; ++i)
      if (args[i].kind != SyscallArg::kNone) mask |= 1u << i;
    return mask;
  }
};

inline constexpr unsigned kSyscallsMax = 512;

// What is known of a system call; a plain one if nothing is.
const SyscallSpec& SyscallSpecOf(unsigned number);

// By number: is the route kAlways? For preload/entry.S.
struct SyscallsAlways {
  bool is[kSyscallsMax];
};
extern "C" __attribute__((visibility("hidden"))) const SyscallsAlways farpool_syscall_always;

}  // namespace farpool
