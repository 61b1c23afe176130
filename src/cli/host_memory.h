#pragma once
// What memory this host has: /proc/meminfo, and the memory cgroup this process is in.

#include <cstdint>

namespace farpool {

struct HostMemory {
  uint64_t total_bytes = 0;      // 0 where /proc/meminfo cannot be read.
  uint64_t available_bytes = 0;  // MemAvailable, but no more than the cgroup still allows.
  uint64_t swap_total_bytes = 0;
  uint64_t cgroup_limit_bytes = 0;  // Smallest memory.max on the way to the root; 0: none.
};

HostMemory ReadHostMemory();

}  // namespace farpool
