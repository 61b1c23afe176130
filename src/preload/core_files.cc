#include "preload/core_files.h"

#include <sys/mman.h>
#include <sys/syscall.h>

#include "base/sys.h"
#include "preload/runtime.h"
#include "run/layout.h"

namespace farpool {

namespace {

// A heap grows by pages, and each call makes the kernel split a mapping and join two. So where nothing else
// is in the way these many go in at once, and need no call when they become accessible.
constexpr uint64_t kBlockPages = 64;
uint64_t g_whole[kArenaPages / kBlockPages / 64];  // Bit per block that is in as a whole. Sparse.

uint64_t Bit(uint64_t block) { return uint64_t{1} << block % 64; }

void Tell(uint64_t first, uint64_t last, int advice) {
  if (first < last)
    sys::Call(SYS_madvise, kArenaBase + first * kPageBytes, (last - first) * kPageBytes, advice);
}

bool Untouchable(uint64_t first, uint64_t last) {
  const AreaMap& areas = g_runtime.engine->areas();
  for (size_t i = areas.LowerBound(first); i < areas.size() && areas.at(i).first < last; ++i)
    if (areas.at(i).foreign || areas.at(i).protection != PROT_NONE) return false;
  return true;
}

}  // namespace

void LeaveOutOfCoreFiles(uint64_t first, uint64_t last) {
  for (uint64_t block = first / kBlockPages; block * kBlockPages < last;) {
    if (block % 64 == 0 && (block + 64) * kBlockPages <= last) {
      if (g_whole[block / 64] != 0) g_whole[block / 64] = 0;
      block += 64;
    } else {
      g_whole[block / 64] &= ~Bit(block);
      ++block;
    }
  }
  Tell(first, last, MADV_DONTDUMP);
}

void PutIntoCoreFiles(uint64_t first, uint64_t last) {
  uint64_t from = first, to = first;  // To be told in one call.
  for (uint64_t block = first / kBlockPages; block * kBlockPages < last; ++block) {
    uint64_t begin = block * kBlockPages, end = begin + kBlockPages;
    if ((g_whole[block / 64] & Bit(block)) != 0) {
      Tell(from, to, MADV_DODUMP);
      from = to = end;
      continue;
    }
    const bool whole =
        (begin >= first || Untouchable(begin, first)) && (end <= last || Untouchable(last, end));
    if (whole) {
      g_whole[block / 64] |= Bit(block);
      if (begin < from) from = begin;
    }
    to = whole || end < last ? end : last;
  }
  Tell(from, to, MADV_DODUMP);
}

}  // namespace farpool
