#include "paging/streams.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <set>

namespace farpool {
namespace {

constexpr Area kArea = {.first = 0, .last = 1 << 20, .protection = 3, .foreign = false};

// Touches of which those on pages that are there take no fault; what streams want is brought.
struct Walker {
  Streams streams;
  Area area = kArea;
  std::set<uint64_t> there;
  uint64_t faults = 0;

  bool Passed(uint64_t first, uint64_t last) const {
    for (uint64_t page = first; page < last; ++page)
      if (there.count(page) == 0) return false;
    return true;
  }
  // How many pages the fault brought; 0: there was none.
  unsigned Touch(uint64_t page) {
    if (there.count(page) > 0) return 0;
    ++faults;
    Streams::Stream* stream = streams.Of(page, [&](uint64_t from, uint64_t to) { return Passed(from, to); });
    const auto got = Streams::Wanted(*stream, page, area, [&](uint64_t p) { return there.count(p) == 0; });
    EXPECT_TRUE(got.first <= page && page < got.first + got.count);
    EXPECT_TRUE(got.first / kGroupPages == page / kGroupPages && got.first >= area.first &&
                got.first + got.count <= area.last);
    for (unsigned i = 0; i < got.count; ++i) EXPECT_TRUE(there.insert(got.first + i).second);
    Streams::GoOn(stream, got);
    return got.count;
  }
};

TEST(StreamsTest, AScanBringsAGroupAtATimeUpAndDown) {
  Walker up, down;
  for (uint64_t page = 0; page < 6400; ++page) up.Touch(640 + page);
  for (uint64_t page = 0; page < 6400; ++page) down.Touch(7039 - page);
  EXPECT_EQ(up.there.size(), 6400U);
  EXPECT_LE(up.faults, 100U + 6);
  EXPECT_LE(down.faults, 100U + 6);
}

TEST(StreamsTest, InterleavedScansAreToldApart) {
  Walker walker;
  for (uint64_t page = 0; page < 640; ++page)
    for (uint64_t scan = 0; scan < 12; ++scan) walker.Touch(scan * 6400 + page);
  EXPECT_LE(walker.faults, 12U * (10 + 6));
}

TEST(StreamsTest, RandomTouchesBringNothingElse) {
  Walker walker;
  std::mt19937_64 random(1);
  for (int i = 0; i < 2000; ++i) walker.Touch(random() % kArea.last);
  EXPECT_LE(walker.there.size(), walker.faults + 40);
}

TEST(StreamsTest, AScanGoesOnBehindWhatIsThereBecauseItPassedThat) {
  Walker walker;
  for (uint64_t page = 0; page < 128; ++page) walker.Touch(page);
  for (uint64_t page = 128; page < 1000; ++page) walker.there.insert(page);
  EXPECT_EQ(walker.Touch(1000), 24U);  // To the end of its group.
  // But not where there is something that it did not touch.
  EXPECT_EQ(walker.Touch(1100), 1U);
}

TEST(StreamsTest, AdviceGoesBeforeWhatIsSeen) {
  Walker random, sequential;
  random.area.access = Access::kRandom;
  sequential.area.access = Access::kSequential;
  for (uint64_t page = 0; page < 200; ++page) EXPECT_EQ(random.Touch(page), 1U);
  EXPECT_EQ(sequential.Touch(0), 64U);
}

TEST(StreamsTest, AFaultThatGotNothingAsksAgain) {
  Streams streams;
  const auto nothing = [](uint64_t, uint64_t) { return false; };
  Streams::GoOn(streams.Of(10, nothing), {10, 1});
  Streams::Stream* stream = streams.Of(11, nothing);
  EXPECT_EQ(stream->window, 2U);
  EXPECT_EQ(streams.Of(11, nothing), stream);
  EXPECT_EQ(stream->window, 2U);
  Streams::GoOn(stream, {11, 2});
  EXPECT_FALSE(streams.Expects(13));  // It has gone on only once.
  stream = streams.Of(13, nothing);
  Streams::GoOn(stream, {13, 4});
  EXPECT_TRUE(streams.Expects(17));
  EXPECT_FALSE(streams.Expects(18));
}

}  // namespace
}  // namespace farpool
