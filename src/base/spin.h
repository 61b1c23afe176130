#pragma once
// Whether waiting by spinning pays, learned from how it went. It does not where the other side has to run on
// this very CPU first, or is further away than the spin lasts: then each spin only delays what it waits for
// (a round trip on two busy CPUs took 108 us with both sides spinning blindly, against 10 us on idle ones).
// Threads: one at a time.

namespace farpool {

class SpinHistory {
 public:
  bool ShouldSpin() {
    if (failures_ < kFailuresMax) return true;
    if (++skipped_ < kProbeEvery) return false;
    skipped_ = 0;
    return true;
  }
  // A spin ended, with what it waited for or without.
  void Ended(bool found) { failures_ = found ? 0 : failures_ + (failures_ < kFailuresMax ? 1 : 0); }

 private:
  static constexpr unsigned kFailuresMax = 4;  // In a row; then only every kProbeEvery-th wait tries again.
  static constexpr unsigned kProbeEvery = 16;
  unsigned failures_ = 0;
  unsigned skipped_ = 0;
};

}  // namespace farpool
