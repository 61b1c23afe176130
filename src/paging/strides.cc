#include "paging/strides.h"

namespace farpool {

namespace {
int64_t Distance(uint64_t from, uint64_t to) { return static_cast<int64_t>(to - from); }
int64_t Size(int64_t distance) { return distance < 0 ? -distance : distance; }
}  // namespace

Strides::Trend* Strides::GoesOn(uint64_t address) {
  for (Trend& trend : trends_) {
    if (trend.stride == 0) continue;
    const int64_t off = Distance(trend.next, address);
    const int64_t along = trend.stride < 0 ? -off : off;
    if (along < -kTolerance || along > kPassedMax * Size(trend.stride)) continue;
    const int64_t passed = (along + Size(trend.stride) / 2) / Size(trend.stride);
    if (Size(off - passed * trend.stride) > kTolerance) continue;
    trend.next = address;
    trend.steps += passed;
    // The longer the way, the better known its steps.
    trend.stride = Distance(trend.first, address) / trend.steps;
    if (Size(trend.stride) < kStrideMin / 2) {  // It has become something else.
      trend = {};
      return nullptr;
    }
    trend.window = trend.window * 2 > kWindowMax ? kWindowMax : trend.window * 2;
    trend.stamp = ++clock_;
    return &trend;
  }
  return nullptr;
}

Strides::Trend* Strides::Begins(uint64_t address) {
  Trend* found = nullptr;
  for (unsigned i = 0; i < kRecent && found == nullptr; ++i) {
    const uint64_t before = recent_[(newest_ + kRecent - i) % kRecent];
    const int64_t stride = Distance(before, address);
    if (Size(stride) < kStrideMin || Size(stride) > kStrideMax) continue;
    for (unsigned k = i + 1; k < kRecent; ++k) {
      const uint64_t first = recent_[(newest_ + kRecent - k) % kRecent];
      if (Size(Distance(first, before) - stride) > kTolerance) continue;
      found = &trends_[0];
      for (Trend& trend : trends_)
        if (trend.stamp < found->stamp) found = &trend;
      *found = {.first = first,
                .next = address,
                .steps = 2,
                .stride = Distance(first, address) / 2,
                .window = 2,
                .stamp = ++clock_};
      break;
    }
  }
  newest_ = (newest_ + 1) % kRecent;
  recent_[newest_] = address;
  return found;
}

}  // namespace farpool
