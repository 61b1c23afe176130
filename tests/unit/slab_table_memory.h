#pragma once
// A slab table for tests: zero, and sparse, since most of it is never touched.

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <memory>

#include "store/slab_table.h"

namespace farpool {

struct UnmapSlabTable {
  void operator()(SlabTable* table) const { munmap(table, sizeof(SlabTable)); }
};
using SlabTableMemory = std::unique_ptr<SlabTable, UnmapSlabTable>;

inline SlabTableMemory NewSlabTable() {
  void* map = mmap(nullptr, sizeof(SlabTable), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  EXPECT_NE(map, MAP_FAILED);
  return SlabTableMemory(static_cast<SlabTable*>(map));
}

}  // namespace farpool
