#pragma once
// Where pages live while they are not resident: slots on one or more donors. Paging knows only this.
//
// A slot holds one page of kPageBytes and a count of holders (processes that share it after fork). Contents
// are what was last stored; there is no check here: whoever stores keeps the hash and verifies what comes
// back.
//
// Threads: one at a time per object (the fault engine's lock), but for FinishLoad and StoreBeside; slots and
// their counts may be shared with other processes through shared memory.

#include <cstdint>

#include "farpool/status.h"
#include "farpool/types.h"

namespace farpool {

enum class SlotId : uint32_t { kNone = 0 };

struct PageIo {
  SlotId slot = SlotId::kNone;
  void* page = nullptr;  // kPageBytes, read from or written to.
};

class PageStore {
 public:
  // Reserves 1..count slots, neighbours where it can, into `out`; their holder count is 1. Returns how many.
  // kExhausted: the pool has no room (nothing reserved).
  virtual Status Reserve(unsigned count, SlotId* out, unsigned* reserved) = 0;
  // One more holder / one holder less; at zero the slot is free for others.
  virtual void Retain(SlotId slot) = 0;
  virtual void Release(SlotId slot) = 0;
  // True if the caller is the only holder, so that it may overwrite the slot.
  virtual bool Exclusive(SlotId slot) const = 0;
  // Fills each page from its slot / replaces each slot by its page. All or an error; after an error the pages
  // (or slots) are unspecified. Returns in bounded time.
  virtual Status Load(const PageIo* pages, unsigned count) = 0;
  virtual Status Store(const PageIo* pages, unsigned count) = 0;
  // Load in two steps, so that the caller can work while the pages travel. Up to kLoadsMax loads, by number,
  // may be under way; all else may be called in between. `pages` must stay until FinishLoad(), which says how
  // it went. Any thread may finish a load, beside whatever others do here.
  static constexpr unsigned kLoadsMax = 8;
  virtual void StartLoad(unsigned load, const PageIo* pages, unsigned count) = 0;
  virtual Status FinishLoad(unsigned load) = 0;
  // Store() by any thread, beside whatever others do here.
  virtual Status StoreBeside(const PageIo* pages, unsigned count) = 0;

 protected:
  ~PageStore() = default;
};

}  // namespace farpool
