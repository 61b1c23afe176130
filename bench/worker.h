#pragma once
// What the modes of farpool-bench-worker share. The worker knows nothing of farpool. Whatever it keeps
// besides the measured array lies in .bss, which farpool leaves near: a sample written to far memory would
// measure itself.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <ctime>

namespace bench {

inline constexpr size_t kPageBytes = 4096;
inline constexpr size_t kPageWords = kPageBytes / sizeof(uint64_t);
inline constexpr size_t kSamplesMax = 1u << 21;

inline uint64_t NowNs() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(t.tv_nsec);
}

// splitmix64's finaliser; what every word of the array is made of. Does not compress.
inline uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// Ends the process after one line on stderr.
[[noreturn]] void Die(const char* what);

// Latencies of single operations. Several threads may Add().
class Samples {
 public:
  void Add(uint64_t ns);
  size_t count() const { return count_.load(std::memory_order_relaxed); }
  // Prints {"p50": us, "p99": us, "mean": us, "rate": 1/s, "touches": 1/s, "count": n} and "quantiles", pairs
  // of share and us. `touches` are all operations, those that were too short for a sample too, in
  // `elapsed_ns`. Sorts.
  void Print(uint64_t touches, uint64_t elapsed_ns);

 private:
  std::atomic<size_t> count_{0};
};

void RunFloor(uint64_t count);   // One userfaultfd fault resolved in the faulting thread from a local page.
void RunRawTcp(uint64_t count);  // One 4 KiB request and reply over loopback between two spinning processes.

}  // namespace bench
