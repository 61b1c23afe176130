// Touches far memory in two functions, three times as often in one as in the other, at random pages. Not
// inlined, no frame pointers: what --trace has to find out. With an argument it takes all descriptors first.

#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

namespace {
constexpr uint64_t kPages = 16384;
volatile unsigned char* g_memory;
uint64_t g_state = 1;

uint64_t Random() {
  g_state = g_state * 6364136223846793005 + 1442695040888963407;
  return g_state >> 33;
}
}  // namespace

// Their names are looked for.
extern "C" [[gnu::noinline]] uint64_t touches_often(uint64_t count) {
  uint64_t sum = 0;
  for (uint64_t i = 0; i < count; ++i) sum += g_memory[Random() % kPages * 4096];
  return sum;
}

extern "C" [[gnu::noinline]] uint64_t touches_seldom(uint64_t count) {
  uint64_t sum = 1;
  for (uint64_t i = 0; i < count; ++i) sum += g_memory[Random() % kPages * 4096];
  return sum;
}

int main(int argc, char**) {
  void* map = mmap(nullptr, kPages * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map == MAP_FAILED) return 1;
  g_memory = static_cast<volatile unsigned char*>(map);
  for (uint64_t i = 0; i < kPages; ++i) g_memory[i * 4096] = static_cast<unsigned char>(i % 251 + 1);
  const rlimit few = {64, 64};
  if (argc > 1 && setrlimit(RLIMIT_NOFILE, &few) == 0)
    while (dup(0) >= 0) {
    }
  uint64_t sum = 0;
  for (int i = 0; i < 200; ++i) {
    sum += touches_often(300);
    sum += touches_seldom(100);
  }
  printf("%lu\n", sum);
}
