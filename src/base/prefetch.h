#pragma once
// Reading a page ahead of its use.

#include <cstddef>

#include "farpool/types.h"

namespace farpool {

// Starts reading the page into the second-level cache; into the first, with as many reads at once, it would
// wait for the earlier ones. For the one page that a fault waits for every line is asked for. Where pages
// follow each other that is slower than every other line, which the processor may have to fill in itself.
enum class PrefetchLines : size_t { kAll = 64, kEveryOther = 128 };
inline void PrefetchPage(const std::byte* page, PrefetchLines lines = PrefetchLines::kEveryOther) {
  for (size_t at = 0; at < kPageBytes; at += static_cast<size_t>(lines)) __builtin_prefetch(page + at, 0, 1);
}

}  // namespace farpool
