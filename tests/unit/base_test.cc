#include <gtest/gtest.h>

#include <cstring>
#include <thread>
#include <vector>

#include "base/copy_past_cache.h"
#include "base/hash.h"
#include "base/histogram.h"
#include "base/mutex.h"
#include "base/sharded_counter.h"
#include "base/spin.h"
#include "base/text.h"
#include "farpool/status.h"

namespace farpool {
namespace {

TEST(MutexTest, KeepsAPlainCounterExact) {
  Mutex mutex;
  uint64_t counter = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < 20000; ++i) {
        MutexLock lock(&mutex);
        ++counter;
      }
    });
  for (auto& t : threads) t.join();
  EXPECT_EQ(counter, 80000u);
}

TEST(SpinHistoryTest, StopsAfterFailuresAndComesBackAfterOneSuccess) {
  SpinHistory history;
  for (int i = 0; i < 4; ++i) {
    EXPECT_TRUE(history.ShouldSpin());
    history.Ended(false);
  }
  for (int i = 0; i < 15; ++i) EXPECT_FALSE(history.ShouldSpin()) << i;
  EXPECT_TRUE(history.ShouldSpin());  // The probe.
  history.Ended(true);
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(history.ShouldSpin());
    history.Ended(false);
  }
  history.Ended(true);
  EXPECT_TRUE(history.ShouldSpin());
}

TEST(HashTest, DependsOnEveryByteAndOnTheSeed) {
  alignas(64) unsigned char page[kPageBytes] = {};
  const PageHash zero = HashPage(page, 1);
  EXPECT_FALSE(zero == HashPage(page, 2));
  for (size_t i = 0; i < kPageBytes; ++i) {
    page[i] = 1;
    EXPECT_FALSE(zero == HashPage(page, 1)) << i;
    EXPECT_FALSE(IsZeroPage(page)) << i;
    page[i] = 0;
  }
  EXPECT_TRUE(IsZeroPage(page));
}

TEST(CopyPastCacheTest, CopiesWhatItIsToldToWhereverThatLies) {
  alignas(64) std::byte from[1024], to[1024];
  for (size_t i = 0; i < sizeof(from); ++i) from[i] = static_cast<std::byte>(i * 37 >> 3 | 1);
  for (const size_t source : {0, 8, 64})
    for (const size_t target : {0, 8, 64, 128})
      for (const size_t bytes : {0, 1, 63, 64, 100, 128, 512}) {
        std::memset(to, 0, sizeof(to));
        CopyPastCache(to + target, from + source, bytes);
        for (size_t i = 0; i < sizeof(to); ++i) {
          const bool copied = i >= target && i < target + bytes;
          ASSERT_EQ(to[i], copied ? from[i - target + source] : std::byte{0})
              << source << ' ' << target << ' ' << bytes << ' ' << i;
        }
      }
}

TEST(ShardedCounterTest, CountsWhatAllThreadsAdd) {
  ShardedCounter counter{};
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 40; ++t)
    threads.emplace_back([&counter, t] {
      for (int i = 0; i < 1000; ++i) counter.Add(t);
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(counter.sum(), 40'000u);
}

TEST(HistogramTest, PercentilesAreWithinAStepOfTheTruth) {
  Histogram h;
  for (uint64_t ns = 1; ns <= 100000; ++ns) h.Add(ns);
  EXPECT_EQ(h.count(), 100000u);
  EXPECT_EQ(h.max_ns(), 100000u);
  for (double f : {0.01, 0.5, 0.9, 0.99}) {
    const double truth = f * 100000;
    EXPECT_GE(static_cast<double>(h.PercentileNs(f)), truth * 0.99) << f;
    EXPECT_LE(static_cast<double>(h.PercentileNs(f)), truth * 1.07) << f;
  }
}

TEST(StatusTest, NamesTheCallAndTheReason) {
  EXPECT_STREQ(Status::FromErrno("bind", 99).text(), "bind: no such address on this machine");
  const Status s = Status::FromErrno("connect tcp://127.0.0.1:1", 111);
  EXPECT_EQ(s.code(), Status::Code::kUnavailable);
  EXPECT_STREQ(s.text(), "connect tcp://127.0.0.1:1: connection refused");
}

TEST(TextBufferTest, CutsWhatDoesNotFit) {
  TextBuffer<8> t;
  t.Add("abc").Add(uint64_t{1234567});
  EXPECT_STREQ(t.c_str(), "abc1234");
}

}  // namespace
}  // namespace farpool
