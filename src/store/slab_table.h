#pragma once
// The slabs of one run and who holds their slots, in memory shared by all processes of the run and its
// supervisor. The supervisor adds slabs; any process reserves, retains and releases slots.
//
// A slot is free when its count is 0. Counts are per holder (a process whose page table names the slot), so
// the supervisor can drop the holdings of a process that was killed by walking that process's page table.
// Threads: any, in any process; everything is an atomic or constant once a slab is ready.

#include <atomic>
#include <cstdint>

#include "farpool/types.h"
#include "store/page_store.h"

namespace farpool {

inline constexpr unsigned kSlotBits = 18;  // Slots per slab at most: 1 GiB slabs.
inline constexpr uint32_t kSlotsPerSlabMax = 1u << kSlotBits;
inline constexpr uint32_t kSlabsMax = 1u << (32 - kSlotBits);  // Index 0 is never used: SlotId 0 is none.
inline constexpr unsigned kDonorsMax = 64;
inline constexpr uint16_t kHoldersMax = 60000;  // Of one slot; fork refuses beyond.

inline SlotId MakeSlot(uint32_t slab, uint32_t slot) { return SlotId{(slab << kSlotBits) | slot}; }
inline uint32_t SlabOf(SlotId slot) { return static_cast<uint32_t>(slot) >> kSlotBits; }
inline uint32_t SlotOf(SlotId slot) { return static_cast<uint32_t>(slot) & (kSlotsPerSlabMax - 1); }

struct SlabEntry {
  enum State : uint32_t { kUnused = 0, kReady = 1, kLost = 2 };
  std::atomic<uint32_t> state;
  uint32_t donor;                // Index into the run's donors.
  SlabId id;                     // At that donor.
  uint32_t slots;                // In this slab.
  std::atomic<uint32_t> used;    // Slots with at least one holder.
  std::atomic<uint32_t> cursor;  // Where to look next for a free slot: a hint.
};

struct alignas(64) SlabTable {
  std::atomic<uint32_t> count;  // Highest slab index that was ever ready, plus 1; at least 1.
  std::atomic<uint64_t> used_slots;
  // What share of each batch of pages a donor gets; all 0: a batch goes to one slab. Constant once there are
  // slabs.
  uint32_t weights[kDonorsMax];
  // Whether pages travel packed, to donors that are not on this host. Constant once there are slabs.
  enum Compress : uint32_t { kPlain = 0, kPack = 1, kWhatIsSooner = 2 };
  Compress compress;
  std::atomic<uint64_t> packed_out_pages, packed_out_bytes;  // Stored packed, and bytes that took.
  std::atomic<uint64_t> packed_in_pages, packed_in_bytes;
  SlabEntry slabs[kSlabsMax];
  std::atomic<uint16_t> holders[kSlabsMax][kSlotsPerSlabMax];  // 8 GiB, sparse: only used slabs take memory.
  // Size of what is in the slot where that is a packed page, else 0. Whoever may write the slot writes it.
  uint16_t packed[kSlabsMax][kSlotsPerSlabMax];  // As sparse.

  void Retain(SlotId slot) { holders[SlabOf(slot)][SlotOf(slot)].fetch_add(1, std::memory_order_relaxed); }
  void Release(SlotId slot) {
    SlabEntry& slab = slabs[SlabOf(slot)];
    if (holders[SlabOf(slot)][SlotOf(slot)].fetch_sub(1, std::memory_order_acq_rel) == 1) {
      slab.used.fetch_sub(1, std::memory_order_relaxed);
      used_slots.fetch_sub(1, std::memory_order_relaxed);
    }
  }
  bool Exclusive(SlotId slot) const {
    return holders[SlabOf(slot)][SlotOf(slot)].load(std::memory_order_acquire) == 1;
  }
  // Takes up to `wanted` free slots of slab `index`, neighbours as far as they go. Returns how many.
  unsigned Take(uint32_t index, unsigned wanted, SlotId* out);
  // Counts anew what is used, after a process was killed between two steps; nobody else may be at it.
  void Recount();
};

}  // namespace farpool
