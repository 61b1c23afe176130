#pragma once
// Whether pages reach a donor sooner packed or as they are. Packed ones are fewer bytes for the link and more
// work for the processor: worth it where the link is slow and the pages are not random. Nobody needs to know
// how slow: batches are sent both ways now and then, and the medians of their times per page compared. Caller
// serialises.

#include <cstdint>

#include "base/frugal_median.h"

namespace farpool {

class PackOrPlain {
 public:
  // Smaller batches tell of round trips, not of the link.
  static constexpr unsigned kPagesMin = 4;

  // For the next batch of so many pages.
  bool Pack(unsigned pages) {
    // Clearly sooner: packed pages do not travel as neighbours.
    const bool pack = pack_.value() != 0 && pack_.value() + pack_.value() / 8 < plain_.value();
    if (pages < kPagesMin) return pack;
    const bool probe = ++batches_ % (pack_.value() == 0 ? kFirstProbe : kProbeEvery) == 0;
    return pack != probe;
  }
  // How long it took, packing included.
  void Took(bool packed, unsigned pages, uint64_t ns) {
    if (pages < kPagesMin) return;
    uint32_t& steps = packed ? pack_steps_ : plain_steps_;
    // Larger steps at first: a limited link takes the first pages at once.
    (packed ? pack_ : plain_).Add(ns / pages + 1, steps < kLargeSteps ? 2 : FrugalMedian::kSmallStep);
    ++steps;
  }

 private:
  static constexpr uint32_t kFirstProbe = 4;
  static constexpr uint32_t kLargeSteps = 8;
  static constexpr uint32_t kProbeEvery = 128;
  FrugalMedian plain_;
  FrugalMedian pack_;
  uint32_t plain_steps_ = 0;
  uint32_t pack_steps_ = 0;
  uint32_t batches_ = 0;
};

}  // namespace farpool
