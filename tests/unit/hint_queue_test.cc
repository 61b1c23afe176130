#include "paging/hint_queue.h"

#include <gtest/gtest.h>

namespace farpool {
namespace {

TEST(HintQueueTest, OldestFirst) {
  HintQueue hints;
  hints.Add(10, 20, 100);
  hints.Add(40, 50, 5);
  EXPECT_EQ(hints.oldest().first, 10u);
  EXPECT_EQ(hints.oldest().most, 10u);
  hints.Pop();
  EXPECT_EQ(hints.oldest().last, 50u);
  EXPECT_EQ(hints.oldest().most, 5u);
  hints.Pop();
  EXPECT_TRUE(hints.empty());
}

TEST(HintQueueTest, APieceAfterTheOtherIsOneRangeWithOneBound) {
  HintQueue hints;
  for (uint64_t page = 0; page < 100; page += 10) hints.Add(page, page + 10, 25);
  EXPECT_EQ(hints.oldest().first, 0u);
  EXPECT_EQ(hints.oldest().last, 100u);
  EXPECT_EQ(hints.oldest().most, 25u);
  hints.Pop();
  EXPECT_TRUE(hints.empty());
}

TEST(HintQueueTest, WithoutRoomTheOldestIsLost) {
  HintQueue hints;
  for (uint64_t i = 0; i <= HintQueue::kHintsMax; ++i) hints.Add(i * 10, i * 10 + 1, 1);
  for (uint64_t i = 1; i <= HintQueue::kHintsMax; ++i, hints.Pop()) EXPECT_EQ(hints.oldest().first, i * 10);
  EXPECT_TRUE(hints.empty());
}

TEST(HintQueueTest, ForgetsWhatIsGone) {
  HintQueue hints;
  for (uint64_t i = 0; i < HintQueue::kHintsMax; ++i) hints.Add(i * 10, i * 10 + 5, 5);
  for (int i = 0; i < 10; ++i) hints.Pop();
  hints.Add(5000, 5005, 5);
  hints.Forget(0, 602);  // A part of the one at 600.
  EXPECT_EQ(hints.oldest().first, 600u);
  for (uint64_t first : {600, 610, 620, 630, 5000}) {
    ASSERT_FALSE(hints.empty());
    EXPECT_EQ(hints.oldest().first, first);
    hints.Pop();
  }
  EXPECT_TRUE(hints.empty());
}

}  // namespace
}  // namespace farpool
