// hints KIND [MiB]: fills memory and reads it again with hints of KIND (farpool/hints.h) on the way; every
// word is verified. By farpool's report the hints are seen to work. KIND is plain (none), prefetch, evict,
// evict-first, random or sequential.

#include "farpool/hints.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <numeric>
#include <vector>

#include "check.h"

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kWords = kPage / sizeof(uint64_t);
constexpr size_t kNeighbours = 64;  // What is fetched together at most.

uint64_t* g_words;
size_t g_pages;

char* At(size_t page) { return reinterpret_cast<char*>(g_words + page * kWords); }

void Fill(size_t first, size_t last) {
  for (size_t i = first * kWords; i < last * kWords; ++i) g_words[i] = Mix(i);
}
void Verify(size_t page) {
  for (size_t i = page * kWords; i < (page + 1) * kWords; ++i)
    CHECK(g_words[i] == Mix(i), "word %zu of page %zu", i % kWords, page);
}
void VerifyAll(size_t first, size_t last) {
  for (size_t page = first; page < last; ++page) Verify(page);
}
// Blocks of `block` pages in random order, each upwards.
void VerifyShuffled(size_t first, size_t last, size_t block) {
  std::vector<size_t> order((last - first) / block);
  std::iota(order.begin(), order.end(), 0);
  Random random(first + 1);
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.Below(i)]);
  for (size_t at : order) VerifyAll(first + at * block, first + (at + 1) * block);
}

// What the kernel says is here; mincore would tell of pages that are swapped out, too.
size_t Present(size_t first, size_t last) {
  static const int pagemap = open("/proc/self/pagemap", O_RDONLY);
  std::vector<uint64_t> entries(last - first);
  const auto bytes = static_cast<ssize_t>(entries.size() * sizeof(uint64_t));
  const auto at = static_cast<off_t>(reinterpret_cast<uintptr_t>(At(first)) / kPage * sizeof(uint64_t));
  CHECK(pread(pagemap, entries.data(), static_cast<size_t>(bytes), at) == bytes, "pagemap");
  return static_cast<size_t>(
      std::count_if(entries.begin(), entries.end(), [](uint64_t e) { return e >> 63; }));
}

// What a hint must answer.
void Expect(int result) { CHECK(result == farpool_is_far(g_words), "a hint answered %d", result); }

void Prefetch() {
  const size_t some = g_pages / 6;
  Fill(0, g_pages);
  Expect(farpool_evict(At(0), some * kPage));
  Expect(farpool_prefetch(At(0) + 100, some * kPage - 200));
  // If it never comes the report tells.
  for (int i = 0; i < 20'000 && Present(0, some) < some; ++i) usleep(1000);
  VerifyShuffled(0, some, 1);
}

void Evict() {
  const size_t some = g_pages / 24;
  Fill(0, g_pages);
  VerifyAll(0, some);
  VerifyAll(0, some);
  Expect(farpool_evict(At(0), some * kPage));
  if (farpool_active()) CHECK(Present(0, some) == 0, "%zu pages are still there", Present(0, some));
  VerifyAll(0, some);
}

// What comes first would stay, as what a program sets up first often should.
void EvictFirst() {
  const size_t cold = g_pages / 3 * 2;
  Fill(0, cold);
  Expect(farpool_evict_first(At(0), cold * kPage));
  Fill(cold, g_pages);
  VerifyShuffled(cold, g_pages, 1);
  VerifyAll(0, cold);
}

void Go(farpool_order order) {
  Expect(farpool_access(At(0), g_pages * kPage, order));
  Fill(0, g_pages);
  Expect(farpool_evict(At(0), g_pages * kPage));
  if (order == FARPOOL_RANDOM) {
    VerifyAll(0, g_pages / 4);
  } else {
    VerifyShuffled(0, g_pages, kNeighbours);
  }
}

// Of any memory, any range and none.
void CheckAnswers() {
  static char near[3 * kPage];
  CHECK(!farpool_is_far(near) && farpool_evict(near, sizeof(near)) == 0, "near memory");
  CHECK(farpool_prefetch(nullptr, 0) == 0 && farpool_evict_first(At(0) + 1, kPage) == 0, "less than a page");
  CHECK(farpool_active() || !farpool_is_far(g_words), "far memory without farpool");
  void* hole = mmap(nullptr, 64 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(hole != MAP_FAILED && munmap(static_cast<char*>(hole) + 32 * kPage, kPage) == 0,
        "mapping with a hole");
  for (int i = 0; i < 3 && farpool_is_far(hole); ++i) {
    const int result = i == 0   ? farpool_prefetch(hole, 64 * kPage)
                       : i == 1 ? farpool_evict(hole, 64 * kPage)
                                : farpool_access(hole, 64 * kPage, FARPOOL_RANDOM);
    CHECK(result == -1 && errno == ENOMEM, "a hole: %d", result);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const char* kind = argc > 1 ? argv[1] : "plain";
  g_pages = Argument(argc, argv, 2, 96) << 20 >> 12;
  g_words = static_cast<uint64_t*>(aligned_alloc(kNeighbours * kPage, g_pages * kPage));
  CHECK(g_words != nullptr, "aligned_alloc");
  CheckAnswers();
  if (strcmp(kind, "plain") == 0) {
    Fill(0, g_pages);
    VerifyShuffled(0, g_pages, 1);
  } else if (strcmp(kind, "prefetch") == 0) {
    Prefetch();
  } else if (strcmp(kind, "evict") == 0) {
    Evict();
  } else if (strcmp(kind, "evict-first") == 0) {
    EvictFirst();
  } else if (strcmp(kind, "random") == 0) {
    Go(FARPOOL_RANDOM);
  } else {
    Go(FARPOOL_SEQUENTIAL);
  }
  printf("hints %s: %zu pages verified\n", kind, g_pages);
  return 0;
}
