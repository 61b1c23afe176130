#pragma once
// Which slot holds which page of a block device. The entries lie in memory that outlives the process
// (segment.h), so that another process can go on with the device; the locks are each process's own.
//
// A page is either zero (no slot) or in exactly one slot. Pages are locked by groups of kGroupPages.

#include <emmintrin.h>

#include <atomic>
#include <cstdint>

#include "base/hash.h"
#include "base/mutex.h"
#include "store/page_store.h"

namespace farpool {

struct alignas(16) MapEntry {
  uint64_t hash;  // Of the page's bytes; the low half, which the seed makes as good as random.
  SlotId slot;    // kNone: the page is zero and `hash` means nothing.
  uint32_t unused;

  // One store instruction: whenever the process is killed, slot and hash belong together.
  void Set(SlotId new_slot, uint64_t new_hash) {
    _mm_store_si128(reinterpret_cast<__m128i*>(this),
                    _mm_set_epi64x(static_cast<int64_t>(new_slot), static_cast<int64_t>(new_hash)));
  }
};
static_assert(sizeof(MapEntry) == 16);  // Per page of the device, locked memory: 0.4 %.

// What a device did; beside the entries.
struct BlockCounters {
  std::atomic<uint64_t> pages_read;
  std::atomic<uint64_t> pages_written;
  std::atomic<uint64_t> pages_zero;  // Written, but not stored.
  std::atomic<uint64_t> pages_discarded;
  std::atomic<uint64_t> errors;   // Requests that failed.
  std::atomic<uint64_t> corrupt;  // Pages whose bytes were not what had been stored.
};

class PageMap {
 public:
  static constexpr uint64_t kGroupPages = 64;

  PageMap(MapEntry* entries, uint64_t pages, uint64_t hash_seed, BlockCounters* counters)
      : entries_(entries), pages_(pages), hash_seed_(hash_seed), counters_(counters) {}

  uint64_t pages() const { return pages_; }
  MapEntry& entry(uint64_t page) { return entries_[page]; }
  uint64_t HashOf(const void* page) const { return HashPage(page, hash_seed_).low; }
  Mutex* LockOf(uint64_t page) { return &locks_[page / kGroupPages % kLocks]; }
  BlockCounters& counters() { return *counters_; }

 private:
  static constexpr unsigned kLocks = 1024;
  MapEntry* entries_;
  uint64_t pages_;
  uint64_t hash_seed_;
  BlockCounters* counters_;
  Mutex locks_[kLocks];
};

}  // namespace farpool
