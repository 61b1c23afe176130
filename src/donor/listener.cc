#include "donor/listener.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "base/unix_address.h"

namespace farpool {

namespace {

constexpr int kBacklog = 512;

bool IsLoopback(const sockaddr* address) {
  if (address->sa_family == AF_INET) {
    const auto* in = reinterpret_cast<const sockaddr_in*>(address);
    return (ntohl(in->sin_addr.s_addr) >> 24) == 127;
  }
  const auto* in6 = reinterpret_cast<const sockaddr_in6*>(address);
  if (IN6_IS_ADDR_LOOPBACK(&in6->sin6_addr)) return true;
  return IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr) && in6->sin6_addr.s6_addr[12] == 127;
}

Status Refused(const std::string& where, const std::string& why) {
  return Status::InvalidArgument((where + ": " + why).c_str());
}

Status FromErrno(const std::string& where, int error) { return Status::FromErrno(where.c_str(), error); }

}  // namespace

Result<Fd> ListenTcp(const char* scheme, const std::string& host, uint16_t port, bool allow_anyone,
                     uint16_t* bound_port) {
  const std::string shown = host.find(':') == std::string::npos ? host : "[" + host + "]";
  const std::string where = std::string(scheme) + "://" + shown + ":" + std::to_string(port);
  addrinfo hints = {};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
  if (error != 0) return Refused(where, gai_strerror(error));
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(found, freeaddrinfo);
  int last_errno = EADDRNOTAVAIL;
  for (const addrinfo* a = found; a != nullptr; a = a->ai_next) {
    if (!allow_anyone && !IsLoopback(a->ai_addr))
      return Refused(where,
                     "anyone who reaches this address could use the memory; listen on 127.0.0.1 or give "
                     "--allow-anyone");
    Fd fd(socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const int on = 1;
    if (fd.valid()) setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (!fd.valid() || bind(fd.get(), a->ai_addr, a->ai_addrlen) != 0 || listen(fd.get(), kBacklog) != 0) {
      last_errno = errno;
      continue;
    }
    sockaddr_storage bound = {};
    socklen_t bytes = sizeof(bound);
    if (getsockname(fd.get(), reinterpret_cast<sockaddr*>(&bound), &bytes) != 0)
      return FromErrno(where, errno);
    *bound_port = ntohs(bound.ss_family == AF_INET ? reinterpret_cast<sockaddr_in*>(&bound)->sin_port
                                                   : reinterpret_cast<sockaddr_in6*>(&bound)->sin6_port);
    return fd;
  }
  return FromErrno(where, last_errno);
}

Result<UnixListener> UnixListener::Listen(const std::string& path, bool allow_anyone) {
  const std::string where = "unix://" + path;
  UnixAddress address;
  if (!address.Set(path)) return Refused(where, "the path is too long for a socket (107 bytes)");
  const bool file = !IsAbstract(path);

  struct stat there;
  if (file && lstat(path.c_str(), &there) == 0) {
    if (!S_ISSOCK(there.st_mode)) return Refused(where, "something that is not a socket is there");
    Fd probe(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!probe.valid()) return FromErrno(where, errno);
    if (connect(probe.get(), address.get(), address.bytes()) == 0 || errno == EAGAIN)
      return Refused(where, "another donor is listening there");
    if (errno != ECONNREFUSED) return FromErrno(where, errno);
    if (unlink(path.c_str()) != 0 && errno != ENOENT) return FromErrno(where, errno);
  }
  UnixListener listener;
  listener.fd_ = Fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!listener.fd_.valid()) return FromErrno(where, errno);
  // Before bind(2), so that the path is at no time open to more users than meant; the umask may take more
  // away.
  const mode_t mode = allow_anyone ? 0666 : 0660;
  fchmod(listener.fd_.get(), mode);
  if (bind(listener.fd_.get(), address.get(), address.bytes()) != 0) return FromErrno(where, errno);
  if (file) {
    listener.path_ = path;
    if (stat(path.c_str(), &there) == 0) {
      listener.device_ = there.st_dev;
      listener.inode_ = there.st_ino;
    }
    chmod(path.c_str(), mode);
  }
  if (listen(listener.fd_.get(), kBacklog) != 0) return FromErrno(where, errno);
  return listener;
}

UnixListener::~UnixListener() {
  struct stat there;
  if (fd_.valid() && !path_.empty() && lstat(path_.c_str(), &there) == 0 && there.st_dev == device_ &&
      there.st_ino == inode_)
    unlink(path_.c_str());
}

bool PeerIsUserOrRoot(int fd) {
  ucred peer = {};
  socklen_t bytes = sizeof(peer);
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) != 0) return false;
  return peer.uid == geteuid() || peer.uid == 0;
}

}  // namespace farpool
