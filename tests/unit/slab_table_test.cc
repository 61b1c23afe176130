// Slots and their holders, as several processes use them. The table is 8 GiB of address space: never on the
// heap.

#include "store/slab_table.h"

#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "slab_table_memory.h"

namespace farpool {
namespace {

struct SlabTableTest : testing::Test {
  SlabTableTest() { table->count = 1; }
  void Add(uint32_t index, uint32_t slots) {
    table->slabs[index].slots = slots;
    table->slabs[index].state = SlabEntry::kReady;
    table->count = index + 1;
  }
  std::vector<SlotId> Take(uint32_t index, unsigned wanted) {
    std::vector<SlotId> out(wanted);
    out.resize(table->Take(index, wanted, out.data()));
    return out;
  }
  const SlabTableMemory memory = NewSlabTable();
  SlabTable* const table = memory.get();
};

TEST_F(SlabTableTest, SlotIdsNameSlabAndSlot) {
  EXPECT_NE(MakeSlot(1, 0), SlotId::kNone);
  for (uint32_t slab : {1u, 2u, kSlabsMax - 1})
    for (uint32_t slot : {0u, 1u, kSlotsPerSlabMax - 1}) {
      EXPECT_EQ(SlabOf(MakeSlot(slab, slot)), slab);
      EXPECT_EQ(SlotOf(MakeSlot(slab, slot)), slot);
    }
}

TEST_F(SlabTableTest, GivesNeighboursUntilTheSlabIsFull) {
  Add(3, 100);
  const auto first = Take(3, 64);
  ASSERT_EQ(first.size(), 64u);
  for (uint32_t i = 0; i < 64; ++i) EXPECT_EQ(first[i], MakeSlot(3, i));
  EXPECT_EQ(Take(3, 64).size(), 36u);
  EXPECT_EQ(Take(3, 1).size(), 0u);
  EXPECT_EQ(table->slabs[3].used, 100u);
  EXPECT_EQ(table->used_slots, 100u);
}

TEST_F(SlabTableTest, FreeSlotIsFoundWhereverItIs) {
  Add(1, 100);
  Take(1, 100);
  for (uint32_t slot : {0u, 57u, 99u}) {
    table->Release(MakeSlot(1, slot));
    EXPECT_EQ(table->slabs[1].used, 99u);
    const auto again = Take(1, 5);
    ASSERT_EQ(again.size(), 1u);
    EXPECT_EQ(again[0], MakeSlot(1, slot));
  }
}

TEST_F(SlabTableTest, SlotIsFreeOnceTheLastHolderLetGo) {
  Add(1, 1);
  const SlotId slot = Take(1, 1).at(0);
  EXPECT_TRUE(table->Exclusive(slot));
  table->Retain(slot);
  table->Retain(slot);
  for (int holders = 3; holders > 1; --holders) {
    EXPECT_FALSE(table->Exclusive(slot));
    table->Release(slot);
    EXPECT_TRUE(Take(1, 1).empty());
    EXPECT_EQ(table->used_slots, 1u);
  }
  EXPECT_TRUE(table->Exclusive(slot));
  table->Release(slot);
  EXPECT_EQ(table->used_slots, 0u);
  EXPECT_EQ(Take(1, 1).size(), 1u);
}

TEST_F(SlabTableTest, LastSlotOfTheLastSlabIsASlotLikeAnyOther) {
  Add(kSlabsMax - 1, kSlotsPerSlabMax);
  table->slabs[kSlabsMax - 1].cursor = kSlotsPerSlabMax - 1;
  const auto taken = Take(kSlabsMax - 1, 2);
  ASSERT_EQ(taken.size(), 2u);
  EXPECT_EQ(taken[0], MakeSlot(kSlabsMax - 1, kSlotsPerSlabMax - 1));
  EXPECT_EQ(taken[1], MakeSlot(kSlabsMax - 1, 0));
}

// Threads take, share and release in two small slabs, nearly full all the time.
TEST_F(SlabTableTest, NoSlotIsEverGivenTwice) {
  constexpr uint32_t kSlots = 200;
  Add(1, kSlots);
  Add(2, kSlots);
  std::atomic<int> owners[3][kSlots] = {};
  std::atomic<uint64_t> twice{0}, taken_in_all{0};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      std::mt19937 random(t);
      std::vector<SlotId> mine;
      auto release = [&](size_t i) {
        const SlotId slot = mine[i];
        if (random() % 4 == 0) {  // As a child that was forked and ended.
          table->Retain(slot);
          table->Release(slot);
        }
        --owners[SlabOf(slot)][SlotOf(slot)];
        mine[i] = mine.back();
        mine.pop_back();
        table->Release(slot);
      };
      for (int i = 0; i < 20000; ++i) {
        SlotId out[16];
        const unsigned wanted = 1 + random() % 16;
        const unsigned got = table->Take(1 + random() % 2, wanted, out);
        if (got > wanted) ++twice;
        taken_in_all += got;
        for (unsigned k = 0; k < got; ++k) {
          if (++owners[SlabOf(out[k])][SlotOf(out[k])] != 1) ++twice;
          mine.push_back(out[k]);
        }
        while (mine.size() > 96) release(random() % mine.size());
      }
      while (!mine.empty()) release(0);
    });
  for (auto& t : threads) t.join();
  EXPECT_EQ(twice, 0u);
  EXPECT_GT(taken_in_all, 10000u);
  EXPECT_EQ(table->used_slots, 0u);
  EXPECT_EQ(table->slabs[1].used, 0u);
  EXPECT_EQ(table->slabs[2].used, 0u);
  EXPECT_EQ(Take(1, kSlots).size(), kSlots);
}

// As little as there can be to fight for: every Take looks at the same few slots.
TEST_F(SlabTableTest, TheSameFreeSlotGoesToOneTakerOnly) {
  constexpr uint32_t kSlots = 3;
  Add(1, kSlots);
  std::atomic<int> owners[kSlots] = {};
  std::atomic<uint64_t> twice{0};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 3; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < 300000; ++i) {
        SlotId out[kSlots];
        const unsigned got = table->Take(1, kSlots, out);
        for (unsigned k = 0; k < got; ++k)
          if (++owners[SlotOf(out[k])] != 1) ++twice;
        for (unsigned k = 0; k < got; ++k) {
          --owners[SlotOf(out[k])];
          table->Release(out[k]);
        }
      }
    });
  for (auto& t : threads) t.join();
  EXPECT_EQ(twice, 0u);
  EXPECT_EQ(table->used_slots, 0u);
}

}  // namespace
}  // namespace farpool
