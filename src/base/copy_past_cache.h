#pragma once
// Copying what nobody is going to read soon.

#include <emmintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace farpool {

// memcpy() by non-temporal stores, where both sides lie on lines of the cache and so do their ends: the old
// contents of the target's lines are not read first, and other data stays in the cache. What is written is
// ordered before the caller's next stores, as it is after memcpy().
inline void CopyPastCache(void* to, const void* from, size_t bytes) {
  constexpr size_t kLine = 64;
  if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from) | bytes) % kLine != 0) {
    std::memcpy(to, from, bytes);
    return;
  }
  for (size_t at = 0; at < bytes; at += kLine) {
    const auto* source = reinterpret_cast<const __m128i*>(static_cast<const std::byte*>(from) + at);
    auto* target = reinterpret_cast<__m128i*>(static_cast<std::byte*>(to) + at);
    const __m128i part[] = {_mm_load_si128(source), _mm_load_si128(source + 1), _mm_load_si128(source + 2),
                            _mm_load_si128(source + 3)};
    for (int i = 0; i < 4; ++i) _mm_stream_si128(target + i, part[i]);
  }
  _mm_sfence();
}

}  // namespace farpool
