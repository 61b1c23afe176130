#pragma once
// Which of UFFDIO_MOVE and UFFDIO_COPY puts pages in place sooner. MOVE exchanges page table entries, and has
// to flush TLBs; while other processors run the same program each call interrupts them for that. COPY
// allocates and copies every page, but flushes nothing; room for it is made beforehand, by giving back memory
// of many pages at once. Which it is depends on the processor, the hypervisor and the program, and shows in
// how long single pages take: by medians, so that one interrupted call says little. Caller serialises.

#include <cstdint>

#include "base/frugal_median.h"

namespace farpool {

class MoveOrCopy {
 public:
  struct Choice {
    bool copy;
    bool timed;  // Tell Took() how long it takes.
  };
  // Other processors run the program: a flush of the TLB interrupts them.
  bool interrupts() const { return move_.value() > kSlowMoveNs; }
  // Of single pages.
  bool copy_is_sooner() const { return copy_.value() != 0 && CopyNs() < move_.value(); }
  // For `pages` neighbours that go in one call.
  Choice Next(unsigned pages) {
    const uint64_t copy_ns = CopyNs();
    const bool copy = copy_is_sooner() && pages * copy_ns < move_.value() + (pages - 1) * copy_ns / 4;
    if (pages > 1) return {copy, false};
    ++calls_;
    const bool probe = move_.value() > kQuickMoveNs && calls_ % kProbeEvery == 0;
    return {copy != probe, probe || calls_ % kTimedEvery == 0};
  }
  void Took(bool copy, uint64_t ns) { (copy ? copy_ : move_).Add(ns); }
  // Making room for the copies of so many pages did.
  void RoomTook(uint64_t ns, uint64_t pages) { room_.Add(ns / pages + 1); }

 private:
  // No COPY is quicker than that; it is not tried then.
  static constexpr uint64_t kQuickMoveNs = 1200;
  // Without an interrupt it is less.
  static constexpr uint64_t kSlowMoveNs = 3000;
  static constexpr uint32_t kTimedEvery = 8;
  static constexpr uint32_t kProbeEvery = 256;  // The other one is tried.

  uint64_t CopyNs() const { return copy_.value() + room_.value(); }

  FrugalMedian move_;
  FrugalMedian copy_;
  FrugalMedian room_;  // For a page.
  uint32_t calls_ = 0;
};

}  // namespace farpool
