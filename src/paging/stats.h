#pragma once
// Counters of the fault engine. They lie in memory shared by all processes of a run; relaxed atomics.

#include <atomic>
#include <cstdint>

#include "base/histogram.h"
#include "base/sharded_counter.h"

namespace farpool {

struct PagingStats {
  Histogram fetch;          // Faults answered by a donor, whole handler, ns.
  Histogram second_chance;  // Faults answered from staging.
  Histogram first_touch;    // Faults on pages never stored.
  std::atomic<uint64_t> pages_in, pages_out, pages_clean, pages_zero;
  std::atomic<uint64_t> evicted_beside;  // Of those that went: by the writer, beside the program's faults.
  std::atomic<uint64_t> pages_prefetched, prefetch_hits;
  // Faults answered by a donor, by how many pages had left since the page had, in eighths of the limit. With
  // a limit that much larger it would still have been there. The last counts all beyond.
  static constexpr unsigned kDistances = 17;
  static constexpr unsigned kDistancesPerLimit = 8;
  std::atomic<uint64_t> distances[kDistances];
  std::atomic<uint64_t> hinted_in, hinted_out;  // Pages moved because the program said so.
  ShardedCounter syscalls_prepared;
  std::atomic<uint64_t> syscalls_trapped, efault_uncured;
};

inline void Count(std::atomic<uint64_t>& counter, uint64_t n = 1) {
  counter.fetch_add(n, std::memory_order_relaxed);
}

}  // namespace farpool
