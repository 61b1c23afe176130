// Pins against the evictor. The property: while a pin is held, no eviction that was announced and allowed
// overlaps it.

#include "paging/pins.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <random>
#include <thread>
#include <vector>

namespace farpool {
namespace {

constexpr uintptr_t kStack = 1000;

TEST(PinsTest, EvictionYieldsToAPinThatOverlaps) {
  auto pins = std::make_unique<Pins>();
  const int pin = pins->Pin(100, 200, 1, kStack);
  ASSERT_GE(pin, 0);
  struct {
    uintptr_t begin, end;
    bool may_go;
  } const cases[] = {{0, 100, true},    {200, 300, true}, {0, 101, false},   {199, 300, false},
                     {120, 130, false}, {50, 250, false}, {100, 200, false}, {300, 400, true}};
  for (const auto& c : cases) {
    EXPECT_EQ(pins->BeginEvict(c.begin, c.end), c.may_go) << c.begin << ".." << c.end;
    if (c.may_go) pins->EndEvict();
  }
  pins->Unpin(pin);
  EXPECT_TRUE(pins->BeginEvict(50, 250));
  pins->EndEvict();
}

// A handler whose alternate stack lies above the stack it interrupted: the call there goes on afterwards.
TEST(PinsTest, AHandlerOnItsOwnStackTakesNothingOver) {
  auto pins = std::make_unique<Pins>();
  constexpr uintptr_t kAlternate = 5000, kAlternateEnd = 6000;
  const int interrupted = pins->Pin(100, 200, 1, kStack);
  const int handlers = pins->Pin(300, 400, 1, 5800, true, kAlternate, kAlternateEnd);
  EXPECT_NE(interrupted, handlers);
  EXPECT_FALSE(pins->BeginEvict(100, 200));
  // Left by longjmp, and entered again.
  const int again = pins->Pin(500, 600, 1, 5900, true, kAlternate, kAlternateEnd);
  EXPECT_EQ(again, handlers);
  EXPECT_FALSE(pins->BeginEvict(100, 200));
  EXPECT_TRUE(pins->BeginEvict(300, 400));
  pins->EndEvict();
  pins->Unpin(again);
  pins->Unpin(interrupted);
  EXPECT_TRUE(pins->BeginEvict(0, 1000));
}

// An eviction that gave up holds nobody back; neither does one that is over or elsewhere.
TEST(PinsTest, PinDoesNotWaitWithoutReason) {
  auto pins = std::make_unique<Pins>();
  const int first = pins->Pin(100, 200, 1, kStack);
  EXPECT_FALSE(pins->BeginEvict(150, 250));
  const int second = pins->Pin(150, 250, 2, kStack);
  EXPECT_GE(second, 0);
  EXPECT_TRUE(pins->BeginEvict(250, 300));
  const int third = pins->Pin(200, 250, 3, kStack);
  EXPECT_GE(third, 0);
  pins->EndEvict();
  const int fourth = pins->Pin(250, 300, 4, kStack);
  EXPECT_GE(fourth, 0);
  for (int pin : {first, second, third, fourth}) pins->Unpin(pin);
  EXPECT_TRUE(pins->BeginEvict(0, 1000));
}

TEST(PinsTest, PinWaitsForTheEvictionUnderWay) {
  auto pins = std::make_unique<Pins>();
  ASSERT_TRUE(pins->BeginEvict(100, 200));
  std::atomic<bool> over{false}, early{false}, pinned{false};
  std::thread thread([&] {
    const int pin = pins->Pin(150, 160, 1, kStack);
    if (!over) early = true;
    pinned = true;
    pins->Unpin(pin);
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_FALSE(pinned);
  over = true;
  pins->EndEvict();
  thread.join();
  EXPECT_FALSE(early);
}

// Method: whoever may go on says so in a table of pages and looks whether the other side says so too.
// Sequentially consistent accesses there, so that at least one of two offenders sees the other.
TEST(PinsTest, PinAndEvictionNeverBothHold) {
  constexpr unsigned kPages = 8;
  auto pins = std::make_unique<Pins>();
  std::atomic<int> pinned[kPages] = {};
  std::atomic<bool> leaving[kPages] = {};
  std::atomic<uint64_t> both{0}, evictions{0}, refusals{0};
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 2; ++t)
    threads.emplace_back([&, t] {
      std::mt19937 random(t);
      for (int i = 0; i < 300000; ++i) {
        const uintptr_t first = random() % kPages;
        const uintptr_t last = first + 1 + random() % (kPages - first);
        const int pin = pins->Pin(first, last, (t + 1) * 64, kStack);
        for (uintptr_t p = first; p < last; ++p) ++pinned[p];
        for (uintptr_t p = first; p < last; ++p)
          if (leaving[p]) ++both;
        for (uintptr_t p = first; p < last; ++p) --pinned[p];
        pins->Unpin(pin);
        for (volatile unsigned pause = random() % 128; pause > 0;) pause = pause - 1;
      }
    });
  std::thread evictor([&] {
    std::mt19937 random(99);
    while (!stop) {
      const uintptr_t first = random() % kPages;
      const uintptr_t last = first + 1 + random() % (kPages - first);
      if (!pins->BeginEvict(first, last)) {
        ++refusals;
        continue;
      }
      ++evictions;
      for (uintptr_t p = first; p < last; ++p) leaving[p] = true;
      for (uintptr_t p = first; p < last; ++p)
        if (pinned[p] != 0) ++both;
      for (uintptr_t p = first; p < last; ++p) leaving[p] = false;
      pins->EndEvict();
    }
  });
  for (auto& t : threads) t.join();
  stop = true;
  evictor.join();
  EXPECT_EQ(both, 0u);
  EXPECT_GT(evictions, 100u);
  EXPECT_GT(refusals, 100u);
  EXPECT_TRUE(pins->BeginEvict(0, kPages));  // Nothing was left behind.
}

// A longjmp out of a call leaves its pin. The next call from further up the stack takes it over.
TEST(PinsTest, AbandonedPinIsTakenOver) {
  auto pins = std::make_unique<Pins>();
  const int abandoned = pins->Pin(100, 200, 1, kStack);
  const int next = pins->Pin(300, 400, 1, kStack + 16);
  EXPECT_EQ(next, abandoned);
  EXPECT_TRUE(pins->BeginEvict(100, 200));
  pins->EndEvict();
  EXPECT_FALSE(pins->BeginEvict(300, 400));
}

// A signal handler's call runs deeper on the same stack, a call's second buffer at the same depth, and
// another thread's stack is anywhere: none of them abandons anything.
TEST(PinsTest, LivePinsAreNotTakenOver) {
  auto pins = std::make_unique<Pins>();
  pins->Pin(100, 200, 1, kStack);
  pins->Pin(300, 400, 1, kStack - 16);
  pins->Pin(500, 600, 1, kStack - 16);
  pins->Pin(700, 800, 2, kStack + 1000);
  for (const uintptr_t at : {100u, 300u, 500u, 700u}) EXPECT_FALSE(pins->BeginEvict(at, at + 100)) << at;
}

TEST(PinsTest, RunsOutWithAWordAndRecovers) {
  auto pins = std::make_unique<Pins>();
  constexpr uintptr_t kOther = 2 * Pins::kPinsMax;
  std::vector<int> held;
  for (unsigned i = 0; i < Pins::kPinsMax; ++i) held.push_back(pins->Pin(i, i + 1, i + 1, kStack));
  for (int pin : held) EXPECT_GE(pin, 0);
  EXPECT_EQ(pins->Pin(kOther, kOther + 1, kOther, kStack), -1);
  pins->Unpin(-1);
  EXPECT_TRUE(pins->BeginEvict(kOther, kOther + 1));
  pins->EndEvict();
  pins->Unpin(held[77]);
  EXPECT_EQ(pins->Pin(kOther, kOther + 1, kOther, kStack), held[77]);
  for (unsigned i = 0; i < Pins::kPinsMax; ++i) EXPECT_EQ(pins->BeginEvict(i, i + 1), i == 77) << i;
  pins->EndEvict();
  pins->Reclaim(
      [](uintptr_t owner) { return owner == Pins::kPinsMax; });  // The last one ended inside its call.
  EXPECT_TRUE(pins->BeginEvict(Pins::kPinsMax - 1, Pins::kPinsMax));
}

TEST(PinsTest, ForkedChildStartsWithoutPins) {
  auto pins = std::make_unique<Pins>();
  for (unsigned i = 0; i < Pins::kPinsMax; ++i) pins->Pin(i, i + 1, i + 1, kStack);
  pins->BeginEvict(500, 600);
  pins->Reset();
  EXPECT_GE(pins->Pin(550, 560, 1, kStack), 0);  // Nor does it wait for the parent's eviction.
  EXPECT_TRUE(pins->BeginEvict(0, 128));
}

// Kept ranges outlive the call that announced them, and go by key and group, or all of a group.
TEST(PinsTest, KeptRangesStayUntilReleased) {
  auto pins = std::make_unique<Pins>();
  constexpr uintptr_t kGroup = 70, kOther = 71;
  EXPECT_TRUE(pins->Keep(100, 200, 1, kGroup));
  EXPECT_TRUE(pins->Keep(300, 400, 1, kGroup));  // Two buffers of one request.
  EXPECT_TRUE(pins->Keep(500, 600, 2, kGroup));
  EXPECT_TRUE(pins->Keep(700, 800, 1, kOther));
  const auto kept = [&](uintptr_t at) {
    const bool goes = pins->BeginEvict(at, at + 100);
    if (goes) pins->EndEvict();
    return !goes;
  };
  pins->Reclaim([](uintptr_t) { return true; });  // Whoever made the request may have ended.
  for (const uintptr_t at : {100u, 300u, 500u, 700u}) EXPECT_TRUE(kept(at)) << at;
  EXPECT_FALSE(kept(200));
  pins->Release(1, kGroup);
  EXPECT_FALSE(kept(100));
  EXPECT_FALSE(kept(300));
  EXPECT_TRUE(kept(500));
  EXPECT_TRUE(kept(700));
  pins->Release(3, kGroup);
  EXPECT_TRUE(kept(500));
  pins->ReleaseGroup(kGroup);
  EXPECT_FALSE(kept(500));
  EXPECT_TRUE(kept(700));
  pins->ReleaseGroup(kOther);
  EXPECT_FALSE(kept(700));
}

TEST(PinsTest, KeepRunsOutWithAWordAndRecovers) {
  auto pins = std::make_unique<Pins>();
  for (unsigned i = 0; i < Pins::kKeptMax; ++i) ASSERT_TRUE(pins->Keep(i, i + 1, i + 1, 1)) << i;
  EXPECT_FALSE(pins->Keep(9000, 9001, 9000, 1));
  EXPECT_TRUE(pins->BeginEvict(9000, 9001));
  pins->EndEvict();
  pins->Release(Pins::kKeptMax, 1);  // The last one.
  EXPECT_TRUE(pins->BeginEvict(Pins::kKeptMax - 1, Pins::kKeptMax));
  pins->EndEvict();
  EXPECT_TRUE(pins->Keep(9000, 9001, 9000, 1));
  EXPECT_FALSE(pins->BeginEvict(9000, 9001));
  pins->Reset();  // A forked child has no requests under way.
  EXPECT_TRUE(pins->BeginEvict(0, 10000));
}

// As with pins of calls, an eviction under way is waited for.
TEST(PinsTest, KeepWaitsForTheEvictionUnderWay) {
  auto pins = std::make_unique<Pins>();
  ASSERT_TRUE(pins->BeginEvict(100, 200));
  std::atomic<bool> over{false}, early{false};
  std::thread thread([&] {
    EXPECT_TRUE(pins->Keep(150, 160, 1, 1));
    if (!over) early = true;
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  over = true;
  pins->EndEvict();
  thread.join();
  EXPECT_FALSE(early);
}

}  // namespace
}  // namespace farpool
