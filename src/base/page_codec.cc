#include "base/page_codec.h"

#include <lz4.h>

#include "base/assert.h"

static_assert(sizeof(farpool::PackState) >= LZ4_STREAM_MINSIZE);

// What CMakeLists.txt has put in the place of the heap in LZ4's code. It serves functions that nobody calls.
extern "C" {
__attribute__((visibility("hidden"))) void* farpool_no_malloc(size_t);
__attribute__((visibility("hidden"))) void* farpool_no_calloc(size_t, size_t);
__attribute__((visibility("hidden"))) void farpool_no_free(void*);
void* farpool_no_malloc(size_t) { return nullptr; }
void* farpool_no_calloc(size_t, size_t) { return nullptr; }
void farpool_no_free(void*) { FARPOOL_ASSERT(false); }
}

namespace farpool {

unsigned PackPage(PackState* state, const void* page, std::span<std::byte> out) {
  const int bytes = LZ4_compress_fast_extState(state->bytes, static_cast<const char*>(page),
                                               reinterpret_cast<char*>(out.data()), kPageBytes,
                                               static_cast<int>(out.size()), 1);
  return bytes > 0 ? static_cast<unsigned>(bytes) : 0;
}

bool UnpackPage(std::span<const std::byte> packed, void* page) {
  return LZ4_decompress_safe(reinterpret_cast<const char*>(packed.data()), static_cast<char*>(page),
                             static_cast<int>(packed.size()), kPageBytes) == static_cast<int>(kPageBytes);
}

}  // namespace farpool
