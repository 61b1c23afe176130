// threads [MiB [generations]]: threads that come and go allocate, free and verify blocks of random sizes, and
// hand blocks to each other through a queue whose mutex and condition variables lie in the heap.

#include <pthread.h>

#include <cstring>
#include <deque>
#include <memory>
#include <thread>
#include <vector>

#include "check.h"

namespace {

constexpr unsigned kThreads = 4;

struct Block {
  uint64_t* words;
  size_t count;
  uint64_t key;
};

Block Make(Random& random) {
  // Mostly small objects, some that malloc maps for itself.
  const uint64_t kind = random.Below(100);
  const size_t bytes = kind < 60   ? 16 + random.Below(500)
                       : kind < 95 ? 512 + random.Below(32 * 1024)
                                   : 64 * 1024 + random.Below(512 * 1024);
  Block block{nullptr, bytes / sizeof(uint64_t), random.Next()};
  block.words = static_cast<uint64_t*>(malloc(bytes));
  CHECK(block.words != nullptr, "malloc(%zu)", bytes);
  for (size_t i = 0; i < block.count; ++i) block.words[i] = Mix(block.key + i);
  return block;
}

uint64_t VerifyAndFree(const Block& block) {
  for (size_t i = 0; i < block.count; ++i)
    CHECK(block.words[i] == Mix(block.key + i), "word %zu of %zu: %llx", i, block.count,
          static_cast<unsigned long long>(block.words[i]));
  free(block.words);
  return Mix(block.key) ^ block.count;
}

struct Queue {
  pthread_mutex_t mutex;
  pthread_cond_t filled;
  pthread_cond_t emptied;
  std::deque<Block> blocks;
  bool closed = false;

  Queue() {
    pthread_mutex_init(&mutex, nullptr);
    pthread_cond_init(&filled, nullptr);
    pthread_cond_init(&emptied, nullptr);
  }
  void Put(const Block& block) {
    pthread_mutex_lock(&mutex);
    while (blocks.size() >= 256) pthread_cond_wait(&emptied, &mutex);
    blocks.push_back(block);
    pthread_cond_signal(&filled);
    pthread_mutex_unlock(&mutex);
  }
  bool Take(Block* block) {
    pthread_mutex_lock(&mutex);
    while (blocks.empty() && !closed) pthread_cond_wait(&filled, &mutex);
    const bool got = !blocks.empty();
    if (got) {
      *block = blocks.front();
      blocks.pop_front();
      pthread_cond_signal(&emptied);
    }
    pthread_mutex_unlock(&mutex);
    return got;
  }
  void Close() {
    pthread_mutex_lock(&mutex);
    closed = true;
    pthread_cond_broadcast(&filled);
    pthread_mutex_unlock(&mutex);
  }
};

struct Sums {
  uint64_t blocks = 0;
  uint64_t sum = 0;
  void Add(uint64_t value) {
    ++blocks;
    sum += value;
  }
};

// Keeps `budget` bytes alive, replacing random blocks; every eighth block goes to the queue instead.
void Produce(Queue* queue, uint64_t seed, size_t budget, Sums* sums) {
  Random random(seed);
  std::vector<Block> live;
  size_t bytes = 0;
  size_t made = 0;
  for (size_t moved = 0; moved < budget * 2;) {
    Block block = Make(random);
    moved += block.count * 8;
    if (++made % 8 == 0) {
      queue->Put(block);
      continue;
    }
    live.push_back(block);
    bytes += block.count * 8;
    while (bytes > budget) {
      std::swap(live[random.Below(live.size())], live.back());
      bytes -= live.back().count * 8;
      sums->Add(VerifyAndFree(live.back()));
      live.pop_back();
    }
  }
  for (const Block& block : live) sums->Add(VerifyAndFree(block));
}

}  // namespace

int main(int argc, char** argv) {
  setvbuf(stdout, nullptr, _IOLBF, 0);
  const uint64_t mib = Argument(argc, argv, 1, 160);
  const uint64_t generations = Argument(argc, argv, 2, 3);
  Sums total;
  for (uint64_t generation = 0; generation < generations; ++generation) {
    auto queue = std::make_unique<Queue>();
    std::vector<Sums> sums(kThreads + 2);
    std::vector<std::thread> producers;
    std::vector<std::thread> consumers;
    for (unsigned t = 0; t < kThreads; ++t)
      producers.emplace_back(Produce, queue.get(), generation * 100 + t, (mib << 20) / kThreads, &sums[t]);
    for (unsigned t = 0; t < 2; ++t)
      consumers.emplace_back([&queue, sum = &sums[kThreads + t]] {
        for (Block block; queue->Take(&block);) sum->Add(VerifyAndFree(block));
      });
    // Short-lived ones, joined and detached, beside them.
    for (int i = 0; i < 50; ++i) {
      std::thread brief([i] {
        std::vector<uint64_t> words(20000, static_cast<uint64_t>(i));
        uint64_t sum = 0;
        for (uint64_t word : words) sum += word;
        CHECK(sum == 20000u * static_cast<uint64_t>(i), "brief thread %d", i);
      });
      if (i % 2 == 0) {
        brief.detach();
      } else {
        brief.join();
      }
    }
    for (auto& thread : producers) thread.join();
    queue->Close();
    for (auto& thread : consumers) thread.join();
    for (const Sums& sum : sums) {
      total.blocks += sum.blocks;
      total.sum += sum.sum;
    }
    printf("threads: generation %llu verified\n", static_cast<unsigned long long>(generation));
  }
  printf("threads: %llu blocks, checksum %016llx\n", static_cast<unsigned long long>(total.blocks),
         static_cast<unsigned long long>(total.sum));
  return 0;
}
