#include "paging/writer.h"

#include <gtest/gtest.h>

namespace farpool {
namespace {

TEST(WriterTest, ServesFromWhenItIsThere) {
  Writer writer;
  EXPECT_FALSE(writer.Serves());
  writer.Waits(false);
  EXPECT_TRUE(writer.Serves());
  EXPECT_TRUE(writer.waits());
}

TEST(WriterTest, IsCalledOnceUntilItWaitsAgain) {
  Writer writer;
  writer.Waits(false);
  writer.Call();
  EXPECT_FALSE(writer.waits());
  EXPECT_TRUE(writer.Serves()) << "it is at work";
  writer.Waits(false);
  EXPECT_TRUE(writer.waits());
}

TEST(WriterTest, RestsAfterItCameInVain) {
  Writer writer;
  writer.Waits(true);
  uint32_t without = 0;
  while (!writer.Serves()) ++without;
  EXPECT_EQ(without, Writer::kRest - 1);
  EXPECT_TRUE(writer.Serves());
}

// How many of `faults` the writer serves, while 64 pages take so long with it, and without it.
unsigned Served(Writer* writer, unsigned faults, uint64_t with_ns, uint64_t without_ns) {
  unsigned served = 0;
  for (unsigned i = 0; i < faults; ++i) {
    const bool serves = writer->Serves();
    writer->Took(serves ? with_ns : without_ns, 64);
    served += serves;
  }
  return served;
}

TEST(WriterTest, ServesWhereThatIsSooner) {
  Writer writer;
  writer.Waits(false);
  EXPECT_GT(Served(&writer, 10'000, 60'000, 90'000), 9000u);
}

TEST(WriterTest, HardlyServesWhereItIsInTheWay) {
  Writer writer;
  writer.Waits(false);
  EXPECT_LT(Served(&writer, 10'000, 90'000, 60'000), 1000u);
}

TEST(WriterTest, NoticesThatAProcessorIsFreeNow) {
  Writer writer;
  writer.Waits(false);
  Served(&writer, 10'000, 90'000, 60'000);
  Served(&writer, 10'000, 35'000, 60'000);
  EXPECT_GT(Served(&writer, 10'000, 35'000, 60'000), 9000u);
}

TEST(WriterTest, IsGoneInAForkedChild) {
  Writer writer;
  writer.Waits(false);
  writer.Gone();
  EXPECT_FALSE(writer.Serves());
  EXPECT_FALSE(writer.waits());
}

}  // namespace
}  // namespace farpool
