#include "paging/strides.h"

#include <gtest/gtest.h>

#include <algorithm>
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
    const uint64_t own = address / kPageBytes;
    if (!there.insert(own).second) return;
    ++faults;
    Strides::Trend* trend = strides.GoesOn(address);
    if (trend == nullptr) trend = strides.Begins(address);
    if (trend == nullptr) return;
    unsigned count = 1;
    const unsigned steps = Strides::Follow(*trend, [&](uint64_t page) {
      if (count == trend->window) return false;
      if (there.insert(page).second) ++count;
      return true;
    });
    Strides::Covered(trend, steps);
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
  for (unsigned i = 0; i < 4000; ++i, address += static_cast<uint64_t>(step)) {
    Strides::Trend* trend = strides.GoesOn(address);
    if (trend == nullptr) trend = strides.Begins(address);
    if (trend != nullptr) {
      ASSERT_GT(trend->stride, static_cast<int64_t>(kPageBytes));
      Strides::Covered(trend, 1);
      step = trend->stride - std::min<int64_t>(4000, trend->stride / 2);
    }
  }
}

// A matrix that lies by columns of 40,000 bytes, gone through by blocks of 192 rows, four columns at a time
// as matrix products do: there is a fault where a page ends inside the block, in every second or third
// column.
TEST(StridesTest, BlocksOfRowsAreBroughtByColumns) {
  constexpr uint64_t kColumn = 40'000, kRows = 192, kColumns = 5000, kCell = 8;
  Walker walker;
  const uint64_t matrix = kBase + 16;
  for (uint64_t i = 0; i < 40; ++i) walker.Touch(matrix + i * kColumn);  // A row: so far apart are columns.
  std::set<uint64_t> touched = walker.there;
  uint64_t brought = walker.there.size();
  for (uint64_t block = 0; block < 4; ++block) {
    walker.faults = 0;
    for (uint64_t column = 0; column < kColumns; column += 4)
      for (uint64_t row = block * kRows; row < (block + 1) * kRows; ++row)
        for (uint64_t c = column; c < column + 4; ++c) {
          const uint64_t address = matrix + c * kColumn + row * kCell;
          walker.Touch(address);
          touched.insert(address / kPageBytes);
        }
    const uint64_t pages = walker.there.size() - brought;
    brought = walker.there.size();
    EXPECT_LT(walker.faults, pages / 8) << block;
  }
  // Beyond the block's own, what the last faults of it wanted, and edges.
  EXPECT_LT(brought, touched.size() + touched.size() / 20);
}

// A row of a matrix first; then, elsewhere, walks at several times the distance of its columns: that is their
// own.
TEST(StridesTest, WalksAtSeveralTimesAKnownDistanceBringNothingElse) {
  for (const uint64_t times : {2, 4, 8, 16}) {
    Walker walker;
    for (uint64_t i = 0; i < 1000; ++i) walker.Touch(kBase + 16 + i * 24'000);
    walker.there.clear();
    walker.faults = 0;
    for (uint64_t i = 0; i < 1000; ++i) walker.Touch(2 * kBase + 16 + i * 24'000 * times);
    EXPECT_LT(walker.faults, 1000u / 8) << times;
    EXPECT_LT(walker.there.size(), 1000u + 1000 / 20) << times;
  }
}

TEST(StridesTest, DistancesThatWereTheSameByChanceAreLearntAllTheSame) {
  Walker walker;
  for (uint64_t i = 0; i < 4000; ++i) walker.Touch(kBase + 16 + i * 74 / 10 * kPageBytes);
  EXPECT_LT(walker.faults, 4000u / 6);
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
  for (uint64_t i = 0; i < 40; ++i) walker.Touch(kBase + 16 + i * 24'000);  // Nor once columns are known.
  const uint64_t brought = walker.there.size() - walker.faults;
  std::mt19937_64 random(5);
  std::uniform_int_distribution<uint64_t> anywhere(0, (uint64_t{512} << 20) - 1);
  for (unsigned i = 0; i < 50'000; ++i) walker.Touch(kBase + anywhere(random));
  EXPECT_LT(walker.there.size(), walker.faults + brought + walker.faults / 100);
}

}  // namespace
}  // namespace farpool
