// Filters that the program puts on its own system calls (seccomp). They are for the program's calls: the
// runtime's own, which page its memory, are let through by a prefix that knows them by the instruction they
// come from. What the program asked for and the runtime passes on comes from another one, and is filtered.

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <cerrno>
#include <cstddef>
#include <cstring>

#include "base/sys.h"
#include "preload/prepare.h"
#include "preload/runtime.h"
#include "run/layout.h"

namespace farpool {

namespace {

// The kernel sees the address behind the `syscall` instruction.
constexpr auto kOwnLow = static_cast<uint32_t>(kTrampoline + 2);
constexpr auto kOwnHigh = static_cast<uint32_t>(kTrampoline >> 32);
constexpr uint32_t kPointerLow = offsetof(seccomp_data, instruction_pointer);
constexpr sock_filter kPrefix[] = {
    {BPF_LD | BPF_W | BPF_ABS, 0, 0, kPointerLow},     {BPF_JMP | BPF_JEQ | BPF_K, 0, 3, kOwnLow},
    {BPF_LD | BPF_W | BPF_ABS, 0, 0, kPointerLow + 4}, {BPF_JMP | BPF_JEQ | BPF_K, 0, 1, kOwnHigh},
    {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW},
};
constexpr size_t kPrefixLength = sizeof(kPrefix) / sizeof(kPrefix[0]);

}  // namespace

long GuardSeccomp(GuardFrame* frame) {
  const bool prctl = frame->number == SYS_prctl;
  const uint64_t mode = prctl ? frame->args[1] : frame->args[0];
  // The strict mode, four calls and no filter, the kernel refuses where there is a filter: ours.
  if (mode != (prctl ? SECCOMP_MODE_FILTER : SECCOMP_SET_MODE_FILTER)) return CallPrepared(frame);
  const uint64_t address = frame->args[2];
  sock_fprog theirs;
  if (address == 0 || !CopyIn(&theirs, address, sizeof(theirs))) return CallPrepared(frame);
  const size_t bytes = theirs.len * sizeof(sock_filter);
  if (theirs.len == 0 || theirs.len > BPF_MAXINSNS - kPrefixLength || theirs.filter == nullptr)
    return CallPrepared(frame);
  // Near, as the program's stack need not be.
  const size_t room_bytes = bytes + sizeof(kPrefix) + sizeof(sock_fprog);
  const long room =
      sys::Call(SYS_mmap, nullptr, room_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (sys::Failed(room)) return -ENOMEM;
  auto* code = reinterpret_cast<sock_filter*>(room);
  std::memcpy(code, kPrefix, sizeof(kPrefix));
  if (!CopyIn(code + kPrefixLength, reinterpret_cast<uintptr_t>(theirs.filter), bytes)) {
    sys::Call(SYS_munmap, room, room_bytes);
    return -EFAULT;
  }
  const sock_fprog both = {static_cast<unsigned short>(theirs.len + kPrefixLength), code};
  std::memcpy(code + kPrefixLength + theirs.len, &both, sizeof(both));
  GuardFrame call = *frame;
  call.args[2] = reinterpret_cast<uint64_t>(code + kPrefixLength + theirs.len);
  const long r = Forward(&call);
  sys::Call(SYS_munmap, room, room_bytes);
  return r;
}

}  // namespace farpool
