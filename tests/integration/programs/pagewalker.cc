// pagewalker [MiB [seed]]: fills a region with words that depend on their place and on the round, rewrites it
// in several orders and verifies every word after each.

#include <sys/mman.h>

#include <vector>

#include "check.h"

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kWords = kPage / sizeof(uint64_t);

class Walk {
 public:
  Walk(size_t pages, uint64_t seed) : pages_(pages), seed_(seed), rounds_(pages, 0) {
    void* at = mmap(nullptr, pages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(at != MAP_FAILED, "mmap of %zu pages", pages);
    words_ = static_cast<uint64_t*>(at);
  }

  uint64_t Value(size_t page, size_t word) const {
    // A page never written must read as zeros.
    return rounds_[page] == 0
               ? 0
               : Mix(seed_ * 1000003 + rounds_[page] * (pages_ * kWords) + page * kWords + word);
  }
  void Write(size_t page, uint32_t round) {
    rounds_[page] = round;
    for (size_t w = 0; w < kWords; ++w) words_[page * kWords + w] = Value(page, w);
  }
  void Verify(size_t page) {
    for (size_t w = 0; w < kWords; ++w) {
      const uint64_t got = words_[page * kWords + w];
      CHECK(got == Value(page, w), "page %zu word %zu round %u: got %016llx, want %016llx", page, w,
            rounds_[page], static_cast<unsigned long long>(got),
            static_cast<unsigned long long>(Value(page, w)));
      sum_ = sum_ * 31 + got;
      ++verified_;
    }
  }
  size_t pages() const { return pages_; }
  uint64_t sum() const { return sum_; }
  uint64_t verified() const { return verified_; }

 private:
  size_t pages_;
  uint64_t seed_;
  std::vector<uint32_t> rounds_;
  uint64_t* words_ = nullptr;
  uint64_t sum_ = 0;
  uint64_t verified_ = 0;
};

std::vector<uint32_t> Shuffled(size_t count, uint64_t seed) {
  std::vector<uint32_t> order(count);
  for (size_t i = 0; i < count; ++i) order[i] = static_cast<uint32_t>(i);
  Random random(seed);
  for (size_t i = count; i > 1; --i) std::swap(order[i - 1], order[random.Below(i)]);
  return order;
}

}  // namespace

int main(int argc, char** argv) {
  setvbuf(stdout, nullptr, _IOLBF, 0);
  const uint64_t mib = Argument(argc, argv, 1, 300);
  const uint64_t seed = Argument(argc, argv, 2, 1);
  Walk walk(mib * (1024 * 1024 / kPage), seed);
  const size_t n = walk.pages();

  // Sparse first: the odd pages stay untouched until they are read as zeros.
  for (size_t p = 0; p < n; p += 2) walk.Write(p, 1);
  for (size_t p = 0; p < n; ++p) walk.Verify(p);
  printf("pagewalker: every other page written, all read forwards\n");

  for (size_t p = n; p-- > 0;) walk.Write(p, 2);
  for (size_t p = n; p-- > 0;) walk.Verify(p);
  printf("pagewalker: written and read backwards\n");

  for (uint32_t p : Shuffled(n, seed)) walk.Write(p, 3);
  for (uint32_t p : Shuffled(n, seed + 1)) walk.Verify(p);
  printf("pagewalker: written and read in random order\n");

  // A hot tenth that is rewritten all the time, and single random pages in between.
  Random random(seed + 2);
  for (size_t i = 0; i < n; ++i) {
    const size_t page = i % 4 != 0 ? random.Below(n / 10 + 1) : random.Below(n);
    walk.Verify(page);
    if (i % 3 == 0) walk.Write(page, static_cast<uint32_t>(4 + i));
  }
  printf("pagewalker: hot and cold pages mixed\n");

  for (size_t stride : {7u, 64u})
    for (size_t start = 0; start < stride; ++start)
      for (size_t p = start; p < n; p += stride) walk.Verify(p);
  printf("pagewalker: read in strides\n");
  printf("pagewalker: %llu MiB, %llu words verified, checksum %016llx\n",
         static_cast<unsigned long long>(mib), static_cast<unsigned long long>(walk.verified()),
         static_cast<unsigned long long>(walk.sum()));
  return 0;
}
