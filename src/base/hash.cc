#include "base/hash.h"

#ifdef __clang__
#define _Bool bool  // The header below is C, and GCC takes that. NOLINT(bugprone-reserved-identifier)
#endif
#include <sys/platform/x86.h>

#include <cstring>

#include "base/hash_impl.h"

namespace farpool {

PageHash HashPageAvx2(const void* page, uint64_t seed);
PageHash HashPageAvx512(const void* page, uint64_t seed);

namespace {
// libc has asked already: in a virtual machine each CPUID instruction costs microseconds.
const bool kHasAvx2 = CPU_FEATURE_ACTIVE(AVX2);
const bool kHasAvx512 = CPU_FEATURE_ACTIVE(AVX512F);
}  // namespace

PageHash HashPage(const void* page, uint64_t seed) {
  if (kHasAvx512) return HashPageAvx512(page, seed);
  return kHasAvx2 ? HashPageAvx2(page, seed) : HashPageImpl(page, seed);
}

bool IsZeroPage(const void* page) {
  const auto* words = static_cast<const uint64_t*>(page);
  for (size_t i = 0; i < kPageBytes / sizeof(uint64_t); i += 8) {
    uint64_t any = 0;
    for (size_t k = 0; k < 8; ++k) any |= words[i + k];
    if (any != 0) return false;
  }
  return true;
}

}  // namespace farpool
