#pragma once
// Samples far faults for --trace.

#include <cstdint>

namespace farpool {

// In the fault handler, before the fault is answered. `registers` are the signal frame's.
void SampleFault(uintptr_t address, const uint64_t* registers);

}  // namespace farpool
