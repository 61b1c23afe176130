#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/fd.h"
#include "base/size_text.h"
#include "cli/doctor/check.h"
#include "cli/host_memory.h"
#include "run/layout.h"

namespace farpool {

namespace {

using Verdict = Check::Verdict;

// A donor's default slab: what a lease needs at once.
constexpr uint64_t kSlabBytes = 64u << 20;
// Of addresses in each process: the engine's group table and staging area; its page table, which is a file.
constexpr uint64_t kTablesBytes = 1152u << 20;
constexpr uint64_t kPageTableBytes = uint64_t{96} << 30;
// The kernel's own default of vm.max_map_count; programs are written with it in mind.
constexpr uint64_t kUsualMapCount = 65530;

std::string LimitText(rlim_t limit) { return limit == RLIM_INFINITY ? "unlimited" : FormatSize(limit); }

void CheckAddressLimit(std::vector<Check>* checks) {
  rlimit limit = {};
  getrlimit(RLIMIT_AS, &limit);
  if (limit.rlim_cur == RLIM_INFINITY) {
    checks->push_back({"ulimit -v", Verdict::kOk, "unlimited", ""});
  } else {
    checks->push_back({"ulimit -v", Verdict::kFail, LimitText(limit.rlim_cur),
                       "Far memory reserves 16 TiB of addresses (not memory): ulimit -v unlimited."});
  }
}

void CheckDataLimit(std::vector<Check>* checks) {
  rlimit limit = {};
  getrlimit(RLIMIT_DATA, &limit);
  if (limit.rlim_cur == RLIM_INFINITY) {
    checks->push_back({"ulimit -d", Verdict::kOk, "unlimited", ""});
  } else {
    checks->push_back({"ulimit -d", limit.rlim_cur < kTablesBytes ? Verdict::kFail : Verdict::kWarn,
                       LimitText(limit.rlim_cur),
                       "Far memory counts in it, and " + FormatSize(kTablesBytes) +
                           " of addresses (not memory) for its tables: ulimit -d unlimited."});
  }
}

void CheckOvercommit(std::vector<Check>* checks) {
  const std::string mode = ReadLine("/proc/sys/vm/overcommit_memory");
  if (mode == "2") {
    checks->push_back(
        {"vm.overcommit_memory", Verdict::kWarn, "2 (never overcommit)",
         "The kernel counts far memory as if it were local and refuses it near CommitLimit: set "
         "vm.overcommit_memory to 0 or 1, or raise vm.overcommit_ratio."});
  } else {
    checks->push_back({"vm.overcommit_memory", Verdict::kOk, mode.empty() ? "unknown" : mode, ""});
  }
}

void CheckDescriptors(std::vector<Check>* checks) {
  rlimit limit = {};
  getrlimit(RLIMIT_NOFILE, &limit);
  const std::string found = fmt::format("{} (may be raised to {})", limit.rlim_cur, limit.rlim_max);
  if (limit.rlim_max < kDescriptorsWanted) {
    checks->push_back({"ulimit -n", limit.rlim_max < kDescriptorsMin ? Verdict::kFail : Verdict::kWarn, found,
                       fmt::format("Far memory takes {} of a program's, and each slab lent by shared memory "
                                   "one of its donor's: raise the hard limit (ulimit -Hn) to {} or more.",
                                   int{kRuntimeFds}, kDescriptorsWanted)});
  } else {
    checks->push_back({"ulimit -n", Verdict::kOk, found, ""});
  }
}

void CheckMapCount(std::vector<Check>* checks) {
  const std::string text = ReadLine("/proc/sys/vm/max_map_count");
  const uint64_t count = std::strtoull(text.c_str(), nullptr, 10);
  if (!text.empty() && count < kUsualMapCount) {
    checks->push_back({"vm.max_map_count", Verdict::kWarn, text,
                       "Programs with many mappings run out of them: sysctl vm.max_map_count=262144."});
  } else {
    checks->push_back({"vm.max_map_count", Verdict::kOk, text.empty() ? "unknown" : text, ""});
  }
}

void CheckSwap(std::vector<Check>* checks) {
  const uint64_t swap = ReadHostMemory().swap_total_bytes;
  if (swap == 0) {
    checks->push_back({"host swap", Verdict::kOk, "off", ""});
    return;
  }
  const std::string found = FormatSize(swap);
  if (RunningKernel() < KernelVersion{6, 16}) {
    checks->push_back(
        {"host swap", Verdict::kWarn, found,
         "Kernels before 6.16 have faults in moving pages that are in the swap cache: swapoff, or a "
         "newer kernel."});
  } else {
    checks->push_back(
        {"host swap", Verdict::kOk, found + "; the kernel may swap resident far pages as well", ""});
  }
}

void CheckZram(std::vector<Check>* checks) {
  std::error_code error;
  unsigned devices = 0;
  uint64_t bytes = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/sys/block", error)) {
    if (!entry.path().filename().string().starts_with("zram")) continue;
    const uint64_t size = std::strtoull(ReadLine(entry.path().string() + "/disksize").c_str(), nullptr, 10);
    if (size == 0) continue;  // Present but not set up.
    ++devices;
    bytes += size;
  }
  checks->push_back(
      {"zram", Verdict::kOk,
       devices == 0 ? std::string("none in use") : fmt::format("{} in use, {}", devices, FormatSize(bytes)),
       ""});
}

// "always [madvise] never" is madvise.
void CheckHugePages(std::vector<Check>* checks) {
  const std::string line = ReadLine("/sys/kernel/mm/transparent_hugepage/enabled");
  const size_t open = line.find('['), close = line.find(']');
  const std::string mode = open == std::string::npos || close == std::string::npos
                               ? "none"
                               : line.substr(open + 1, close - open - 1);
  checks->push_back(
      {"huge pages", Verdict::kOk, mode + " (far memory uses 4 KiB pages whatever this says)", ""});
}

void CheckCgroup(std::vector<Check>* checks) {
  const std::string controllers = ReadLine("/sys/fs/cgroup/cgroup.controllers");
  const HostMemory host = ReadHostMemory();
  if (host.cgroup_limit_bytes != 0) {
    checks->push_back({"memory cgroup", Verdict::kOk,
                       "limited to " + FormatSize(host.cgroup_limit_bytes) +
                           "; resident far memory and a private donor's count in it",
                       ""});
  } else if (controllers.find("memory") != std::string::npos) {
    checks->push_back({"memory cgroup", Verdict::kOk, "present, no limit on this process", ""});
  } else {
    checks->push_back(
        {"memory cgroup", Verdict::kOk, "no v2 controller; no limit is taken into account", ""});
  }
}

void CheckSharedMemory(std::vector<Check>* checks) {
  rlimit limit = {};
  getrlimit(RLIMIT_FSIZE, &limit);
  const bool file_limit = limit.rlim_cur < kPageTableBytes;
  if (file_limit) {
    checks->push_back(
        {"ulimit -f", Verdict::kFail, LimitText(limit.rlim_cur),
         "It limits memory files too, and a program's page table is a sparse one of 96 GiB: ulimit -f "
         "unlimited."});
  } else {
    checks->push_back({"ulimit -f", Verdict::kOk, LimitText(limit.rlim_cur), ""});
  }

  const Fd fd(memfd_create("farpool-doctor", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  // Growing it past the limit would end this process by SIGXFSZ.
  const bool ok = fd.valid() && (limit.rlim_cur < kSlabBytes || ftruncate(fd.get(), kSlabBytes) == 0) &&
                  fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) == 0;
  if (!ok) {
    checks->push_back(
        {"memfd", Verdict::kFail, strerror(errno),
         "Slabs are lent on this host as sealed memfds; allow memfd_create(2) in the container's "
         "seccomp profile."});
  } else {
    checks->push_back({"memfd", Verdict::kOk, "one was made and sealed", ""});
  }

  struct statvfs shm;
  checks->push_back({"/dev/shm", Verdict::kOk,
                     statvfs("/dev/shm", &shm) == 0 ? FormatSize(uint64_t{shm.f_blocks} * shm.f_frsize) +
                                                          " (does not limit farpool's memfds)"
                                                    : std::string("absent (not needed)"),
                     ""});
}

}  // namespace

void CheckLimits(std::vector<Check>* checks) {
  CheckAddressLimit(checks);
  CheckDataLimit(checks);
  CheckOvercommit(checks);
  CheckDescriptors(checks);
  CheckMapCount(checks);
  CheckSharedMemory(checks);
  CheckSwap(checks);
  CheckZram(checks);
  CheckHugePages(checks);
  CheckCgroup(checks);
}

}  // namespace farpool
