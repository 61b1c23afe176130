// stream [MiB per array [rounds]]: the four kernels of the STREAM benchmark (copy, scale, add, triad) by two
// threads, on random words in place of its constants; every element of the three arrays is verified.

#include <thread>
#include <vector>

#include "check.h"

int main(int argc, char** argv) {
  const size_t count = (Argument(argc, argv, 1, 64) << 20) / sizeof(uint64_t);
  const size_t rounds = Argument(argc, argv, 2, 4);
  std::vector<uint64_t> a(count), b(count), c(count);
  const auto halves = [count](auto kernel) {
    const auto part = [&](size_t first, size_t last) {
      for (size_t i = first; i < last; ++i) kernel(i);
    };
    std::thread other(part, count / 2, count);
    part(0, count / 2);
    other.join();
  };
  constexpr uint64_t kScalar = 3;
  halves([&](size_t i) { a[i] = Mix(i); });
  for (size_t round = 0; round < rounds; ++round) {
    halves([&](size_t i) { c[i] = a[i]; });
    halves([&](size_t i) { b[i] = kScalar * c[i]; });
    halves([&](size_t i) { c[i] = a[i] + b[i]; });
    halves([&](size_t i) { a[i] = b[i] + kScalar * c[i]; });
  }
  // What a round makes of 1; everything it does is linear.
  uint64_t x = 1, y = 0, z = 0;
  for (size_t round = 0; round < rounds; ++round) {
    y = kScalar * x;
    z = x + y;
    x = y + kScalar * z;
  }
  halves([&](size_t i) {
    const uint64_t first = Mix(i);
    CHECK(a[i] == x * first && b[i] == y * first && c[i] == z * first, "element %zu", i);
  });
  printf("stream: 3 arrays of %zu words verified after %zu rounds\n", count, rounds);
  return 0;
}
