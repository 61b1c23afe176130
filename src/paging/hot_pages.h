#pragma once
// Whether staged pages that were touched soon after they had gone (hot ones) are worth a longer stay. They
// are if touches come back to them clearly more often than to others, which random touches do not, and if
// fetches, which they save, take much longer than second chances, of which there are more: some pages pass
// through staging sooner, and hot ones are found there instead of in place. Caller serialises.

#include <cstdint>

#include "base/frugal_median.h"

namespace farpool {

class HotPages {
 public:
  // A page that passes through staging was touched there / was not, and goes.
  void Touched(bool hot) { Add(&chances_[hot].touched, hot); }
  void Missed(bool hot) { Add(&chances_[hot].missed, hot); }
  // How long a single page's fault took that a donor answered / that found it staged.
  void Fetched(uint64_t ns) { fetch_.Add(ns + 1); }
  void Chanced(uint64_t ns) { chance_.Add(ns + 1); }

  bool Stay() const {
    const Chances& hot = chances_[true];
    const Chances& other = chances_[false];
    return hot.touched + hot.missed >= kSeenMin && fetch_.value() >= kFetchWorth * chance_.value() &&
           2 * hot.touched * (other.touched + other.missed) > 3 * other.touched * (hot.touched + hot.missed);
  }

 private:
  // A fetch saved costs one to three second chances more (docs/fault-engine.md), and copies of pages.
  static constexpr uint64_t kFetchWorth = 6;
  // Pages over which their chances are counted; fewer may be chance.
  static constexpr uint64_t kWindow = 4096;
  static constexpr uint64_t kSeenMin = kWindow / 2;

  struct Chances {
    uint64_t touched = 0;
    uint64_t missed = 0;
  };
  void Add(uint64_t* count, bool hot) {
    ++*count;
    Chances& chances = chances_[hot];
    if (chances.touched + chances.missed < kWindow) return;
    chances.touched /= 2;
    chances.missed /= 2;
  }

  Chances chances_[2];
  FrugalMedian fetch_;
  FrugalMedian chance_;
};

}  // namespace farpool
