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

TEST(WriterTest, IsGoneInAForkedChild) {
  Writer writer;
  writer.Waits(false);
  writer.Gone();
  EXPECT_FALSE(writer.Serves());
  EXPECT_FALSE(writer.waits());
}

}  // namespace
}  // namespace farpool
