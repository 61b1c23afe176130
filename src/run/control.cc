#include "run/control.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <cerrno>
#include <cstring>

#include "base/pass_descriptors.h"
#include "base/sys.h"

namespace farpool {

long SendPacket(int socket, const void* data, unsigned bytes, const int* fds, int fd_count) {
  iovec iov = {const_cast<void*>(data), bytes};
  msghdr message = {};
  message.msg_iov = &iov;
  message.msg_iovlen = 1;
  PassedDescriptors<kControlFdsMax> passed;
  passed.AddTo(&message, fds, fd_count);
  long r;
  do r = sys::Call(SYS_sendmsg, socket, &message, MSG_NOSIGNAL);
  while (r == -EINTR);
  return r < 0 ? r : 0;
}

long ReceivePacket(int socket, void* data, unsigned bytes, int* fds, int fd_max, int* fd_count,
                   int timeout_ms) {
  *fd_count = 0;
  pollfd wait = {socket, POLLIN, 0};
  long r;
  do r = sys::Call(SYS_poll, &wait, 1, timeout_ms);
  while (r == -EINTR);
  if (r == 0) return -ETIMEDOUT;
  if (r < 0) return r;
  alignas(cmsghdr) char control[CMSG_SPACE(kControlFdsMax * sizeof(int)) + CMSG_SPACE(sizeof(ucred))] = {};
  iovec iov = {data, bytes};
  msghdr message = {};
  message.msg_iov = &iov;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  do r = sys::Call(SYS_recvmsg, socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  while (r == -EINTR);
  if (r < 0) return r;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    const auto count = static_cast<int>((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    for (int i = 0; i < count; ++i) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(header) + static_cast<size_t>(i) * sizeof(int), sizeof(int));
      if (*fd_count < fd_max) {
        fds[(*fd_count)++] = fd;
      } else {
        sys::Call(SYS_close, fd);
      }
    }
  }
  return r;
}

}  // namespace farpool
