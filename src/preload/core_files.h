#pragma once
// Which pages of the arena the kernel writes into core files: all that the program may touch. It would walk
// through the rest, terabytes of nothing, once a part of that was in use. The caller holds the engine's lock,
// and has changed the kernel's mapping and the area map, or will before it lets go.

#include <cstdint>

namespace farpool {

// Nobody may touch [first, last) any more. Pages of the arena.
void LeaveOutOfCoreFiles(uint64_t first, uint64_t last);
// The program may.
void PutIntoCoreFiles(uint64_t first, uint64_t last);

}  // namespace farpool
