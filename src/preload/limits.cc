// The program's limit on descriptors, and what it does with all of them. The runtime's own lie above most
// programs' and are made when they are needed, so a program that lowers its hard limit (memcached) must not
// lower the kernel's. What it set is remembered and told; the soft limit, which the kernel enforces, is the
// program's in any case.

#include <linux/close_range.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>

#include "base/sys.h"
#include "preload/prepare.h"
#include "preload/runtime.h"
#include "run/layout.h"

namespace farpool {

namespace {
constexpr uint64_t kNotLowered = ~uint64_t{0};
std::atomic<uint64_t> g_hard_limit{kNotLowered};  // What the program believes, where the kernel's is higher.
}  // namespace

// Around the runtime's: the filter answers ENOSYS to a range across them, and libc's closefrom() would go on
// until the last one is closed.
long GuardCloseRange(const GuardFrame* frame) {
  const auto first = static_cast<uint32_t>(frame->args[0]), last = static_cast<uint32_t>(frame->args[1]);
  const auto own = static_cast<uint32_t>(g_runtime.segment->fd_base);
  const uint32_t own_last = own + kRuntimeFds - 1;
  const auto flags = static_cast<uint32_t>(frame->args[2]);
  if (first > last || (flags & ~(CLOSE_RANGE_UNSHARE | CLOSE_RANGE_CLOEXEC)) != 0) return -EINVAL;
  // A table of descriptors of its own a thread does not get: the runtime's would be in one of the two.
  if (last < own || first > own_last || (flags & CLOSE_RANGE_UNSHARE) != 0) return Forward(frame);
  GuardFrame part = *frame;
  long r = 0;
  if (first < own) {
    part.args[1] = own - 1;
    r = Forward(&part);
  }
  if (r != 0 || last <= own_last) return r;
  part.args[0] = own_last + 1;
  part.args[1] = last;
  return Forward(&part);
}

long GuardLimit(GuardFrame* frame) {
  const bool both = frame->number == SYS_prlimit64;
  const uint64_t process = both ? frame->args[0] : 0;
  const uint64_t resource = frame->args[both ? 1 : 0];
  const uint64_t set = both ? frame->args[2] : frame->number == SYS_setrlimit ? frame->args[1] : 0;
  const uint64_t get = both ? frame->args[3] : frame->number == SYS_getrlimit ? frame->args[1] : 0;
  const bool ours =
      resource == RLIMIT_NOFILE && (process == 0 || static_cast<long>(process) == sys::Call(SYS_getpid));
  if (!ours) return CallPrepared(frame);
  const auto needed = static_cast<uint64_t>(g_runtime.segment->fd_base) + uint64_t{kRuntimeFds};
  rlimit wanted = {};
  uint64_t hard = kNotLowered;
  const uint64_t before = g_hard_limit.load();
  if (set != 0) {
    if (!CopyIn(&wanted, set, sizeof(wanted))) return -EFAULT;
    if (wanted.rlim_cur > wanted.rlim_max) return -EINVAL;
    if (before != kNotLowered && wanted.rlim_max > before && sys::Call(SYS_geteuid) != 0) return -EPERM;
    if (wanted.rlim_max < needed) {
      hard = wanted.rlim_max;
      wanted.rlim_max = needed;
    }
  }
  rlimit old;
  // Prepared: the program's stack may be far.
  const long r = CallPrepared(SYS_prlimit64, 0, RLIMIT_NOFILE, set != 0 ? &wanted : nullptr, &old);
  if (r != 0) return r;
  if (before != kNotLowered) old.rlim_max = before;
  if (set != 0) g_hard_limit.store(hard);
  return get == 0 || CopyOut(get, &old, sizeof(old)) ? 0 : -EFAULT;
}

}  // namespace farpool
