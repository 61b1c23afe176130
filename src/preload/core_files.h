#pragma once
// Which pages of the arena the kernel writes into core files: those that the program may touch, unless it
// advised MADV_DONTDUMP (Area::undumped). The kernel would walk through the rest, terabytes of nothing, once
// a part of that was in use. The caller holds the engine's lock exclusively.

#include <cstdint>

namespace farpool {

// Pages [first, last) of the arena may be touched no more, or are to be left out. At the start all are out.
// False if the kernel cannot tell them from their neighbours: that would be one mapping too many.
bool LeaveOutOfCoreFiles(uint64_t first, uint64_t last);
// The program may touch them.
void PutIntoCoreFiles(uint64_t first, uint64_t last);

}  // namespace farpool
