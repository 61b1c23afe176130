#pragma once
// A count that many threads raise many times a second: in several cache lines, so that processors do not take
// one from each other each time. May lie in shared memory that is zero.

#include <atomic>
#include <cstdint>

namespace farpool {

class ShardedCounter {
 public:
  // Any context. `who`: the same for the same thread, another for most others.
  void Add(uint64_t who) { shards_[who % kShards].count.fetch_add(1, std::memory_order_relaxed); }
  uint64_t sum() const {
    uint64_t sum = 0;
    for (const Shard& shard : shards_) sum += shard.count.load(std::memory_order_relaxed);
    return sum;
  }

 private:
  static constexpr unsigned kShards = 32;
  struct alignas(64) Shard {
    std::atomic<uint64_t> count;
  };
  Shard shards_[kShards];
};

}  // namespace farpool
