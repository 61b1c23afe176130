#pragma once
// Faults at equal distances: a row of a matrix that lies by columns, one field of large records. Found among
// the last few faults, whoever took them, so that threads and loops that take turns are told apart by nothing
// but their distances. (After Leap, Al Maruf and Chowdhury 2020, which looks for the majority of the last
// distances of one process.) Pure logic on byte addresses; the caller serialises.

#include <cstdint>

#include "farpool/types.h"

namespace farpool {

class Strides {
 public:
  // Smaller distances are a stream's, whichever of the recent ones it is counted from.
  static constexpr int64_t kStrideMin = 5 * static_cast<int64_t>(kPageBytes);
  static constexpr int64_t kStrideMax = int64_t{64} << 20;
  // The first touch of a page is anywhere in it, so distances are right to a page.
  static constexpr int64_t kTolerance = static_cast<int64_t>(kPageBytes);
  // Steps ahead at most.
  static constexpr unsigned kWindowMax = 16;

  struct Trend {
    uint64_t first = 0;  // Where it was found.
    uint64_t next = 0;   // Where it goes on: so many steps from there.
    int64_t steps = 0;
    int64_t stride = 0;   // Bytes, more than a page; negative: downwards. 0: none.
    unsigned window = 0;  // Steps that are worth bringing, the fault's own included.
    unsigned ahead = 0;   // Pages that the last fetch brought beyond the fault's own; the caller's.
    uint32_t stamp = 0;
  };

  // The trend that a fault at `address` goes on, its window doubled; null: none.
  Trend* GoesOn(uint64_t address);
  // The trend that the fault begins: it is as far from an earlier one as that from one before. Null: none.
  // Only for faults that GoesOn() knows nothing of.
  Trend* Begins(uint64_t address);
  // The next `steps` are brought, the fault's own among them.
  static void Covered(Trend* trend, unsigned steps) {
    trend->next += steps * static_cast<uint64_t>(trend->stride);
    trend->steps += steps;
  }

 private:
  // Steps that were resident may have been passed over.
  static constexpr int64_t kPassedMax = 16;
  static constexpr unsigned kTrends = 8;
  static constexpr unsigned kRecent = 8;

  Trend trends_[kTrends];
  uint64_t recent_[kRecent] = {};
  unsigned newest_ = 0;
  uint32_t clock_ = 0;
};

}  // namespace farpool
