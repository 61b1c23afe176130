#pragma once
// A page store in memory that can fail, run out and spoil, and that fails the test on misuse of slots.

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <mutex>
#include <set>

#include "store/page_store.h"

namespace farpool {

class FakePageStore final : public PageStore {
 public:
  explicit FakePageStore(uint32_t slots) : free_(slots) {}
  Status Reserve(unsigned count, SlotId* out, unsigned* reserved) override {
    *reserved = 0;
    std::lock_guard lock(mutex_);
    // At most three at a time: callers must ask again.
    while (*reserved < std::min(count, 3u) && free_ > 0) {
      --free_;
      const SlotId slot{++last_};
      held_.insert(slot);
      out[(*reserved)++] = slot;
    }
    return *reserved > 0 ? Status::Ok() : Status::Exhausted("full");
  }
  void Retain(SlotId) override { FAIL() << "nobody shares slots here"; }
  void Release(SlotId slot) override {
    std::lock_guard lock(mutex_);
    EXPECT_EQ(held_.erase(slot), 1u) << "released twice";
    pages_.erase(slot);
    ++free_;
  }
  bool Exclusive(SlotId) const override { return true; }
  Status Load(const PageIo* pages, unsigned count) override {
    if (fail_loads) return Status::Unavailable("no donor");
    std::lock_guard lock(mutex_);
    for (unsigned i = 0; i < count; ++i) {
      EXPECT_TRUE(pages_.contains(pages[i].slot));
      std::memcpy(pages[i].page, pages_[pages[i].slot].data(), kPageBytes);
    }
    return Status::Ok();
  }
  Status Store(const PageIo* pages, unsigned count) override {
    std::lock_guard lock(mutex_);
    if (store_until == 0) return Status::Unavailable("no donor");
    for (unsigned i = 0; i < count; ++i) {
      EXPECT_TRUE(held_.contains(pages[i].slot));
      EXPECT_FALSE(pages_.contains(pages[i].slot)) << "overwritten in place";
      std::memcpy(pages_[pages[i].slot].data(), pages[i].page, kPageBytes);
    }
    --store_until;
    return Status::Ok();
  }
  Status StoreBeside(const PageIo* pages, unsigned count) override { return Store(pages, count); }
  void StartLoad(unsigned, const PageIo*, unsigned) override {}
  Status FinishLoad(unsigned) override { return Status::Ok(); }

  size_t held() const { return held_.size(); }
  void Spoil(SlotId slot) { pages_[slot][100] ^= std::byte{1}; }

  bool fail_loads = false;
  uint64_t store_until = UINT64_MAX;  // Calls of Store() that succeed.

 private:
  std::mutex mutex_;
  uint32_t free_;
  uint32_t last_ = 0;
  std::set<SlotId> held_;
  std::map<SlotId, std::array<std::byte, kPageBytes>> pages_;
};

}  // namespace farpool
