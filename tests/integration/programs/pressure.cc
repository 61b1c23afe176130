// pressure MIB SECONDS: fills a region with words that depend on their place and on the round; then, until
// the time is over (0: once), verifies blocks of it in random order, all of them each round, and writes each
// for the next. Says every ten seconds how far it is, and at the end the longest time that it took for a
// block.

#include <sys/mman.h>
#include <time.h>

#include <algorithm>
#include <vector>

#include "check.h"

namespace {

constexpr size_t kBlockBytes = 256 * 1024;
constexpr size_t kBlockWords = kBlockBytes / sizeof(uint64_t);
constexpr double kReportSeconds = 10;

double Now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

uint64_t Value(uint64_t round, size_t block, size_t word) {
  return Mix(round << 48 | (block * kBlockWords + word));
}

class Progress {
 public:
  void Block() {
    const double now = Now();
    longest_ = std::max(longest_, now - last_);
    last_ = now;
    ++blocks_;
    if (now - reported_ < kReportSeconds) return;
    reported_ = now;
    printf("pressure: %.0f s, %zu MiB\n", now - began_, blocks_ * (kBlockBytes >> 10) >> 10);
  }
  double seconds() const { return last_ - began_; }
  double longest() const { return longest_; }

 private:
  double began_ = Now(), last_ = began_, reported_ = began_;
  double longest_ = 0;
  size_t blocks_ = 0;
};

void Write(uint64_t* words, uint64_t round, size_t block) {
  for (size_t w = 0; w < kBlockWords; ++w) words[block * kBlockWords + w] = Value(round, block, w);
}
void Verify(const uint64_t* words, uint64_t round, size_t block) {
  for (size_t w = 0; w < kBlockWords; ++w) {
    const uint64_t got = words[block * kBlockWords + w];
    CHECK(got == Value(round, block, w), "round %llu block %zu word %zu: got %016llx",
          static_cast<unsigned long long>(round), block, w, static_cast<unsigned long long>(got));
  }
}

}  // namespace

int main(int argc, char** argv) {
  setvbuf(stdout, nullptr, _IOLBF, 0);
  const size_t blocks = Argument(argc, argv, 1, 100) * ((1024 * 1024) / kBlockBytes);
  const auto seconds = static_cast<double>(Argument(argc, argv, 2, 10));
  void* at = mmap(nullptr, blocks * kBlockBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(at != MAP_FAILED, "mmap");
  auto* const words = static_cast<uint64_t*>(at);
  std::vector<size_t> order(blocks);
  Progress progress;
  for (size_t b = 0; b < blocks; ++b) {
    order[b] = b;
    Write(words, 0, b);
    progress.Block();
  }
  printf("pressure: filled after %.0f s\n", progress.seconds());
  uint64_t rounds = 0;
  size_t verified = 0;
  Random random(1);
  const auto over = [&] { return seconds > 0 ? progress.seconds() > seconds : rounds > 0; };
  while (!over()) {
    for (size_t i = blocks; i > 1; --i) std::swap(order[i - 1], order[random.Below(i)]);
    size_t done = 0;
    for (; done < blocks && (seconds == 0 || !over()); ++done) {
      Verify(words, rounds, order[done]);
      Write(words, rounds + 1, order[done]);
      progress.Block();
    }
    verified += done;
    if (done == blocks) ++rounds;
  }
  printf("pressure: %llu whole rounds, %zu MiB verified, longest %.1f s\n",
         static_cast<unsigned long long>(rounds), verified * (kBlockBytes >> 10) >> 10, progress.longest());
  return 0;
}
