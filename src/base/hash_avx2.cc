#include "base/hash_impl.h"

namespace farpool {
PageHash HashPageAvx2(const void* page, uint64_t seed);
PageHash HashPageAvx2(const void* page, uint64_t seed) { return HashPageImpl(page, seed); }
}  // namespace farpool
