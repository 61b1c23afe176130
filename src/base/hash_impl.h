// Compiled once per instruction set (hash.cc, hash_avx2.cc, hash_avx512.cc); not for others to include.
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/hash.h"

namespace farpool {

static inline PageHash HashPageImpl(const void* page, uint64_t seed) {
  const XXH128_hash_t h = XXH3_128bits_withSeed(page, kPageBytes, seed);
  return {h.low64, h.high64};
}

}  // namespace farpool
