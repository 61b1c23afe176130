#pragma once
// Fixed places in the address space of a program under `farpool run`, where neither the kernel nor the loader
// puts anything: mappings grow down from the top, programs lie at two thirds of it, and where mappings grow
// up (the legacy layout) they begin at a third, anywhere in 1 TiB. The lower third is for programs
// that want places of their own: Java's collectors, Lisps, sanitizers. Fixed so that one constant seccomp
// filter and one trampoline serve every process.

#include <cstddef>
#include <cstdint>

#include "farpool/types.h"

namespace farpool {

inline constexpr uintptr_t kUserEnd = uintptr_t{1} << 47;  // What programs can have.
inline constexpr uintptr_t kArenaBase = 0x300000000000;    // Exactly the addresses with bits 44.. == 3.
inline constexpr size_t kArenaBytes = size_t{1} << 44;
inline constexpr uint64_t kArenaPages = kArenaBytes / kPageBytes;
inline constexpr uintptr_t kSlabWindow = 0x400000000000;  // Slab i is mapped at + i * 1 GiB, 16 TiB in all.
inline constexpr size_t kSlabStride = size_t{1} << 30;
// Close together, so that they share page tables: what every process maps, and what those with far memory do.
inline constexpr uintptr_t kTrampoline = 0x500000000000;             // One page: syscall; ret.
inline constexpr uintptr_t kSegmentBase = kTrampoline + kPageBytes;  // RunSegment, 16 GiB of address space.
inline constexpr uintptr_t kTableBase = 0x501000000000;              // Page table, 96 GiB of it.
inline constexpr uintptr_t kStagingBase = 0x504000000000;

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
