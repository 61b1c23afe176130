// churn [threads [lives [KiB]]]: up to `threads` threads at once, each of which builds containers in memory
// of its own, hands some to the next thread, verifies what it was handed, and ends. Every eighth is detached.

#include <atomic>
#include <cinttypes>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "check.h"

namespace {

struct Gift {
  uint64_t id;
  std::map<uint64_t, std::string> words;
  std::vector<uint64_t> numbers;
};

std::string WordOf(uint64_t key) { return std::to_string(Mix(key)) + std::string(key % 97, 'x'); }

std::unique_ptr<Gift> Make(uint64_t id, size_t kib) {
  auto gift = std::make_unique<Gift>();
  gift->id = id;
  gift->numbers.resize(kib * 1024 / 2 / sizeof(uint64_t));
  for (size_t i = 0; i < gift->numbers.size(); ++i) gift->numbers[i] = Mix(id << 32 | i);
  for (size_t i = 0; i < kib * 1024 / 2 / 160; ++i) gift->words[Mix(id << 32 | i)] = WordOf(id + i);
  return gift;
}

uint64_t Verify(const Gift& gift, size_t kib) {
  uint64_t sum = gift.id;
  for (size_t i = 0; i < gift.numbers.size(); ++i) {
    CHECK(gift.numbers[i] == Mix(gift.id << 32 | i), "number %zu of gift %" PRIu64, i, gift.id);
    sum += gift.numbers[i];
  }
  for (size_t i = 0; i < kib * 1024 / 2 / 160; ++i) {
    const auto found = gift.words.find(Mix(gift.id << 32 | i));
    CHECK(found != gift.words.end() && found->second == WordOf(gift.id + i), "word %zu of gift %" PRIu64, i,
          gift.id);
  }
  return sum;
}

std::mutex g_mutex;
std::vector<std::unique_ptr<Gift>> g_gifts;
std::atomic<uint64_t> g_sum{0};
std::atomic<unsigned> g_ended{0};

// One life: leaves a gift and takes the one that lay there, so that each is taken exactly once.
void Live(uint64_t id, size_t kib) {
  std::unique_ptr<Gift> gift = Make(id, kib);
  {
    const std::lock_guard hold(g_mutex);
    std::swap(gift, g_gifts[Mix(id) % g_gifts.size()]);
  }
  g_sum += Verify(*gift, kib);
  gift.reset();
  ++g_ended;
}

}  // namespace

int main(int argc, char** argv) {
  const size_t count = Argument(argc, argv, 1, 64);
  const size_t lives = Argument(argc, argv, 2, 512);
  const size_t kib = Argument(argc, argv, 3, 1024);
  for (size_t i = 0; i < count; ++i) g_gifts.push_back(Make(1'000'000 + i, kib));
  std::vector<std::thread> threads(count);
  unsigned started = 0;
  for (size_t id = 0; id < lives; ++id) {
    std::thread& place = threads[id % count];
    if (place.joinable()) place.join();
    std::thread thread(Live, id, kib);
    ++started;
    if (id % 8 == 7) {
      thread.detach();
    } else {
      place = std::move(thread);
    }
  }
  for (std::thread& thread : threads)
    if (thread.joinable()) thread.join();
  while (g_ended.load() < started) std::this_thread::yield();
  for (const auto& gift : g_gifts) g_sum += Verify(*gift, kib);
  // Who took whose gift differs from run to run; what all gifts add up to does not.
  printf("churn: %u threads lived, sum %016" PRIx64 "\n", started, g_sum.load());
  return 0;
}
