#pragma once
// Listening sockets of the donor. Errors are one line for the user.

#include <sys/types.h>

#include <cstdint>
#include <string>

#include "base/fd.h"
#include "farpool/status.h"

namespace farpool {

// Listens on the first address of `host` that can be bound. Unless `allow_anyone`, only loopback addresses
// are taken: there is no authentication. `*bound_port` is the port. `scheme` is for errors: what the user
// calls the address.
Result<Fd> ListenTcp(const char* scheme, const std::string& host, uint16_t port, bool allow_anyone,
                     uint16_t* bound_port);

// A unix socket at a path; removes the path when it goes, if it is still the one that was made. Or at @NAME,
// without a path.
class UnixListener {
 public:
  // Replaces the socket of a donor that is dead; kInvalidArgument if one is alive there or `path` is no
  // socket.
  static Result<UnixListener> Listen(const std::string& path, bool allow_anyone);
  UnixListener() = default;
  UnixListener(UnixListener&& other) noexcept = default;
  UnixListener& operator=(UnixListener&& other) noexcept = default;
  ~UnixListener();
  int fd() const { return fd_.get(); }

 private:
  Fd fd_;
  std::string path_;
  dev_t device_ = 0;
  ino_t inode_ = 0;
};

// Whether the process at the other end of a unix socket runs as this user or as root.
bool PeerIsUserOrRoot(int fd);

}  // namespace farpool
