// graph [log2 of the vertices [edges a vertex [PageRank rounds]]]: makes a scale-free random graph in
// compressed rows, visits it breadth-first, and ranks its vertices, by two threads. Ranks are integers, so
// that the result does not depend on the order of additions.

#include <algorithm>
#include <cinttypes>
#include <cmath>
#include <thread>
#include <vector>

#include "check.h"

namespace {

constexpr uint32_t kUnseen = UINT32_MAX;

struct Graph {
  std::vector<uint64_t> first;  // By vertex; one more than there are vertices.
  std::vector<uint32_t> neighbour;
  size_t vertices() const { return first.size() - 1; }
};

// Calls `part` with the two halves of 0..n-1, each in a thread of its own.
template <typename Part>
void Halves(size_t n, Part part) {
  std::thread other(part, n / 2, n);
  part(0, n / 2);
  other.join();
}

double Uniform(Random* random) { return static_cast<double>((random->Next() >> 11) + 1) * 0x1p-53; }

// A vertex's edges, by a power law with exponent 3 and the mean `degree`.
uint64_t DegreeOf(size_t vertex, size_t degree) {
  constexpr double kDegreeMax = 1 << 16;
  Random random(vertex);
  return static_cast<uint64_t>(
      std::min(static_cast<double>(degree) / 2 / std::sqrt(Uniform(&random)), kDegreeMax));
}

// Who is popular follows a power law too; names are scrambled, so that the popular are not neighbours.
Graph MakeGraph(unsigned scale, size_t degree) {
  const size_t n = size_t{1} << scale;
  Graph graph;
  graph.first.resize(n + 1);
  for (size_t v = 0; v < n; ++v) graph.first[v + 1] = graph.first[v] + DegreeOf(v, degree);
  graph.neighbour.resize(graph.first[n]);
  Halves(n, [&](size_t first, size_t last) {
    for (size_t v = first; v < last; ++v) {
      Random random(~v);
      for (uint64_t e = graph.first[v]; e < graph.first[v + 1]; ++e) {
        const double u = Uniform(&random);
        const auto rank = static_cast<uint64_t>(u * u * static_cast<double>(n - 1));
        graph.neighbour[e] = static_cast<uint32_t>(rank * 2654435761u & (n - 1));
      }
    }
  });
  return graph;
}

// Prints how many vertices are reached and how far they are in sum.
void Visit(const Graph& graph, uint32_t start) {
  std::vector<uint32_t> depth(graph.vertices(), kUnseen);
  std::vector<uint32_t> queue = {start};
  depth[start] = 0;
  uint64_t depths = 0;
  for (size_t at = 0; at < queue.size(); ++at) {
    const uint32_t v = queue[at];
    depths += depth[v];
    for (uint64_t e = graph.first[v]; e < graph.first[v + 1]; ++e) {
      const uint32_t to = graph.neighbour[e];
      if (depth[to] != kUnseen) continue;
      depth[to] = depth[v] + 1;
      queue.push_back(to);
    }
  }
  for (size_t v = 0; v < graph.vertices(); ++v)
    for (uint64_t e = graph.first[v]; depth[v] != kUnseen && e < graph.first[v + 1]; ++e)
      CHECK(depth[graph.neighbour[e]] <= depth[v] + 1, "edge %" PRIu64 " is shorter than the way found", e);
  printf("graph: from %u %zu vertices are reached, depths sum up to %" PRIu64 "\n", start, queue.size(),
         depths);
}

// Each vertex takes what its neighbours' ranks are worth an edge, with 15 % for everybody.
uint64_t Rank(const Graph& graph, size_t rounds) {
  const size_t n = graph.vertices();
  constexpr uint64_t kOne = uint64_t{1} << 32;
  std::vector<uint64_t> rank(n, kOne), worth(n);
  for (size_t round = 0; round < rounds; ++round) {
    Halves(n, [&](size_t first, size_t last) {
      for (size_t v = first; v < last; ++v) worth[v] = rank[v] / (graph.first[v + 1] - graph.first[v] + 1);
    });
    Halves(n, [&](size_t first, size_t last) {
      for (size_t v = first; v < last; ++v) {
        uint64_t sum = 0;
        for (uint64_t e = graph.first[v]; e < graph.first[v + 1]; ++e) sum += worth[graph.neighbour[e]];
        rank[v] = kOne * 15 / 100 + sum / 100 * 85;
      }
    });
  }
  uint64_t digest = 0;
  for (uint64_t r : rank) digest = digest * 31 + r;
  return digest;
}

}  // namespace

int main(int argc, char** argv) {
  const auto scale = static_cast<unsigned>(Argument(argc, argv, 1, 18));
  const size_t degree = Argument(argc, argv, 2, 16);
  const size_t rounds = Argument(argc, argv, 3, 4);
  CHECK(scale >= 1 && scale <= 30, "scale %u", scale);
  const Graph graph = MakeGraph(scale, degree);
  size_t hub = 0;
  for (size_t v = 0; v < graph.vertices(); ++v)
    if (graph.first[v + 1] - graph.first[v] > graph.first[hub + 1] - graph.first[hub]) hub = v;
  Visit(graph, static_cast<uint32_t>(hub));
  printf("graph: %zu vertices, %zu edges, ranks %016" PRIx64 "\n", graph.vertices(), graph.neighbour.size(),
         Rank(graph, rounds));
  return 0;
}
