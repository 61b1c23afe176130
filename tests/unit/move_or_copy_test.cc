#include "paging/move_or_copy.h"

#include <gtest/gtest.h>

namespace farpool {
namespace {

// How many of `pages`-page calls are copied while a MOVE takes move_ns, and a page's COPY copy_ns.
unsigned Copied(MoveOrCopy* way, unsigned calls, unsigned pages, uint64_t move_ns, uint64_t copy_ns) {
  unsigned copied = 0;
  for (unsigned i = 0; i < calls; ++i) {
    const MoveOrCopy::Choice choice = way->Next(pages);
    if (choice.timed) way->Took(choice.copy, choice.copy ? copy_ns * pages : move_ns);
    copied += choice.copy;
  }
  return copied;
}

TEST(MoveOrCopyTest, MovesWhileNobodyIsInterrupted) {
  MoveOrCopy way;
  EXPECT_EQ(Copied(&way, 10'000, 1, 1000, 1500), 0u);
  EXPECT_EQ(Copied(&way, 100, 64, 1000, 1500), 0u);
}

TEST(MoveOrCopyTest, CopiesSinglePagesWhenAMoveInterrupts) {
  MoveOrCopy way;
  Copied(&way, 1000, 1, 1000, 1500);
  Copied(&way, 1000, 1, 15'000, 1500);
  EXPECT_GT(Copied(&way, 1000, 1, 15'000, 1500), 950u);
  // One interrupt for 64 pages is worth it.
  EXPECT_EQ(Copied(&way, 100, 64, 15'000, 1500), 0u);
  EXPECT_EQ(Copied(&way, 100, 4, 15'000, 1500), 100u);
}

TEST(MoveOrCopyTest, GoesBackWhenTheOthersHaveEnded) {
  MoveOrCopy way;
  Copied(&way, 2000, 1, 15'000, 1500);
  Copied(&way, 10'000, 1, 1000, 1500);
  EXPECT_LT(Copied(&way, 1000, 1, 1000, 1500), 50u);
}

TEST(MoveOrCopyTest, ASlowCopyIsNoBetter) {
  MoveOrCopy way;
  Copied(&way, 2000, 1, 15'000, 30'000);
  EXPECT_LT(Copied(&way, 1000, 1, 15'000, 30'000), 50u);
}

TEST(MoveOrCopyTest, RoomForACopyIsPartOfIt) {
  MoveOrCopy way;
  way.RoomTook(256 * 1000, 256);
  EXPECT_LT(Copied(&way, 10'000, 1, 2000, 1500), 50u);
  MoveOrCopy quick;
  quick.RoomTook(256 * 100, 256);
  Copied(&quick, 20'000, 1, 2000, 1500);
  EXPECT_GT(Copied(&quick, 1000, 1, 2000, 1500), 950u);
}

TEST(MoveOrCopyTest, OneLongCallSaysLittle) {
  MoveOrCopy way;
  Copied(&way, 1000, 1, 1000, 1500);
  way.Took(false, 5'000'000);
  EXPECT_EQ(Copied(&way, 1000, 1, 1000, 1500), 0u);
}

}  // namespace
}  // namespace farpool
