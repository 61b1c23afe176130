#include "paging/strides.h"

#include <algorithm>

namespace farpool {

namespace {
int64_t Distance(uint64_t from, uint64_t to) { return static_cast<int64_t>(to - from); }
int64_t Size(int64_t distance) { return distance < 0 ? -distance : distance; }
bool AtPage(uint64_t address) { return address % kPageBytes == 0; }
// To the nearest.
int64_t Quotient(int64_t distance, int64_t step) {
  const int64_t half = Size(step) / 2;
  const int64_t size = (Size(distance) + half) / Size(step);
  return (distance < 0) == (step < 0) ? size : -size;
}
}  // namespace

int64_t Strides::Trend::lowest() const {
  return *std::min_element(offsets, offsets + std::min(faults, kOffsets));
}
int64_t Strides::Trend::highest() const {
  return *std::max_element(offsets, offsets + std::min(faults, kOffsets));
}

Strides::Trend* Strides::GoesOn(uint64_t address) {
  ++clock_;
  for (Trend& trend : trends_) {
    if (trend.stride == 0 || clock_ - trend.stamp > kIdleMax) continue;
    const int64_t off = Distance(trend.at, address);
    const int64_t passed = Quotient(off, trend.stride);
    const int64_t looked_at = Distance(trend.at, trend.next) / trend.stride;
    if (passed < (trend.exact ? -kBackMax : looked_at) || passed > looked_at + kPassedMax) continue;
    const int64_t offset = off - passed * trend.stride;
    const int64_t lowest = trend.lowest(), highest = trend.highest();
    if (offset < lowest - kTolerance || offset > highest + kTolerance ||
        std::max(offset, highest) - std::min(offset, lowest) > std::min(kSpanMax, Size(trend.stride) / 2))
      continue;
    trend.steps += passed;
    trend.beyond = passed >= looked_at;
    if (trend.exact && offset != 0 && trend.faults < kPitchFaults && trend.steps > 0) {
      trend.exact = false;  // That was by chance.
      trend.faults = 1;
      trend.offsets[0] = 0;
    }
    if (trend.exact) {
      trend.at += static_cast<uint64_t>(passed * trend.stride);
      trend.offsets[trend.faults++ % kOffsets] = static_cast<int32_t>(offset);
      trend.back = passed < 0 ? trend.back + 1 : passed > 0 && trend.back > 0 ? trend.back - 1 : trend.back;
      if (trend.back == kTurns) {
        trend.back = 0;
        trend.next = trend.at;
        trend.stride = -trend.stride;
      }
      if (trend.faults == kPitchFaults && trend.highest() == trend.lowest()) pitch_ = Size(trend.stride);
    } else {
      trend.at = address;
      // The longer the way, the better known its steps.
      trend.stride = Distance(trend.first, address) / trend.steps;
      if (Size(trend.stride) < kStrideMin / 2) {  // It has become something else.
        trend = {};
        return nullptr;
      }
    }
    trend.window = trend.window * 2 > kWindowMax ? kWindowMax : trend.window * 2;
    trend.stamp = clock_;
    return &trend;
  }
  return nullptr;
}

void Strides::Covered(Trend* trend, unsigned steps) {
  const uint64_t next = trend->at + steps * static_cast<uint64_t>(trend->stride);
  if (Distance(trend->next, next) / trend->stride > 0) trend->next = next;
}

Strides::Trend* Strides::Oldest() {
  return std::max_element(trends_, trends_ + kTrends, [this](const Trend& a, const Trend& b) {
    return clock_ - a.stamp < clock_ - b.stamp;
  });
}

// Two of the recent ones are whole steps away.
Strides::Trend* Strides::BeginsAtPitch(uint64_t address) {
  if (pitch_ == 0) return nullptr;
  int32_t offsets[2] = {};
  unsigned found = 0, above = 0;
  for (unsigned i = 0; i < kRecent && found < 2; ++i) {
    const int64_t distance = Distance(address, recent_[(newest_ + kRecent - i) % kRecent]);
    const int64_t steps = Quotient(distance, pitch_);
    const int64_t offset = distance - steps * pitch_;
    if (steps == 0 || Size(steps) > kPitchesApart || Size(offset) > kTolerance) continue;
    offsets[found++] = static_cast<int32_t>(offset);
    if (steps > 0) ++above;
  }
  if (found < 2) return nullptr;
  Trend* const trend = Oldest();
  *trend = {.first = address,
            .at = address,
            .next = address,
            .stride = above < 2 ? pitch_ : -pitch_,
            .exact = true,
            .window = 2,
            .stamp = clock_,
            .faults = kPitchFaults,
            .offsets = {0, offsets[0], offsets[1]}};
  return trend;
}

Strides::Trend* Strides::Begins(uint64_t address) {
  uint64_t first = 0;
  bool found = false, exact = false;
  for (unsigned i = 0; i < kRecent && !exact; ++i) {
    const uint64_t one = recent_[(newest_ + kRecent - i) % kRecent];
    const int64_t stride = Distance(one, address);
    if (Size(stride) < kStrideMin || Size(stride) > kStrideMax) continue;
    for (unsigned k = i + 1; k < kRecent && !exact; ++k) {
      const uint64_t other = recent_[(newest_ + kRecent - k) % kRecent];
      const int64_t off = Distance(other, one) - stride;
      if (Size(off) > kTolerance) continue;
      exact = off == 0 && !AtPage(other) && !AtPage(one) && !AtPage(address);
      if (found && !exact) continue;
      found = true;
      first = other;
    }
  }
  // A walk at several times the pitch has a distance of its own.
  Trend* trend = exact ? nullptr : BeginsAtPitch(address);
  if (trend == nullptr && found) {
    trend = Oldest();
    *trend = {.first = first,
              .at = address,
              .steps = 2,
              .next = address,
              .stride = Distance(first, address) / 2,
              .exact = exact,
              .window = 2,
              .stamp = clock_,
              .faults = 1};
  }
  newest_ = (newest_ + 1) % kRecent;
  recent_[newest_] = address;
  return trend;
}

}  // namespace farpool
