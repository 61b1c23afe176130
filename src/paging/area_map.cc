#include "paging/area_map.h"

#include <cstring>

namespace farpool {

size_t AreaMap::LowerBound(uint64_t page) const {
  size_t low = 0;
  size_t high = size_;
  while (low < high) {
    const size_t middle = (low + high) / 2;
    if (areas_[middle].last <= page) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

const Area* AreaMap::Find(uint64_t page) const {
  const size_t i = LowerBound(page);
  return i < size_ && areas_[i].first <= page ? &areas_[i] : nullptr;
}

// Cuts [first, last) out of the areas it meets, at most two remainders and one new area stay, then joins what
// is alike: so the array shifts once, whatever the number of areas replaced.
bool AreaMap::Replace(uint64_t first, uint64_t last, const Area* with) {
  size_t begin = LowerBound(first);
  size_t end = begin;
  while (end < size_ && areas_[end].first < last) ++end;
  Area fresh[3];
  size_t count = 0;
  if (begin < end && areas_[begin].first < first) {
    fresh[count] = areas_[begin];
    fresh[count++].last = first;
  }
  if (with != nullptr) fresh[count++] = *with;
  if (begin < end && areas_[end - 1].last > last) {
    fresh[count] = areas_[end - 1];
    fresh[count++].first = last;
  }
  auto alike = [](const Area& a, const Area& b) {
    return a.last == b.first && a.protection == b.protection && a.access == b.access &&
           a.undumped == b.undumped && !a.foreign && !b.foreign;
  };
  Area joined[5] = {};
  size_t joined_count = 0;
  auto add = [&](const Area& area) {
    if (joined_count > 0 && alike(joined[joined_count - 1], area)) {
      joined[joined_count - 1].last = area.last;
    } else {
      joined[joined_count++] = area;
    }
  };
  if (begin > 0 && areas_[begin - 1].last == first) add(areas_[--begin]);
  for (size_t i = 0; i < count; ++i) add(fresh[i]);
  if (end < size_ && areas_[end].first == last) add(areas_[end++]);
  const size_t new_size = size_ - (end - begin) + joined_count;
  if (new_size > kAreasMax) return false;
  std::memmove(&areas_[begin + joined_count], &areas_[end], (size_ - end) * sizeof(Area));
  std::memcpy(&areas_[begin], joined, joined_count * sizeof(Area));
  size_ = new_size;
  return true;
}

bool AreaMap::Clear(uint64_t first, uint64_t last) { return Replace(first, last, nullptr); }

bool AreaMap::HasRoom(uint64_t first, uint64_t last, size_t more) const {
  const size_t begin = LowerBound(first);
  const size_t end = LowerBound(last);
  if (begin < size_ && areas_[begin].first < first) ++more;
  if (end < size_ && areas_[end].first < last) ++more;
  return size_ + more <= kAreasMax;
}

uint64_t AreaMap::FindGap(uint64_t count, uint64_t from) const {
  uint64_t at = from;
  for (size_t i = LowerBound(from); i < size_; ++i) {
    if (areas_[i].first >= at && areas_[i].first - at >= count) return at;
    at = areas_[i].last;
  }
  return at + count <= pages_ ? at : UINT64_MAX;
}

uint64_t AreaMap::CoveredTo(uint64_t first, uint64_t last) const {
  for (size_t i = LowerBound(first); first < last; ++i) {
    if (i >= size_ || areas_[i].first > first) return first;
    first = areas_[i].last;
  }
  return last;
}

bool AreaMap::Free(uint64_t first, uint64_t last) const {
  const size_t i = LowerBound(first);
  return i >= size_ || areas_[i].first >= last;
}

}  // namespace farpool
