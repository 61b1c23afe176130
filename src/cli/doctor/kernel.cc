// Tries what the fault engine does, in small: a userfaultfd in SIGBUS mode, a page moved into a registered
// range, a fault answered by a signal, a seccomp filter, the arena's reservation.

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "base/fd.h"
#include "base/uffd_abi.h"
#include "cli/doctor/check.h"
#include "farpool/hints.h"
#include "farpool/types.h"

namespace farpool {

namespace {

using Verdict = Check::Verdict;

std::string ErrnoText(int error) { return strerror(error); }

// Closes and unmaps by itself, for trials with many ways out.
struct Mapped {
  void* base = MAP_FAILED;
  size_t bytes = 0;
  Mapped(void* at, size_t size, int protection, int flags)
      : base(mmap(at, size, protection, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0)), bytes(size) {}
  ~Mapped() {
    if (base != MAP_FAILED) munmap(base, bytes);
  }
  Mapped(const Mapped&) = delete;
  bool valid() const { return base != MAP_FAILED; }
  uint64_t address() const { return reinterpret_cast<uintptr_t>(base); }
};

Fd OpenUffd() { return Fd(static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY))); }

// The features this kernel has; 0 with errno set where that cannot be told.
uint64_t UffdFeatures() {
  const Fd uffd = OpenUffd();
  uffdio_api api = {.api = UFFD_API, .features = 0, .ioctls = 0};
  if (!uffd.valid() || ioctl(uffd.get(), UFFDIO_API, &api) != 0) return 0;
  return api.features;
}

// A userfaultfd in SIGBUS mode that watches `range`; invalid with errno set.
Fd WatchWithSigbus(const Mapped& range) {
  Fd uffd = OpenUffd();
  if (!uffd.valid()) return uffd;
  uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_SIGBUS, .ioctls = 0};
  uffdio_register watch = {
      .range = {range.address(), range.bytes}, .mode = UFFDIO_REGISTER_MODE_MISSING, .ioctls = 0};
  if (ioctl(uffd.get(), UFFDIO_API, &api) != 0 || ioctl(uffd.get(), UFFDIO_REGISTER, &watch) != 0)
    return Fd();
  return uffd;
}

// 0, or the errno of the step that failed.
int TryMove() {
  Mapped to(nullptr, kPageBytes, PROT_READ | PROT_WRITE, 0);
  Mapped from(nullptr, kPageBytes, PROT_READ | PROT_WRITE, 0);
  if (!to.valid() || !from.valid()) return errno;
  const Fd uffd = WatchWithSigbus(to);
  if (!uffd.valid()) return errno;
  // A page that THP made part of a huge one would have to be split first.
  madvise(from.base, from.bytes, MADV_NOHUGEPAGE);
  memset(from.base, 0x5a, kPageBytes);
  uffdio_move move = {.dst = to.address(), .src = from.address(), .len = kPageBytes, .mode = 0, .move = 0};
  if (ioctl(uffd.get(), UFFDIO_MOVE, &move) != 0) return errno;
  return static_cast<unsigned char*>(to.base)[kPageBytes - 1] == 0x5a ? 0 : EIO;
}

// Runs `trial` in a forked child and returns its answer (0 to 254), or 255 where it did not come back.
template <typename Trial>
int InChild(Trial trial) {
  const pid_t pid = fork();
  if (pid < 0) return 255;
  if (pid == 0) _exit(trial());
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

constexpr int kSigbusCame = 77;

// kSigbusCame if a touch of an absent watched page raises SIGBUS in the touching thread; else an errno, or 0.
int TrySigbus() {
  return InChild([] {
    Mapped range(nullptr, kPageBytes, PROT_READ | PROT_WRITE, 0);
    if (!range.valid()) return errno;
    const Fd uffd = WatchWithSigbus(range);
    if (!uffd.valid()) return errno;
    struct sigaction act = {};
    act.sa_handler = [](int) { _exit(kSigbusCame); };
    sigaction(SIGBUS, &act, nullptr);
    alarm(2);  // A kernel that makes us wait for an event instead.
    *static_cast<volatile char*>(range.base) = 1;
    return 0;
  });
}

// 0 or an errno.
int TrySeccomp() {
  return InChild([] {
    sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    const sock_fprog program = {.len = 1, .filter = &allow};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return errno;
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) != 0) return errno;
    return 0;
  });
}

bool UnderSeccompFilter() {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("Seccomp:")) return line.find('2') != std::string::npos;
  return false;
}

void CheckUserfaultfd(std::vector<Check>* checks) {
  const int error = OpenUffd().valid() ? 0 : errno;
  if (error != 0) {
    std::string advice;
    if (UnderSeccompFilter()) {
      advice =
          "A seccomp filter is around this process; Docker's default one refuses userfaultfd. Start the "
          "container "
          "with --security-opt seccomp=PROFILE.json that allows userfaultfd, or with --security-opt "
          "seccomp=unconfined.";
    } else if (error == ENOSYS) {
      advice = "This kernel is built without CONFIG_USERFAULTFD; use one that has it, such as Debian's.";
    } else {
      advice =
          "Something around this process (a security module, a container, a kernel before 5.11) refuses "
          "userfaultfd(2). In a container, allow it with --security-opt seccomp=PROFILE.json.";
    }
    checks->push_back({"userfaultfd", Verdict::kFail, "refused: " + ErrnoText(error), advice});
    return;
  }
  checks->push_back({"userfaultfd", Verdict::kOk, "open to this user (user mode faults)", ""});

  const uint64_t features = UffdFeatures();
  const int sigbus = TrySigbus();
  if ((features & UFFD_FEATURE_SIGBUS) != 0 && sigbus == kSigbusCame) {
    checks->push_back({"direct hand-off", Verdict::kOk, "an absent page raises SIGBUS in the thread", ""});
  } else {
    checks->push_back(
        {"direct hand-off", Verdict::kFail,
         sigbus == 0 || sigbus == 255 ? "no SIGBUS for an absent page"
                                      : "UFFD_FEATURE_SIGBUS: " + ErrnoText(sigbus),
         "farpool resolves faults in the thread that touches a page; use Linux 5.11 or later."});
  }

  const int move = TryMove();
  if (move == 0) {
    checks->push_back({"UFFDIO_MOVE", Verdict::kOk, "a page was moved", ""});
  } else {
    checks->push_back({"UFFDIO_MOVE", Verdict::kWarn,
                       (features & UFFD_FEATURE_MOVE) == 0 ? "not in this kernel" : ErrnoText(move),
                       "Pages are copied instead, which is slower; Linux 6.8 or later moves them."});
  }

  // Both matter to event hand-off alone, so neither is more than a remark.
  const std::string sysctl = ReadLine("/proc/sys/vm/unprivileged_userfaultfd");
  checks->push_back({"unprivileged_userfaultfd", Verdict::kOk,
                     (sysctl.empty() ? "no such setting" : sysctl) + " (only --handoff monitor needs it)",
                     ""});
  const bool device = access("/dev/userfaultfd", R_OK | W_OK) == 0;
  checks->push_back(
      {"/dev/userfaultfd", Verdict::kOk,
       (device ? std::string("accessible") : ErrnoText(errno)) + " (only --handoff monitor needs it)", ""});
}

void CheckArena(std::vector<Check>* checks) {
  Mapped arena(reinterpret_cast<void*>(FARPOOL_FAR_BASE), FARPOOL_FAR_BYTES, PROT_NONE,
               MAP_NORESERVE | MAP_FIXED_NOREPLACE);
  // Read before anything else can change it. Kernels before 4.17 take the address as a hint.
  const int error = arena.valid() ? 0 : errno;
  if (error == 0 && arena.address() == FARPOOL_FAR_BASE) {
    const Fd uffd = WatchWithSigbus(arena);
    if (uffd.valid()) {
      checks->push_back({"address space", Verdict::kOk, "16 TiB reserved and watched", ""});
    } else {
      checks->push_back({"address space", Verdict::kFail, "16 TiB reserved, not watched: " + ErrnoText(errno),
                         "Far memory needs userfaultfd on its whole range; see the checks above."});
    }
    return;
  }
  checks->push_back(
      {"address space", Verdict::kFail,
       "16 TiB at 0x300000000000: " + (error == 0 ? "another place was given" : ErrnoText(error)),
       "Far memory lies in one reserved range. Lift the limit on address space (ulimit -v "
       "unlimited); a sanitizer or emulator that owns this range cannot be combined with farpool."});
}

}  // namespace

KernelVersion RunningKernel() {
  utsname name;
  KernelVersion version;
  if (uname(&name) != 0 || std::sscanf(name.release, "%u.%u", &version.major, &version.minor) != 2) return {};
  return version;
}

std::string ReadLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

void CheckKernel(std::vector<Check>* checks) {
  utsname name;
  const std::string release = uname(&name) == 0 ? name.release : "unknown";
  const KernelVersion version = RunningKernel();
  if (version < KernelVersion{5, 11}) {
    checks->push_back({"kernel", Verdict::kFail, release, "farpool needs Linux 5.11 or later."});
  } else if (version < KernelVersion{6, 8}) {
    checks->push_back({"kernel", Verdict::kWarn, release,
                       "Works, but Linux 6.8 or later moves pages instead of copying them."});
  } else {
    checks->push_back({"kernel", Verdict::kOk, release, ""});
  }

  if (access("/proc/self/exe", R_OK) == 0) {
    checks->push_back({"/proc", Verdict::kOk, "mounted", ""});
  } else {
    checks->push_back(
        {"/proc", Verdict::kFail, ErrnoText(errno),
         "farpool run finds itself and the program's processes there: mount -t proc proc /proc."});
  }

  CheckUserfaultfd(checks);

  const int seccomp = TrySeccomp();
  if (seccomp == 0) {
    checks->push_back({"seccomp filter", Verdict::kOk, "can be installed", ""});
  } else {
    checks->push_back(
        {"seccomp filter", Verdict::kFail, seccomp == 255 ? "the trial was killed" : ErrnoText(seccomp),
         "System calls on far memory are prepared with the help of a seccomp filter: use a kernel "
         "with CONFIG_SECCOMP_FILTER and a container that allows seccomp(2)."});
  }
  CheckArena(checks);
}

}  // namespace farpool
