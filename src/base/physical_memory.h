#pragma once

#include <unistd.h>

#include <cstdint>

namespace farpool {

// Memory of this machine, in bytes.
inline uint64_t PhysicalMemory() {
  return static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

}  // namespace farpool
