#include "paging/hot_pages.h"

#include <gtest/gtest.h>

namespace farpool {
namespace {

// Of `count` pages that pass through, hot and other ones, so many percent are touched there.
void Pass(HotPages* pages, int count, int hot_percent, int other_percent) {
  for (int i = 0; i < count; ++i) {
    i % 100 < hot_percent ? pages->Touched(true) : pages->Missed(true);
    i % 100 < other_percent ? pages->Touched(false) : pages->Missed(false);
  }
}

void Take(HotPages* pages, uint64_t fetch_ns, uint64_t chance_ns) {
  for (int i = 0; i < 1000; ++i) {
    pages->Fetched(fetch_ns);
    pages->Chanced(chance_ns);
  }
}

TEST(HotPagesTest, StayWhereTouchesComeBackToThem) {
  HotPages pages;
  EXPECT_FALSE(pages.Stay());
  Take(&pages, 20'000, 3000);
  EXPECT_FALSE(pages.Stay());
  Pass(&pages, 3000, 40, 10);
  EXPECT_TRUE(pages.Stay());
}

TEST(HotPagesTest, AFewTouchesAreNoReason) {
  HotPages pages;
  Take(&pages, 20'000, 3000);
  Pass(&pages, 400, 100, 0);
  EXPECT_FALSE(pages.Stay());
}

TEST(HotPagesTest, RandomTouchesAreNoReason) {
  HotPages pages;
  Take(&pages, 20'000, 3000);
  Pass(&pages, 10'000, 13, 10);
  EXPECT_FALSE(pages.Stay());
}

TEST(HotPagesTest, FastFetchesAreNoReason) {
  HotPages pages;
  Pass(&pages, 3000, 40, 10);
  Take(&pages, 6000, 3000);
  EXPECT_FALSE(pages.Stay());
  Take(&pages, 20'000, 3000);
  EXPECT_TRUE(pages.Stay());
}

TEST(HotPagesTest, WhatWasTrueLongAgoIsForgotten) {
  HotPages pages;
  Take(&pages, 20'000, 3000);
  Pass(&pages, 100'000, 40, 10);
  Pass(&pages, 40'000, 10, 10);
  EXPECT_FALSE(pages.Stay());
}

}  // namespace
}  // namespace farpool
