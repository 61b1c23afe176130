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
  // Other processors run the program: a flush of the TLB interrupts them, and COPY is the cheaper way.
  bool interrupts() const { return copy_.value() != 0 && copy_.value() + kRoomNs < move_.value(); }
  // For `pages` neighbours that go in one call.
  Choice Next(unsigned pages) {
    const uint64_t copy_ns = copy_.value();
    const bool copy = interrupts() && pages * copy_ns + kRoomNs < move_.value() + (pages - 1) * copy_ns / 4;
    if (pages > 1) return {copy, false};
    ++calls_;
    const bool probe = move_.value() > kMaybeSlowNs && calls_ % kProbeEvery == 0;
    return {copy != probe, probe || calls_ % kTimedEvery == 0};
  }
  void Took(bool copy, uint64_t ns) { (copy ? copy_ : move_).Add(ns); }

 private:
  // Below that nobody was interrupted, and COPY is not tried.
  static constexpr uint64_t kMaybeSlowNs = 2000;
  // What a copied page costs beside its COPY: its frame's memory is given back, it takes memory anew.
  static constexpr uint64_t kRoomNs = 1000;
  static constexpr uint32_t kTimedEvery = 8;
  static constexpr uint32_t kProbeEvery = 64;  // The other one is tried.
  FrugalMedian move_;
  FrugalMedian copy_;
  uint32_t calls_ = 0;
};

}  // namespace farpool
