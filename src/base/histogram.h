#pragma once
// Log-linear histogram of nanoseconds: 16 steps per power of two, so a percentile is at most 6.25 % off.
// Fixed size and made of relaxed atomics, so it can lie in shared memory and be filled from a signal handler.
// Any thread may add; readers see a recent state.

#include <atomic>
#include <bit>
#include <cstdint>

namespace farpool {

class Histogram {
 public:
  static constexpr unsigned kSteps = 16;
  static constexpr unsigned kPowers = 36;  // Up to 2^40 ns, 18 minutes; longer counts there.
  static constexpr unsigned kBuckets = kSteps * (kPowers + 1);

  void Add(uint64_t ns) {
    buckets_[BucketOf(ns)].fetch_add(1, std::memory_order_relaxed);
    sum_.fetch_add(ns, std::memory_order_relaxed);
    uint64_t max = max_.load(std::memory_order_relaxed);
    while (ns > max && !max_.compare_exchange_weak(max, ns, std::memory_order_relaxed)) {
    }
  }
  void Merge(const Histogram& other) {
    for (unsigned i = 0; i < kBuckets; ++i)
      buckets_[i].fetch_add(other.buckets_[i].load(std::memory_order_relaxed), std::memory_order_relaxed);
    sum_.fetch_add(other.sum_.load(std::memory_order_relaxed), std::memory_order_relaxed);
    const uint64_t theirs = other.max_.load(std::memory_order_relaxed);
    if (theirs > max_.load(std::memory_order_relaxed)) max_.store(theirs, std::memory_order_relaxed);
  }
  uint64_t count() const {
    uint64_t n = 0;
    for (const auto& b : buckets_) n += b.load(std::memory_order_relaxed);
    return n;
  }
  uint64_t sum_ns() const { return sum_.load(std::memory_order_relaxed); }
  uint64_t max_ns() const { return max_.load(std::memory_order_relaxed); }
  // Smallest bucket bound that `fraction` (0..1) of the values do not exceed; 0 when empty.
  uint64_t PercentileNs(double fraction) const {
    const uint64_t total = count();
    if (total == 0) return 0;
    auto left = static_cast<uint64_t>(fraction * static_cast<double>(total));
    if (left >= total) left = total - 1;
    for (unsigned i = 0; i < kBuckets; ++i) {
      const uint64_t n = buckets_[i].load(std::memory_order_relaxed);
      if (left < n) return BoundOf(i) < max_ns() ? BoundOf(i) : max_ns();
      left -= n;
    }
    return max_ns();
  }

 private:
  static unsigned BucketOf(uint64_t ns) {
    if (ns < kSteps) return static_cast<unsigned>(ns);
    const unsigned power = static_cast<unsigned>(std::bit_width(ns)) - 5;  // ns in [16, 32) << power
    const unsigned step = static_cast<unsigned>(ns >> power) - kSteps;
    const unsigned bucket = kSteps * (power + 1) + step;
    return bucket < kBuckets ? bucket : kBuckets - 1;
  }
  static uint64_t BoundOf(unsigned bucket) {
    if (bucket < kSteps) return bucket;
    const unsigned power = bucket / kSteps - 1;
    return ((static_cast<uint64_t>(bucket % kSteps) + kSteps + 1) << power) - 1;
  }

  std::atomic<uint64_t> buckets_[kBuckets] = {};
  std::atomic<uint64_t> sum_{0};
  std::atomic<uint64_t> max_{0};
};

}  // namespace farpool
