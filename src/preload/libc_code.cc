// libc's code with its system calls sent to the guard (sites.h): patched in place, or mapped as another
// process of the run has patched it. Patching costs a process a copy of every page that has a call, some
// fifty.

#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <cstring>

#include "base/sys.h"
#include "preload/guard.h"
#include "preload/runtime.h"
#include "preload/sites.h"
#include "run/layout.h"

namespace farpool {

namespace {

// Where the stubs are, below libc: farther than its neighbours reach, near enough for a 32-bit jump.
constexpr uintptr_t kStubsDistance = 256 << 20;

struct Libc {
  Code code;                          // Whole pages.
  const uint8_t* build_id = nullptr;  // Null if it has none of the usual size.
};

const uint8_t* FindBuildId(const uint8_t* notes, size_t bytes) {
  for (size_t at = 0; at + sizeof(ElfW(Nhdr)) <= bytes;) {
    ElfW(Nhdr) header;
    std::memcpy(&header, notes + at, sizeof(header));
    const uint8_t* const name = notes + at + sizeof(header);
    const uint8_t* const description = name + ((header.n_namesz + 3) & ~3u);
    if (header.n_type == NT_GNU_BUILD_ID && header.n_namesz == 4 && std::memcmp(name, "GNU", 4) == 0 &&
        header.n_descsz == sizeof(PatchedLibc::build_id))
      return description;
    at = static_cast<size_t>(description - notes) + ((header.n_descsz + 3) & ~3u);
  }
  return nullptr;
}

// The executable segment that contains libc's own sched_yield.
int FindLibc(dl_phdr_info* info, size_t, void* out) {
  const auto inside = reinterpret_cast<uintptr_t>(&sched_yield);
  auto* const libc = static_cast<Libc*>(out);
  const uint8_t* build_id = nullptr;
  for (unsigned i = 0; i < info->dlpi_phnum; ++i) {
    const ElfW(Phdr)& header = info->dlpi_phdr[i];
    const uintptr_t begin = info->dlpi_addr + header.p_vaddr;
    if (header.p_type == PT_NOTE && build_id == nullptr)
      build_id = FindBuildId(reinterpret_cast<const uint8_t*>(begin), header.p_memsz);
    if (header.p_type != PT_LOAD || (header.p_flags & PF_X) == 0 || inside - begin >= header.p_memsz)
      continue;
    libc->code.begin = reinterpret_cast<uint8_t*>(begin & ~(kPageBytes - 1));
    libc->code.end =
        reinterpret_cast<uint8_t*>((begin + header.p_memsz + kPageBytes - 1) & ~(kPageBytes - 1));
  }
  libc->build_id = build_id;
  return libc->code.begin != nullptr ? 1 : 0;
}

uint8_t* MapAt(uintptr_t address, size_t bytes, int protection, int flags, uint64_t offset = 0) {
  const bool file = (flags & MAP_ANONYMOUS) == 0;
  const long map = sys::Call(SYS_mmap, address, bytes, protection, MAP_PRIVATE | flags,
                             file ? g_runtime.segment->fd_base + kFdLibc : -1, offset);
  return sys::Failed(map) ? nullptr : reinterpret_cast<uint8_t*>(map);
}

// Patches in place. Returns the bytes of stubs used, 0 if nothing was patched.
size_t PatchInPlace(Code code, uint8_t** stubs) {
  constexpr uintptr_t kStep = 1 << 20;
  const auto begin = reinterpret_cast<uintptr_t>(code.begin);
  const auto bytes = static_cast<size_t>(code.end - code.begin);
  const auto map = [](uintptr_t address) {
    return MapAt(address, kStubsBytes, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_FIXED_NOREPLACE);
  };
  *stubs = map(begin - kStubsDistance);
  for (uintptr_t below = kStep; *stubs == nullptr && below < 1024 * kStep; below += kStep)
    *stubs = map(begin - below);
  if (*stubs == nullptr) return 0;
  // Refused where the system forbids changing code (SELinux execmod): the filter alone serves then.
  if (sys::Call(SYS_mprotect, begin, bytes, PROT_READ | PROT_WRITE | PROT_EXEC) != 0) return 0;
  WriteEntries(*stubs);
  const size_t used = PatchCallSites(code, *stubs, kStubsBytes);
  sys::Call(SYS_mprotect, *stubs, kStubsBytes, PROT_READ | PROT_EXEC);
  sys::Call(SYS_mprotect, begin, bytes, PROT_READ | PROT_EXEC);
  return used;
}

// Must the code stay where it is? Debuggers have written breakpoints into it before anything runs that it
// could be patched by, and --trace looks for the file that code is from.
bool MustStay(const Code& code) {
  if ((g_runtime.segment->flags & RunSegment::kTrace) != 0) return true;
  constexpr uint64_t kSwapped = uint64_t{1} << 62, kPresent = uint64_t{1} << 63, kOfFile = uint64_t{1} << 61;
  uint64_t pages[256];  // Of /proc/PID/pagemap: Documentation/admin-guide/mm/pagemap.rst
  DescriptorRoom room;
  const long fd = sys::Call(SYS_openat, AT_FDCWD, "/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  bool written = sys::Failed(fd);
  for (const uint8_t* at = code.begin; !written && at < code.end;) {
    const auto left = static_cast<size_t>(code.end - at) / kPageBytes * sizeof(pages[0]);
    const long got = sys::Call(SYS_pread64, fd, pages, left < sizeof(pages) ? left : sizeof(pages),
                               reinterpret_cast<uintptr_t>(at) / kPageBytes * sizeof(pages[0]));
    if (got <= 0) written = true;
    for (long i = 0; i < got / static_cast<long>(sizeof(pages[0])); ++i, at += kPageBytes)
      written |= (pages[i] & kSwapped) != 0 || (pages[i] & (kPresent | kOfFile)) == kPresent;
  }
  if (!sys::Failed(fd)) sys::Call(SYS_close, fd);
  return written;
}

// Puts what was patched in place where the next processes find it. A shared mapping: writing would be subject
// to the program's `ulimit -f`.
bool Share(const Code& code, const uint8_t* stubs, size_t stubs_bytes) {
  PatchedLibc& libc = g_runtime.segment->libc;
  const int fd = g_runtime.segment->fd_base + kFdLibc;
  const auto code_bytes = static_cast<size_t>(code.end - code.begin);
  stubs_bytes = (stubs_bytes - 1) & ~(kPageBytes - 1);  // Whole pages, without the first.
  if (code_bytes + stubs_bytes > PatchedLibc::kFileBytes) return false;
  const long map = sys::Call(SYS_mmap, 0, code_bytes + stubs_bytes, PROT_READ | PROT_WRITE,
                             MAP_SHARED | MAP_POPULATE, fd, 0);
  if (sys::Failed(map)) return false;
  auto* const file = reinterpret_cast<uint8_t*>(map);
  std::memcpy(file, code.begin, code_bytes);
  std::memcpy(file + code_bytes, stubs + kPageBytes, stubs_bytes);
  sys::Call(SYS_munmap, map, code_bytes + stubs_bytes);
  libc.code_bytes = code_bytes;
  libc.stubs_bytes = stubs_bytes;
  return sys::Call(SYS_fcntl, fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0;
}

// Maps what another process has shared. False if the stubs' place is taken.
bool MapShared(const Code& code) {
  const PatchedLibc& libc = g_runtime.segment->libc;
  const auto begin = reinterpret_cast<uintptr_t>(code.begin);
  const uintptr_t stubs = begin - kStubsDistance;
  uint8_t* const entries =
      MapAt(stubs, kPageBytes, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_FIXED_NOREPLACE);
  if (entries == nullptr) return false;
  WriteEntries(entries);
  sys::Call(SYS_mprotect, stubs, kPageBytes, PROT_READ);
  if (MapAt(stubs + kPageBytes, libc.stubs_bytes, PROT_READ | PROT_EXEC, MAP_FIXED_NOREPLACE,
            libc.code_bytes) == nullptr) {
    sys::Call(SYS_munmap, stubs, kPageBytes);
    return false;
  }
  if (MapAt(begin, libc.code_bytes, PROT_READ | PROT_EXEC, MAP_FIXED) == nullptr)
    g_runtime.supervisor.Fatal(125, "mapping libc's code: out of memory");
  return true;
}

}  // namespace

bool PatchLibc() {
  Libc libc;
  if (dl_iterate_phdr(&FindLibc, &libc) == 0) return false;
  PatchedLibc& shared = g_runtime.segment->libc;
  auto state = shared.state.load(std::memory_order_acquire);
  if (state == PatchedLibc::kNone) shared.state.compare_exchange_strong(state, PatchedLibc::kWanted);
  // The first process of a run has nothing to map, and leaves it to the second to write.
  const bool may_share = state != PatchedLibc::kNone && libc.build_id != nullptr && !MustStay(libc.code);
  if (may_share && state == PatchedLibc::kWritten &&
      std::memcmp(shared.build_id, libc.build_id, sizeof(shared.build_id)) == 0 && MapShared(libc.code))
    return true;
  uint8_t* stubs;
  const size_t used = PatchInPlace(libc.code, &stubs);
  if (may_share && used != 0 && stubs == libc.code.begin - kStubsDistance && state == PatchedLibc::kWanted &&
      shared.state.compare_exchange_strong(state, PatchedLibc::kBeingWritten) &&
      Share(libc.code, stubs, used)) {
    std::memcpy(shared.build_id, libc.build_id, sizeof(shared.build_id));
    shared.state.store(PatchedLibc::kWritten, std::memory_order_release);
  }
  return used != 0;
}

}  // namespace farpool
