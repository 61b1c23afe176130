// The map of areas against the plainest model there is: what each single page is.

#include "paging/area_map.h"

#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <vector>

namespace farpool {
namespace {

constexpr uint64_t kPages = 300;
constexpr int kRw = PROT_READ | PROT_WRITE;

struct ModelPage {
  bool mapped = false;
  int protection = 0;
  bool foreign = false;
  friend bool operator==(const ModelPage&, const ModelPage&) = default;
};

std::unique_ptr<AreaMap> MapOf(uint64_t pages) {
  auto map = std::make_unique<AreaMap>();
  map->Init(pages);
  return map;
}

void ExpectSorted(const AreaMap& map) {
  for (size_t i = 0; i < map.size(); ++i) {
    const Area& area = map.at(i);
    ASSERT_LT(area.first, area.last);
    if (i == 0) continue;
    const Area& before = map.at(i - 1);
    ASSERT_LE(before.last, area.first);
    const bool alike =
        before.protection == area.protection && !before.foreign && !area.foreign && before.last == area.first;
    ASSERT_FALSE(alike) << "areas " << i - 1 << " and " << i << " should be one";
  }
}

TEST(AreaMapTest, WhereItSaysThatThereIsRoomThereIs) {
  constexpr uint64_t kMany = 3 * kAreasMax;
  auto map = MapOf(kMany);
  // Two pages of each kind in turn, until one more would not fit.
  uint64_t page = 0;
  for (; map->HasRoom(page, page + 2, 1); page += 2)
    ASSERT_TRUE(map->Set(page, page + 2, page % 4 == 0 ? kRw : PROT_READ));
  EXPECT_EQ(map->size(), kAreasMax);
  EXPECT_FALSE(map->Set(page, page + 2, page % 4 == 0 ? kRw : PROT_READ));
  // Nothing that cuts; what does not cut may go.
  EXPECT_FALSE(map->HasRoom(100, 101));
  EXPECT_FALSE(map->HasRoom(101, 103));
  EXPECT_FALSE(map->Set(100, 101, PROT_NONE));
  ASSERT_TRUE(map->HasRoom(100, 104));
  EXPECT_TRUE(map->Clear(100, 104));
  ASSERT_TRUE(map->HasRoom(201, 203));
  EXPECT_TRUE(map->Set(201, 203, PROT_NONE));
  EXPECT_LE(map->size(), kAreasMax);
}

TEST(AreaMapTest, AgreesWithAMapOfSinglePages) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    auto map = MapOf(kPages);
    std::vector<ModelPage> model(kPages);
    std::mt19937_64 random(seed);
    for (int step = 0; step < 500; ++step) {
      const uint64_t first = random() % kPages;
      const uint64_t most = random() % 8 == 0 ? kPages : 12;
      const uint64_t last = std::min(kPages, first + 1 + random() % most);
      if (random() % 3 == 0) {
        ASSERT_TRUE(map->Clear(first, last));
        for (uint64_t p = first; p < last; ++p) model[p] = {};
      } else {
        const int protection = random() % 2 == 0 ? kRw : PROT_READ;
        const bool foreign = random() % 8 == 0;
        ASSERT_TRUE(map->Set(first, last, protection, foreign));
        for (uint64_t p = first; p < last; ++p) model[p] = {true, protection, foreign};
      }
      ExpectSorted(*map);
      if (HasFatalFailure()) return;
      for (uint64_t p = 0; p < kPages; ++p) {
        const Area* area = map->Find(p);
        ASSERT_EQ(area != nullptr, model[p].mapped) << p;
        if (area == nullptr) continue;
        ASSERT_LE(area->first, p);
        ASSERT_GT(area->last, p);
        ASSERT_EQ((ModelPage{true, area->protection, area->foreign}), model[p]) << p;
        // Nothing beyond alike neighbours is in it.
        ASSERT_EQ(model[area->first], model[p]);
        ASSERT_EQ(model[area->last - 1], model[p]);
      }
      for (int ask = 0; ask < 10; ++ask) {
        const uint64_t from = random() % kPages;
        const uint64_t to = std::min(kPages, from + 1 + random() % 20);
        bool covered = true, free = true;
        for (uint64_t p = from; p < to; ++p) {
          covered = covered && model[p].mapped;
          free = free && !model[p].mapped;
        }
        ASSERT_EQ(map->Covered(from, to), covered) << from << ".." << to;
        ASSERT_EQ(map->Free(from, to), free) << from << ".." << to;
        const uint64_t count = 1 + random() % 30;
        uint64_t gap = UINT64_MAX;
        for (uint64_t at = from; at + count <= kPages && gap == UINT64_MAX; ++at) {
          bool fits = true;
          for (uint64_t p = at; p < at + count; ++p) fits = fits && !model[p].mapped;
          if (fits) gap = at;
        }
        ASSERT_EQ(map->FindGap(count, from), gap) << count << " from " << from;
      }
    }
  }
}

TEST(AreaMapTest, AlikeNeighboursBecomeOne) {
  auto map = MapOf(1000);
  ASSERT_TRUE(map->Set(10, 20, kRw));
  ASSERT_TRUE(map->Set(30, 40, kRw));
  EXPECT_EQ(map->size(), 2u);
  ASSERT_TRUE(map->Set(20, 30, kRw));
  EXPECT_EQ(map->size(), 1u);
  ASSERT_TRUE(map->Set(15, 16, PROT_READ));
  EXPECT_EQ(map->size(), 3u);
  ASSERT_TRUE(map->Set(15, 16, kRw));
  EXPECT_EQ(map->size(), 1u);
  EXPECT_EQ(map->Find(10)->last, 40u);
  // A program's own mappings are not ours to join.
  ASSERT_TRUE(map->Set(40, 50, kRw, true));
  ASSERT_TRUE(map->Set(50, 60, kRw, true));
  EXPECT_EQ(map->size(), 3u);
}

TEST(AreaMapTest, GapAtTheVeryEnd) {
  auto map = MapOf(100);
  ASSERT_TRUE(map->Set(0, 90, kRw));
  EXPECT_EQ(map->FindGap(10, 0), 90u);
  EXPECT_EQ(map->FindGap(11, 0), UINT64_MAX);
  EXPECT_EQ(map->FindGap(1, 99), 99u);
  ASSERT_TRUE(map->Set(90, 100, kRw));
  EXPECT_EQ(map->FindGap(1, 0), UINT64_MAX);
}

// As the kernel at its own limit: what would need one area more is refused whole, the rest goes on.
TEST(AreaMapTest, FullMapRefusesAndStaysAsItWas) {
  auto map = MapOf(8 * kAreasMax);
  for (uint64_t i = 0; i < kAreasMax; ++i) ASSERT_TRUE(map->Set(8 * i, 8 * i + 4, kRw));
  ASSERT_EQ(map->size(), kAreasMax);
  std::vector<Area> before;
  for (size_t i = 0; i < map->size(); ++i) before.push_back(map->at(i));
  EXPECT_FALSE(map->Set(5, 7, kRw));            // One more.
  EXPECT_FALSE(map->Set(801, 803, PROT_READ));  // Two more.
  EXPECT_FALSE(map->Set(802, 804, PROT_READ));  // One more, at an end.
  EXPECT_FALSE(map->Clear(801, 802));           // Two remainders.
  EXPECT_FALSE(map->Set(8 * kAreasMax - 2, 8 * kAreasMax, PROT_READ));
  ASSERT_EQ(map->size(), kAreasMax);
  for (size_t i = 0; i < map->size(); ++i) {
    ASSERT_EQ(map->at(i).first, before[i].first);
    ASSERT_EQ(map->at(i).last, before[i].last);
    ASSERT_EQ(map->at(i).protection, before[i].protection);
  }
  EXPECT_TRUE(map->Set(4, 6, kRw));            // Joins.
  EXPECT_TRUE(map->Set(800, 804, PROT_READ));  // As many as before.
  EXPECT_TRUE(map->Clear(802, 804));           // Shorter.
  EXPECT_EQ(map->size(), kAreasMax);
  EXPECT_TRUE(map->Clear(800, 804));
  EXPECT_EQ(map->size(), kAreasMax - 1);
  EXPECT_TRUE(map->Set(801, 802, PROT_READ));
  EXPECT_EQ(map->size(), kAreasMax);
  ExpectSorted(*map);
}

}  // namespace
}  // namespace farpool
