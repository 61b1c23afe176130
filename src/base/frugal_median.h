#pragma once
// The median of a stream of values in one word, followed by steps up and down, so that one value says little
// (frugal streaming, Ma, Muthukrishnan and Sandler 2013). Caller serialises.

#include <cstdint>

namespace farpool {

class FrugalMedian {
 public:
  static constexpr uint64_t kSmallStep = 16;  // A sixteenth of the median.

  // 0: nothing was added yet.
  uint64_t value() const { return value_; }
  // `value` is not 0. The step is the median's `step`-th part.
  void Add(uint64_t value, uint64_t step = kSmallStep) {
    if (value_ == 0) {
      value_ = value;
    } else if (value > value_) {
      value_ += value_ / step + 1;
    } else {
      value_ -= value_ / step + 1;
    }
  }

 private:
  uint64_t value_ = 0;
};

}  // namespace farpool
