// mremap of far memory, of what is the kernel's in the arena, and between near and far places.

#include <linux/mman.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <cerrno>
#include <cstring>

#include "base/sys.h"
#include "preload/arena.h"
#include "preload/guard.h"
#include "preload/runtime.h"
#include "preload/thread.h"
#include "run/layout.h"

namespace farpool {

namespace {

// Whether all of [first, last) is the kernel's, which knows better than the areas what is one mapping.
bool AllForeign(uint64_t first, uint64_t last) {
  for (Area part; first < last && FirstPart(first, last, &part) && part.first == first; first = part.last)
    if (!part.foreign) return false;
  return first == last;
}

// mremap of what is the kernel's in the arena, to grow or move: it stays that, wherever it goes, and what it
// leaves is reserved again.
long RemapForeign(const GuardFrame& frame, uint64_t first, uint64_t last, int protection) {
  const uint64_t old_address = frame.args[0];
  const uint64_t old_bytes = frame.args[1];
  const uint64_t new_bytes = frame.args[2];
  const uint64_t flags = frame.args[3];
  const uint64_t end = first + PagesOf(new_bytes);
  AreaMap& areas = g_runtime.engine->areas();
  if ((flags & MREMAP_DONTUNMAP) != 0) return -EINVAL;
  if (!areas.HasRoom(first, last, 1)) return -ENOMEM;
  const bool fixed = (flags & MREMAP_FIXED) != 0;
  if (!fixed && end <= kArenaPages && areas.Free(last, end)) {
    sys::Call(SYS_munmap, AddressOf(last), (end - last) * kPageBytes);
    const long r = sys::Call(SYS_mremap, old_address, old_bytes, new_bytes, 0);
    if (sys::Failed(r)) {
      Reclaim(last, end);
    } else {
      areas.Set(first, end, protection, true);
      return r;
    }
  }
  if ((flags & MREMAP_MAYMOVE) == 0) return fixed ? -EINVAL : -ENOMEM;
  uint64_t target = frame.args[4];
  if (!fixed) {
    const uint64_t place = FindPlace(end - first);
    if (place == UINT64_MAX) return -ENOMEM;
    target = AddressOf(place);
  }
  uint64_t to = 0, to_last = 0;  // Nothing, where it goes elsewhere.
  if (InArena(target)) {
    if (!ArenaRange(target, new_bytes, &to, &to_last) || (to < last && to_last > first)) return -EINVAL;
    if (!areas.HasRoom(to, to_last, 3)) return -ENOMEM;  // The target, and what the source cuts.
    if (long r = UnmapLocked(to, to_last); r != 0) return r;
  }
  const long r =
      sys::Call(SYS_mremap, old_address, old_bytes, new_bytes, MREMAP_MAYMOVE | MREMAP_FIXED, target);
  if (sys::Failed(r)) {
    if (to < to_last) Reclaim(to, to_last);  // It may have gone first.
    return r;
  }
  if (to < to_last) areas.Set(to, to_last, protection, true);
  Reclaim(first, last);
  areas.Clear(first, last);
  return r;
}

// mremap of no bytes: another mapping, near, of what is shared. Only the kernel has any.
long SecondMapping(uint64_t address, uint64_t bytes) {
  ExclusiveLock hold(g_runtime.engine);
  const Area* area = g_runtime.engine->areas().Find(PageOf(address));
  return area != nullptr && area->foreign ? sys::Call(SYS_mremap, address, 0, bytes, MREMAP_MAYMOVE)
                                          : -EINVAL;
}

// mremap of far memory to a fixed near place: mapped afresh there and copied. No lock is held while copying,
// since the copy itself faults.
long MoveNear(const GuardFrame* frame) {
  const uint64_t from = frame->args[0];
  const uint64_t to = frame->args[4];
  const uint64_t old_bytes = frame->args[1];
  const uint64_t new_bytes = frame->args[2];
  uint64_t first, last;
  if ((frame->args[3] & MREMAP_MAYMOVE) == 0 || new_bytes == 0 || !ArenaRange(from, old_bytes, &first, &last))
    return -EINVAL;
  int protection;
  {
    ExclusiveLock hold(g_runtime.engine);
    const Area* area = g_runtime.engine->areas().Find(first);
    if (area == nullptr) return -EFAULT;
    if (AllForeign(first, last)) return RemapForeign(*frame, first, last, area->protection);
    if (area->last < last) return -EFAULT;
    protection = area->protection;
  }
  const long map = sys::Call(SYS_mmap, to, new_bytes, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  if (sys::Failed(map)) return map;
  if ((protection & PROT_READ) == 0) GuardMprotect(from, old_bytes, PROT_READ);
  std::memcpy(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from),
              old_bytes < new_bytes ? old_bytes : new_bytes);
  if (protection != (PROT_READ | PROT_WRITE)) sys::Call(SYS_mprotect, to, new_bytes, protection);
  if ((frame->args[3] & MREMAP_DONTUNMAP) != 0) {
    GuardMadvise(from, old_bytes, MADV_DONTNEED);
  } else {
    GuardMunmap(from, old_bytes);
  }
  return static_cast<long>(to);
}

long FarMremap(GuardFrame* frame) {
  const uint64_t old_address = frame->args[0];
  const uint64_t old_bytes = frame->args[1];
  const uint64_t new_bytes = frame->args[2];
  const int flags = static_cast<int>(frame->args[3]);
  const bool to_fixed = (flags & MREMAP_FIXED) != 0;
  if (!InArena(old_address)) {
    // Near memory to a place in the arena: it stays the kernel's there, like a file mapped over far memory.
    uint64_t first, last;
    if (!ArenaRange(frame->args[4], new_bytes, &first, &last)) return -EINVAL;
    if (!EnsureStarted()) return Forward(frame);
    Engine& engine = *g_runtime.engine;
    ExclusiveLock hold(&engine);
    if (!engine.areas().HasRoom(first, last, 1)) return -ENOMEM;
    if (long r = UnmapLocked(first, last); r != 0) return r;
    const long r = Forward(frame);
    if (sys::Failed(r)) {
      Reclaim(first, last);  // It may have gone first.
    } else {
      engine.areas().Set(first, last, PROT_READ | PROT_WRITE, true);
    }
    return r;
  }
  if (!EnsureStarted()) return Forward(frame);
  if (to_fixed && !InArena(frame->args[4])) return MoveNear(frame);
  uint64_t first, last;
  if (old_bytes == 0 && flags == MREMAP_MAYMOVE) return SecondMapping(old_address, new_bytes);
  if (new_bytes == 0 || !ArenaRange(old_address, old_bytes, &first, &last)) return -EINVAL;
  const uint64_t old_pages = last - first;
  const uint64_t new_pages = PagesOf(new_bytes);
  Engine& engine = *g_runtime.engine;
  ExclusiveLock hold(&engine);
  const Area* found = engine.areas().Find(first);
  if (found == nullptr) return -EFAULT;
  const Area area = *found;
  const bool keep_old = (flags & MREMAP_DONTUNMAP) != 0;
  const bool in_place = !to_fixed && !keep_old;
  if (in_place && new_pages <= old_pages) {
    const long r = UnmapLocked(first + new_pages, last);
    return r != 0 ? r : static_cast<long>(old_address);
  }
  if (AllForeign(first, last)) return RemapForeign(*frame, first, last, area.protection);
  if (area.last < last) return -EFAULT;
  if (in_place && first + new_pages <= kArenaPages && engine.areas().Free(last, first + new_pages) &&
      (first < kBrkPages) == (first + new_pages <= kBrkPages)) {
    const long r = MapLocked(Like(area, last, first + new_pages));
    return r != 0 ? r : static_cast<long>(old_address);
  }
  if ((flags & MREMAP_MAYMOVE) == 0) return in_place ? -ENOMEM : -EINVAL;
  if (!engine.areas().HasRoom(first, last, 1)) return -ENOMEM;
  uint64_t to;
  if (to_fixed) {
    uint64_t to_last;
    if (!ArenaRange(frame->args[4], new_bytes, &to, &to_last)) return -EINVAL;
    if (to < last && to_last > first) return -EINVAL;
    if (long r = UnmapLocked(to, to_last); r != 0) return r;
  } else {
    to = FindPlace(new_pages);
    if (to == UINT64_MAX) return -ENOMEM;
  }
  if (long r = MapLocked(Like(area, to, to + new_pages)); r != 0) return r;
  const uint64_t moved = old_pages < new_pages ? old_pages : new_pages;
  // Contents move between writable mappings only.
  const auto move = [&](uint64_t from, uint64_t target) -> long {
    const uint64_t from_last = from + moved, target_last = target + moved;
    const bool writable = area.protection == (PROT_READ | PROT_WRITE);
    if (!writable) {
      if (const long r = ProtectAll(from, from_last, PROT_READ | PROT_WRITE); r != 0) return r;
      if (const long r = ProtectAll(target, target_last, PROT_READ | PROT_WRITE); r != 0) {
        Protect(from, from_last, area.protection);
        return r;
      }
    }
    if (Status s = engine.RemapLocked(from, target, moved); !s.ok()) Fatal(s);
    if (!writable) {
      Protect(from, from_last, area.protection);
      Protect(target, target_last, area.protection);
    }
    return 0;
  };
  long r = move(first, to);
  if (r == 0 && !keep_old) {
    r = UnmapLocked(first, last);
    if (r != 0) move(to, first);
  }
  if (r == 0) return static_cast<long>(AddressOf(to));
  UnmapLocked(to, to + new_pages);
  return r;
}

}  // namespace

long GuardMremap(GuardFrame* frame) {
  const bool to_far = (frame->args[3] & MREMAP_FIXED) != 0 && InArena(frame->args[4]);
  if (!InArena(frame->args[0]) && !to_far) return Forward(frame);
  return OnNearStack(&FarMremap, *frame);
}

}  // namespace farpool
