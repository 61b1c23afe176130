#include "preload/arena.h"

#include <sys/mman.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>

#include "base/sys.h"
#include "base/uffd_abi.h"
#include "preload/core_files.h"
#include "preload/runtime.h"

namespace farpool {

namespace {
uint64_t g_search_from = kBrkPages;  // Under the engine's lock.
}

bool ArenaRange(uint64_t address, uint64_t bytes, uint64_t* first, uint64_t* last) {
  uint64_t end;
  if (address % kPageBytes != 0 || bytes == 0 || __builtin_add_overflow(address, bytes, &end)) return false;
  if (!InArena(address) || end > kArenaBase + kArenaBytes) return false;
  *first = PageOf(address);
  *last = *first + PagesOf(bytes);
  return *last <= kArenaPages;
}

long Protect(uint64_t first, uint64_t last, int protection) {
  return sys::Call(SYS_mprotect, AddressOf(first), (last - first) * kPageBytes, protection);
}

void Register(uint64_t first, uint64_t last) {
  uffdio_register reg = {
      .range = {AddressOf(first), (last - first) * kPageBytes}, .mode = g_runtime.register_mode, .ioctls = 0};
  const long r = sys::Call(SYS_ioctl, g_runtime.segment->fd_base + kFdUserfault, UFFDIO_REGISTER, &reg);
  if (r != 0) Fatal(Status::FromErrno("UFFDIO_REGISTER", static_cast<int>(-r)));
}

long Unregister(uint64_t first, uint64_t last) {
  uffdio_range range = {AddressOf(first), (last - first) * kPageBytes};
  return sys::Call(SYS_ioctl, g_runtime.segment->fd_base + kFdUserfault, UFFDIO_UNREGISTER, &range);
}

// What was there goes first: with one mapping too many the kernel would not replace it.
long Reclaim(uint64_t first, uint64_t last) {
  const uint64_t bytes = (last - first) * kPageBytes;
  if (const long r = sys::Call(SYS_munmap, AddressOf(first), bytes); r != 0) return r;
  const long map = sys::Call(SYS_mmap, AddressOf(first), bytes, PROT_NONE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  if (sys::Failed(map)) Fatal(Status::FromErrno("mmap of far memory's place", static_cast<int>(-map)));
  Register(first, last);
  sys::Call(SYS_madvise, AddressOf(first), bytes, MADV_DONTFORK);
  sys::Call(SYS_madvise, AddressOf(first), bytes, MADV_NOHUGEPAGE);
  LeaveOutOfCoreFiles(first, last);
  return 0;
}

bool FirstPart(uint64_t first, uint64_t last, Area* part) {
  const AreaMap& areas = g_runtime.engine->areas();
  const size_t i = areas.LowerBound(first);
  if (first == last || i >= areas.size() || areas.at(i).first >= last) return false;
  *part = Like(areas.at(i), std::max(areas.at(i).first, first), std::min(areas.at(i).last, last));
  return true;
}

long ProtectAll(uint64_t first, uint64_t last, int protection) {
  const long r = Protect(first, last, protection);
  if (r != 0)
    for (Area part; FirstPart(first, last, &part); first = part.last)
      Protect(part.first, part.last, part.protection);
  return r;
}

long UnmapLocked(uint64_t first, uint64_t last) {
  Engine& engine = *g_runtime.engine;
  if (first == last || engine.areas().Free(first, last)) return 0;
  if (!engine.areas().HasRoom(first, last)) return -ENOMEM;
  if (const long r = ProtectAll(first, last, PROT_NONE); r != 0) return r;
  // Before the rest: a driver's mapping takes no advice, nor what lies behind it.
  uint64_t from = first;
  for (Area part; FirstPart(from, last, &part); from = part.last)
    if (part.foreign)
      if (const long r = Reclaim(part.first, part.last); r != 0) return r;
  engine.DiscardLocked(first, last);
  engine.areas().Clear(first, last);
  LeaveOutOfCoreFiles(first, last);
  if (first >= kBrkPages && first < g_search_from) g_search_from = first;
  return 0;
}

long MapLocked(const Area& area) {
  Engine& engine = *g_runtime.engine;
  if (!engine.areas().Set(area)) return -ENOMEM;
  // It may be in along with others.
  if (area.undumped) LeaveOutOfCoreFiles(area.first, area.last);
  if (area.protection == PROT_NONE) return 0;
  const long r = Protect(area.first, area.last, area.protection);
  if (r != 0) engine.areas().Clear(area.first, area.last);
  if (r == 0 && !area.undumped) PutIntoCoreFiles(area.first, area.last);
  return r;
}

Area PartOf(uint64_t first, uint64_t last) {
  const Area& area = *g_runtime.engine->areas().Find(first);
  return Like(area, first, area.last < last ? area.last : last);
}

uint64_t FindPlace(uint64_t pages) {
  const AreaMap& areas = g_runtime.engine->areas();
  uint64_t at = areas.FindGap(pages, g_search_from);
  if (at == UINT64_MAX) at = areas.FindGap(pages, kBrkPages);
  return at;
}

}  // namespace farpool
