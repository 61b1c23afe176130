#pragma once
// The block core: requests for pages of a device become slots of a page store. One per I/O thread, over a
// PageMap that they share. Nothing here allocates: the kernel may be waiting for these very requests to get
// memory.
//
// Threads: one at a time per object; any number of objects on one map.

#include <cstddef>
#include <cstdint>

#include "blockdev/page_map.h"
#include "store/page_store.h"

namespace farpool {

// Asked with the pages locked, just before a change: false if the kernel has given up on this request and
// sent it again by another way, in which case it must not happen any more.
class StillWanted {
 public:
  virtual bool Ask() = 0;

 protected:
  ~StillWanted() = default;
};

class BlockStore {
 public:
  // `store`: this thread's, over the slots of all.
  BlockStore(PageMap* map, PageStore* store) : map_(map), store_(store) {}

  // Pages [page, page + count) must lie on the device.
  // Read: after an error the bytes of `out` are unspecified and must not be given to anybody. kCorrupt: a
  // donor returned other bytes than were stored.
  Status Read(uint64_t page, uint64_t count, std::byte* out);
  // Write: after an error each page holds what it held before or what it was to hold. kExhausted: the pool is
  // full. kUnavailable: not wanted any more.
  Status Write(uint64_t page, uint64_t count, const std::byte* data, StillWanted* wanted);
  // Discarded pages are zero.
  Status Discard(uint64_t page, uint64_t count, StillWanted* wanted);

  uint64_t pages() const { return map_->pages(); }

 private:
  Status ReadGroup(uint64_t page, unsigned count, std::byte* out);
  Status WriteGroup(uint64_t page, unsigned count, const std::byte* data, StillWanted* wanted);
  Status ReserveAll(unsigned count, SlotId* slots);
  void Clear(uint64_t page);
  Status Count(const Status& status);

  PageMap* map_;
  PageStore* store_;
};

}  // namespace farpool
