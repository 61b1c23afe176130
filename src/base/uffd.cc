#include <fcntl.h>
#include <sys/syscall.h>

#include "base/sys.h"
#include "base/uffd_abi.h"

namespace farpool {

long OpenKernelUserfault() {
  const long device = sys::Call(SYS_openat, AT_FDCWD, "/dev/userfaultfd", O_RDWR | O_CLOEXEC);
  if (!sys::Failed(device)) {
    const long fd = sys::Call(SYS_ioctl, device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
    sys::Call(SYS_close, device);
    if (!sys::Failed(fd)) return fd;
  }
  return sys::Call(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
}

}  // namespace farpool
