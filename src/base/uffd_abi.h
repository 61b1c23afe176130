#pragma once
// userfaultfd and madvise constants that are newer than the headers farpool is built with (Debian 12 has
// Linux 6.1's). Whether the running kernel knows them is found out at run time.

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <cstdint>

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

#ifndef UFFD_FEATURE_WP_UNPOPULATED
#define UFFD_FEATURE_WP_UNPOPULATED (1 << 13)
#endif

#ifndef UFFD_FEATURE_MOVE
#define UFFD_FEATURE_MOVE (1 << 16)
#endif

#ifndef UFFDIO_MOVE
struct uffdio_move {
  uint64_t dst;
  uint64_t src;
  uint64_t len;
  uint64_t mode;
  int64_t move;  // Out: bytes moved, or -errno.
};
#define UFFDIO_MOVE_MODE_DONTWAKE (static_cast<uint64_t>(1) << 0)
#define UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES (static_cast<uint64_t>(1) << 1)
#define _UFFDIO_MOVE (0x05)
#define UFFDIO_MOVE _IOWR(UFFDIO, _UFFDIO_MOVE, struct uffdio_move)
#endif

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

namespace farpool {
inline constexpr uint64_t kHugePageBytes = 2u << 20;  // Of one that MADV_COLLAPSE makes.

// A userfaultfd that is told of faults of the kernel too, or -errno: by /dev/userfaultfd (Linux 6.1) for whom
// it is open, else for the privileged (vm.unprivileged_userfaultfd).
long OpenKernelUserfault();
}  // namespace farpool
