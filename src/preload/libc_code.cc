// libc's code with its system calls sent to the guard (sites.h): patched in place, or mapped as another
// process of the run has patched it. Patching costs a process a copy of every page that has a call.

#include <fcntl.h>
#include <link.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <cstring>

#include "base/elf_notes.h"
#include "base/sys.h"
#include "preload/guard.h"
#include "preload/runtime.h"
#include "preload/sites.h"
#include "run/layout.h"

namespace farpool {

namespace {

// Where the stubs are, below libc: what is shared refers to them relative to itself, so the same in every
// process; farther than libc's neighbours reach, near enough for a 32-bit jump.
constexpr uintptr_t kStubsDistance = 256 << 20;

struct Libc {
  Code code;                          // From the start of a page.
  const uint8_t* build_id = nullptr;  // Null if it has none of the usual size.
};

// What was patched, and with what.
Code g_patched;
Code g_stubs;

// libc's executable segment. By name: the address of a function of libc's may be that of an entry in the
// program.
int FindLibc(dl_phdr_info* info, size_t, void* out) {
  const char* const slash = std::strrchr(info->dlpi_name, '/');
  if (std::strcmp(slash != nullptr ? slash + 1 : info->dlpi_name, "libc.so.6") != 0) return 0;
  auto* const libc = static_cast<Libc*>(out);
  for (unsigned i = 0; i < info->dlpi_phnum; ++i) {
    const ElfW(Phdr)& header = info->dlpi_phdr[i];
    const uintptr_t begin = info->dlpi_addr + header.p_vaddr;
    if (header.p_type != PT_LOAD || (header.p_flags & PF_X) == 0) continue;
    libc->code.begin = reinterpret_cast<uint8_t*>(begin & ~(kPageBytes - 1));
    libc->code.end = reinterpret_cast<uint8_t*>(begin + header.p_memsz);
  }
  size_t bytes = 0;
  const uint8_t* const build_id = FindNote(*info, "GNU", NT_GNU_BUILD_ID, &bytes);
  if (bytes == sizeof(PatchedLibc::build_id)) libc->build_id = build_id;
  return libc->code.begin != nullptr ? 1 : 0;
}

// In whole pages.
size_t PageBytesOf(const Code& code) { return (code.bytes() + kPageBytes - 1) & ~(kPageBytes - 1); }

int SharedFile() { return g_runtime.segment->fd_base + kFdLibc; }

long Map(uintptr_t address, size_t bytes, int protection, int flags, int fd = -1, uint64_t offset = 0) {
  return sys::Call(SYS_mmap, address, bytes, protection, MAP_PRIVATE | flags, fd, offset);
}

// Patches in place. Returns the bytes of stubs used, 0 if nothing was patched.
size_t PatchInPlace(Code code, uint8_t** stubs) {
  constexpr uintptr_t kStep = 1 << 20;
  const auto begin = reinterpret_cast<uintptr_t>(code.begin);
  const size_t bytes = PageBytesOf(code);
  const auto map = [](uintptr_t address) {
    const long r = Map(address, kStubsBytes, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_FIXED_NOREPLACE);
    return sys::Failed(r) ? nullptr : reinterpret_cast<uint8_t*>(r);
  };
  *stubs = map(begin - kStubsDistance);
  for (uintptr_t below = kStep; *stubs == nullptr && below < 1024 * kStep; below += kStep)
    *stubs = map(begin - below);
  if (*stubs == nullptr) return 0;
  // Refused where the system forbids changing code (SELinux execmod): the filter alone serves then.
  if (sys::Call(SYS_mprotect, begin, bytes, PROT_READ | PROT_WRITE | PROT_EXEC) != 0) return 0;
  WriteEntries(*stubs);
  const size_t used = PatchCallSites(code, *stubs);
  sys::Call(SYS_mprotect, *stubs, kStubsBytes, PROT_READ | PROT_EXEC);
  sys::Call(SYS_mprotect, begin, bytes, PROT_READ | PROT_EXEC);
  return used;
}

// A debugger may have written breakpoints into the code already, which mapping another would lose, and
// --trace looks for the file that code is from. Where nobody can tell the code stays, too.
bool MustStay(const Code& code) {
  if ((g_runtime.segment->flags & RunSegment::kTrace) != 0) return true;
  // Documentation/admin-guide/mm/pagemap.rst
  constexpr uint64_t kOfFile = uint64_t{1} << 61, kSwapped = uint64_t{1} << 62, kPresent = uint64_t{1} << 63;
  constexpr size_t kEntryBytes = sizeof(uint64_t);
  uint64_t entries[256];
  DescriptorRoom room;
  const long fd = sys::Call(SYS_openat, AT_FDCWD, "/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  if (sys::Failed(fd)) return true;
  uint64_t at = reinterpret_cast<uintptr_t>(code.begin) / kPageBytes;
  const uint64_t end = at + PageBytesOf(code) / kPageBytes;
  bool stay = false;
  while (!stay && at < end) {
    const size_t wanted = (end - at) * kEntryBytes;
    const long got = sys::Call(SYS_pread64, fd, entries, wanted < sizeof(entries) ? wanted : sizeof(entries),
                               at * kEntryBytes);
    stay = got < static_cast<long>(kEntryBytes);
    const uint64_t count = stay ? 0 : static_cast<uint64_t>(got) / kEntryBytes;
    for (uint64_t i = 0; i < count; ++i)
      stay |= (entries[i] & (kPresent | kSwapped)) != 0 && (entries[i] & kOfFile) == 0;
    at += count;
  }
  sys::Call(SYS_close, fd);
  return stay;
}

// Descriptors that were closed are the segment's now.
bool HasSharedFile() {
  struct stat file;
  return sys::Call(SYS_fstat, SharedFile(), &file) == 0 && file.st_size == PatchedLibc::kFileBytes;
}

// Puts what was patched in place where the next processes find it. By a mapping: writing would be subject to
// the program's `ulimit -f`. kWanted if it cannot be, but the next process may try.
PatchedLibc::State Share(const Libc& libc, const uint8_t* stubs, size_t stubs_bytes) {
  PatchedLibc& shared = g_runtime.segment->libc;
  const size_t code_bytes = PageBytesOf(libc.code);
  stubs_bytes = (stubs_bytes - 1) & ~(kPageBytes - 1);  // Whole pages, without the first.
  if (code_bytes + stubs_bytes > PatchedLibc::kFileBytes) return PatchedLibc::kBeingWritten;
  const long map = sys::Call(SYS_mmap, 0, code_bytes + stubs_bytes, PROT_READ | PROT_WRITE,
                             MAP_SHARED | MAP_POPULATE, SharedFile(), 0);
  if (sys::Failed(map)) return PatchedLibc::kWanted;
  auto* const file = reinterpret_cast<uint8_t*>(map);
  std::memcpy(file, libc.code.begin, code_bytes);
  std::memcpy(file + code_bytes, stubs + kPageBytes, stubs_bytes);
  sys::Call(SYS_munmap, map, code_bytes + stubs_bytes);
  // Against whoever else has the descriptor. Not F_SEAL_WRITE, which waits for pages that are still in use.
  sys::Call(SYS_fcntl, SharedFile(), F_ADD_SEALS,
            F_SEAL_FUTURE_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
  std::memcpy(shared.build_id, libc.build_id, sizeof(shared.build_id));
  shared.code_bytes = code_bytes;
  shared.stubs_bytes = stubs_bytes;
  return PatchedLibc::kWritten;
}

// Maps what another process has shared. False if that is of another libc, or the stubs' place is taken.
bool MapShared(const Libc& libc) {
  const PatchedLibc& shared = g_runtime.segment->libc;
  if (shared.code_bytes != PageBytesOf(libc.code) ||
      std::memcmp(shared.build_id, libc.build_id, sizeof(shared.build_id)) != 0)
    return false;
  const auto begin = reinterpret_cast<uintptr_t>(libc.code.begin);
  const uintptr_t stubs = begin - kStubsDistance;
  constexpr int kRunnable = PROT_READ | PROT_EXEC;
  if (sys::Failed(Map(stubs, kPageBytes, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_FIXED_NOREPLACE)))
    return false;
  WriteEntries(reinterpret_cast<uint8_t*>(stubs));
  sys::Call(SYS_mprotect, stubs, kPageBytes, PROT_READ);
  if (sys::Failed(Map(stubs + kPageBytes, shared.stubs_bytes, kRunnable, MAP_FIXED_NOREPLACE, SharedFile(),
                      shared.code_bytes))) {
    sys::Call(SYS_munmap, stubs, kPageBytes);  // What follows may be somebody else's.
    return false;
  }
  const long r = Map(begin, shared.code_bytes, kRunnable, MAP_FIXED, SharedFile());
  // libc may be gone then; nothing of it is needed to say so.
  if (r == -ENOMEM) g_runtime.supervisor.Fatal(125, "no memory to map libc's code");
  if (sys::Failed(r)) {
    sys::Call(SYS_munmap, stubs, kPageBytes + shared.stubs_bytes);
    return false;
  }
  g_patched = libc.code;
  g_stubs.begin = reinterpret_cast<uint8_t*>(stubs);
  g_stubs.end = g_stubs.begin + kPageBytes + shared.stubs_bytes;
  return true;
}

}  // namespace

bool PatchLibc() {
  Libc libc;
  if (dl_iterate_phdr(&FindLibc, &libc) == 0) return false;
  auto& state = g_runtime.segment->libc.state;
  auto seen = state.load(std::memory_order_acquire);
  // The first process of a run leaves it to the second to share.
  const bool first = seen == PatchedLibc::kNone && state.compare_exchange_strong(seen, PatchedLibc::kWanted);
  const bool may_share = !first && (seen == PatchedLibc::kWanted || seen == PatchedLibc::kWritten) &&
                         libc.build_id != nullptr && HasSharedFile() && !MustStay(libc.code);
  if (may_share && seen == PatchedLibc::kWritten && MapShared(libc)) return true;
  uint8_t* stubs;
  const size_t used = PatchInPlace(libc.code, &stubs);
  if (used != 0) {
    g_patched = libc.code;
    g_stubs = {stubs, stubs + used};
  }
  if (may_share && used != 0 && stubs == libc.code.begin - kStubsDistance && seen == PatchedLibc::kWanted &&
      state.compare_exchange_strong(seen, PatchedLibc::kBeingWritten))
    state.store(Share(libc, stubs, used), std::memory_order_release);
  return used != 0;
}

void LeaveStub(uint64_t* rip, uint64_t* rcx) { LeaveStub(g_stubs, rip, rcx); }
uint64_t ReturnToStub(uint64_t at) { return ReturnToStub(g_patched, g_stubs, at); }
bool IsCancellable(uint64_t at) { return IsCancellable(g_patched, g_stubs, at); }

}  // namespace farpool
