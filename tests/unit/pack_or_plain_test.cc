#include "store/pack_or_plain.h"

#include <gtest/gtest.h>

namespace farpool {
namespace {

// How many of so many batches are packed, where a page takes so long plain and packed.
unsigned Packed(PackOrPlain* choice, unsigned batches, unsigned pages, uint64_t plain_ns,
                uint64_t packed_ns) {
  unsigned packed = 0;
  for (unsigned i = 0; i < batches; ++i) {
    const bool pack = choice->Pack(pages);
    choice->Took(pack, pages, pages * (pack ? packed_ns : plain_ns));
    packed += pack;
  }
  return packed;
}

TEST(PackOrPlainTest, LeavesFastLinksAlone) {
  PackOrPlain choice;
  EXPECT_LE(Packed(&choice, 1000, 64, 2000, 6000), 10u);
}

TEST(PackOrPlainTest, PacksForSlowOnesSoon) {
  PackOrPlain choice;
  EXPECT_GE(Packed(&choice, 1000, 64, 330'000, 100'000), 980u);
  EXPECT_EQ(Packed(&choice, 10, 1, 330'000, 100'000), 10u);  // Single pages do as batches do.
}

TEST(PackOrPlainTest, RandomPagesAreNotWorthItAnywhere) {
  PackOrPlain choice;
  EXPECT_LE(Packed(&choice, 1000, 64, 330'000, 332'000), 30u);
}

TEST(PackOrPlainTest, FollowsTheLink) {
  PackOrPlain choice;
  Packed(&choice, 1000, 64, 2000, 6000);
  Packed(&choice, 4000, 64, 330'000, 100'000);
  EXPECT_GE(Packed(&choice, 1000, 64, 330'000, 100'000), 980u);
  Packed(&choice, 60'000, 64, 2000, 6000);
  EXPECT_LE(Packed(&choice, 1000, 64, 2000, 6000), 20u);
}

TEST(PackOrPlainTest, OneLongBatchSaysLittle) {
  PackOrPlain choice;
  Packed(&choice, 1000, 64, 2000, 6000);
  choice.Took(false, 64, 64 * 4'000'000);
  EXPECT_LE(Packed(&choice, 100, 64, 2000, 6000), 2u);
}

TEST(PackOrPlainTest, SmallBatchesTellNothing) {
  PackOrPlain choice;
  Packed(&choice, 1000, PackOrPlain::kPagesMin - 1, 1'000'000, 10);
  EXPECT_FALSE(choice.Pack(1));
}

}  // namespace
}  // namespace farpool
