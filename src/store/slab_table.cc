#include "store/slab_table.h"

namespace farpool {

unsigned SlabTable::Take(uint32_t index, unsigned wanted, SlotId* out) {
  SlabEntry& slab = slabs[index];
  const uint32_t slots = slab.slots;
  if (slab.used.load(std::memory_order_relaxed) >= slots) return 0;
  unsigned taken = 0;
  uint32_t at = slab.cursor.load(std::memory_order_relaxed) % slots;
  for (uint32_t looked = 0; looked < slots && taken < wanted; ++looked) {
    uint16_t expected = 0;
    std::atomic<uint16_t>& holder = holders[index][at];
    if (holder.load(std::memory_order_relaxed) == 0 &&
        holder.compare_exchange_strong(expected, 1, std::memory_order_acq_rel)) {
      out[taken++] = MakeSlot(index, at);
    }
    if (++at == slots) at = 0;
  }
  slab.cursor.store(at, std::memory_order_relaxed);
  slab.used.fetch_add(taken, std::memory_order_relaxed);
  used_slots.fetch_add(taken, std::memory_order_relaxed);
  return taken;
}

void SlabTable::Recount() {
  uint64_t total = 0;
  for (uint32_t i = 1; i < count.load(std::memory_order_acquire); ++i) {
    uint32_t held = 0;
    for (uint32_t slot = 0; slot < slabs[i].slots; ++slot)
      if (holders[i][slot].load(std::memory_order_relaxed) != 0) ++held;
    slabs[i].used.store(held, std::memory_order_relaxed);
    total += held;
  }
  used_slots.store(total, std::memory_order_relaxed);
}

}  // namespace farpool
