// mbw [MiB per array [rounds]]: copies one array to another as the program mbw does (memcpy, word by word,
// and in blocks), on random words in place of one repeated byte; each copy is verified by a sample, the last
// in full.

#include <algorithm>
#include <cstring>
#include <vector>

#include "check.h"

int main(int argc, char** argv) {
  const size_t count = (Argument(argc, argv, 1, 64) << 20) / sizeof(uint64_t);
  const size_t rounds = Argument(argc, argv, 2, 10);
  CHECK(count > 0, "nothing to copy");
  constexpr size_t kBlockWords = (256 << 10) / sizeof(uint64_t);
  std::vector<uint64_t> a(count), b(count);
  for (size_t i = 0; i < count; ++i) a[i] = Mix(i);
  // Each round one word changes, so that a copy left out is noticed.
  Random random(count);
  for (int method = 0; method < 3; ++method)
    for (size_t round = 0; round < rounds; ++round) {
      const size_t changed = random.Below(count);
      a[changed] ^= round + 1;
      if (method == 0) {
        memcpy(b.data(), a.data(), count * sizeof(uint64_t));
      } else if (method == 1) {
        for (size_t i = 0; i < count; ++i) {
          b[i] = a[i];
          asm volatile("" : : : "memory");  // Word by word: not to become a memcpy.
        }
      } else {
        for (size_t i = 0; i < count; i += kBlockWords)
          memcpy(&b[i], &a[i], std::min(kBlockWords, count - i) * sizeof(uint64_t));
      }
      CHECK(b[changed] == a[changed], "copy %zu of method %d left word %zu out", round, method, changed);
    }
  uint64_t digest = 0;
  for (size_t i = 0; i < count; ++i) {
    CHECK(b[i] == a[i], "word %zu", i);
    digest = digest * 31 + b[i];
  }
  printf("mbw: %zu copies of %zu words, digest %016llx\n", 3 * rounds, count,
         static_cast<unsigned long long>(digest));
  return 0;
}
