// memory [MiB]: what the calls that concern mappings answer, good and bad, and that contents are what they
// should be afterwards; between large mappings, small ones and files.

#include <fcntl.h>
#include <linux/perf_event.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cerrno>

#include "far.h"
#include "farpool/hints.h"

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kLarge = 1 << 20;
constexpr size_t kSmall = 8 * kPage;

char* Map(size_t bytes, uint64_t key, int protection = PROT_READ | PROT_WRITE) {
  auto* at =
      static_cast<char*>(mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  CHECK(at != MAP_FAILED, "mmap");
  for (size_t i = 0; i < bytes; ++i) at[i] = static_cast<char>(Mix(key + i));
  CHECK(mprotect(at, bytes, protection) == 0, "mprotect");
  return at;
}
void VerifyZero(const char* at, size_t bytes, const char* what) {
  for (size_t i = 0; i < bytes; ++i) CHECK(at[i] == 0, "%s: byte %zu", what, i);
}

template <typename Call>
void Report(const char* name, Call call) {
  errno = 0;
  const long r = call();
  printf("memory: %s: %s\n", name, r == -1 ? strerrorname_np(errno) : "ok");
}

// Bad arguments are refused as ever, and nothing changes.
void Errors() {
  char* at = Map(kLarge, 1);
  char* hole = Map(kLarge, 2);
  CHECK(munmap(hole + kLarge / 2, kPage) == 0, "munmap");
  void* const fixed = at + kLarge / 2;
  const auto address = [](void* p) { return p == MAP_FAILED ? -1L : 0L; };
  Stir();
  Report("mmap of nothing", [&] { return address(mmap(nullptr, 0, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)); });
  Report("mmap over a mapping", [&] {
    return address(mmap(fixed, kPage, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0));
  });
  Report("mmap of very much at a place", [&] {
    constexpr size_t kMuch = size_t{9} << 40;
    void* const place = reinterpret_cast<void*>(0x340000000000);
    void* const got = mmap(place, kMuch, PROT_NONE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    return got == place ? munmap(place, kMuch) : address(got);
  });
  const int file = memfd_create("file", 0);
  CHECK(file >= 0 && ftruncate(file, kPage) == 0, "memfd_create");
  Report("mmap of no file over a mapping",
         [&] { return address(mmap(fixed, kPage, 3, MAP_SHARED | MAP_FIXED, 999, 0)); });
  Report("mmap of a file into a hole", [&] {
    return address(mmap(hole + kLarge / 2, kPage, 3, MAP_SHARED | MAP_FIXED_NOREPLACE, file, 0));
  });
  CHECK(munmap(hole + kLarge / 2, kPage) == 0 && close(file) == 0, "the file's mapping");
  Report("munmap off a page", [&] { return munmap(at + 1, kPage); });
  Report("munmap of nothing", [&] { return munmap(at, 0); });
  Report("mprotect off a page", [&] { return mprotect(at + 1, kPage, PROT_READ); });
  Report("mprotect of nothing", [&] { return mprotect(at, 0, PROT_READ); });
  Report("mprotect of a hole", [&] { return mprotect(hole + kLarge / 2, kPage, PROT_READ); });
  Report("mprotect over a hole", [&] { return mprotect(hole + kLarge / 2 - kPage, 3 * kPage, PROT_READ); });
  for (const char* part : {hole + kLarge / 2 - kPage, hole + kLarge / 2 + kPage})
    Report("writing there", [&] { return syscall(SYS_getrandom, part, 8, 0); });
  CHECK(mprotect(hole + kLarge / 2 - kPage, kPage, PROT_READ | PROT_WRITE) == 0, "mprotect");
  Report("madvise off a page", [&] { return madvise(at + 1, kPage, MADV_DONTNEED); });
  Report("madvise of a hole", [&] { return madvise(hole + kLarge / 2, kPage, MADV_DONTNEED); });
  Report("madvise over a hole", [&] { return madvise(hole + kLarge / 2 - kPage, 3 * kPage, MADV_DONTNEED); });
  VerifyZero(hole + kLarge / 2 - kPage, kPage, "before the hole");
  VerifyZero(hole + kLarge / 2 + kPage, kPage, "behind the hole");
  Report("msync off a page", [&] { return msync(at + 1, kPage, MS_SYNC); });
  Report("msync nonsense", [&] { return msync(at, kPage, 64); });
  Report("msync both ways", [&] { return msync(at, kPage, MS_SYNC | MS_ASYNC); });
  Report("msync over a hole", [&] { return msync(hole, kLarge, MS_SYNC); });
  Report("madvise nonsense", [&] { return madvise(at, kPage, 9999); });
  Report("mremap of a hole",
         [&] { return address(mremap(hole + kLarge / 2, kPage, 2 * kPage, MREMAP_MAYMOVE)); });
  Report("mremap to nothing", [&] { return address(mremap(at, kLarge, 0, MREMAP_MAYMOVE)); });
  Report("mremap over itself", [&] {
    return address(
        mremap(at, kLarge / 2, kLarge / 2, MREMAP_MAYMOVE | MREMAP_FIXED, static_cast<void*>(at + kPage)));
  });
  Report("mincore off a page", [&] {
    unsigned char one;
    return mincore(at + 1, kPage, &one);
  });
  Report("mincore of a hole", [&] {
    unsigned char one;
    return mincore(hole + kLarge / 2, kPage, &one);
  });
  Verify(at, kLarge, 1, "after errors");
  Verify(hole, kLarge / 2 - kPage, 2, "before the hole");
  munmap(at, kLarge);
  munmap(hole, kLarge);
}

// What is there counts as there; what is locked, synchronised or bound keeps its contents.
void Advice() {
  char* at = Map(kLarge, 3);
  auto* here = FarArray<unsigned char>(kLarge / kPage);
  Stir();
  CHECK(mincore(at, kLarge, here) == 0, "mincore: %s", strerror(errno));
  for (size_t i = 0; i < kLarge / kPage; ++i) CHECK((here[i] & 1) == 1, "mincore: page %zu", i);
  CHECK(mlock(at, kLarge) == 0 || errno == ENOMEM || errno == EPERM, "mlock: %s", strerror(errno));
  CHECK(munlock(at, kLarge) == 0, "munlock: %s", strerror(errno));
  CHECK(msync(at, kLarge, MS_SYNC) == 0, "msync: %s", strerror(errno));
  CHECK(syscall(SYS_mbind, at, kLarge, 0, nullptr, 0, 0) == 0 || errno == ENOSYS || errno == EPERM,
        "mbind: %s", strerror(errno));
  for (const int advice : {MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_DONTDUMP, MADV_DODUMP, MADV_MERGEABLE})
    CHECK(madvise(at, kLarge, advice) == 0 || errno == EINVAL, "advice %d: %s", advice, strerror(errno));
  // Not for every kind of memory: what is told to have it must.
  char* forgotten = Map(kLarge, 4);
  const bool wiped = madvise(forgotten, kLarge, MADV_WIPEONFORK) == 0;
  CHECK(wiped || errno == EINVAL, "MADV_WIPEONFORK: %s", strerror(errno));
  Stir();
  const pid_t child = fork();
  if (child == 0) {
    if (wiped) {
      VerifyZero(forgotten, kLarge, "MADV_WIPEONFORK");
    } else {
      Verify(forgotten, kLarge, 4, "no MADV_WIPEONFORK");
    }
    Verify(at, kLarge, 3, "child");
    _exit(0);
  }
  int status;
  CHECK(waitpid(child, &status, 0) == child && status == 0, "child: %x", static_cast<unsigned>(status));
  // What is sealed can be used, but not unmapped.
  char* sealed = Map(kLarge, 12);
  constexpr int kMseal = 462;
  CHECK(syscall(kMseal, sealed, kLarge, 0) == 0 || errno == ENOSYS || errno == EPERM, "mseal: %s",
        strerror(errno));
  Stir();
  Verify(sealed, kLarge, 12, "mseal");
  Verify(at, kLarge, 3, "after advice");
  CHECK(madvise(at, kLarge / 2, MADV_DONTNEED) == 0, "MADV_DONTNEED");
  CHECK(madvise(at, kLarge, MADV_POPULATE_WRITE) == 0 || errno == EINVAL, "MADV_POPULATE_WRITE");
  VerifyZero(at, kLarge / 2, "MADV_DONTNEED");
  Verify(at + kLarge / 2, kLarge / 2, 3 + kLarge / 2, "behind MADV_DONTNEED");
  CHECK(madvise(at, kLarge, MADV_FREE) == 0, "MADV_FREE: %s", strerror(errno));
  Stir();
  for (size_t i = kLarge / 2; i < kLarge; ++i)
    CHECK(at[i] == 0 || at[i] == static_cast<char>(Mix(3 + i)), "MADV_FREE: byte %zu", i);
  munmap(at, kLarge);
  munmap(forgotten, kLarge);
  printf("memory: advice\n");
}

// Mappings that move between places of both kinds.
void Moves() {
  for (const int protection : {PROT_READ | PROT_WRITE, PROT_READ}) {
    char* large = Map(kLarge, 5);
    char* small = Map(kSmall, 6, protection);
    char* place = large + kLarge / 2;
    Stir();
    CHECK(mremap(small, kSmall, kSmall, MREMAP_MAYMOVE | MREMAP_FIXED, place) == place,
          "into a large one: %s", strerror(errno));
    Stir();
    Verify(large, kLarge / 2, 5, "before what moved in");
    Verify(place, kSmall, 6, "what moved in");
    Verify(place + kSmall, kLarge / 2 - kSmall, 5 + kLarge / 2 + kSmall, "behind what moved in");
    munmap(large, kLarge);

    large = Map(kLarge, 7, protection);
    place = Map(kSmall, 8);
    Stir();
    CHECK(mremap(large, kSmall, kSmall, MREMAP_MAYMOVE | MREMAP_FIXED, place) == place,
          "out of a large one: %s", strerror(errno));
    Stir();
    Verify(place, kSmall, 7, "what moved out");
    Verify(large + kSmall, kLarge - kSmall, 7 + kSmall, "behind what moved out");
    munmap(place, kSmall);
    munmap(large + kSmall, kLarge - kSmall);
  }
  char* at = Map(kLarge, 9);
  Stir();
  auto* moved = static_cast<char*>(mremap(at, kLarge, kLarge, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, nullptr));
  CHECK(moved != MAP_FAILED && moved != at, "MREMAP_DONTUNMAP: %s", strerror(errno));
  Verify(moved, kLarge, 9, "MREMAP_DONTUNMAP");
  VerifyZero(at, kLarge, "what MREMAP_DONTUNMAP leaves");
  munmap(at, kLarge);
  munmap(moved, kLarge);
  printf("memory: moves\n");
}

// What was written to the mapping at `at` and is not in its file yet, as the kernel counts.
long DirtyKib(const void* at) {
  char start[32], line[256];
  snprintf(start, sizeof(start), "%lx-", reinterpret_cast<unsigned long>(at));
  FILE* maps = fopen("/proc/self/smaps", "r");
  CHECK(maps != nullptr, "smaps");
  bool inside = false;
  long dirty = 0, kib;
  while (fgets(line, sizeof(line), maps) != nullptr) {
    if (strncmp(line, start, strlen(start)) == 0) inside = true;
    if (inside &&
        (sscanf(line, "Shared_Dirty: %ld", &kib) == 1 || sscanf(line, "Private_Dirty: %ld", &kib) == 1))
      dirty += kib;
    if (strncmp(line, "VmFlags:", 8) == 0) inside = false;
  }
  fclose(maps);
  return dirty;
}

// System V memory takes the place of far memory as a whole or not at all.
void Attached() {
  char* large = Map(kLarge, 14);
  const int id = shmget(IPC_PRIVATE, kPage, 0600);
  CHECK(id >= 0, "shmget: %s", strerror(errno));
  Stir();
  void* const at = shmat(id, large + 8 * kPage, SHM_REMAP);
  if (at == reinterpret_cast<void*>(-1)) {
    CHECK(errno == EINVAL, "shmat: %s", strerror(errno));
    Verify(large, kLarge, 14, "not attached");
  } else {
    VerifyZero(large + 8 * kPage, kPage, "attached");
  }
  CHECK(shmctl(id, IPC_RMID, nullptr) == 0, "shmctl");
  munmap(large, kLarge);
  printf("memory: attached\n");
}

// A ring that a driver shares, over far memory: others refuse advice on such, and a child must have all the
// rest.
void Rings() {
  char* large = Map(kLarge, 15);
  perf_event_attr event = {};
  event.size = sizeof(event);
  event.type = PERF_TYPE_SOFTWARE;
  event.config = PERF_COUNT_SW_CPU_CLOCK;
  event.exclude_kernel = 1;
  const auto fd = static_cast<int>(syscall(SYS_perf_event_open, &event, 0, -1, -1, 0));
  if (fd >= 0)
    CHECK(mmap(large + 64 * kPage, 2 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) !=
              MAP_FAILED,
          "mmap of a ring: %s", strerror(errno));
  Stir();
  for (int i = 0; i < 2; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      Verify(large, 64 * kPage, 15, "child, before the ring");
      Verify(large + 66 * kPage, kLarge - 66 * kPage, 15 + 66 * kPage, "child, behind the ring");
      _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0, "child: %x", static_cast<unsigned>(status));
  }
  if (fd >= 0) close(fd);
  Verify(large, 64 * kPage, 15, "before the ring");
  Verify(large + 66 * kPage, kLarge - 66 * kPage, 15 + 66 * kPage, "behind the ring");
  munmap(large, kLarge);
  CHECK(mmap(large, kLarge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == large,
        "mmap: %s", strerror(errno));
  VerifyZero(large, kLarge, "where the ring was");
  munmap(large, kLarge);
  printf("memory: rings\n");
}

// Files over parts of a large mapping.
void Files() {
  char name[] = "/tmp/farpool-memory-XXXXXX";
  const int fd = mkstemp(name);
  CHECK(fd >= 0 && unlink(name) == 0, "mkstemp");
  char content[2 * kPage];
  for (size_t i = 0; i < sizeof(content); ++i) content[i] = static_cast<char>(Mix(10 + i));
  CHECK(write(fd, content, sizeof(content)) == sizeof(content), "write");
  char* large = Map(kLarge, 11);
  char* shared = large + 4 * kPage;
  char* copied = large + 100 * kPage;
  CHECK(mmap(shared, 2 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == shared, "shared");
  CHECK(mmap(copied, 2 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd, 0) == copied, "copied");
  Stir();
  shared[5] = 'a';
  copied[6] = 'b';
  CHECK(pread(fd, content, sizeof(content), 0) == sizeof(content) && content[5] == 'a', "the file");
  CHECK(msync(large, kLarge, MS_SYNC) == 0, "msync: %s", strerror(errno));
  printf("memory: %ld kB of the file still to be written\n", DirtyKib(shared));
  const pid_t child = fork();
  if (child == 0) {
    CHECK(shared[5] == 'a' && copied[6] == 'b', "child");
    shared[7] = 'c';
    copied[6] = 'd';
    Verify(large + 8 * kPage, 80 * kPage, 11 + 8 * kPage, "child");
    _exit(0);
  }
  int status;
  CHECK(waitpid(child, &status, 0) == child && status == 0, "child: %x", static_cast<unsigned>(status));
  CHECK(shared[7] == 'c' && copied[6] == 'b' && copied[7] == static_cast<char>(Mix(17)), "after the child");
  // A call from a buffer that is of both kinds.
  CHECK(pwrite(fd, large + 3 * kPage, 4 * kPage, 8 * kPage) == 4 * kPage, "pwrite");
  auto* read_back = static_cast<char*>(FarRoom(4 * kPage));
  CHECK(pread(fd, read_back, 4 * kPage, 8 * kPage) == 4 * kPage, "pread");
  CHECK(memcmp(read_back, large + 3 * kPage, 4 * kPage) == 0, "what was written");
  CHECK(mmap(shared, 2 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
            shared,
        "anonymous again");
  VerifyZero(shared, 2 * kPage, "anonymous again");
  Stir();
  Verify(large, 4 * kPage, 11, "before the file");
  munmap(large, kLarge);
  close(fd);
  printf("memory: files\n");
}

// A file's mapping grows, shrinks and goes elsewhere, and is still the file's; what it leaves is as before
// it.
void MovedFiles() {
  constexpr int kPages = 64;
  char name[] = "/tmp/farpool-memory-XXXXXX";
  const int fd = mkstemp(name);
  CHECK(fd >= 0 && unlink(name) == 0 && ftruncate(fd, kPages * kPage) == 0, "mkstemp");
  char* const large = Map(kLarge, 12);
  char* at = large + 4 * kPage;
  int version = 0;
  const auto verify = [&](int pages) {
    ++version;
    for (int i = 0; i < pages; ++i) at[i * kPage] = static_cast<char>(version + i);
    char byte;
    for (int i = 0; i < pages; ++i)
      CHECK(pread(fd, &byte, 1, i * kPage) == 1 && byte == static_cast<char>(version + i),
            "page %d of the file after %d moves", i, version - 1);
  };
  CHECK(mmap(at, 4 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == at, "shared");
  verify(4);
  CHECK(mremap(at, 2 * kPage, 2 * kPage, 0) == at, "neither: %s", strerror(errno));
  CHECK(mprotect(at + kPage, kPage, PROT_READ) == 0, "mprotect: %s", strerror(errno));
  CHECK(mprotect(at + kPage, kPage, PROT_READ | PROT_WRITE) == 0, "mprotect: %s", strerror(errno));
  auto* const again = static_cast<char*>(mremap(at, 0, 2 * kPage, MREMAP_MAYMOVE));
  CHECK(again != MAP_FAILED && again != at && again[kPage] == at[kPage], "once more: %s", strerror(errno));
  CHECK(munmap(again, 2 * kPage) == 0, "munmap");
  at = static_cast<char*>(mremap(at, 4 * kPage, 5 * kPage, MREMAP_MAYMOVE));
  CHECK(at != MAP_FAILED && at != large + 4 * kPage, "move: %s", strerror(errno));
  verify(5);
  CHECK(
      mremap(at, 5 * kPage, 4 * kPage, MREMAP_MAYMOVE | MREMAP_FIXED, large + 4 * kPage) == large + 4 * kPage,
      "and back: %s", strerror(errno));
  at = large + 4 * kPage;
  verify(4);
  CHECK(mremap(at, 4 * kPage, 2 * kPage, 0) == at, "shrink: %s", strerror(errno));
  verify(2);
  CHECK(mmap(at + 2 * kPage, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
            at + 2 * kPage,
        "behind it: %s", strerror(errno));
  VerifyZero(at + 2 * kPage, kPage, "behind it");
  CHECK(mremap(at, 2 * kPage, 4 * kPage, 0) == MAP_FAILED && errno == ENOMEM, "grown over another mapping");
  CHECK(munmap(at + 2 * kPage, 8 * kPage) == 0, "munmap");
  CHECK(mremap(at, 2 * kPage, 8 * kPage, 0) == at, "grow: %s", strerror(errno));
  verify(8);
  char* const left = at;
  at = static_cast<char*>(mremap(left, 8 * kPage, 2 * kLarge, MREMAP_MAYMOVE));
  CHECK(at != MAP_FAILED, "grow and move: %s", strerror(errno));
  verify(kPages);
  CHECK(mmap(left, 6 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == left,
        "where it was: %s", strerror(errno));
  VerifyZero(left, 6 * kPage, "where it was");
  memset(left, 1, 6 * kPage);
  char* const beside = large + 30 * kPage;
  CHECK(mremap(at, kPages * kPage, kPages * kPage, MREMAP_MAYMOVE | MREMAP_FIXED, beside) == beside,
        "over other memory: %s", strerror(errno));
  CHECK(munmap(at + kPages * kPage, 2 * kLarge - kPages * kPage) == 0, "munmap");
  at = beside;
  verify(kPages);
  auto* const near = static_cast<char*>(mmap(nullptr, 8 * kPage, PROT_NONE, MAP_SHARED, fd, 0));
  CHECK(mremap(at, 8 * kPage, 8 * kPage, MREMAP_MAYMOVE | MREMAP_FIXED, near) == near, "near: %s",
        strerror(errno));
  at = near;
  verify(8);
  Stir();
  for (size_t i = 0; i < 6 * kPage; ++i) CHECK(left[i] == 1, "where it was, byte %zu", i);
  Verify(large, 4 * kPage, 12, "before the file");
  munmap(near, 8 * kPage);
  munmap(large, kLarge);
  close(fd);
  printf("memory: moved files\n");
}

// More mappings than there may be: calls fail, and what there is goes on.
void TooMany() {
  constexpr size_t kMany = size_t{1} << 29;
  char name[] = "/tmp/farpool-memory-XXXXXX";
  const int fd = mkstemp(name);
  CHECK(fd >= 0 && unlink(name) == 0 && write(fd, "file", 4) == 4, "mkstemp");
  char* const undumped = Map(kLarge, 15);
  CHECK(madvise(undumped, kLarge, MADV_DONTDUMP) == 0, "madvise: %s", strerror(errno));
  char* moving = Map(kLarge, 16);
  char* const around = Map(kLarge, 17);
  char* const mapped = around + 8 * kPage;
  CHECK(mmap(mapped, kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == mapped, "a file");
  auto* const at = static_cast<char*>(
      mmap(nullptr, kMany, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  CHECK(at != MAP_FAILED, "mmap: %s", strerror(errno));
  memset(at, 1, kPage);
  size_t end = kPage;
  while (end < kMany && mprotect(at + end, kPage, PROT_NONE) == 0) end += 2 * kPage;
  CHECK(end < kMany && errno == ENOMEM, "mprotect without an end: %s", strerror(errno));
  VerifyZero(at + end, kPage, "what could not be protected");
  at[end] = 5;
  for (size_t i = 2 * kPage; i < end; i += 64 * 1024) memset(at + i, 2, kPage);
  CHECK(at[0] == 1 && at[end] == 5, "what was there");
  // Nothing that cuts a mapping in two can be given back.
  char* const middle = at + end + 4 * kPage;
  middle[0] = 6;
  CHECK(munmap(middle, kPage) == -1 && errno == ENOMEM && middle[0] == 6, "a hole: %s", strerror(errno));
  // What is refused has changed nothing; what is not is done.
  if (munmap(undumped + 64 * kPage, kPage) != 0) Verify(undumped, kLarge, 15, "kept out of core files");
  for (size_t pages = 1; pages < 200; pages += 20) {
    void* const moved = mremap(moving + 8 * kPage, kPage, pages * kPage, MREMAP_MAYMOVE);
    const char* const here = moved != MAP_FAILED ? static_cast<char*>(moved) : moving + 8 * kPage;
    Verify(here, kPage, 16 + 8 * kPage, "moved or not");
    if (here != moving + 8 * kPage) break;
  }
  if (munmap(mapped, kPage) != 0) {
    CHECK(errno == ENOMEM && memcmp(mapped, "file", 4) == 0, "the file: %s", strerror(errno));
  } else if (mmap(mapped, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
             mapped) {
    VerifyZero(mapped, kPage, "where the file was");
  }
  CHECK(munmap(at + kPage, end - 2 * kPage) == 0, "munmap: %s", strerror(errno));
  CHECK(mprotect(at, kPage, PROT_READ) == 0 && at[0] == 1, "mprotect: %s", strerror(errno));
  CHECK(munmap(at, kMany) == 0, "munmap: %s", strerror(errno));
  Verify(around, 8 * kPage, 17, "before the file");
  Verify(moving, 8 * kPage, 16, "before what moved");
  munmap(undumped, kLarge);
  munmap(around, kLarge);
  munmap(moving, kLarge);
  close(fd);
  printf("memory: too many\n");
}

// What ZGC does: address space for one heap that it sees at three places, a power of two apart, and no other
// will do. Where it is, it is as good as any.
void Insisting() {
  constexpr uint64_t kViews[] = {uint64_t{1} << 42, uint64_t{1} << 43, uint64_t{1} << 44};
  constexpr size_t kBytes = 64 << 20;
  const auto reserve_at = [](uint64_t address) {
    void* const map = mmap(reinterpret_cast<void*>(address), kBytes, PROT_NONE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(map != MAP_FAILED, "mmap: %s", strerror(errno));
    if (reinterpret_cast<uint64_t>(map) == address) return true;
    CHECK(munmap(map, kBytes) == 0, "munmap");
    return false;
  };
  // Those that were used were not given back for their place.
  char* used = nullptr;
  for (int i = 0; i < 100; ++i) {
    used = static_cast<char*>(mmap(reinterpret_cast<void*>(kViews[0] / 2), kBytes, PROT_NONE,
                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    CHECK(used != MAP_FAILED && mprotect(used, kPage, PROT_READ | PROT_WRITE) == 0, "mmap: %s",
          strerror(errno));
    used[0] = 1;
    if (i < 99) munmap(used, kBytes);
  }
  CHECK(!farpool_active() || farpool_is_far(used), "near, though it was used");
  munmap(used, kBytes);
  uint64_t offset = 0;
  const auto reserve = [&] {
    for (int view = 0; view < 3; ++view) {
      if (reserve_at(kViews[view] + offset)) continue;
      while (view-- > 0) munmap(reinterpret_cast<void*>(kViews[view] + offset), kBytes);
      return false;
    }
    return true;
  };
  while (!reserve()) {
    offset += kBytes;
    CHECK(offset < 4096 * kBytes, "not where the program wants it");
  }
  auto* words = reinterpret_cast<uint64_t*>(kViews[2] + offset);
  CHECK(mprotect(words, kBytes, PROT_READ | PROT_WRITE) == 0, "mprotect: %s", strerror(errno));
  for (size_t i = 0; i < kBytes / 8; i += 512) words[i] = Mix(i);
  Stir();
  for (size_t i = 0; i < kBytes / 8; i += 512) CHECK(words[i] == Mix(i), "word %zu", i);
  for (const uint64_t view : kViews)
    CHECK(munmap(reinterpret_cast<void*>(view + offset), kBytes) == 0, "munmap");
  printf("memory: insisting\n");
}

// What a generator of code asks for: memory that jumps from the program's own reach.
void ByCode() {
  const auto code = reinterpret_cast<intptr_t>(&ByCode);
  constexpr size_t kBytes = 64 << 10;
  constexpr intptr_t kReach = intptr_t{1} << 31;
  char* at = nullptr;
  for (int i = 1; i <= 64 && at == nullptr; ++i) {
    void* const hint = reinterpret_cast<void*>((code + i * (intptr_t{8} << 20)) & ~intptr_t{0xffff});
    void* const map = mmap(hint, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(map != MAP_FAILED, "mmap: %s", strerror(errno));
    const intptr_t distance = reinterpret_cast<intptr_t>(map) - code;
    if (distance > -kReach && distance < kReach)
      at = static_cast<char*>(map);
    else
      munmap(map, kBytes);
  }
  CHECK(at != nullptr, "no memory within reach of the code");
  memset(at, 0xc3, kBytes);
  CHECK(mprotect(at, kBytes, PROT_READ | PROT_EXEC) == 0, "mprotect: %s", strerror(errno));
  reinterpret_cast<void (*)()>(at + 100)();
  CHECK(munmap(at, kBytes) == 0, "munmap");
  puts("memory: code beside the program's own");
}

// A driver that has its memory mapped may pin pages of the program's.
void Devices() {
  char* large = Map(kLarge, 12);
  const int fd = open("/dev/zero", O_RDWR);
  CHECK(fd >= 0, "open");
  void* device = mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  CHECK(device != MAP_FAILED, "mmap of a device");
  VerifyZero(static_cast<char*>(device), kPage, "the device");
  Stir();
  Verify(large, kLarge, 12, "beside a device");
  munmap(device, kPage);
  munmap(large, kLarge);
  close(fd);
  printf("memory: devices\n");
}

// A limit below what is mapped forbids new mappings only.
void Limited() {
  char* large = Map(kLarge, 13);
  for (const auto resource : {RLIMIT_AS, RLIMIT_DATA}) {
    rlimit limit;
    CHECK(getrlimit(resource, &limit) == 0, "getrlimit");
    limit.rlim_cur = 16 << 20;
    CHECK(setrlimit(resource, &limit) == 0, "setrlimit");
    Stir();
    Verify(large, kLarge, 13, "below a limit");
    limit.rlim_cur = limit.rlim_max;
    CHECK(setrlimit(resource, &limit) == 0, "setrlimit back");
  }
  munmap(large, kLarge);
  printf("memory: limited\n");
}

}  // namespace

int main(int argc, char** argv) {
  CHECK(errno == 0, "errno at the start: %d", errno);
  setvbuf(stdout, nullptr, _IOLBF, 0);
  StirInit(Argument(argc, argv, 1, 24));
  Errors();
  Advice();
  Moves();
  Files();
  Attached();
  Rings();
  Limited();
  MovedFiles();
  TooMany();
  Insisting();
  ByCode();
  Devices();
  printf("memory: all verified\n");
  return 0;
}
