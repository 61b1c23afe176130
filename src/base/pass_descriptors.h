#pragma once
// Descriptors that travel with a message of a Unix socket (SCM_RIGHTS).

#include <sys/socket.h>

#include <cstring>

namespace farpool {

// Room for the control data of one message that passes up to kMax descriptors. Any context.
template <int kMax>
class PassedDescriptors {
 public:
  // `message` passes them; it refers to this object from now on. Nothing is added for none.
  void AddTo(msghdr* message, const int* fds, int count) {
    if (count <= 0) return;
    const auto bytes = static_cast<size_t>(count) * sizeof(int);
    message->msg_control = control_;
    message->msg_controllen = CMSG_SPACE(bytes);
    cmsghdr* header = CMSG_FIRSTHDR(message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(bytes);
    std::memcpy(CMSG_DATA(header), fds, bytes);
  }

 private:
  alignas(cmsghdr) char control_[CMSG_SPACE(kMax * sizeof(int))] = {};
};

}  // namespace farpool
