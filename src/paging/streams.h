#pragma once
// Faults that go on, up or down, where one before ended. Several interleaved scans, also of several threads,
// each keep a stream of their own; with every fault that goes on its window doubles, up to a group. (The
// growing window is that of the kernel's readahead, mm/readahead.c; there is no mark to read ahead behind,
// since touches of what is resident are not seen.) Pure logic on page numbers; the caller serialises.

#include <cstdint>

#include "paging/area_map.h"
#include "paging/groups.h"

namespace farpool {

class Streams {
 public:
  // Of a stream that has gone on once.
  static constexpr unsigned kWindowMin = 2;
  // What a stream may have passed without a fault.
  static constexpr uint64_t kSkipMax = 8192;

  struct Stream {
    uint64_t next = 0;      // Where it goes on upwards, and
    uint64_t previous = 0;  // downwards, + 1; 0: nowhere.
    uint64_t asked = 0;     // Page + 1 that it was last asked for and has not got yet.
    uint32_t window = 0;    // Pages that are worth bringing.
    uint32_t stamp = 0;
    uint32_t ahead = 0;  // Pages that the last fetch brought beyond the one asked for; the caller's.
  };
  // Neighbouring pages.
  struct Range {
    uint64_t first;
    unsigned count;
  };

  // The stream that a fault on `page` continues, or a new one whose window is 1. `passed(first, last)`:
  // nothing in [first, last), which is not more than kSkipMax, can have taken a fault.
  template <typename Passed>
  Stream* Of(uint64_t page, Passed passed) {
    Stream* oldest = &streams_[0];
    ++clock_;
    for (Stream& s : streams_) {
      if (s.asked == page + 1) return &s;  // Once more: there were no frames.
      // Only one that has gone on before is looked for behind what is resident: most are random touches.
      const auto continues = [&](uint64_t from, uint64_t to) {
        return to - from <= s.window / kSlackShare ||
               (s.window > 1 && to - from <= kSkipMax && passed(from, to));
      };
      const bool up = s.next != 0 && page >= s.next && continues(s.next, page);
      const bool down = page < s.previous && continues(page + 1, s.previous);
      if (up || down) {
        s.window = s.window * 2 < kWindowMin ? kWindowMin : s.window * 2;
        if (s.window > kGroupPages) s.window = kGroupPages;
        s.stamp = clock_;
        (up ? s.previous : s.next) = 0;
        s.asked = page + 1;
        return &s;
      }
      if (s.stamp < oldest->stamp) oldest = &s;
    }
    *oldest = {.next = page + 1, .previous = page, .asked = page + 1, .window = 1, .stamp = clock_};
    return oldest;
  }
  // The pages that `stream` wants with `page`: of its group and of `area`, as far as `fits` holds.
  template <typename Fits>
  static Range Wanted(const Stream& stream, uint64_t page, const Area& area, Fits fits) {
    const uint64_t group = page / kGroupPages * kGroupPages;
    uint64_t first = page, last = page + 1;
    const unsigned window = area.access == Access::kRandom       ? 1
                            : area.access == Access::kSequential ? kGroupPages
                                                                 : stream.window;
    if (stream.next != 0) {
      const uint64_t end = group + kGroupPages < area.last ? group + kGroupPages : area.last;
      while (last - page < window && last < end && fits(last)) ++last;
    } else {
      const uint64_t begin = group > area.first ? group : area.first;
      while (page - first + 1 < window && first > begin && fits(first - 1)) --first;
    }
    return {first, static_cast<unsigned>(last - first)};
  }
  // That is what it got.
  static void GoOn(Stream* stream, Range got) {
    stream->asked = 0;
    if (stream->next != 0) stream->next = got.first + got.count;
    if (stream->previous != 0) stream->previous = got.first;
  }
  // One that has gone on more than once goes on with this very page.
  bool Expects(uint64_t page) const {
    for (const Stream& s : streams_)
      if (s.window > kWindowMin && (s.next == page || s.previous == page + 1)) return true;
    return false;
  }

 private:
  // A fault behind where a stream was expected still belongs to it within this part of its window.
  static constexpr uint64_t kSlackShare = 8;
  static constexpr unsigned kStreams = 16;

  Stream streams_[kStreams];
  uint32_t clock_ = 0;
};

}  // namespace farpool
