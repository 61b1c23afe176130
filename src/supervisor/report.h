#pragma once
// What a run reports at its end: filled by the supervisor from the run's shared counters, printed here.

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "paging/stats.h"

namespace farpool {

struct LatencyReport {
  uint64_t count = 0;
  double p50_us = 0, p90_us = 0, p99_us = 0, max_us = 0, mean_us = 0;
};

struct RunReport {
  std::string command;  // As given, shell-quoted.
  int exit_status = 0;
  double wall_s = 0;
  std::string handoff;  // "direct"
  std::string fill;     // "move" or "copy": how pages are put in place on this kernel.
  std::string evict;    // "mremap", "move" (a device is mapped) or "copy": how pages leave.
  std::string pool;     // Donors, comma separated.
  uint64_t local_limit_bytes = 0;
  uint64_t peak_resident_bytes = 0;  // Arena and staging, all processes.
  uint64_t peak_far_bytes = 0;       // Far memory ever in use at once (resident or not).
  uint64_t near_peak_bytes = 0;      // Private memory of the processes that is not far, sampled.
  uint64_t stored_bytes = 0;         // Held by donors at the end or at the last process's exit.
  uint64_t metadata_bytes = 0;       // Page table and slot counts.
  uint64_t processes = 0;
  LatencyReport fetch;                       // Faults that brought a page from a donor.
  LatencyReport second_chance;               // Faults answered from staging.
  LatencyReport first_touch;                 // Faults on pages never stored.
  uint64_t pages_in = 0, pages_out = 0;      // Pages fetched / written.
  uint64_t pages_clean = 0, pages_zero = 0;  // Evictions that needed no write.
  uint64_t evicted_beside = 0;               // Evictions beside the program's faults.
  uint64_t pages_prefetched = 0, prefetch_hits = 0;
  // Of `fetch`: faults that a larger limit would have saved, by how much larger (PagingStats::distances).
  std::array<uint64_t, PagingStats::kDistances> distances = {};
  uint64_t hinted_in = 0, hinted_out = 0;
  // Of those moved, pages that travelled packed, and bytes that took.
  uint64_t packed_in_pages = 0, packed_in_bytes = 0, packed_out_pages = 0, packed_out_bytes = 0;
  uint64_t bytes_in = 0, bytes_out = 0;
  uint64_t syscalls_prepared = 0, syscalls_trapped = 0, efault_uncured = 0;
  double stall_s = 0;  // Sum over threads of time in faults.
};

// Text for people (several lines, sizes with units); JSON with the field names above, one object.
std::string ReportText(const RunReport& report);
std::string ReportJson(const RunReport& report);

}  // namespace farpool
