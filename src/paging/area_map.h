#pragma once
// Which parts of the far arena are mapped, and with what protection. Pages are counted from the arena's
// start. The kernel keeps the same facts in its VMAs, but cannot be asked cheaply; every change of a mapping
// in the arena goes through here. Caller serialises.

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>

namespace farpool {

// Where vm.max_map_count is what it is by default (65530) the kernel says sooner that there are too many.
inline constexpr size_t kAreasMax = 1 << 18;

// How the program says it will go through an area.
enum class Access : uint8_t { kNormal, kSequential, kRandom };

// Write Area{} for one that is all zero: a constructor would touch the memory of all there may be.
struct Area {
  uint64_t first;  // Page.
  uint64_t last;   // One past the end.
  int protection;  // PROT_*.
  bool foreign;    // Mapped by the program itself (a file over far memory): never managed.
  Access access;
  bool undumped;  // Left out of core files.
};

class AreaMap {
 public:
  void Init(uint64_t pages) { pages_ = pages; }
  // The area that contains `page`, or nullptr.
  const Area* Find(uint64_t page) const;
  // Replaces whatever is in [first, last). False if the map is full (nothing changed).
  bool Set(const Area& area) { return Replace(area.first, area.last, &area); }
  bool Set(uint64_t first, uint64_t last, int protection, bool foreign = false) {
    return Set({first, last, protection, foreign, Access::kNormal, false});
  }
  // Takes [first, last) out. False if the map is full (nothing changed).
  bool Clear(uint64_t first, uint64_t last);
  // Whether there is room for what areas [first, last) cuts, and for `more` areas: then all of it can be
  // taken out or set, part by part.
  bool HasRoom(uint64_t first, uint64_t last, size_t more = 0) const;
  // Lowest free run of `count` pages at or after `from`; UINT64_MAX if there is none.
  uint64_t FindGap(uint64_t count, uint64_t from) const;
  // Where in [first, last) the first page lies that is not mapped; `last` if there is none.
  uint64_t CoveredTo(uint64_t first, uint64_t last) const;
  // True if [first, last) is mapped without holes.
  bool Covered(uint64_t first, uint64_t last) const { return CoveredTo(first, last) == last; }
  bool Free(uint64_t first, uint64_t last) const;
  size_t size() const { return size_; }
  const Area& at(size_t i) const { return areas_[i]; }
  // First area that ends after `page`.
  size_t LowerBound(uint64_t page) const;

 private:
  bool Replace(uint64_t first, uint64_t last, const Area* with);

  size_t size_ = 0;
  uint64_t pages_ = 0;
  Area areas_[kAreasMax];  // Sorted, disjoint; neighbours that are alike are one.
};

}  // namespace farpool
