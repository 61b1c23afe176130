#include "base/hash_impl.h"

namespace farpool {
PageHash HashPageAvx512(const void* page, uint64_t seed);
PageHash HashPageAvx512(const void* page, uint64_t seed) { return HashPageImpl(page, seed); }
}  // namespace farpool
