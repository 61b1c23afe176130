#pragma once
// Monotonic time in nanoseconds; async-signal-safe (vDSO).

#include <cstdint>
#include <ctime>

namespace farpool {

inline uint64_t NowNs() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(t.tv_nsec);
}

inline void SpinPause() { __builtin_ia32_pause(); }

}  // namespace farpool
