// farpool-bench-worker MODE ARGS: the program that `farpool bench` measures.
//   faults-read|faults-write BYTES TOUCHES SEED [THREADS]   random touches of an array, each timed
//   scan-read|scan-update BYTES ROUNDS SEED                 passes over an array
//   floor COUNT | raw-tcp COUNT                             what the machine allows at best
// Prints one line of JSON. Exits 1 if a word was not what it must be.

#include "bench/worker.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <barrier>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

namespace bench {

namespace {

// A touch of a resident page costs a cache and a TLB miss, under 0.3 us even in a nested guest; the cheapest
// fault of any kind, a minor one in the kernel, about 0.5 us there, and every fault that moves a page
// several. Touches above this bound are taken as faults. What it misjudges is small on both sides: a hit that
// an interrupt hit counts (one in thousands), a minor fault of the kernel's readahead may not. The rate
// counts the same touches.
constexpr uint64_t kFaultNsMin = 1000;

uint32_t samples[kSamplesMax];
constexpr size_t kPagesMax = 1u << 20;
constexpr uint64_t kThreadsMax = 64;
uint32_t versions[kPagesMax];  // Of the one word per page that faults-write rewrites.

uint64_t* MapArray(uint64_t bytes) {
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) Die("mmap of the array");
  // The comparison is about 4 KiB pages; huge pages would hide faults where they are not swapped.
  madvise(at, bytes, MADV_NOHUGEPAGE);
  return static_cast<uint64_t*>(at);
}

size_t RewrittenWord(size_t page) { return page * 17 % kPageWords; }
uint64_t Rewritten(size_t page, uint32_t version, uint64_t seed) {
  return Mix(seed + page) + version * 0x10001u;
}

// Random touches by one of several threads, each of which has pages of its own: every so many of the array.
struct Touch {
  uint64_t* array;
  size_t pages;  // Of this thread.
  uint64_t seed;
  bool write;
  size_t thread;
  size_t threads;
  uint64_t state;

  // Returns how long it took; dies if the word read is wrong.
  uint64_t Next() {
    state = Mix(state);
    const size_t page = state % pages * threads + thread;
    const size_t word = write ? RewrittenWord(page) : (state >> 40) % kPageWords;
    uint64_t* const at = array + page * kPageWords + word;
    if (write) {
      const uint64_t value = Rewritten(page, ++versions[page], seed);
      const uint64_t began = NowNs();
      __atomic_store_n(at, value, __ATOMIC_RELAXED);
      // The store retires before the clock is read again.
      __builtin_ia32_mfence();
      return NowNs() - began;
    }
    const uint64_t began = NowNs();
    const uint64_t value = __atomic_load_n(at, __ATOMIC_RELAXED);
    __builtin_ia32_lfence();
    const uint64_t took = NowNs() - began;
    if (value != Mix(seed + page * kPageWords + word)) Die("a word read is not the word written");
    return took;
  }
};

void Faults(bool write, uint64_t bytes, uint64_t touches, uint64_t seed, uint64_t threads) {
  if (threads == 0 || threads > kThreadsMax) Die("number of threads out of range");
  const size_t pages = bytes / kPageBytes / threads * threads;
  if (pages == 0 || pages > kPagesMax) Die("array size out of range");
  uint64_t* const array = MapArray(bytes);
  for (size_t i = 0; i < pages * kPageWords; ++i) array[i] = Mix(seed + i);
  Samples faults;
  std::barrier all(static_cast<ptrdiff_t>(threads));
  uint64_t elapsed = 0;
  const auto run = [&](size_t thread) {
    Touch touch{array, pages / threads, seed, write, thread, threads, seed + thread};
    // Until what is resident is a random half, not the tail of the fill.
    for (uint64_t i = 0; i < pages / threads; ++i) touch.Next();
    all.arrive_and_wait();
    const uint64_t began = NowNs();
    for (uint64_t i = 0; i < touches / threads; ++i) {
      const uint64_t took = touch.Next();
      if (took >= kFaultNsMin) faults.Add(took);
    }
    all.arrive_and_wait();
    if (thread == 0) elapsed = NowNs() - began;
  };
  {
    std::vector<std::jthread> others;
    for (size_t thread = 1; thread < threads; ++thread) others.emplace_back(run, thread);
    run(0);
  }
  for (size_t page = 0; page < pages; ++page)
    for (size_t word = 0; word < kPageWords; ++word) {
      const bool rewritten = write && word == RewrittenWord(page) && versions[page] != 0;
      const uint64_t want =
          rewritten ? Rewritten(page, versions[page], seed) : Mix(seed + page * kPageWords + word);
      if (array[page * kPageWords + word] != want) Die("a word is wrong at the end");
    }
  faults.Print(touches / threads * threads, elapsed);
}

constexpr uint64_t kDelta = 0x9e3779b97f4a7c15u;

// The sum of `words` words, which kDelta is added to if `update`. In registers: the loop itself must not be
// what is measured.
template <bool update>
uint64_t Pass(uint64_t* array, size_t words) {
  uint64_t sums[8] = {};
  for (size_t i = 0; i < words; i += 8) {
    uint64_t* const line = array + i;
    for (size_t k = 0; k < 8; ++k) sums[k] += line[k];
    if constexpr (update)
      for (size_t k = 0; k < 8; ++k) line[k] += kDelta;
  }
  uint64_t sum = 0;
  for (const uint64_t part : sums) sum += part;
  return sum;
}

void Scan(bool update, uint64_t bytes, uint64_t rounds, uint64_t seed) {
  const size_t words = bytes / sizeof(uint64_t) / 8 * 8;
  uint64_t* const array = MapArray(bytes);
  uint64_t want = 0;
  for (size_t i = 0; i < words; ++i) want += array[i] = Mix(seed + i);
  uint64_t elapsed = 0;
  // The first round only brings the system into its steady state.
  for (uint64_t round = 0; round <= rounds; ++round) {
    const uint64_t began = NowNs();
    const uint64_t sum = update ? Pass<true>(array, words) : Pass<false>(array, words);
    const uint64_t took = NowNs() - began;
    if (round > 0) elapsed += took;
    if (sum != want) Die("the sum of a round is wrong");
    if (update) want += kDelta * words;
  }
  const uint64_t delta = update ? kDelta * (rounds + 1) : 0;
  for (size_t i = 0; i < words; ++i)
    if (array[i] != Mix(seed + i) + delta) Die("a word is wrong at the end");
  // GB are 10^9 bytes of the array passed over; an update passes each byte once here, whatever is written
  // back.
  printf("{\"throughput\": %.4f}\n",
         static_cast<double>(words * sizeof(uint64_t) * rounds) / static_cast<double>(elapsed));
}

}  // namespace

void Die(const char* what) {
  fprintf(stderr, "farpool-bench-worker: %s\n", what);
  _exit(1);
}

void Samples::Add(uint64_t ns) {
  const size_t at = count_.fetch_add(1, std::memory_order_relaxed);
  if (at >= kSamplesMax) Die("too many samples");
  samples[at] = static_cast<uint32_t>(std::min<uint64_t>(ns, UINT32_MAX));
}

void Samples::Print(uint64_t touches, uint64_t elapsed_ns) {
  const size_t count = this->count();
  if (count == 0) Die("nothing faulted: the limit is not below the array's size");
  std::sort(samples, samples + count);
  double sum = 0;
  for (size_t i = 0; i < count; ++i) sum += samples[i];
  const auto a_second = [&](uint64_t operations) {
    return static_cast<double>(operations) * 1e9 / static_cast<double>(elapsed_ns);
  };
  const auto at = [&](double share) {
    return samples[static_cast<size_t>(share * static_cast<double>(count - 1))] / 1e3;
  };
  printf(
      "{\"p50\": %.3f, \"p99\": %.3f, \"mean\": %.3f, \"rate\": %.1f, \"touches\": %.1f, \"count\": %zu, "
      "\"quantiles\": [",
      at(0.5), at(0.99), sum / static_cast<double>(count) / 1e3, a_second(count), a_second(touches), count);
  // Finer where distributions have their tails.
  const char* comma = "";
  const auto print = [&](double share) {
    printf("%s[%g, %.3f]", comma, share, at(share));
    comma = ", ";
  };
  for (int i = 0; i < 45; ++i) print(0.02 * i);
  for (int i = 0; i < 10; ++i) print(0.9 + 0.01 * i);
  for (const double share : {0.995, 0.999, 0.9995, 0.9999}) print(share);
  printf("]}\n");
}

}  // namespace bench

int main(int argc, char** argv) {
  const auto number = [&](int index) -> uint64_t {
    char* end = nullptr;
    const uint64_t value = argc > index ? strtoull(argv[index], &end, 10) : 0;
    if (end == nullptr || *end != 0 || value == 0) bench::Die("usage: MODE and numbers; see worker.cc");
    return value;
  };
  const char* mode = argc > 1 ? argv[1] : "";
  if (strcmp(mode, "faults-read") == 0) {
    bench::Faults(false, number(2), number(3), number(4), argc > 5 ? number(5) : 1);
  } else if (strcmp(mode, "faults-write") == 0) {
    bench::Faults(true, number(2), number(3), number(4), argc > 5 ? number(5) : 1);
  } else if (strcmp(mode, "scan-read") == 0) {
    bench::Scan(false, number(2), number(3), number(4));
  } else if (strcmp(mode, "scan-update") == 0) {
    bench::Scan(true, number(2), number(3), number(4));
  } else if (strcmp(mode, "floor") == 0) {
    bench::RunFloor(number(2));
  } else if (strcmp(mode, "raw-tcp") == 0) {
    bench::RunRawTcp(number(2));
  } else {
    bench::Die("unknown mode; see worker.cc");
  }
  return 0;
}
