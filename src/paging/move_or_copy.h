#pragma once
// Which of UFFDIO_MOVE and UFFDIO_COPY puts pages in place sooner. MOVE exchanges page table entries, the
// cheaper way until other processors run the same program: each call has to interrupt them to flush their
// TLBs. COPY allocates and copies every page, but interrupts nobody. Which it is shows in how long single
// pages take: by medians, so that one interrupted call says little. Caller serialises.

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
  // For `pages` neighbours that go in one call.
  Choice Next(unsigned pages) {
    const bool slow = interrupts();
    const uint64_t copy_ns = copy_.value();
    bool copy = slow && (copy_ns == 0 || pages * copy_ns < move_.value() + (pages - 1) * copy_ns / 4);
    if (pages > 1) return {copy, false};
    ++calls_;
    const bool probe = slow && calls_ % kProbeEvery == 0;
    return {copy != probe, probe || calls_ % kTimedEvery == 0};
  }
  void Took(bool copy, uint64_t ns) { (copy ? copy_ : move_).Add(ns); }

 private:
  // Without an interrupt it is a third of that.
  static constexpr uint64_t kSlowMoveNs = 3000;
  static constexpr uint32_t kTimedEvery = 8;
  static constexpr uint32_t kProbeEvery = 64;  // The other one is tried.
  FrugalMedian move_;
  FrugalMedian copy_;
  uint32_t calls_ = 0;
};

}  // namespace farpool
