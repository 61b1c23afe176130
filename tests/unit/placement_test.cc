// The choice of donors, by its results over many choices.

#include "placement/choose.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

namespace farpool {
namespace {

constexpr uint64_t kGiB = uint64_t{1} << 30;

TEST(ChooseDonorTest, NeverTakesWhatCannotServe) {
  std::mt19937_64 random(1);
  const std::vector<DonorLoad> donors = {{8 * kGiB, false}, {kGiB - 1, true}, {kGiB, true},
                                         {0, true},         {2 * kGiB, true}, {64 * kGiB, false}};
  int chosen[6] = {};
  for (int i = 0; i < 10000; ++i) {
    const size_t donor = ChooseDonor(donors, kGiB, random);
    ASSERT_LT(donor, donors.size());
    ++chosen[donor];
  }
  EXPECT_EQ(chosen[0] + chosen[1] + chosen[3] + chosen[5], 0);
  EXPECT_GT(chosen[2], 0);
  EXPECT_GT(chosen[4], chosen[2]);
}

TEST(ChooseDonorTest, SaysWhenThereIsNone) {
  std::mt19937_64 random(1);
  EXPECT_EQ(ChooseDonor({}, 1, random), kNoDonor);
  const std::vector<DonorLoad> donors = {{kGiB - 1, true}, {4 * kGiB, false}, {0, true}};
  EXPECT_EQ(ChooseDonor(donors, kGiB, random), kNoDonor);
  EXPECT_EQ(ChooseDonor(std::vector<DonorLoad>{{0, true}}, 0, random), kNoDonor);
  EXPECT_EQ(ChooseDonor(donors, kGiB - 1, random), 0u);
}

TEST(ChooseDonorTest, LastByteOfTheLastDonorCanBeDrawn) {
  const std::vector<DonorLoad> donors = {{3, true}, {9, false}, {2, true}};
  for (uint64_t at = 0; at < 5; ++at)
    EXPECT_EQ(ChooseDonor(donors, 1, [&] { return at; }), at < 3 ? 0u : 2u) << at;
}

// How far the fullest of equal donors is above the emptiest, in slabs, after half of all is taken.
template <typename Choose>
int Spread(uint64_t seed, Choose choose) {
  constexpr int kDonors = 16, kSlabs = 64;
  std::mt19937_64 random(seed);
  std::vector<DonorLoad> donors(kDonors, {kSlabs * kGiB, true});
  for (int i = 0; i < kDonors * kSlabs / 2; ++i) donors[choose(donors, random)].free_bytes -= kGiB;
  const auto [least, most] = std::minmax_element(
      donors.begin(), donors.end(), [](auto& a, auto& b) { return a.free_bytes < b.free_bytes; });
  return static_cast<int>((most->free_bytes - least->free_bytes) / kGiB);
}

TEST(ChooseDonorTest, EqualDonorsFillEvenly) {
  int total = 0, total_random = 0;
  for (uint64_t seed = 0; seed < 50; ++seed) {
    const int spread =
        Spread(seed, [](auto& donors, auto& random) { return ChooseDonor(donors, kGiB, random); });
    EXPECT_LE(spread, 8) << seed;  // log log n, not sqrt of the load.
    total += spread;
    total_random += Spread(seed, [](auto& donors, auto& random) { return random() % donors.size(); });
  }
  EXPECT_LT(3 * total, total_random);
}

TEST(ChooseDonorTest, UnequalDonorsFillToTheSameShare) {
  std::mt19937_64 random(7);
  std::vector<DonorLoad> donors = {{400 * kGiB, true}, {200 * kGiB, true}, {100 * kGiB, true}};
  for (int i = 0; i < 350; ++i) donors[ChooseDonor(donors, kGiB, random)].free_bytes -= kGiB;
  // The largest gave the most and none is used up.
  for (const DonorLoad& donor : donors) EXPECT_GT(donor.free_bytes, 50 * kGiB);
  EXPECT_LT(donors[0].free_bytes, 200 * kGiB);
}

TEST(ChooseDonorTest, PoolIsUsedToTheLastSlab) {
  std::mt19937_64 random(7);
  std::vector<DonorLoad> donors(5, {10 * kGiB, true});
  for (int i = 0; i < 50; ++i) {
    const size_t donor = ChooseDonor(donors, kGiB, random);
    ASSERT_NE(donor, kNoDonor) << i;
    donors[donor].free_bytes -= kGiB;
  }
  EXPECT_EQ(ChooseDonor(donors, kGiB, random), kNoDonor);
}

// Method: lease by lease; after each, nobody is more than a slab away from its share.
TEST(ChooseByWeightTest, SharesAreKeptThroughout) {
  std::vector<DonorLoad> donors = {
      {400 * kGiB, true, 0, 1}, {400 * kGiB, true, 0, 4}, {400 * kGiB, true, 0, 2}};
  for (uint64_t slabs = 1; slabs <= 70; ++slabs) {
    const size_t donor = ChooseByWeight(donors, kGiB);
    ASSERT_NE(donor, kNoDonor);
    donors[donor].leased_bytes += kGiB;
    for (const DonorLoad& d : donors) EXPECT_LE(d.leased_bytes, (slabs * d.weight / 7 + 1) * kGiB) << slabs;
  }
  EXPECT_EQ(donors[0].leased_bytes, 10 * kGiB);
  EXPECT_EQ(donors[1].leased_bytes, 40 * kGiB);
}

TEST(ChooseByWeightTest, TakesWhoeverCanServe) {
  const std::vector<DonorLoad> donors = {
      {kGiB, false, 0, 9}, {kGiB - 1, true, 0, 9}, {kGiB, true, 0, 0}, {kGiB, true, 5 * kGiB, 1}};
  EXPECT_EQ(ChooseByWeight(donors, kGiB), 3u);
  EXPECT_EQ(ChooseByWeight(std::span(donors).first(3), kGiB), kNoDonor);
}

}  // namespace
}  // namespace farpool
