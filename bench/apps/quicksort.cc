// quicksort [Mi elements [seed]]: sorts words that a seed determines with a quicksort of its own, in place
// and recursively, and verifies order and multiset.

#include <cinttypes>
#include <utility>
#include <vector>

#include "check.h"

namespace {

void Sort(uint64_t* first, uint64_t* last) {
  while (last - first > 16) {
    uint64_t* const middle = first + (last - first) / 2;
    if (*middle < *first) std::swap(*middle, *first);
    if (last[-1] < *first) std::swap(last[-1], *first);
    if (last[-1] < *middle) std::swap(last[-1], *middle);
    const uint64_t pivot = *middle;
    uint64_t* low = first;
    uint64_t* high = last - 1;
    while (low <= high) {
      while (*low < pivot) ++low;
      while (pivot < *high) --high;
      if (low <= high) std::swap(*low++, *high--);
    }
    // The shorter part by recursion, so that the stack stays small.
    if (high - first < last - low) {
      Sort(first, high + 1);
      first = low;
    } else {
      Sort(low, last);
      last = high + 1;
    }
  }
  for (uint64_t* at = first + (first != last); at < last; ++at)
    for (uint64_t* p = at; p > first && *p < p[-1]; --p) std::swap(*p, p[-1]);
}

}  // namespace

int main(int argc, char** argv) {
  const size_t count = Argument(argc, argv, 1, 8) << 20;
  const uint64_t seed = Argument(argc, argv, 2, 1);
  std::vector<uint64_t> words(count);
  uint64_t sum = 0;
  for (size_t i = 0; i < count; ++i) sum += Mix(words[i] = Mix(seed * count + i));
  Sort(words.data(), words.data() + count);
  uint64_t digest = 0;
  for (size_t i = 0; i < count; ++i) {
    CHECK(i == 0 || words[i - 1] <= words[i], "element %zu is out of order", i);
    sum -= Mix(words[i]);
    digest = digest * 31 + words[i];
  }
  CHECK(sum == 0, "other elements than before");
  printf("quicksort: %zu words in order, digest %016" PRIx64 "\n", count, digest);
  return 0;
}
