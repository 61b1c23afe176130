#pragma once
// Pages packed by LZ4. Pure functions: no allocation, no locks, no state but what the caller brings, so they
// run in signal handlers.

#include <cstddef>
#include <span>

#include "farpool/types.h"

namespace farpool {

// Working memory of PackPage(); contents mean nothing.
struct PackState {
  alignas(8) std::byte bytes[16416];
};

// Packs the page at `page` into `out`. How many bytes that took, or 0 if `out` has too few.
unsigned PackPage(PackState* state, const void* page, std::span<std::byte> out);

// The page that `packed` holds, to `page`. False if it holds none; the page is rubbish then. Any bytes may be
// given: nothing is read or written outside of the two.
bool UnpackPage(std::span<const std::byte> packed, void* page);

}  // namespace farpool
