#include "preload/core_files.h"

#include <sys/mman.h>
#include <sys/syscall.h>

#include "base/sys.h"
#include "preload/runtime.h"
#include "run/layout.h"

namespace farpool {

namespace {

// A heap grows by pages, and each call makes the kernel split a mapping and join two. So with the first of
// them a block of this many pages goes in, if nothing there has to stay out, and its next pages need no call.
constexpr uint64_t kBlockPages = 64;
// Blocks that are in as a whole; a block has one place.
constexpr size_t kPlaces = 4096;
uint64_t g_whole[kPlaces];

uint64_t& PlaceOf(uint64_t block) { return g_whole[block % kPlaces]; }
bool IsWhole(uint64_t block) { return PlaceOf(block) == block + 1; }

bool Tell(uint64_t first, uint64_t last, int advice) {
  return sys::Call(SYS_madvise, kArenaBase + first * kPageBytes, (last - first) * kPageBytes, advice) == 0;
}

// Whether nothing in [first, last) has to stay out.
bool MayGoAlong(uint64_t first, uint64_t last) {
  const AreaMap& areas = g_runtime.engine->areas();
  for (size_t i = areas.LowerBound(first); i < areas.size() && areas.at(i).first < last; ++i)
    if (areas.at(i).foreign || areas.at(i).undumped) return false;
  return true;
}

}  // namespace

bool LeaveOutOfCoreFiles(uint64_t first, uint64_t last) {
  const uint64_t begin = first / kBlockPages, end = (last + kBlockPages - 1) / kBlockPages;
  for (uint64_t block = begin; block < end && block - begin < kPlaces; ++block)
    if (const uint64_t there = PlaceOf(block); there > begin && there <= end) PlaceOf(block) = 0;
  return Tell(first, last, MADV_DONTDUMP);
}

void PutIntoCoreFiles(uint64_t first, uint64_t last) {
  const uint64_t block = first / kBlockPages;
  const uint64_t begin = block * kBlockPages, end = begin + kBlockPages;
  if (last <= end && IsWhole(block)) return;
  if (last < end && MayGoAlong(begin, first) && MayGoAlong(last, end) && Tell(begin, end, MADV_DODUMP)) {
    PlaceOf(block) = block + 1;
  } else {
    Tell(first, last, MADV_DODUMP);
  }
}

}  // namespace farpool
