// mmaps [seed [steps [MiB]]]: random mmap, munmap, mremap, mprotect, madvise and sbrk against a model that
// knows what every page must hold.

#include <sys/mman.h>

#include <csetjmp>
#include <csignal>
#include <vector>

#include "check.h"

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kWords = kPage / sizeof(uint64_t);

struct Page {
  uint64_t key = 0;  // 0: zeros.
  int protection = PROT_READ | PROT_WRITE;
};

struct Region {
  char* at = nullptr;
  std::vector<Page> pages;
  // The kernel keeps parts apart that were once protected differently, and refuses to resize across them.
  bool whole = true;
};

class Model {
 public:
  Model(uint64_t seed, size_t pages_max) : random_(seed), break_random_(seed + 1), pages_max_(pages_max) {}

  void Step() {
    ++steps_;
    if (regions_.empty() || random_.Below(100) < 12) return Map();
    const size_t which = random_.Below(regions_.size());
    Region& region = regions_[which];
    const size_t begin = random_.Below(region.pages.size());
    const size_t count = 1 + random_.Below(region.pages.size() - begin);
    switch (random_.Below(14)) {
      case 0:
        if (random_.Below(3) == 0) return UnmapWhole(which);
        return Verify(region, begin, count);
      case 1:
        return UnmapPart(which, begin, count);
      case 2:
        return Resize(region, 1 + random_.Below(region.pages.size() * 2));
      case 3:
        return MoveTo(region);
      case 4:
        return Protect(region, begin, count, PROT_READ);
      case 5:
        return Protect(region, begin, count, PROT_NONE);
      case 6:
        return Protect(region, begin, count, PROT_READ | PROT_WRITE);
      case 7:
        return Forget(region, begin, count);
      case 8:
        return MapOver(region, begin, count);
      case 9:
        return Hint(region, begin, count);
      case 10:
        return Break();
      case 11:
        return Verify(region, begin, count);
      default:
        return Write(region, begin, count);
    }
  }

  void VerifyEverything() {
    for (Region& region : regions_) Verify(region, 0, region.pages.size());
    for (size_t i = 0; i < broken_.size(); ++i) CheckPage(break_at_ + i * kPage, broken_[i], "brk");
  }
  void Print(uint64_t seed) const {
    printf("mmaps: seed %llu, %llu steps, %llu pages verified, %zu regions at the end, checksum %016llx\n",
           static_cast<unsigned long long>(seed), static_cast<unsigned long long>(steps_),
           static_cast<unsigned long long>(verified_), regions_.size(),
           static_cast<unsigned long long>(sum_));
  }

 private:
  void Map() {
    const size_t room = pages_max_ > total_ ? pages_max_ - total_ : 0;
    size_t count = 1 + random_.Below(random_.Below(4) == 0 ? 4096 : 64);
    const bool populate = random_.Below(8) == 0;
    if (count > room) return;
    void* at = mmap(nullptr, count * kPage, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | (populate ? MAP_POPULATE : 0), -1, 0);
    CHECK(at != MAP_FAILED, "mmap of %zu pages", count);
    total_ += count;
    regions_.push_back({static_cast<char*>(at), std::vector<Page>(count), true});
    Write(regions_.back(), 0, count);
  }
  void UnmapWhole(size_t which) {
    Region& region = regions_[which];
    Verify(region, 0, region.pages.size());
    CHECK(munmap(region.at, region.pages.size() * kPage) == 0, "munmap");
    total_ -= region.pages.size();
    std::swap(region, regions_.back());
    regions_.pop_back();
  }
  void UnmapPart(size_t which, size_t begin, size_t count) {
    if (count == regions_[which].pages.size()) return UnmapWhole(which);
    Region& region = regions_[which];
    CHECK(munmap(region.at + begin * kPage, count * kPage) == 0, "munmap of a part");
    total_ -= count;
    const auto first = region.pages.begin();
    const auto at = [](size_t n) { return static_cast<std::ptrdiff_t>(n); };
    Region rest{
        region.at + (begin + count) * kPage, {first + at(begin + count), region.pages.end()}, region.whole};
    region.pages.resize(begin);
    if (region.pages.empty()) {
      region = rest;
    } else if (!rest.pages.empty()) {
      regions_.push_back(rest);
    }
  }
  void Resize(Region& region, size_t count) {
    if (!region.whole || (count > region.pages.size() && total_ + count - region.pages.size() > pages_max_))
      return;
    void* at = mremap(region.at, region.pages.size() * kPage, count * kPage, MREMAP_MAYMOVE);
    CHECK(at != MAP_FAILED, "mremap from %zu to %zu pages", region.pages.size(), count);
    total_ = total_ - region.pages.size() + count;
    region.at = static_cast<char*>(at);
    region.pages.resize(count);
    Verify(region, 0, count);
  }
  // To a place of our choosing, over something that is mapped there.
  void MoveTo(Region& region) {
    if (!region.whole) return;
    const size_t bytes = region.pages.size() * kPage;
    void* place = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(place != MAP_FAILED, "mmap of a place");
    void* at = mremap(region.at, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, place);
    CHECK(at == place, "mremap to a fixed place");
    region.at = static_cast<char*>(at);
    Verify(region, 0, region.pages.size());
  }
  void Protect(Region& region, size_t begin, size_t count, int protection) {
    CHECK(mprotect(region.at + begin * kPage, count * kPage, protection) == 0, "mprotect");
    for (size_t i = begin; i < begin + count; ++i) region.pages[i].protection = protection;
    region.whole = false;
    Verify(region, begin, count);
  }
  void Forget(Region& region, size_t begin, size_t count) {
    CHECK(madvise(region.at + begin * kPage, count * kPage, MADV_DONTNEED) == 0, "MADV_DONTNEED");
    for (size_t i = begin; i < begin + count; ++i) region.pages[i].key = 0;
    Verify(region, begin, count);
  }
  void MapOver(Region& region, size_t begin, size_t count) {
    void* at = mmap(region.at + begin * kPage, count * kPage, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    CHECK(at == region.at + begin * kPage, "mmap over a part");
    for (size_t i = begin; i < begin + count; ++i) region.pages[i] = Page{};
    region.whole = false;
    Verify(region, begin, count);
  }
  void Hint(Region& region, size_t begin, size_t count) {
    static constexpr int kHints[] = {MADV_WILLNEED,   MADV_COLD,   MADV_PAGEOUT,
                                     MADV_SEQUENTIAL, MADV_RANDOM, MADV_NORMAL};
    // Only a hint: kernels and protections may refuse it, contents must not change.
    (void)madvise(region.at + begin * kPage, count * kPage, kHints[random_.Below(6)]);
    region.whole = false;  // SEQUENTIAL and RANDOM are kept per part.
    Verify(region, begin, count);
  }
  // The heap's end, as long as malloc has not moved it since. Whether the break can move at all depends on
  // where the program runs, so this draws from a generator of its own and stays out of the printed sums.
  void Break() {
    const uint64_t grow = break_random_.Below(3);
    char* end = static_cast<char*>(sbrk(0));
    const bool ours = !broken_.empty() && end == break_at_ + broken_.size() * kPage;
    if (broken_.empty() || (ours && grow != 0 && broken_.size() < 8192)) {
      const size_t count = 1 + break_random_.Below(200);
      if (broken_.empty()) {
        const auto skew = reinterpret_cast<uintptr_t>(end) % kPage;
        if (skew != 0) CHECK(sbrk(static_cast<intptr_t>(kPage - skew)) == end, "sbrk to a page");
        break_at_ = static_cast<char*>(sbrk(0));
      }
      char* at = static_cast<char*>(sbrk(static_cast<intptr_t>(count * kPage)));
      // A kernel (or what stands for it) may refuse; malloc then maps instead, and so does this model.
      if (at == reinterpret_cast<char*>(-1)) return;
      CHECK(at == break_at_ + broken_.size() * kPage, "sbrk answered another place");
      for (size_t i = 0; i < count; ++i) {
        broken_.push_back({});
        CheckPage(break_at_ + (broken_.size() - 1) * kPage, broken_.back(), "brk, new");
        WritePage(break_at_ + (broken_.size() - 1) * kPage, broken_.back(), break_random_);
      }
    } else if (ours) {
      const size_t count = break_random_.Below(broken_.size() + 1);
      for (size_t i = broken_.size() - count; i < broken_.size(); ++i)
        CheckPage(break_at_ + i * kPage, broken_[i], "brk, end");
      CHECK(sbrk(-static_cast<intptr_t>(count * kPage)) == end, "sbrk down");
      broken_.resize(broken_.size() - count);
    }
  }

  void Write(Region& region, size_t begin, size_t count) {
    for (size_t i = begin; i < begin + count; ++i)
      if ((region.pages[i].protection & PROT_WRITE) != 0)
        WritePage(region.at + i * kPage, region.pages[i], random_);
  }
  static void WritePage(char* at, Page& page, Random& random) {
    page.key = random.Next() | 1;
    auto* words = reinterpret_cast<uint64_t*>(at);
    for (size_t w = 0; w < kWords; ++w) words[w] = page.key * (w + 1);
  }
  void Verify(Region& region, size_t begin, size_t count) {
    for (size_t i = begin; i < begin + count; ++i) {
      if (region.pages[i].protection == PROT_NONE) {
        if (i % 16 == 0) MustNotTouch(region.at + i * kPage, false);
      } else {
        VerifyPage(region.at + i * kPage, region.pages[i], "mapping");
        if (region.pages[i].protection == PROT_READ && i % 16 == 0) MustNotTouch(region.at + i * kPage, true);
      }
    }
  }
  void VerifyPage(const char* at, const Page& page, const char* what) {
    CheckPage(at, page, what);
    sum_ = sum_ * 31 + page.key;
    ++verified_;
  }
  void CheckPage(const char* at, const Page& page, const char* what) const {
    const auto* words = reinterpret_cast<const uint64_t*>(at);
    for (size_t w = 0; w < kWords; ++w)
      CHECK(words[w] == page.key * (w + 1), "%s, step %llu, word %zu: %llx, want %llx", what,
            static_cast<unsigned long long>(steps_), w, static_cast<unsigned long long>(words[w]),
            static_cast<unsigned long long>(page.key * (w + 1)));
  }
  // A touch that the page's protection forbids must end in SIGSEGV, resident or not.
  static void MustNotTouch(char* at, bool writing) {
    static sigjmp_buf back;
    struct sigaction action = {};
    struct sigaction before = {};
    action.sa_handler = [](int) { siglongjmp(back, 1); };
    CHECK(sigaction(SIGSEGV, &action, &before) == 0, "sigaction");
    if (sigsetjmp(back, 1) == 0) {
      volatile char* place = at;
      if (writing) {
        *place = 1;
      } else {
        (void)*place;
      }
      CHECK(false, "a forbidden %s went through", writing ? "write" : "read");
    }
    CHECK(sigaction(SIGSEGV, &before, nullptr) == 0, "sigaction back");
  }

  Random random_;
  Random break_random_;
  size_t pages_max_;
  size_t total_ = 0;
  std::vector<Region> regions_;
  char* break_at_ = nullptr;
  std::vector<Page> broken_;
  uint64_t steps_ = 0;
  uint64_t verified_ = 0;
  uint64_t sum_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  setvbuf(stdout, nullptr, _IOLBF, 0);
  const uint64_t seed = Argument(argc, argv, 1, 1);
  const uint64_t steps = Argument(argc, argv, 2, 1500);
  const uint64_t mib = Argument(argc, argv, 3, 160);
  Model model(seed, mib * (1024 * 1024 / kPage));
  for (uint64_t i = 0; i < steps; ++i) {
    model.Step();
    if (i % 500 == 499) model.VerifyEverything();
  }
  model.VerifyEverything();
  model.Print(seed);
  return 0;
}
