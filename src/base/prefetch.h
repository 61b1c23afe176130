#pragma once
// Reading a page ahead of its use.

#include <cstddef>

#include "farpool/types.h"

namespace farpool {

// Starts reading the page into the second-level cache; into the first, with as many reads at once, it would
// wait for the earlier ones. Not all processors fetch lines in pairs.
inline void PrefetchPage(const std::byte* page) {
  for (size_t at = 0; at < kPageBytes; at += 64) __builtin_prefetch(page + at, 0, 1);
}

}  // namespace farpool
