#pragma once
// Faults at equal distances: a row of a matrix that lies by columns, one field of large records; and faults
// around such points, as where a block of rows is gone through column by column: its columns begin at equal
// distances, and wherever a page ends inside one of them there is a fault. Found among the last few faults,
// whoever took them, so that threads and loops that take turns are told apart by nothing but their distances.
// (After Leap, Al Maruf and Chowdhury 2020, which looks for the majority of the last distances of one
// process.) Pure logic on byte addresses; the caller serialises.

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
  // Pages ahead at most.
  static constexpr unsigned kWindowMax = 16;
  // Steps looked through for a page that is wanted: most may be there.
  static constexpr unsigned kStepsPerPage = 4;
  static constexpr unsigned kOffsets = 8;
  // From the lowest to the highest of them.
  static constexpr int64_t kSpanMax = 4 * static_cast<int64_t>(kPageBytes);

  struct Trend {
    uint64_t first = 0;  // Where it was found.
    uint64_t at = 0;     // The step of the last fault: so many from there.
    int64_t steps = 0;
    uint64_t next = 0;               // The first step that has not been looked at.
    int64_t stride = 0;              // Bytes, more than a page; negative: downwards. 0: none.
    bool exact = false;              // It is no mean.
    unsigned window = 0;             // Pages that are worth bringing, the fault's own included.
    bool beyond = false;             // The last fault was behind all steps that had been looked at.
    unsigned ahead = 0;              // Pages brought beyond the faults' own since one was; the caller's.
    uint32_t stamp = 0;              // Of its last fault.
    unsigned back = 0;               // How many more of its faults went back than on since it turned.
    unsigned faults = 0;             // Whose offsets are known.
    int32_t offsets[kOffsets] = {};  // Of the last faults, from their steps.

    // What is touched of each step, as far as is known: bytes from it, both included.
    int64_t lowest() const;
    int64_t highest() const;
  };

  // The trend that a fault at `address` goes on, its window doubled; null: none.
  Trend* GoesOn(uint64_t address);
  // The trend that the fault begins: it is as far from an earlier one as that from one before; or from two of
  // them by whole numbers of a distance that an earlier trend went on by to the byte (the last such is kept
  // for good). Null: none. Only for faults that GoesOn() knows nothing of.
  Trend* Begins(uint64_t address);
  // Calls `take` for the pages that the trend wants, step by step from that of the fault, until it returns
  // false or there are no more. Returns how many steps that are, for Covered().
  template <typename Take>
  static unsigned Follow(const Trend& trend, Take take) {
    const auto lowest = static_cast<uint64_t>(trend.lowest()),
               highest = static_cast<uint64_t>(trend.highest());
    unsigned steps = 0;
    for (; steps < kStepsPerPage * trend.window; ++steps) {
      const uint64_t at = trend.at + steps * static_cast<uint64_t>(trend.stride);
      for (uint64_t page = (at + lowest) / kPageBytes; page <= (at + highest) / kPageBytes; ++page)
        if (!take(page)) return steps > 0 ? steps : 1;
    }
    return steps;
  }
  // What is wanted of the next `steps` is there, the fault's own among them.
  static void Covered(Trend* trend, unsigned steps);

 private:
  // Steps that were resident may have been passed over; and loops over a few steps at a time come back.
  static constexpr int64_t kPassedMax = 16;
  static constexpr int64_t kBackMax = 16;
  // Faults that go back after which it is the trend that does.
  static constexpr unsigned kTurns = 3;
  // Faults that an exact trend goes on by, to the byte, before others are expected at that distance, too; one
  // that is off before that was exact by chance.
  static constexpr unsigned kPitchFaults = 4;
  // How many times that distance they are apart at most.
  static constexpr int64_t kPitchesApart = 32;
  // Faults without one of its own after which a trend is over. Random touches come back to one by and by.
  static constexpr uint32_t kIdleMax = 64;
  static constexpr unsigned kTrends = 8;
  static constexpr unsigned kRecent = 8;

  Trend* Oldest();
  Trend* BeginsAtPitch(uint64_t address);

  Trend trends_[kTrends];
  uint64_t recent_[kRecent] = {};
  unsigned newest_ = 0;
  uint32_t clock_ = 0;  // Faults.
  int64_t pitch_ = 0;   // The last stride that was exact for so long; 0: none.
};

}  // namespace farpool
