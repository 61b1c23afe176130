#include "supervisor/make_segment.h"

#include <cpuid.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "run/layout.h"

namespace farpool {

namespace {

constexpr uint64_t kLocalShareMin = 16u << 20;  // With --local N%.
constexpr uint64_t kThresholdDefault = 64u << 10;
// Our descriptors end here, or at the hard limit if that is lower: above those that select() takes, and not
// much, since each fork and spawn copies the table up to the last.
constexpr rlim_t kFdCeiling = 1024 + kRuntimeFds;

uint32_t XsaveBytes() {
  unsigned eax, ebx, ecx, edx;
  const bool enabled = __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_OSXSAVE) != 0 &&
                       __get_cpuid_count(0xd, 0, &eax, &ebx, &ecx, &edx) != 0;
  return enabled ? ebx : 0;
}

}  // namespace

Result<RunSegment*> MakeSegment(const RunOptions& options, const std::string& library, Fd* fd) {
  rlimit space;
  getrlimit(RLIMIT_AS, &space);
  if (space.rlim_cur < kArenaBytes) return Status::Unsupported(kNoAddressSpace);
  *fd = Fd(memfd_create("farpool-run", MFD_CLOEXEC));
  if (!fd->valid()) return Status::FromErrno("memfd_create", errno);
  if (ftruncate(fd->get(), sizeof(RunSegment)) != 0)
    return Status::FromErrno("making room for the run's shared state (a limit on file sizes, ulimit -f?)",
                             errno);
  void* map =
      mmap(nullptr, sizeof(RunSegment), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd->get(), 0);
  if (map == MAP_FAILED) return Status::FromErrno("mapping the run's shared state", errno);
  // A fresh memfd is zero, which is every member's initial state; constructing 8 GiB of sparse counters in
  // place would touch them all.
  auto* segment = static_cast<RunSegment*>(map);
  segment->magic = kSegmentMagic;
  segment->bytes = sizeof(RunSegment);
  segment->xsave_bytes = XsaveBytes();
  if (getrandom(&segment->hash_seed, sizeof(segment->hash_seed), 0) != sizeof(segment->hash_seed))
    return Status::FromErrno("getrandom", errno);
  // Not a flag: no user has a reason to be slower.
  if (const char* fill = getenv("FARPOOL_TEST_FILL"); fill != nullptr) {
    if (std::string(fill) == "copy") segment->flags |= RunSegment::kNoMove;
    if (std::string(fill) == "move") segment->flags |= RunSegment::kNoRemap;
  }
  if (options.handoff == "monitor") segment->flags |= RunSegment::kMonitor;
  if (!options.trace_path.empty()) segment->flags |= RunSegment::kTrace;
  if (library.size() >= sizeof(segment->library))
    return Status::Unsupported("the path of farpool is too long");
  if (options.near_programs.size() >= sizeof(segment->near_programs))
    return Status::InvalidArgument("--near is too long: 255 characters at most");
  memcpy(segment->library, library.c_str(), library.size() + 1);
  memcpy(segment->near_programs, options.near_programs.c_str(), options.near_programs.size() + 1);
  segment->threshold_bytes = options.threshold_bytes != 0 ? options.threshold_bytes : kThresholdDefault;
  if (options.local_bytes != 0) {
    segment->budget.limit.store(options.local_bytes / kPageBytes);
  } else {
    segment->budget.percent.store(options.local_percent);
    segment->budget.limit_min.store(kLocalShareMin / kPageBytes);
    segment->budget.limit.store(kLocalShareMin / kPageBytes);
  }
  rlimit files;
  getrlimit(RLIMIT_NOFILE, &files);
  const rlim_t ceiling = std::min(files.rlim_max, kFdCeiling);
  if (ceiling < kDescriptorsMin)
    return Status::Unsupported(("too few file descriptors: raise the hard limit (ulimit -Hn) to " +
                                std::to_string(kDescriptorsWanted))
                                   .c_str());
  segment->fd_base = static_cast<int32_t>(ceiling) - kRuntimeFds;
  return segment;
}

}  // namespace farpool
