// The block core against a model, over a store in memory that can fail, lose and spoil.

#include "blockdev/block_store.h"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "fake_page_store.h"

namespace farpool {
namespace {

struct Always final : StillWanted {
  bool Ask() override { return true; }
};
struct Never final : StillWanted {
  bool Ask() override { return false; }
};

struct Device {
  explicit Device(uint64_t pages, uint32_t slots)
      : entries(std::make_unique<MapEntry[]>(pages)),
        map(entries.get(), pages, /*hash_seed=*/7, &counters),
        store(slots),
        blocks(&map, &store) {}
  std::unique_ptr<MapEntry[]> entries;
  BlockCounters counters = {};
  PageMap map;
  FakePageStore store;
  BlockStore blocks;
  Always always;
};

void FillPage(std::byte* page, uint64_t value) {
  std::mt19937_64 random(value);
  for (size_t i = 0; i < kPageBytes; i += 8) {
    const uint64_t word = value == 0 ? 0 : random();
    std::memcpy(page + i, &word, 8);
  }
}

// Random reads, writes and discards of 1 to 200 pages; every byte read is compared with a model. In the end
// the store holds exactly the pages that are not zero.
TEST(BlockStoreTest, ReadsWhatWasWritten) {
  constexpr uint64_t kPages = 1000;
  Device device(kPages, 3000);
  std::vector<uint64_t> model(kPages, 0);  // 0: zero page.
  std::mt19937_64 random(20261);
  std::vector<std::byte> buffer(200 * kPageBytes), expected(kPageBytes);
  for (uint64_t step = 1; step <= 3000; ++step) {
    const uint64_t count = random() % 4 == 0 ? 1 + random() % 200 : 1 + random() % 4;
    const uint64_t page = random() % (kPages - count + 1);
    switch (random() % 3) {
      case 0:
        for (uint64_t i = 0; i < count; ++i) {
          model[page + i] = random() % 5 == 0 ? 0 : random();
          FillPage(&buffer[i * kPageBytes], model[page + i]);
        }
        ASSERT_TRUE(device.blocks.Write(page, count, buffer.data(), &device.always).ok());
        break;
      case 1:
        std::fill_n(&model[page], count, 0);
        ASSERT_TRUE(device.blocks.Discard(page, count, &device.always).ok());
        break;
      default:
        ASSERT_TRUE(device.blocks.Read(page, count, buffer.data()).ok());
        for (uint64_t i = 0; i < count; ++i) {
          FillPage(expected.data(), model[page + i]);
          ASSERT_EQ(std::memcmp(&buffer[i * kPageBytes], expected.data(), kPageBytes), 0);
        }
    }
    const size_t stored = static_cast<size_t>(
        std::count_if(model.begin(), model.end(), [](uint64_t value) { return value != 0; }));
    ASSERT_EQ(device.store.held(), stored);
  }
}

TEST(BlockStoreTest, SpoiledPageIsAnErrorNeverData) {
  Device device(64, 64);
  std::vector<std::byte> page(kPageBytes);
  FillPage(page.data(), 5);
  ASSERT_TRUE(device.blocks.Write(9, 1, page.data(), &device.always).ok());
  device.store.Spoil(device.map.entry(9).slot);
  EXPECT_EQ(device.blocks.Read(9, 1, page.data()).code(), Status::Code::kCorrupt);
  EXPECT_EQ(device.counters.corrupt.load(), 1u);
  // Pages beside it are not concerned, and a new write heals it.
  EXPECT_TRUE(device.blocks.Read(8, 1, page.data()).ok());
  FillPage(page.data(), 6);
  ASSERT_TRUE(device.blocks.Write(9, 1, page.data(), &device.always).ok());
  EXPECT_TRUE(device.blocks.Read(9, 1, page.data()).ok());
}

// A write of three groups whose second store fails: each page has its old or its new bytes.
TEST(BlockStoreTest, FailedWriteLeavesOldOrNew) {
  constexpr uint64_t kCount = 3 * PageMap::kGroupPages;
  Device device(kCount, 10000);
  std::vector<std::byte> old_bytes(kCount * kPageBytes), new_bytes(kCount * kPageBytes),
      read(kCount * kPageBytes);
  for (uint64_t i = 0; i < kCount; ++i) {
    FillPage(&old_bytes[i * kPageBytes], 1000 + i);
    FillPage(&new_bytes[i * kPageBytes], 2000 + i);
  }
  ASSERT_TRUE(device.blocks.Write(0, kCount, old_bytes.data(), &device.always).ok());
  device.store.store_until = 1;
  EXPECT_EQ(device.blocks.Write(0, kCount, new_bytes.data(), &device.always).code(),
            Status::Code::kUnavailable);
  ASSERT_TRUE(device.blocks.Read(0, kCount, read.data()).ok());
  const size_t split = PageMap::kGroupPages * kPageBytes;
  EXPECT_EQ(std::memcmp(read.data(), new_bytes.data(), split), 0);
  EXPECT_EQ(std::memcmp(read.data() + split, old_bytes.data() + split, read.size() - split), 0);
}

// The pool is full: nothing changes, nothing stays reserved, and discarding makes room again.
TEST(BlockStoreTest, FullPoolIsSaidAndPasses) {
  Device device(64, 10);
  std::vector<std::byte> bytes(11 * kPageBytes);
  for (uint64_t i = 0; i < 11; ++i) FillPage(&bytes[i * kPageBytes], 1 + i);
  EXPECT_EQ(device.blocks.Write(0, 11, bytes.data(), &device.always).code(), Status::Code::kExhausted);
  EXPECT_EQ(device.store.held(), 0u);
  ASSERT_TRUE(device.blocks.Write(0, 10, bytes.data(), &device.always).ok());
  EXPECT_EQ(device.blocks.Write(20, 1, bytes.data(), &device.always).code(), Status::Code::kExhausted);
  ASSERT_TRUE(device.blocks.Discard(0, 1, &device.always).ok());
  EXPECT_TRUE(device.blocks.Write(20, 1, bytes.data(), &device.always).ok());
}

TEST(BlockStoreTest, UnansweredReadIsAnError) {
  Device device(64, 64);
  std::vector<std::byte> page(kPageBytes);
  FillPage(page.data(), 5);
  ASSERT_TRUE(device.blocks.Write(0, 1, page.data(), &device.always).ok());
  device.store.fail_loads = true;
  EXPECT_EQ(device.blocks.Read(0, 1, page.data()).code(), Status::Code::kUnavailable);
}

// What the kernel gave up on must not happen after all.
TEST(BlockStoreTest, StaleRequestChangesNothing) {
  Device device(64, 64);
  std::vector<std::byte> page(kPageBytes), read(kPageBytes), other(kPageBytes);
  FillPage(page.data(), 5);
  FillPage(other.data(), 6);
  ASSERT_TRUE(device.blocks.Write(0, 1, page.data(), &device.always).ok());
  Never never;
  EXPECT_FALSE(device.blocks.Write(0, 1, other.data(), &never).ok());
  EXPECT_FALSE(device.blocks.Discard(0, 1, &never).ok());
  ASSERT_TRUE(device.blocks.Read(0, 1, read.data()).ok());
  EXPECT_EQ(read, page);
}

// Two threads with stores of their own on one map: each reads a mix of whole pages, and nothing leaks.
TEST(BlockStoreTest, ThreadsShareAMap) {
  constexpr uint64_t kPages = 200;
  Device device(kPages, 2000);
  const auto work = [&](uint64_t seed) {
    BlockStore blocks(&device.map, &device.store);
    Always always;
    std::mt19937_64 random(seed);
    std::vector<std::byte> buffer(8 * kPageBytes), expected(kPageBytes);
    for (int step = 0; step < 2000; ++step) {
      const uint64_t page = random() % (kPages - 8);
      if (random() % 2 == 0) {
        // The first word says which page content it is.
        for (uint64_t i = 0; i < 8; ++i) {
          const uint64_t value = 1 + random() % 1000;
          FillPage(&buffer[i * kPageBytes], value);
          std::memcpy(&buffer[i * kPageBytes], &value, 8);
        }
        ASSERT_TRUE(blocks.Write(page, 8, buffer.data(), &always).ok());
        continue;
      }
      ASSERT_TRUE(blocks.Read(page, 8, buffer.data()).ok());
      for (uint64_t i = 0; i < 8; ++i) {
        uint64_t value;
        std::memcpy(&value, &buffer[i * kPageBytes], 8);
        FillPage(expected.data(), value);
        if (value != 0) std::memcpy(expected.data(), &value, 8);
        ASSERT_EQ(std::memcmp(&buffer[i * kPageBytes], expected.data(), kPageBytes), 0);
      }
    }
  };
  std::thread one(work, 1), two(work, 2);
  one.join();
  two.join();
  ASSERT_TRUE(device.blocks.Discard(0, kPages, &device.always).ok());
  EXPECT_EQ(device.store.held(), 0u);
}

}  // namespace
}  // namespace farpool
