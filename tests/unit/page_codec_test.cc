#include "base/page_codec.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <random>
#include <vector>

namespace farpool {
namespace {

using Page = std::array<std::byte, kPageBytes>;

std::vector<std::byte> Pack(const Page& page, size_t room) {
  static PackState state;
  std::vector<std::byte> out(room);
  out.resize(PackPage(&state, page.data(), out));
  return out;
}

// Pages from one byte repeated to random bytes.
Page Make(std::mt19937_64* random, unsigned alphabet) {
  Page page;
  for (std::byte& b : page) b = std::byte((*random)() % alphabet);
  return page;
}

TEST(PageCodecTest, PacksAndUnpacks) {
  std::mt19937_64 random(1);
  for (const unsigned alphabet : {1, 2, 3, 5, 8}) {
    const Page page = Make(&random, alphabet);
    const std::vector<std::byte> packed = Pack(page, kPageBytes);
    ASSERT_FALSE(packed.empty()) << alphabet;
    Page out = {};
    ASSERT_TRUE(UnpackPage(packed, out.data()));
    EXPECT_EQ(out, page);
  }
}

TEST(PageCodecTest, RandomPagesAndTooLittleRoomAreLeftAlone) {
  std::mt19937_64 random(2);
  EXPECT_TRUE(Pack(Make(&random, 256), kPageBytes).empty());
  const Page page = Make(&random, 3);
  const size_t bytes = Pack(page, kPageBytes).size();
  EXPECT_TRUE(Pack(page, bytes / 2).empty());
  EXPECT_TRUE(Pack(page, 1).empty());
}

// Method: cut short, changed and random input, each in memory that ends where it ends (ASan sees what lies
// beyond).
TEST(PageCodecTest, AnyInputIsSafe) {
  std::mt19937_64 random(3);
  const Page page = Make(&random, 5);
  const std::vector<std::byte> packed = Pack(page, kPageBytes);
  const auto out = std::make_unique<Page>();
  for (size_t bytes = 0; bytes < packed.size(); ++bytes) {
    const std::vector<std::byte> cut(packed.begin(), packed.begin() + static_cast<long>(bytes));
    EXPECT_FALSE(UnpackPage(cut, out->data())) << bytes;
  }
  for (int i = 0; i < 20'000; ++i) {
    std::vector<std::byte> bad = packed;
    for (uint64_t n = 1 + random() % 4; n > 0; --n) bad[random() % bad.size()] = std::byte(random());
    (void)UnpackPage(bad, out->data());
    std::generate(bad.begin(), bad.end(), [&] { return std::byte(random()); });
    bad.resize(random() % bad.size());
    (void)UnpackPage(bad, out->data());
  }
}

}  // namespace
}  // namespace farpool
