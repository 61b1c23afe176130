#pragma once
// Huge pages of shared memory, for tests of what asks the kernel for them.

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <fstream>
#include <string>

#include "base/fd.h"
#include "base/uffd_abi.h"
#include "farpool/types.h"

namespace farpool {

inline constexpr uint64_t kHuge = kHugePageBytes;

// Maps the file where a huge page may begin.
inline std::byte* MapAligned(int fd, uint64_t bytes) {
  const uint64_t size = (bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
  void* const room = mmap(nullptr, size + kHuge, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  EXPECT_NE(room, MAP_FAILED);
  auto* const first = static_cast<std::byte*>(room);
  const uint64_t before = -reinterpret_cast<uintptr_t>(room) % kHuge;
  EXPECT_NE(mmap(first + before, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0), MAP_FAILED);
  if (before > 0) munmap(first, before);
  munmap(first + before + size, kHuge - before);
  return first + before;
}

// Of the mapping that begins there, what is mapped by huge pages.
inline uint64_t HugeBytesAt(const void* at) {
  std::ifstream maps("/proc/self/smaps");
  char begins[32];
  snprintf(begins, sizeof(begins), "%lx-", reinterpret_cast<uintptr_t>(at));
  bool found = false;
  for (std::string line; std::getline(maps, line);) {
    found |= line.starts_with(begins);
    if (found && line.starts_with("ShmemPmdMapped:")) return std::stoull(line.substr(15)) << 10;
  }
  ADD_FAILURE() << "nothing is mapped there";
  return 0;
}

// Whether the kernel makes one when it is asked, and only then.
inline bool KernelHasHugePages() {
  const Fd memory(memfd_create("huge", MFD_CLOEXEC));
  EXPECT_EQ(ftruncate(memory.get(), kHuge), 0);
  std::byte* const at = MapAligned(memory.get(), kHuge);
  *at = std::byte{1};
  const bool unasked = HugeBytesAt(at) > 0;
  const bool has = madvise(at, kHuge, MADV_COLLAPSE) == 0 && *at == std::byte{1} && HugeBytesAt(at) == kHuge;
  munmap(at, kHuge);
  return has && !unasked;
}

// What is asked for in vain may have been the last.
#define SKIP_WITHOUT_HUGE_PAGES() \
  if (!KernelHasHugePages()) GTEST_SKIP() << "the kernel has none, or makes them unasked"

}  // namespace farpool
