#include "paging/strides.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <set>
#include <vector>

namespace farpool {
namespace {

// Touches of which those on pages that are there take no fault; what trends say is wanted is brought.
struct Walker {
  Strides strides;
  std::set<uint64_t> there;
  uint64_t faults = 0;

  void Touch(uint64_t address) {
    if (!there.insert(address / kPageBytes).second) return;
    ++faults;
    Strides::Trend* trend = strides.GoesOn(address);
    if (trend == nullptr) trend = strides.Begins(address);
    if (trend == nullptr) return;
    for (unsigned i = 1; i < trend->window; ++i)
      there.insert((address + i * static_cast<uint64_t>(trend->stride)) / kPageBytes);
    Strides::Covered(trend, trend->window);
  }
};

constexpr uint64_t kBase = uint64_t{1} << 40;

TEST(StridesTest, TheThirdStepBeginsATrendAndItsWindowGrows) {
  Strides strides;
  EXPECT_EQ(strides.GoesOn(kBase), nullptr);
  EXPECT_EQ(strides.Begins(kBase), nullptr);
  EXPECT_EQ(strides.Begins(kBase + 40'000), nullptr);
  Strides::Trend* trend = strides.Begins(kBase + 80'000);
  ASSERT_NE(trend, nullptr);
  EXPECT_EQ(trend->stride, 40'000);
  uint64_t step = 2;
  for (unsigned window = 2; window < Strides::kWindowMax; window *= 2) {
    EXPECT_EQ(trend->window, window);
    Strides::Covered(trend, window);
    step += window;
    ASSERT_EQ(strides.GoesOn(kBase + step * 40'000), trend);
  }
  EXPECT_EQ(trend->window, Strides::kWindowMax);
}

TEST(StridesTest, UpAndDownByTurnsAreTwoTrends) {
  Walker walker;
  for (uint64_t i = 0; i < 4000; ++i) {
    walker.Touch(kBase + i * 40'000);
    walker.Touch(4 * kBase - i * 9'000);
  }
  EXPECT_LT(walker.faults, 8000u / 12);
}

// Where a page boundary decides where a page is first touched, each distance is off by up to a page; the mean
// of many is not.
TEST(StridesTest, DistancesThatAreOnlyRightToAPageAreLearnt) {
  Walker walker;
  for (uint64_t i = 0; i < 4000; ++i) walker.Touch((kBase + i * 40'000) / kPageBytes * kPageBytes);
  EXPECT_LT(walker.faults, 4000u / 6);
}

TEST(StridesTest, StepsThatWereThereAreNoEnd) {
  Walker walker;
  for (uint64_t i = 0; i < 4000; i += 5)
    for (uint64_t k = 0; k < 3; ++k) walker.there.insert((kBase + (i + k) * 40'000) / kPageBytes);
  for (uint64_t i = 0; i < 4000; ++i) walker.Touch(kBase + i * 40'000);
  EXPECT_LT(walker.faults, 4000u / 8);
}

// Each step a page shorter than the last, the most that is taken for the same: no trend may come to bring a
// page twice.
TEST(StridesTest, StepsThatShrinkEndTheTrend) {
  Strides strides;
  uint64_t address = kBase;
  int64_t step = 30'000;
  for (unsigned i = 0; i < 200; ++i, address += static_cast<uint64_t>(step)) {
    Strides::Trend* trend = strides.GoesOn(address);
    if (trend == nullptr) trend = strides.Begins(address);
    if (trend != nullptr) {
      ASSERT_GT(trend->stride, static_cast<int64_t>(kPageBytes));
      Strides::Covered(trend, 1);
      step = trend->stride - 4000;
    }
  }
}

TEST(StridesTest, NeighboursAreNoTrend) {
  Strides strides;
  for (uint64_t i = 0; i < 1000; ++i) {
    ASSERT_EQ(strides.GoesOn(kBase + i * kPageBytes), nullptr);
    ASSERT_EQ(strides.Begins(kBase + i * kPageBytes), nullptr);
  }
}

TEST(StridesTest, RandomTouchesHardlyBringAnything) {
  Walker walker;
  std::mt19937_64 random(5);
  std::uniform_int_distribution<uint64_t> anywhere(0, (uint64_t{512} << 20) - 1);
  for (unsigned i = 0; i < 50'000; ++i) walker.Touch(kBase + anywhere(random));
  EXPECT_LT(walker.there.size(), walker.faults + walker.faults / 100);
}

}  // namespace
}  // namespace farpool
