// kmeans [Ki points [clusters [rounds]]]: Lloyd's algorithm on integer points in 16 dimensions, by two
// threads. Integers, so that the result does not depend on the order of additions.

#include <cinttypes>
#include <thread>
#include <vector>

#include "check.h"

namespace {

constexpr size_t kDimensions = 16;
constexpr size_t kThreads = 2;

struct Sums {
  std::vector<int64_t> total;
  std::vector<int64_t> members;
  int64_t distance = 0;
};

void Assign(const std::vector<int32_t>& points, const std::vector<int64_t>& centres, size_t first,
            size_t last, Sums* sums) {
  const size_t clusters = centres.size() / kDimensions;
  sums->total.assign(centres.size(), 0);
  sums->members.assign(clusters, 0);
  for (size_t p = first; p < last; ++p) {
    const int32_t* point = &points[p * kDimensions];
    int64_t best = INT64_MAX;
    size_t nearest = 0;
    for (size_t c = 0; c < clusters; ++c) {
      int64_t distance = 0;
      for (size_t d = 0; d < kDimensions; ++d) {
        const int64_t delta = point[d] - centres[c * kDimensions + d];
        distance += delta * delta;
      }
      if (distance < best) {
        best = distance;
        nearest = c;
      }
    }
    sums->distance += best;
    ++sums->members[nearest];
    for (size_t d = 0; d < kDimensions; ++d) sums->total[nearest * kDimensions + d] += point[d];
  }
}

}  // namespace

int main(int argc, char** argv) {
  const size_t count = Argument(argc, argv, 1, 1024) << 10;
  const size_t clusters = Argument(argc, argv, 2, 8);
  const size_t rounds = Argument(argc, argv, 3, 4);
  std::vector<int32_t> points(count * kDimensions);
  for (size_t i = 0; i < points.size(); ++i)
    points[i] = static_cast<int32_t>(Mix(i / kDimensions % clusters * 131 + i % kDimensions) % 100000 +
                                     Mix(i) % 20000);
  std::vector<int64_t> centres(clusters * kDimensions);
  for (size_t c = 0; c < clusters; ++c)
    for (size_t d = 0; d < kDimensions; ++d)
      centres[c * kDimensions + d] = points[(Mix(c) % count) * kDimensions + d];
  for (size_t round = 0; round < rounds; ++round) {
    Sums sums[kThreads];
    std::vector<std::thread> threads;
    for (size_t t = 0; t < kThreads; ++t)
      threads.emplace_back(
          [&, t] { Assign(points, centres, count * t / kThreads, count * (t + 1) / kThreads, &sums[t]); });
    for (std::thread& thread : threads) thread.join();
    int64_t members = 0;
    for (size_t c = 0; c < clusters; ++c) {
      const int64_t n = sums[0].members[c] + sums[1].members[c];
      members += n;
      for (size_t d = 0; d < kDimensions && n > 0; ++d) {
        const size_t at = c * kDimensions + d;
        centres[at] = (sums[0].total[at] + sums[1].total[at]) / n;
      }
    }
    CHECK(members == static_cast<int64_t>(count), "round %zu: %" PRId64 " members", round, members);
    printf("kmeans: round %zu, squared distance %" PRId64 "\n", round, sums[0].distance + sums[1].distance);
  }
  uint64_t digest = 0;
  for (int64_t x : centres) digest = digest * 31 + static_cast<uint64_t>(x);
  printf("kmeans: %zu points, %zu clusters, digest %016" PRIx64 "\n", count, clusters, digest);
  return 0;
}
