#pragma once
// Which donor gets the next slab. ChooseDonor: power of two choices (M. Mitzenmacher, "The Power of Two
// Choices in Randomized Load Balancing", 2001), candidates drawn with the weight of their free memory.
// ChooseByWeight: shares that were fixed beforehand. Pure logic: randomness comes in.

#include <cstddef>
#include <cstdint>
#include <span>

namespace farpool {

struct DonorLoad {
  uint64_t free_bytes = 0;
  bool usable = true;  // False: gone, full or refused just now.
  uint64_t leased_bytes = 0;
  uint64_t weight = 0;  // Its share of what is leased; only for ChooseByWeight.
};

inline constexpr size_t kNoDonor = static_cast<size_t>(-1);

// `random` must return uniform 64-bit values. kNoDonor if no donor is usable and has `needed_bytes` free.
template <typename Random>
size_t ChooseDonor(std::span<const DonorLoad> donors, uint64_t needed_bytes, Random&& random) {
  uint64_t total = 0;
  for (const DonorLoad& d : donors)
    if (d.usable && d.free_bytes >= needed_bytes) total += d.free_bytes;
  if (total == 0) return kNoDonor;
  auto draw = [&] {
    uint64_t at = random() % total;
    size_t i = 0;
    for (;; ++i) {
      if (!donors[i].usable || donors[i].free_bytes < needed_bytes) continue;
      if (at < donors[i].free_bytes) return i;
      at -= donors[i].free_bytes;
    }
  };
  const size_t a = draw();
  const size_t b = draw();
  return donors[a].free_bytes >= donors[b].free_bytes ? a : b;
}

// The donor that has least of its share; of several the first. kNoDonor as above, or if nobody has a weight.
inline size_t ChooseByWeight(std::span<const DonorLoad> donors, uint64_t needed_bytes) {
  size_t chosen = kNoDonor;
  for (size_t i = 0; i < donors.size(); ++i) {
    const DonorLoad& d = donors[i];
    if (!d.usable || d.free_bytes < needed_bytes || d.weight == 0) continue;
    // With the slab to come, so that a small share does not get the first one.
    const auto load = [needed_bytes](const DonorLoad& of) {
      return static_cast<double>(of.leased_bytes + needed_bytes) / static_cast<double>(of.weight);
    };
    if (chosen == kNoDonor || load(d) < load(donors[chosen])) chosen = i;
  }
  return chosen;
}

}  // namespace farpool
