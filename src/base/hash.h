#pragma once
// 128-bit hash of a page (XXH3). Seeded afresh in every run, so that nobody can prepare a page that collides.

#include <cstdint>

#include "farpool/types.h"

namespace farpool {

struct PageHash {
  uint64_t low = 0;
  uint64_t high = 0;
  friend bool operator==(const PageHash&, const PageHash&) = default;
};

// Any thread, any context. `page` is kPageBytes long.
PageHash HashPage(const void* page, uint64_t seed);

// True if all of `page` is zero; looks at no more than it must.
bool IsZeroPage(const void* page);

}  // namespace farpool
