#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 warns about its own header.
#endif

#include "base/hash_impl.h"

namespace farpool {
PageHash HashPageAvx512(const void* page, uint64_t seed);
PageHash HashPageAvx512(const void* page, uint64_t seed) { return HashPageImpl(page, seed); }
}  // namespace farpool
