#pragma once
// Addresses of unix sockets as users write them: a path, or @NAME for a socket without a place in the file
// system (abstract, unix(7)), which goes with the last process that has it open.

#include <sys/socket.h>
#include <sys/un.h>

#include <cstddef>
#include <cstring>
#include <string>

namespace farpool {

inline bool IsAbstract(const std::string& path) { return path.starts_with('@'); }

class UnixAddress {
 public:
  // False: `path` is too long (107 bytes).
  [[nodiscard]] bool Set(const std::string& path) {
    if (path.size() >= sizeof(address_.sun_path)) return false;
    std::memcpy(address_.sun_path, path.c_str(), path.size() + 1);
    bytes_ = sizeof(address_);
    if (IsAbstract(path)) {
      address_.sun_path[0] = 0;
      bytes_ = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size());
    }
    return true;
  }
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&address_); }
  socklen_t bytes() const { return bytes_; }

 private:
  sockaddr_un address_ = {.sun_family = AF_UNIX, .sun_path = {}};
  socklen_t bytes_ = 0;
};

}  // namespace farpool
