#include "paging/groups.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <vector>

namespace farpool {
namespace {

constexpr uint64_t kCount = 4096;

// Memory for so many groups, each of one page: a touch of one that is not there brings it, at the price of
// another.
class Memory {
 public:
  explicit Memory(uint64_t room) : room_(room) { EXPECT_TRUE(groups_.Init(kCount).ok()); }

  void Touch(uint64_t group) {
    ++touches_;
    if (groups_[group].resident > 0) {
      ++hits_;
      return;
    }
    if (held_ == room_) Evict();
    groups_.Arrived(group);
    ++held_;
  }
  uint64_t Evict() {
    Groups::Leaving leaving;
    if (!groups_.Next(&leaving)) return kCount;
    EXPECT_GT(groups_[leaving.group].resident, 0);
    groups_[leaving.group].resident = 0;
    --held_;
    return leaving.group;
  }
  // Since this was asked last.
  double HitRate() {
    const double rate = static_cast<double>(hits_) / static_cast<double>(touches_);
    hits_ = touches_ = 0;
    return rate;
  }
  Groups& groups() { return groups_; }

 private:
  Groups groups_;
  uint64_t room_;
  uint64_t held_ = 0;
  uint64_t touches_ = 0;
  uint64_t hits_ = 0;
};

TEST(GroupsTest, APartOfALoopOverMoreThanFitsIsAlwaysThere) {
  for (const auto& [loop, least] : {std::pair{1280U, 0.7}, std::pair{2048U, 0.4}, std::pair{4096U, 0.18}}) {
    Memory memory(1024);
    for (unsigned i = 0; i < 20 * loop; ++i) {
      if (i == 10 * loop) memory.HitRate();
      memory.Touch(i % loop);
    }
    EXPECT_GE(memory.HitRate(), least) << loop;
  }
}

TEST(GroupsTest, RandomTouchesFindAsMuchAsThereIs) {
  Memory memory(1024);
  std::mt19937_64 random(1);
  for (unsigned i = 0; i < 200'000; ++i) {
    if (i == 100'000) memory.HitRate();
    memory.Touch(random() % 2048);
  }
  EXPECT_NEAR(memory.HitRate(), 0.5, 0.03);
}

TEST(GroupsTest, EveryGroupLeavesOnceAndThenThereIsNone) {
  Memory memory(kCount);
  for (uint64_t group = 0; group < 1000; ++group) memory.Touch(group * 4);
  std::vector<int> left(kCount + 1);
  for (int i = 0; i < 1000; ++i) ++left[memory.Evict()];
  for (uint64_t group = 0; group < 1000; ++group) EXPECT_EQ(left[group * 4], 1) << group;
  EXPECT_EQ(memory.Evict(), kCount);
}

TEST(GroupsTest, WhatArrivesStays) {
  Memory memory(kCount);
  for (uint64_t group = 0; group < 8; ++group) memory.Touch(group);
  memory.groups()[3].arriving = 1;
  for (int i = 0; i < 16; ++i) EXPECT_NE(memory.Evict(), 3U);
  EXPECT_EQ(memory.Evict(), kCount);
  memory.groups()[3].arriving = 0;
  bool left = false;
  for (int i = 0; i < 8; ++i) left |= memory.Evict() == 3;
  EXPECT_TRUE(left);
}

TEST(GroupsTest, WhatIsPreferredOutlivesTheOthers) {
  for (const bool prefer : {true, false}) {
    Memory memory(kCount);
    for (uint64_t group = 0; group < 100; ++group) memory.Touch(group);
    for (int i = 0; i < 10; ++i) memory.Evict();
    for (uint64_t group = 200; group < 210; ++group) memory.Touch(group);
    for (uint64_t group = 200; prefer && group < 210; ++group) memory.groups().Prefer(group);
    int preferred_left = 0;
    for (int i = 0; i < 50; ++i) preferred_left += memory.Evict() >= 200;
    EXPECT_EQ(preferred_left > 0, !prefer);
  }
}

TEST(GroupsTest, NeighboursThatAreNextLeaveTogether) {
  Memory memory(kCount);
  for (const uint64_t group : {10, 11, 12, 13, 50, 14}) memory.Touch(group);
  Groups::Leaving leaving;
  std::vector<uint64_t> left;
  while (left.size() < 6) {
    ASSERT_TRUE(memory.groups().Next(&leaving));
    const unsigned count = memory.groups().NextNeighbours(leaving, 3);
    EXPECT_LE(count, 3U);
    for (unsigned i = 0; i < count; ++i) {
      EXPECT_GT(memory.groups()[leaving.group + i].resident, 0) << leaving.group + i;
      memory.groups()[leaving.group + i].resident = 0;
      left.push_back(leaving.group + i);
    }
    if (leaving.group == 50) {
      EXPECT_EQ(count, 1U) << "14 is no neighbour of it";
    }
    if (left.size() == 3) {
      EXPECT_EQ(left, (std::vector<uint64_t>{10, 11, 12}));
    }
  }
}

}  // namespace
}  // namespace farpool
