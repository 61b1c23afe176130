// The program's mappings in the far arena. Each call does what the kernel's own would, on the program's
// address space (mprotect of a part of the reservation), on the area map and on the page contents, under the
// engine's lock. mremap.cc: mremap.

#include <linux/mman.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <cerrno>
#include <iterator>

#include "base/sys.h"
#include "farpool/hints.h"
#include "preload/arena.h"
#include "preload/core_files.h"
#include "preload/guard.h"
#include "preload/prefetcher.h"
#include "preload/runtime.h"
#include "preload/thread.h"
#include "run/layout.h"

// Of glibc.
extern "C" {
__attribute__((weak)) void* __libc_malloc(size_t bytes);
__attribute__((weak)) void __libc_free(void* memory);
__attribute__((weak)) extern uint64_t __curbrk;
}

namespace farpool {

namespace {

static_assert(FARPOOL_FAR_BASE == kArenaBase && FARPOOL_FAR_BYTES == kArenaBytes);

uint64_t g_brk_pages = 0;  // Of the far heap, mapped now. Guarded by the engine's lock.
bool g_brk_refused = false;
bool g_taking_over = false;  // TakeOverBreak(): what libc maps now stays near.

// The far parts of the calls below run on the near stack, since they hold the engine's lock.

bool PrivateAnonymous(int flags) { return (flags & MAP_ANONYMOUS) != 0 && (flags & MAP_TYPE) == MAP_PRIVATE; }
bool Fixed(int flags) { return (flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) != 0; }

// Near, wherever the program would like it: nothing is put into the arena by itself.
long NearMmap(GuardFrame* frame) {
  if (!Fixed(static_cast<int>(frame->args[3])) && InArena(frame->args[0])) frame->args[0] = 0;
  return Forward(frame);
}

// Reservations of one size, each given back as it was because it was not where the program wanted it.
struct Insisting {
  uint64_t pages = 0;
  uint64_t first = UINT64_MAX;  // Of the last one, until it is given back.
  unsigned times = 0;
} g_insisting;  // Under the engine's lock.

// Whether a program that asks for `pages` of address space takes them nowhere but where it asks: by now it
// has given back more of them than one that merely prefers a place would. (The JVM gives up after 19 at most,
// for compressed pointers; ZGC before Java 21 tries 8186 times.)
bool Insists(uint64_t pages) {
  constexpr unsigned kTimes = 64;
  if (g_insisting.pages != pages || g_insisting.first != UINT64_MAX) g_insisting = {.pages = pages};
  return g_insisting.times >= kTimes;
}

// [first, last) is the last of them, and nobody can have used it.
bool GivesBackReserved(uint64_t first, uint64_t last) {
  if (first != g_insisting.first || last - first != g_insisting.pages) return false;
  uint64_t from = first;
  for (Area part; FirstPart(from, last, &part); from = part.last)
    if (part.foreign || part.protection != PROT_NONE) return false;
  return true;
}

long FarMmap(GuardFrame* frame) {
  const uint64_t address = frame->args[0];
  const uint64_t bytes = frame->args[1];
  const int protection = static_cast<int>(frame->args[2]) & (PROT_READ | PROT_WRITE | PROT_EXEC);
  const int flags = static_cast<int>(frame->args[3]);
  if (!EnsureStarted()) return NearMmap(frame);
  Engine& engine = *g_runtime.engine;
  ExclusiveLock hold(&engine);
  uint64_t first, last;
  if (Fixed(flags)) {
    if (!ArenaRange(address, bytes, &first, &last)) return -EINVAL;
    if ((flags & MAP_FIXED_NOREPLACE) != 0 && !engine.areas().Free(first, last)) return -EEXIST;
    if (PrivateAnonymous(flags)) {
      if (long r = UnmapLocked(first, last); r != 0) return r;
      const long r = MapLocked(first, last, protection);
      return r != 0 ? r : static_cast<long>(address);
    }
    // A file or shared memory over a part of far memory: the kernel's, and near. Mapped elsewhere first: what
    // cannot be mapped leaves what there was.
    if (!engine.areas().HasRoom(first, last, 1)) return -ENOMEM;
    frame->args[0] = 0;
    frame->args[3] = static_cast<uint64_t>(flags & ~(MAP_FIXED | MAP_FIXED_NOREPLACE));
    const long elsewhere = Forward(frame);
    if (sys::Failed(elsewhere)) return elsewhere;
    long r = UnmapLocked(first, last);
    if (r == 0) r = sys::Call(SYS_mremap, elsewhere, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, address);
    if (sys::Failed(r)) {
      sys::Call(SYS_munmap, elsewhere, bytes);
      return r;
    }
    engine.areas().Set(first, last, protection, true);
    return r;
  }
  const uint64_t pages = PagesOf(bytes);
  const bool elsewhere = address != 0 && !InArena(address) && protection == PROT_NONE;
  if (elsewhere && Insists(pages)) return NearMmap(frame);
  const bool hint_is_free = InArena(address) &&
                            ArenaRange(address & ~(kPageBytes - 1), bytes, &first, &last) &&
                            first >= kBrkPages && engine.areas().Free(first, last);
  if (!hint_is_free) first = FindPlace(pages);
  if (first == UINT64_MAX) return -ENOMEM;
  const long r = MapLocked(first, first + pages, protection);
  if (r != 0) return r;
  if (elsewhere) g_insisting.first = first;
  return static_cast<long>(AddressOf(first));
}

long FarMunmap(GuardFrame* frame) {
  const uint64_t address = frame->args[0];
  const uint64_t bytes = frame->args[1];
  uint64_t first, last;
  if (!ArenaRange(address, bytes, &first, &last)) return -EINVAL;
  if (!EnsureStarted()) return sys::Call(SYS_munmap, address, bytes);
  ExclusiveLock hold(g_runtime.engine);
  const bool given_back = GivesBackReserved(first, last);
  const long r = UnmapLocked(first, last);
  if (r == 0 && given_back) {
    g_insisting.first = UINT64_MAX;
    ++g_insisting.times;
  }
  return r;
}

// mprotect of far pages.
long SetProtection(uint64_t first, uint64_t last, int protection) {
  Engine& engine = *g_runtime.engine;
  ExclusiveLock hold(&engine);
  // Like the kernel: up to what is not mapped.
  const uint64_t wanted = last;
  last = engine.areas().CoveredTo(first, last);
  if (first == last || !engine.areas().HasRoom(first, last)) return -ENOMEM;
  if (const long r = ProtectAll(first, last, protection); r != 0) return r;
  // A foreign part keeps its mark: set what is ours piece by piece.
  for (uint64_t page = first; page < last;) {
    Area area = PartOf(page, last);
    const bool told = !area.foreign && !area.undumped;
    if (told && protection == PROT_NONE && area.protection != PROT_NONE)
      LeaveOutOfCoreFiles(area.first, area.last);
    if (told && protection != PROT_NONE && area.protection == PROT_NONE)
      PutIntoCoreFiles(area.first, area.last);
    area.protection = protection & 7;
    engine.areas().Set(area);
    page = area.last;
  }
  return last == wanted ? 0 : -ENOMEM;
}

long FarMprotect(GuardFrame* frame) {
  const uint64_t address = frame->args[0];
  const uint64_t bytes = frame->args[1];
  const int protection = static_cast<int>(frame->args[2]);
  uint64_t first, last;
  if (bytes == 0) return address % kPageBytes == 0 ? 0 : -EINVAL;
  if (!ArenaRange(address, bytes, &first, &last)) return address % kPageBytes != 0 ? -EINVAL : -ENOMEM;
  if (!EnsureStarted()) return sys::Call(SYS_mprotect, address, bytes, protection);
  Engine& engine = *g_runtime.engine;
  const long r = SetProtection(first, last, protection);
  if (r != 0 && r != -ENOMEM) return r;
  if (Status s = engine.BecameWritable(first, last); !s.ok()) Fatal(s);
  return r;
}

// Advice on how [first, last) will be used; contents do not change.
long Advise(uint64_t first, uint64_t last, int advice) {
  Engine& engine = *g_runtime.engine;
  switch (advice) {
    case MADV_WILLNEED:
      engine.WillNeed(first, last);
      CallPrefetcher();
      return 0;
    case MADV_COLD:
      engine.EvictFirst(first, last);
      return 0;
    case MADV_PAGEOUT:
      if (Status s = engine.EvictNow(first, last); !s.ok()) Fatal(s);
      return 0;
    default:
      break;
  }
  const Access access = advice == MADV_RANDOM       ? Access::kRandom
                        : advice == MADV_SEQUENTIAL ? Access::kSequential
                                                    : Access::kNormal;
  ExclusiveLock hold(&engine);
  for (uint64_t page = first; page < last;) {
    if (engine.areas().size() > kAreasMax / 2) return 0;  // The rest of the room is for mappings.
    if (engine.areas().Find(page) == nullptr) return -ENOMEM;
    Area area = PartOf(page, last);
    area.access = access;
    if (!engine.areas().Set(area)) return -ENOMEM;
    page = area.last;
  }
  return 0;
}

// msync of far pages: files of the program's that are mapped there are written.
long FarMsync(GuardFrame* frame) {
  const uint64_t address = frame->args[0];
  const uint64_t bytes = frame->args[1];
  const uint64_t flags = frame->args[2];
  if (address % kPageBytes != 0 || (flags & ~uint64_t{MS_ASYNC | MS_INVALIDATE | MS_SYNC}) != 0 ||
      ((flags & MS_ASYNC) != 0 && (flags & MS_SYNC) != 0))
    return -EINVAL;
  uint64_t first, last;
  if (bytes == 0) return 0;
  if (!ArenaRange(address, bytes, &first, &last)) return -ENOMEM;
  if (!EnsureStarted()) return sys::Call(SYS_msync, address, bytes, flags);
  Engine& engine = *g_runtime.engine;
  long result = 0;
  for (uint64_t page = first; page < last;) {
    Area part;
    {
      MutexLock hold(engine.lock());
      const bool found = FirstPart(page, last, &part);
      if (!found || part.first != page) result = -ENOMEM;  // Like the kernel: but what is mapped is written.
      if (!found) break;
    }
    // Without the lock: it waits for the disk.
    if (part.foreign)
      if (long r = sys::Call(SYS_msync, AddressOf(part.first), (part.last - part.first) * kPageBytes, flags);
          r != 0)
        return r;
    page = part.last;
  }
  return result;
}

long FarMadvise(GuardFrame* frame) {
  const uint64_t address = frame->args[0];
  const uint64_t bytes = frame->args[1];
  uint64_t first, last;
  if (bytes == 0) return address % kPageBytes == 0 ? 0 : -EINVAL;
  if (!ArenaRange(address, bytes, &first, &last)) return address % kPageBytes != 0 ? -EINVAL : -ENOMEM;
  if (!EnsureStarted()) return sys::Call(SYS_madvise, address, bytes, frame->args[2]);
  Engine& engine = *g_runtime.engine;
  const int advice = static_cast<int>(frame->args[2]);
  switch (advice) {
    case MADV_DONTNEED:
    case 24 /*MADV_DONTNEED_LOCKED*/:
    case MADV_FREE: {
      ExclusiveLock hold(&engine);
      // Like the kernel: what is mapped, even if not all is.
      const bool covered = engine.areas().Covered(first, last);
      for (Area part; FirstPart(first, last, &part); first = part.last) {
        if (part.foreign) {
          sys::Call(SYS_madvise, AddressOf(part.first), (part.last - part.first) * kPageBytes, advice);
        } else {
          engine.DiscardLocked(part.first, part.last);
        }
      }
      return covered ? 0 : -ENOMEM;
    }
    case MADV_NORMAL:
    case MADV_RANDOM:
    case MADV_SEQUENTIAL:
    case MADV_WILLNEED:
    case MADV_COLD:
    case MADV_PAGEOUT: {
      {
        MutexLock hold(engine.lock());
        if (!engine.areas().Covered(first, last)) return -ENOMEM;
      }
      return Advise(first, last, advice);
    }
    case MADV_DONTDUMP:
    case MADV_DODUMP: {
      ExclusiveLock hold(&engine);
      if (!engine.areas().Covered(first, last)) return -ENOMEM;
      for (uint64_t page = first; page < last;) {
        Area area = PartOf(page, last);
        page = area.last;
        if (area.foreign) {
          sys::Call(SYS_madvise, AddressOf(area.first), (area.last - area.first) * kPageBytes, advice);
          continue;
        }
        area.undumped = advice == MADV_DONTDUMP;
        if (!engine.areas().HasRoom(area.first, area.last)) return -EAGAIN;
        if (area.undumped && !LeaveOutOfCoreFiles(area.first, area.last)) return -EAGAIN;
        engine.areas().Set(area);
        if (!area.undumped && area.protection != PROT_NONE) PutIntoCoreFiles(area.first, area.last);
      }
      return 0;
    }
    case MADV_HUGEPAGE:
    case MADV_NOHUGEPAGE:
    case MADV_DOFORK:
    case MADV_MERGEABLE:
    case MADV_UNMERGEABLE:
    case MADV_COLLAPSE:
      return 0;  // Contents do not change.
    case MADV_POPULATE_READ:
    case MADV_POPULATE_WRITE:
      return MakePresent(address, bytes) ? 0 : -ENOMEM;
    default:
      return -EINVAL;
  }
}

long FarBrk(GuardFrame* frame) {
  const uint64_t address = frame->args[0];
  if (!EnsureStarted()) return static_cast<long>(AddressOf(g_brk_pages));  // malloc maps instead.
  ExclusiveLock hold(g_runtime.engine);
  const uint64_t pages = PagesOf(address - kArenaBase);
  if (pages > kBrkPages) return static_cast<long>(AddressOf(g_brk_pages));
  if (pages > g_brk_pages) {
    if (MapLocked(g_brk_pages, pages, PROT_READ | PROT_WRITE) != 0)
      return static_cast<long>(AddressOf(g_brk_pages));
  } else if (pages < g_brk_pages) {
    if (UnmapLocked(pages, g_brk_pages) != 0) return static_cast<long>(AddressOf(g_brk_pages));
  }
  g_brk_pages = pages;
  return static_cast<long>(address);
}

// Devices that may pin a program's pages: see Engine::DevicesMayPin().
long DeviceMayPin(GuardFrame*) {
  g_runtime.segment->devices.store(true, std::memory_order_relaxed);
  MutexLock hold(&g_runtime.start_lock);
  g_runtime.has_device.store(true, std::memory_order_relaxed);
  if (!g_runtime.has_started()) return 0;  // Start() will look.
  g_runtime.engine->DevicesMayPin();
  const ExclusiveLock wait(g_runtime.engine);  // An eviction that is under way ends first.
  return 0;
}

bool DevicesKnown() { return g_runtime.has_device.load(std::memory_order_relaxed); }

// Drivers that pin a program's pages have it map something of theirs (and AF_XDP is refused).
long NoteMapping(GuardFrame* frame) {
  struct stat file;
  if (sys::Call(SYS_fstat, frame->args[4], &file) != 0 || S_ISREG(file.st_mode)) return 0;
  return DeviceMayPin(frame);
}

}  // namespace

// Or they are asked by these before anything is mapped: RDMA, VFIO and iommufd, V4L2, vhost, DRM, and the
// drivers of NVIDIA and AMD GPUs (Documentation/userspace-api/ioctl/ioctl-number.rst).
void NoteIoctl(const GuardFrame& frame) {
  const auto type = static_cast<unsigned char>(frame.args[1] >> 8);
  if (type != 0x1b && type != ';' && type != 'V' && type != 0xaf && type != 'd' && type != 'F' && type != 'K')
    return;
  if (!DevicesKnown()) OnNearStack(&DeviceMayPin, frame);
}

namespace {

// Generators of code (LuaJIT) ask for memory within reach of a jump from the program's code or a library's,
// and try again and again until they have it. Allocators, whose hint is the end of what they have, ask for
// more at a time.
constexpr uint64_t kCodeMax = 128 << 10;
bool IsByCode(uint64_t hint) {
  constexpr uint64_t kReach = uint64_t{2} << 30;
  const auto reaches = [hint](uint64_t code) { return hint - code + kReach < 2 * kReach; };
  // The runtime's own code lies among the libraries'.
  return hint != 0 && (reaches(reinterpret_cast<uintptr_t>(&IsByCode)) || reaches(getauxval(AT_PHDR)));
}

}  // namespace

long GuardMmap(GuardFrame* frame) {
  const uint64_t bytes = frame->args[1];
  const int flags = static_cast<int>(frame->args[3]);
  constexpr int kNearFlags = MAP_STACK | MAP_GROWSDOWN | MAP_HUGETLB | MAP_32BIT | MAP_LOCKED;
  if ((flags & MAP_ANONYMOUS) == 0 && (flags & MAP_TYPE) != MAP_PRIVATE && !DevicesKnown())
    OnNearStack(&NoteMapping, *frame);
  const bool near = Fixed(flags) ? !InArena(frame->args[0])
                                 : !PrivateAnonymous(flags) || (flags & kNearFlags) != 0 ||
                                       bytes < g_runtime.segment->threshold_bytes ||
                                       bytes > kArenaBytes / 2 || (frame->args[2] & PROT_EXEC) != 0 ||
                                       (bytes < kCodeMax && IsByCode(frame->args[0])) || g_taking_over ||
                                       g_runtime.near;
  return near ? NearMmap(frame) : OnNearStack(&FarMmap, *frame);
}

long GuardMunmap(uint64_t address, uint64_t bytes) {
  if (!InArena(address)) return sys::Call(SYS_munmap, address, bytes);
  return OnNearStack(&FarMunmap, {0, {address, bytes}, 0});
}

long GuardMprotect(uint64_t address, uint64_t bytes, int protection) {
  if (!InArena(address)) {
    const GuardFrame call = {SYS_mprotect, {address, bytes, static_cast<uint64_t>(protection)}, 0};
    return Forward(&call);
  }
  return OnNearStack(&FarMprotect, {0, {address, bytes, static_cast<uint64_t>(protection)}, 0});
}

long GuardMadvise(uint64_t address, uint64_t bytes, int advice) {
  if (advice == FARPOOL_ADVICE_ACTIVE && bytes == 0) return g_runtime.near ? -EINVAL : 0;
  if (!InArena(address)) return sys::Call(SYS_madvise, address, bytes, advice);
  return OnNearStack(&FarMadvise, {0, {address, bytes, static_cast<uint64_t>(advice)}, 0});
}

long GuardMsync(const GuardFrame* frame) {
  return InArena(frame->args[0]) ? OnNearStack(&FarMsync, *frame) : Forward(frame);
}

// libc remembers the break it was told last and asks for growth from there. Its malloc takes a heap that goes
// on somewhere else only after one growth was refused (it then stops to rely on one contiguous heap and helps
// itself with a 1 MiB mapping, which stays near: small programs never need more). So: provoke one growth,
// refuse it, and tell libc that the break is at the start of the arena.
void TakeOverBreak() {
  if (&__libc_malloc == nullptr || &__libc_free == nullptr || &__curbrk == nullptr) return;
  // The first finds no heap, and stays on its first page. Should there be one already, it needs larger ones,
  // below malloc's threshold for a mapping of its own.
  constexpr size_t kProbeBytes[] = {2000, 120 * 1024, 120 * 1024, 120 * 1024};
  void* probes[std::size(kProbeBytes)];
  unsigned count = 0;
  g_taking_over = true;
  for (; !g_brk_refused && count < std::size(kProbeBytes); ++count)
    probes[count] = __libc_malloc(kProbeBytes[count]);
  while (count > 0) __libc_free(probes[--count]);
  g_taking_over = false;
  if (g_brk_refused) __curbrk = kArenaBase;
}

long GuardBrk(uint64_t address) {
  if (InArena(address)) return OnNearStack(&FarBrk, {0, {address}, 0});
  if (address != 0) g_brk_refused = true;
  return sys::Call(SYS_brk, 0);
}

namespace {

// [args[0], args[1]), see KeepNear.
long KeepPagesNear(GuardFrame* frame) {
  Engine& engine = *g_runtime.engine;
  const uint64_t last = PageOf(frame->args[1] + kPageBytes - 1);
  for (uint64_t page = PageOf(frame->args[0]); page < last;) {
    MakePresent(AddressOf(page), kPageBytes);
    ExclusiveLock hold(&engine);
    const Area* area = engine.areas().Find(page);
    if (area != nullptr && !area->foreign && area->protection != PROT_NONE) {
      if (!engine.areas().HasRoom(page, page + 1)) return -ENOMEM;
      if (const long r = Unregister(page, page + 1); r != 0) return r;
      if (!engine.LetGoLocked(page, page + 1)) {  // Evicted in between.
        Register(page, page + 1);
        continue;
      }
      engine.areas().Set(page, page + 1, area->protection, true);
      sys::Call(SYS_madvise, AddressOf(page), kPageBytes, MADV_DOFORK);
    }
    ++page;
  }
  return 0;
}

}  // namespace

long KeepNear(uintptr_t begin, uintptr_t end) { return OnNearStack(&KeepPagesNear, {0, {begin, end}, 0}); }

}  // namespace farpool
