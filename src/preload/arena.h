#pragma once
// What the program's mapping calls do to the far arena: the area map, the kernel's mappings and the contents
// of pages go on saying the same. Pages are counted from the arena's start. The caller holds the engine's
// lock exclusively, on the near stack; errors are the kernel's, negative.

#include <cstdint>

#include "farpool/types.h"
#include "paging/area_map.h"
#include "run/layout.h"

namespace farpool {

// The far heap's share of the arena: its first TiB.
inline constexpr uint64_t kBrkPages = (uint64_t{1} << 40) / kPageBytes;

inline constexpr uint64_t PagesOf(uint64_t bytes) { return (bytes + kPageBytes - 1) / kPageBytes; }
inline constexpr uint64_t PageOf(uint64_t address) { return (address - kArenaBase) / kPageBytes; }
inline constexpr uint64_t AddressOf(uint64_t page) { return kArenaBase + page * kPageBytes; }
// [address, address + bytes) as pages; false if it is not wholly inside the arena. No lock.
bool ArenaRange(uint64_t address, uint64_t bytes, uint64_t* first, uint64_t* last);

// A mapping of [first, last) like `area`.
inline Area Like(Area area, uint64_t first, uint64_t last) {
  area.first = first;
  area.last = last;
  return area;
}
// What the first area that has pages in [first, last) has there. False if there is none.
bool FirstPart(uint64_t first, uint64_t last, Area* part);
// What of the area that contains `first` is in [first, last).
Area PartOf(uint64_t first, uint64_t last);
// Where as many pages are free, outside the heap; UINT64_MAX: nowhere.
uint64_t FindPlace(uint64_t pages);

// Maps what holds nothing.
long MapLocked(const Area& area);
inline long MapLocked(uint64_t first, uint64_t last, int protection) {
  return MapLocked({.first = first, .last = last, .protection = protection, .foreign = false});
}
// Contents and mapping of [first, last) go; the range is reserved address space again. Nothing has changed if
// the kernel refuses what would cut mappings into too many.
long UnmapLocked(uint64_t first, uint64_t last);

// In the kernel alone. mprotect; of mapped pages, of all or of none.
long Protect(uint64_t first, uint64_t last, int protection);
long ProtectAll(uint64_t first, uint64_t last, int protection);
// The userfaultfd watches them; no longer.
void Register(uint64_t first, uint64_t last);
long Unregister(uint64_t first, uint64_t last);
// Back to reserved, watched, empty address space where a file had been mapped, or nothing.
long Reclaim(uint64_t first, uint64_t last);

}  // namespace farpool
