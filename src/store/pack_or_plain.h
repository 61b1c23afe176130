#pragma once
// Whether pages reach a donor sooner packed or as they are. Packed ones are fewer bytes for the link and more
// work for the processor: worth it where the link is slow and the pages are not random. Nobody needs to know
// how slow: batches are sent both ways now and then, and their times per page compared, by medians that are
// followed by steps up and down as in paging/move_or_copy.h. Caller serialises.

#include <cstdint>

namespace farpool {

class PackOrPlain {
 public:
  // Smaller batches tell of round trips, not of the link.
  static constexpr unsigned kPagesMin = 4;

  // For the next batch of so many pages.
  bool Pack(unsigned pages) {
    // Clearly sooner: packed pages do not travel as neighbours.
    const bool pack = pack_ns_ != 0 && pack_ns_ + pack_ns_ / 8 < plain_ns_;
    if (pages < kPagesMin) return pack;
    const bool probe = ++batches_ % (pack_ns_ == 0 ? kFirstProbe : kProbeEvery) == 0;
    return pack != probe;
  }
  // How long it took, packing included.
  void Took(bool packed, unsigned pages, uint64_t ns) {
    if (pages < kPagesMin) return;
    uint64_t& median = packed ? pack_ns_ : plain_ns_;
    uint32_t& steps = packed ? pack_steps_ : plain_steps_;
    const uint64_t each = ns / pages + 1;
    // Larger at first: a limited link takes the first pages at once.
    const uint64_t step = median / (steps < kLargeSteps ? 2 : 16) + 1;
    ++steps;
    if (median == 0) {
      median = each;
    } else {
      median = each > median ? median + step : median - step;
    }
  }

 private:
  static constexpr uint32_t kFirstProbe = 4;
  static constexpr uint32_t kLargeSteps = 8;
  static constexpr uint32_t kProbeEvery = 128;
  uint64_t plain_ns_ = 0;
  uint64_t pack_ns_ = 0;
  uint32_t plain_steps_ = 0;
  uint32_t pack_steps_ = 0;
  uint32_t batches_ = 0;
};

}  // namespace farpool
