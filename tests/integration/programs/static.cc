// static: linked without a dynamic loader, so nothing can be preloaded into it. As a child of a program that
// has far memory it must not die of system calls that are refused there.

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <cerrno>

#include "check.h"

int main() {
  int ends[2];
  CHECK(pipe(ends) == 0, "pipe");
  char byte = 'x';
  iovec one = {&byte, 1};
  CHECK(vmsplice(ends[1], &one, 1, 0) == 1 || errno == EINVAL, "vmsplice: %d", errno);
  CHECK(write(ends[1], &byte, 1) == 1 && read(ends[0], &byte, 1) == 1 && byte == 'x', "write and read");
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  const int on = 1;
  CHECK(setsockopt(fd, SOL_SOCKET, SO_ZEROCOPY, &on, sizeof(on)) == 0 || errno == ENOPROTOOPT,
        "SO_ZEROCOPY: %d", errno);
  CHECK(mlockall(MCL_FUTURE) == 0 || errno == EPERM || errno == ENOMEM, "mlockall: %d", errno);
  constexpr long kIoUringSetup = 425;
  CHECK(syscall(kIoUringSetup, 1, nullptr) == -1, "io_uring_setup");
  puts("static: ran");
  return 0;
}
