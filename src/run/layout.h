#pragma once
// Fixed places in the address space of a program under `farpool run`. Below the arena, where neither the
// kernel nor the loader puts anything; fixed so that one constant seccomp filter and one trampoline serve
// every process.

#include <cstddef>
#include <cstdint>

#include "farpool/types.h"

namespace farpool {

inline constexpr uintptr_t kSlabWindow = 0x080000000000;  // Slab i is mapped at + i * 1 GiB, 16 TiB in all.
inline constexpr size_t kSlabStride = size_t{1} << 30;
// Close together, so that they share page tables: what every process maps, and what those with far memory do.
inline constexpr uintptr_t kTrampoline = 0x1c0000000000;             // One page: syscall; ret.
inline constexpr uintptr_t kSegmentBase = kTrampoline + kPageBytes;  // RunSegment, 16 GiB of address space.
inline constexpr uintptr_t kTableBase = 0x1c1000000000;              // Page table, 96 GiB of it.
inline constexpr uintptr_t kStagingBase = 0x1c4000000000;
inline constexpr uintptr_t kArenaBase = 0x200000000000;  // Exactly the addresses with bits 44.. == 2.
inline constexpr size_t kArenaBytes = size_t{1} << 44;
inline constexpr uint64_t kArenaPages = kArenaBytes / kPageBytes;

inline constexpr bool InArena(uintptr_t address) { return address >> 44 == kArenaBase >> 44; }

// Descriptors of the runtime, counted from RunSegment::fd_base; the filter keeps the program from closing
// them.
enum RuntimeFd : int {
  kFdSegment = 0,  // RunSegment, inherited through exec.
  kFdControl = 1,  // Shared way to the supervisor, inherited through exec.
  kFdChannel =
      2,  // This process's own channel; its end tells the supervisor that the process or image is gone.
  kFdUserfault = 3,
  kFdMaps = 4,          // /proc/self/maps, with --trace.
  kFdLibc = 5,          // The file of PatchedLibc, inherited through exec.
  kFdChannels = 8,      // To donors, one each.
  kFdDevices = 8 + 64,  // Of RDMA links to donors, one each.
  kRuntimeFds = kFdDevices + 64,
};
// Hard limit on descriptors below which nothing runs under farpool, and one that leaves programs and donors
// room.
inline constexpr uint64_t kDescriptorsMin = 4 * kRuntimeFds;
inline constexpr uint64_t kDescriptorsWanted = 4096;

// Where there is less than the arena takes.
inline constexpr const char* kNoAddressSpace =
    "no 16 TiB of address space for far memory: lift `ulimit -v` (see farpool doctor)";

}  // namespace farpool
