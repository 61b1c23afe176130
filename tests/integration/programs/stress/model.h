#pragma once
// What far memory must hold, kept near: one key for each 512 bytes. Who copies bytes copies keys.

#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#include "check.h"

namespace stress {

constexpr size_t kPage = 4096;
constexpr size_t kBlock = 512;
constexpr size_t kBlocksPerPage = kPage / kBlock;
constexpr size_t kWords = kBlock / sizeof(uint64_t);

// Whose step this is; printed with whatever fails.
struct Where {
  uint64_t seed;
  unsigned process, thread, depth;
  uint64_t step;
  const char* doing;
};
inline thread_local Where t_where = {};

#define HOLDS(condition, format, ...)                                                              \
  CHECK(condition, "seed %llu, process %u, thread %u, depth %u, step %llu, %s: errno %d: " format, \
        static_cast<unsigned long long>(stress::t_where.seed), stress::t_where.process,            \
        stress::t_where.thread, stress::t_where.depth,                                             \
        static_cast<unsigned long long>(stress::t_where.step), stress::t_where.doing,              \
        errno __VA_OPT__(, ) __VA_ARGS__)

// Stacks stay near under farpool; anywhere else this is memory like any other.
template <typename T>
T* NearArray(size_t count) {
  void* at = mmap(nullptr, count * sizeof(T), PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK | MAP_NORESERVE, -1, 0);
  HOLDS(at != MAP_FAILED, "mmap of a near table");
  return static_cast<T*>(at);
}
template <typename T>
void FreeNearArray(T* at, size_t count) {
  HOLDS(munmap(at, count * sizeof(T)) == 0, "munmap of a near table");
}

// Key 0: zeros.
inline void FillBlock(char* at, uint64_t key) {
  auto* words = reinterpret_cast<uint64_t*>(at);
  for (size_t w = 0; w < kWords; ++w) words[w] = key * (2 * w + 1);
}
inline void CheckBlock(const char* at, uint64_t key, size_t block) {
  const auto* words = reinterpret_cast<const uint64_t*>(at);
  for (size_t w = 0; w < kWords; ++w)
    HOLDS(words[w] == key * (2 * w + 1), "block %zu at %p, word %zu: %llx, want %llx (key %llx)", block,
          static_cast<const void*>(at), w, static_cast<unsigned long long>(words[w]),
          static_cast<unsigned long long>(key * (2 * w + 1)), static_cast<unsigned long long>(key));
}

// A mapping, or a part of one that was cut.
struct Region {
  char* at;
  size_t pages;
  uint64_t* keys;       // kBlocksPerPage a page.
  uint8_t* protection;  // One a page.
  // The kernel keeps parts apart that were once protected or advised differently, and refuses to resize or
  // move across them.
  bool whole;

  static Region Of(char* at, size_t pages) {
    Region region = {at, pages, NearArray<uint64_t>(pages * kBlocksPerPage), NearArray<uint8_t>(pages), true};
    memset(region.protection, PROT_READ | PROT_WRITE, pages);
    return region;
  }
  // The model of [first, first + count) as a region of its own, `pages` long, at `place`.
  Region Copy(size_t first, size_t count, char* place, size_t pages_then) const {
    Region copy = Of(place, pages_then);
    copy.whole = whole;
    memcpy(copy.keys, keys + first * kBlocksPerPage, count * kBlocksPerPage * sizeof(uint64_t));
    memcpy(copy.protection, protection + first, count);
    return copy;
  }
  void FreeModel() {
    FreeNearArray(keys, pages * kBlocksPerPage);
    FreeNearArray(protection, pages);
  }

  char* Page(size_t page) const { return at + page * kPage; }
  void WritePage(size_t page, Random& random) {
    for (size_t b = page * kBlocksPerPage; b < (page + 1) * kBlocksPerPage; ++b) {
      keys[b] = random.Next() | 1;
      FillBlock(at + b * kBlock, keys[b]);
    }
  }
  void ForgetPage(size_t page) { memset(keys + page * kBlocksPerPage, 0, kBlocksPerPage * sizeof(uint64_t)); }
  void VerifyPage(size_t page) const {
    if ((protection[page] & PROT_READ) == 0) return;
    for (size_t b = page * kBlocksPerPage; b < (page + 1) * kBlocksPerPage; ++b)
      CheckBlock(at + b * kBlock, keys[b], b);
  }
  void Verify(size_t first, size_t count) const {
    for (size_t page = first; page < first + count; ++page) VerifyPage(page);
  }
};

// Pages of a region.
struct Range {
  Region* region = nullptr;
  size_t first = 0;
  size_t count = 0;

  char* at() const { return region->Page(first); }
  size_t bytes() const { return count * kPage; }
  uint64_t* keys() const { return region->keys + first * kBlocksPerPage; }
  void Verify() const { region->Verify(first, count); }
};

// One far area of which every thread owns every n-th word: its writes meet the others' in the same pages.
class Common {
 public:
  void Init(size_t pages, unsigned owners) {
    pages_ = pages;
    owners_ = owners;
    void* at = mmap(nullptr, pages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    HOLDS(at != MAP_FAILED, "mmap of the common area");
    words_ = static_cast<uint64_t*>(at);
    versions_ = NearArray<uint32_t>(pages * owners);
  }
  size_t pages() const { return pages_; }
  unsigned owners() const { return owners_; }

  // `owner`'s words of `page`.
  void Write(size_t page, unsigned owner) {
    const uint32_t version = ++versions_[page * owners_ + owner];
    for (size_t w = owner; w < kPageWords; w += owners_)
      __atomic_store_n(Word(page, w), Place(page, w) + version, __ATOMIC_RELAXED);
  }
  void Verify(size_t page, unsigned owner) const {
    const uint32_t version = versions_[page * owners_ + owner];
    for (size_t w = owner; w < kPageWords; w += owners_) {
      const uint64_t is = __atomic_load_n(Word(page, w), __ATOMIC_RELAXED);
      const uint64_t want = version == 0 ? 0 : Place(page, w) + version;
      HOLDS(is == want, "common page %zu, own word %zu: %llx, want %llx", page, w,
            static_cast<unsigned long long>(is), static_cast<unsigned long long>(want));
    }
  }
  // Everybody's words: any version, since they may just be written, but nothing else.
  void VerifyAny(size_t page) const {
    for (size_t w = 0; w < kPageWords; ++w) {
      const uint64_t is = __atomic_load_n(Word(page, w), __ATOMIC_RELAXED);
      HOLDS(is == 0 || is - Place(page, w) < kVersions, "common page %zu, word %zu: %llx", page, w,
            static_cast<unsigned long long>(is));
    }
  }

 private:
  static constexpr size_t kPageWords = kPage / sizeof(uint64_t);
  static constexpr uint64_t kVersions = 1u << 24;
  static uint64_t Place(size_t page, size_t word) { return Mix(page * kPageWords + word) * kVersions; }
  uint64_t* Word(size_t page, size_t word) const { return words_ + page * kPageWords + word; }

  uint64_t* words_ = nullptr;
  uint32_t* versions_ = nullptr;
  size_t pages_ = 0;
  unsigned owners_ = 1;
};

}  // namespace stress
