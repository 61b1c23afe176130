#pragma once
// What a swap device is, in memory that its daemon and the standby share and the kernel never swaps out. The
// daemon makes it; the standby inherits it by fork. It goes with the last of them.

#include <atomic>
#include <cstdint>

#include "blockdev/front_end.h"
#include "blockdev/page_map.h"
#include "farpool/status.h"
#include "store/slab_table.h"

namespace farpool {

struct SwapSegment {
  uint64_t pages;  // Of the device.
  uint64_t hash_seed;
  SwapDriver driver;
  int32_t device;   // N of /dev/nbdN or /dev/ublkbN; -1 until the kernel has given it.
  uint32_t queues;  // I/O threads.
  std::atomic<uint32_t> takeovers;
  BlockCounters counters;
  SlabTable slabs;  // Sparse, 16 GiB; the map follows.

  MapEntry* map() { return reinterpret_cast<MapEntry*>(this + 1); }
};
static_assert(sizeof(SwapSegment) % alignof(MapEntry) == 0);

class SegmentOwner {
 public:
  // Zero but for `pages` and `hash_seed`. Locked, and the map present.
  static Result<SegmentOwner> Create(uint64_t pages);
  // Makes way for mlockall(), which would fill the sparse parts, and comes back at the same address.
  void Detach();
  Status Attach();
  // The counts of a slab that has just been leased, present before anybody needs them.
  Status Populate(uint32_t slab, uint32_t slots);

  SwapSegment* get() const { return segment_; }

 private:
  int id_ = -1;
  SwapSegment* segment_ = nullptr;
};

}  // namespace farpool
