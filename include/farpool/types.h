#pragma once
// Sizes and ids shared by every layer.

#include <cstddef>
#include <cstdint>

namespace farpool {

inline constexpr size_t kPageBytes = 4096;
inline constexpr unsigned kPageShift = 12;

// Names one slab at one donor; given out by the donor, meaningless at any other.
enum class SlabId : uint64_t {};

// Names a session between a client and a donor; 128 random bits, the right to everything leased under it.
struct SessionToken {
  uint64_t high = 0;
  uint64_t low = 0;
  friend bool operator==(const SessionToken&, const SessionToken&) = default;
};

}  // namespace farpool
