#include "preload/runtime.h"

#include <fcntl.h>
#include <link.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "base/elf_notes.h"
#include "base/sys.h"
#include "base/uffd_abi.h"
#include "preload/guard.h"
#include "preload/monitor.h"
#include "preload/thread.h"
#include "run/layout.h"

// Read by entry.S: room that xsave needs for what this CPU and kernel have enabled; 0 without xsave.
extern "C" __attribute__((visibility("hidden"))) uint32_t farpool_xsave_bytes;
uint32_t farpool_xsave_bytes;

namespace farpool {

// Before Load() below, which has the next priority.
__attribute__((init_priority(101))) Runtime g_runtime;

void KeepOutOfCore(uintptr_t address, size_t bytes) { sys::Call(SYS_madvise, address, bytes, MADV_DONTDUMP); }

namespace {

// Calls what(address, bytes) for the parts of the arena that no file of the program's is mapped over: files
// cannot be registered, and devices refuse advice.
template <typename What>
void EachOwnPart(What&& what) {
  const AreaMap& areas = g_runtime.engine->areas();
  uint64_t from = 0;
  for (size_t i = 0; i <= areas.size(); ++i) {
    const bool end = i == areas.size();
    if (!end && !areas.at(i).foreign) continue;
    const uint64_t to = end ? kArenaPages : areas.at(i).first;
    if (from < to) what(kArenaBase + from * kPageBytes, (to - from) * kPageBytes);
    if (!end) from = areas.at(i).last;
  }
}

constexpr int kExitDataLost = 74;

RunSegment* MapSegment(int fd) {
  const long map = sys::Call(SYS_mmap, kSegmentBase, sizeof(RunSegment), PROT_READ | PROT_WRITE,
                             MAP_SHARED | MAP_NORESERVE | MAP_FIXED_NOREPLACE, fd, 0);
  if (sys::Failed(map)) return nullptr;
  KeepOutOfCore(kSegmentBase, sizeof(RunSegment));
  auto* segment = reinterpret_cast<RunSegment*>(map);
  return segment->magic == kSegmentMagic && segment->bytes == sizeof(RunSegment) && segment->fd_base == fd
             ? segment
             : nullptr;
}

bool MapTrampoline() {
  const long map = sys::Call(SYS_mmap, kTrampoline, kPageBytes, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  if (sys::Failed(map)) return false;
  static const unsigned char kCode[] = {0x0f, 0x05, 0xc3};  // syscall; ret
  std::memcpy(reinterpret_cast<void*>(kTrampoline), kCode, sizeof(kCode));
  std::memcpy(reinterpret_cast<void*>(kTrampoline + sys::kProgramEntry), kCode, sizeof(kCode));
  if (sys::Call(SYS_mprotect, kTrampoline, kPageBytes, PROT_READ | PROT_EXEC) != 0) return false;
  farpool_syscall_entry = reinterpret_cast<void (*)()>(kTrampoline);
  return true;
}

}  // namespace

Status MapTable(int fd) {
  const long map = sys::Call(SYS_mmap, kTableBase, kArenaPages * sizeof(PageEntry), PROT_READ | PROT_WRITE,
                             MAP_SHARED | MAP_NORESERVE | MAP_FIXED_NOREPLACE, fd, 0);
  sys::Call(SYS_close, fd);
  if (map == -ENOMEM) return Status::Unsupported(kNoAddressSpace);
  if (sys::Failed(map)) return Status::FromErrno("mmap of the page table", static_cast<int>(-map));
  KeepOutOfCore(kTableBase, kArenaPages * sizeof(PageEntry));
  sys::Call(SYS_madvise, kTableBase, kArenaPages * sizeof(PageEntry), MADV_DONTFORK);
  return Status::Ok();
}

namespace {

Status MakeEngine() {
  struct Room {
    RemoteStore store;
    Engine engine;
  };
  const long map = sys::Call(SYS_mmap, nullptr, sizeof(Room), PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (sys::Failed(map))
    return Status::FromErrno("memory for the runtime (a limit, ulimit -d or -v?)", static_cast<int>(-map));
  sys::Call(SYS_madvise, map, sizeof(Room), MADV_NOHUGEPAGE);  // Little of it is ever touched.
  // `Room()` would clear all of it first.
  auto* const room = new (reinterpret_cast<void*>(map)) Room;
  g_runtime.store = &room->store;
  g_runtime.engine = &room->engine;
  return Status::Ok();
}

Status Start() {
  if (Status s = MakeEngine(); !s.ok()) return s;
  int table_fd = -1;
  g_runtime.supervisor.Init(g_runtime.segment);
  Result<uint32_t> process = g_runtime.supervisor.Register(&table_fd);
  if (!process.ok()) return process.status();
  if (Status s = MapTable(table_fd); !s.ok()) return s;
  const long arena = sys::Call(SYS_mmap, kArenaBase, kArenaBytes, PROT_NONE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
  if (arena == -ENOMEM) return Status::Unsupported(kNoAddressSpace);
  if (sys::Failed(arena)) return Status::FromErrno("reserving the far arena", static_cast<int>(-arena));
  int uffd = -1;
  EngineConfig config;
  if (Status s = OpenUserfault(&uffd, &config.move); !s.ok()) return s;
  // A fork that goes unnoticed would give the child zeros for absent pages, and the table by which it could
  // give back its parent's; like this it gets neither. GuardFork lifts it for the forks it serves.
  AdviseArena(MADV_DONTFORK);
  KeepOutOfCore(kArenaBase, kArenaBytes);
  g_runtime.store->Init(&g_runtime.segment->slabs, &g_runtime.supervisor);
  config.arena = reinterpret_cast<std::byte*>(kArenaBase);
  config.arena_pages = kArenaPages;
  config.table = reinterpret_cast<PageEntry*>(kTableBase);
  config.staging = reinterpret_cast<std::byte*>(kStagingBase);
  config.remap = (g_runtime.segment->flags & RunSegment::kNoRemap) == 0;
  config.uffd = uffd;
  config.hash_seed = g_runtime.segment->hash_seed;
  config.store = g_runtime.store;
  config.budget = Budget(&g_runtime.segment->budget, &g_runtime.segment->processes[process.value()].resident);
  config.stats = &g_runtime.segment->stats;
  if (Status s = g_runtime.engine->Init(config); !s.ok()) return s;
  if (g_runtime.has_device.load(std::memory_order_relaxed)) g_runtime.engine->DevicesMayPin();
  return g_runtime.monitor() ? StartMonitor() : Status::Ok();
}

}  // namespace

SignalsBlocked::SignalsBlocked(uint64_t mask) {
  sys::Call(SYS_rt_sigprocmask, 2 /*SIG_SETMASK*/, &mask, &old_, sizeof(mask));
}

SignalsBlocked::~SignalsBlocked() { sys::Call(SYS_rt_sigprocmask, 2, &old_, nullptr, sizeof(old_)); }

DescriptorRoom::DescriptorRoom() {
  static_assert(sizeof(old_) == sizeof(rlimit));
  sys::Call(SYS_prlimit64, 0, RLIMIT_NOFILE, nullptr, old_);
  if (old_[0] == old_[1]) return;
  const uint64_t raised[2] = {old_[1], old_[1]};
  sys::Call(SYS_prlimit64, 0, RLIMIT_NOFILE, raised, nullptr);
}

DescriptorRoom::~DescriptorRoom() {
  if (old_[0] != old_[1]) sys::Call(SYS_prlimit64, 0, RLIMIT_NOFILE, old_, nullptr);
}

int PlaceFd(int fd, int which) {
  DescriptorRoom room;
  const long r = sys::Call(SYS_dup3, fd, g_runtime.segment->fd_base + which, O_CLOEXEC);
  sys::Call(SYS_close, fd);
  return static_cast<int>(r);
}

void ReserveFds() {
  DescriptorRoom room;
  const int base = g_runtime.segment->fd_base;
  pollfd fds[kRuntimeFds];
  for (int i = 0; i < kRuntimeFds; ++i) fds[i] = {base + i, 0, 0};
  sys::Call(SYS_poll, fds, kRuntimeFds, 0);  // Tells of those that are closed.
  for (const pollfd& fd : fds)
    if ((fd.revents & POLLNVAL) != 0) sys::Call(SYS_dup3, base + kFdSegment, fd.fd, 0);
}

namespace {

// A userfaultfd with `features`, or -errno. Features the kernel does not know make it refuse all.
long OpenWith(uint64_t features) {
  DescriptorRoom room;
  const long fd = g_runtime.monitor()
                      ? OpenKernelUserfault()
                      : sys::Call(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
  if (fd < 0) return fd;
  uffdio_api api = {.api = UFFD_API, .features = features, .ioctls = 0};
  const long r = sys::Call(SYS_ioctl, fd, UFFDIO_API, &api);
  if (r == 0) return fd;
  sys::Call(SYS_close, fd);
  return r;
}

}  // namespace

Status OpenUserfault(int* uffd, bool* move) {
  const uint64_t needed =
      UFFD_FEATURE_PAGEFAULT_FLAG_WP | (g_runtime.monitor() ? 0 : uint64_t{UFFD_FEATURE_SIGBUS});
  *move = (g_runtime.segment->flags & RunSegment::kNoMove) == 0;
  long fd = *move ? OpenWith(needed | UFFD_FEATURE_MOVE) : -EINVAL;
  if (fd == -EINVAL) {
    *move = false;
    fd = OpenWith(needed);
  }
  if (fd == -EPERM || fd == -ENOSYS)
    return Status::Unsupported(
        "userfaultfd is not allowed here (a container's seccomp profile?); see farpool doctor");
  if (fd == -EINVAL)
    return Status::Unsupported(
        "this kernel's userfaultfd is too old; Linux 5.11 or newer is needed (see farpool doctor)");
  if (fd < 0) return Status::FromErrno("userfaultfd", static_cast<int>(-fd));
  if (!*move) g_runtime.segment->copies.store(true, std::memory_order_relaxed);
  g_runtime.register_mode = UFFDIO_REGISTER_MODE_MISSING | (*move ? 0 : UFFDIO_REGISTER_MODE_WP);
  *uffd = PlaceFd(static_cast<int>(fd), kFdUserfault);
  long failed = 0;
  EachOwnPart([&](uint64_t address, uint64_t bytes) {
    uffdio_register reg = {.range = {address, bytes}, .mode = g_runtime.register_mode, .ioctls = 0};
    if (long r = sys::Call(SYS_ioctl, *uffd, UFFDIO_REGISTER, &reg); r != 0) failed = r;
  });
  return failed == 0 ? Status::Ok() : Status::FromErrno("UFFDIO_REGISTER", static_cast<int>(-failed));
}

void AdviseArena(int advice) {
  EachOwnPart([advice](uint64_t address, uint64_t bytes) { sys::Call(SYS_madvise, address, bytes, advice); });
}

void Fatal(const Status& status) { g_runtime.supervisor.Fatal(kExitDataLost, status.text()); }

bool EnsureStarted() {
  if (g_runtime.has_started()) return true;
  MutexLock hold(&g_runtime.start_lock);
  if (g_runtime.started.load(std::memory_order_relaxed)) return true;
  if (g_runtime.near) return false;
  const Status s = Start();
  // Nobody took the registration.
  if (s.code() == Status::Code::kUnavailable) {
    g_runtime.near = true;
    return false;
  }
  if (!s.ok()) g_runtime.supervisor.Fatal(125, s.text());
  g_runtime.started.store(true, std::memory_order_release);
  return true;
}

namespace {

// Before libc's own constructor (the library is linked with -z initfirst), so there is no getenv() yet.
const char* FindVariable(char** environment, const char* name) {
  const size_t bytes = std::strlen(name);
  for (; *environment != nullptr; ++environment)
    if (std::strncmp(*environment, name, bytes) == 0 && (*environment)[bytes] == '=')
      return *environment + bytes + 1;
  return nullptr;
}

// `*` is any text, `?` one character; [pattern, end) against all of `text`.
bool Matches(const char* pattern, const char* end, const char* text) {
  for (; pattern != end; ++pattern, ++text) {
    if (*pattern == '*') {
      for (;; ++text) {
        if (Matches(pattern + 1, end, text)) return true;
        if (*text == 0) return false;
      }
    }
    if (*text == 0 || (*pattern != '?' && *pattern != *text)) return false;
  }
  return *text == 0;
}

// Does the list (commas between) name the file that this process executes?
bool StaysNear(const char* list) {
  char path[4096];
  const long bytes = *list == 0 ? 0 : sys::Call(SYS_readlink, "/proc/self/exe", path, sizeof(path) - 1);
  if (bytes <= 0) return false;
  path[bytes] = 0;
  const char* const name = std::strrchr(path, '/') + 1;
  for (const char* at = list;;) {
    const char* const end = at + std::strcspn(at, ",");
    if (Matches(at, end, name)) return true;
    if (*end == 0) return false;
    at = end + 1;
  }
}

// Go's runtime makes system calls by instructions of its own, also those for signals and their stacks, which
// no filter can tell from a static program's; and what it calls has a few hundred bytes of stack. It is left
// alone.
bool HasGo() {
  const auto has_go = [](dl_phdr_info* file, size_t, void*) {
    size_t bytes;
    return FindNote(*file, kGoNote, kGoBuildId, &bytes) != nullptr ? 1 : 0;
  };
  return dl_iterate_phdr(has_go, nullptr) != 0;
}

// Valgrind makes the program's system calls and signals its own; under it everything is near. It answers this
// request, which does nothing elsewhere (Valgrind manual, "The Client Request mechanism").
bool OnValgrind() {
  constexpr uint64_t kRunningOnValgrind = 0x1001;
  const uint64_t request[6] = {kRunningOnValgrind};
  uint64_t answer = 0;
  asm volatile("rol $3, %%rdi; rol $13, %%rdi; rol $61, %%rdi; rol $51, %%rdi; xchg %%rbx, %%rbx"
               : "+d"(answer)
               : "a"(request)
               : "cc", "memory");
  return answer != 0;
}

__attribute__((constructor(102))) void Load(int, char**, char** environment) {
  const char* fd_text = FindVariable(environment, "FARPOOL_RUNTIME_FD");
  if (fd_text == nullptr || OnValgrind()) return;
  const int fd = atoi(fd_text);
  g_runtime.segment = MapSegment(fd);
  if (g_runtime.segment == nullptr) return;  // Not our run (an inherited variable, a closed descriptor).
  if (!MapTrampoline()) {
    g_runtime.segment = nullptr;
    return;
  }
  g_runtime.supervisor.Init(g_runtime.segment);
  farpool_xsave_bytes = g_runtime.segment->xsave_bytes;
  ReserveFds();
  if (HasGo()) return;  // What it starts has the environment to know us by.
  if (farpool_xsave_bytes + 1024 > Thread::kFrameBytes)
    g_runtime.supervisor.Fatal(125, "this CPU's registers do not fit the signal frames farpool knows");
  InstallHandlers();
  g_runtime.near = StaysNear(g_runtime.segment->near_programs);
  // While what the loader allocates for it is near: far memory may need it.
  if (!g_runtime.near)
    if (Status s = g_runtime.supervisor.LoadVerbs(); !s.ok()) g_runtime.supervisor.Fatal(125, s.text());
  if (!PatchLibc()) return;  // Then exec is not ours either, and the environment must stay.
  HideEnvironment(environment);
  if (!g_runtime.near) TakeOverBreak();
  errno = 0;  // As the program finds it; malloc was refused something.
}

}  // namespace

}  // namespace farpool
