#include "transport/session/connect.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "base/clock.h"
#include "base/unix_address.h"

namespace farpool {

namespace {

// 0 or the errno of what went wrong.
int ConnectBy(int fd, const sockaddr* address, socklen_t bytes, uint64_t deadline_ns) {
  if (connect(fd, address, bytes) == 0) return 0;
  if (errno != EINPROGRESS && errno != EINTR) return errno;
  for (;;) {
    const uint64_t now = NowNs();
    if (now >= deadline_ns) return ETIMEDOUT;
    pollfd wait = {.fd = fd, .events = POLLOUT, .revents = 0};
    const int n = poll(&wait, 1, static_cast<int>((deadline_ns - now) / 1'000'000 + 1));
    if (n < 0 && errno != EINTR) return errno;
    if (n <= 0) continue;
    int error = 0;
    socklen_t error_bytes = sizeof(error);
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &error_bytes) != 0) return errno;
    return error;
  }
}

const char* Reason(int error, char* buffer, size_t bytes) { return strerror_r(error, buffer, bytes); }

Status ConnectError(const PoolEntry& entry, int error) {
  char buffer[128];
  Status::Code code = Status::FromErrno("connect", error).code();
  // A socket file that is not there is a donor that is not there.
  if (code == Status::Code::kInternal || error == ENOENT) code = Status::Code::kUnavailable;
  return AtEntry(entry, Status(code, Reason(error, buffer, sizeof(buffer)), error));
}

Result<Fd> ConnectUnix(const PoolEntry& entry, uint64_t deadline_ns) {
  UnixAddress address;
  if (!address.Set(entry.path))
    return AtEntry(entry, Status::InvalidArgument("the path is too long for a socket (107 bytes)"));
  Fd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return ConnectError(entry, errno);
  const int error = ConnectBy(fd.get(), address.get(), address.bytes(), deadline_ns);
  if (error != 0) return ConnectError(entry, error);
  return fd;
}

Result<Fd> ConnectTcp(const PoolEntry& entry, uint64_t deadline_ns) {
  addrinfo hints = {};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int lookup = getaddrinfo(entry.host.c_str(), std::to_string(entry.port).c_str(), &hints, &found);
  if (lookup != 0) return AtEntry(entry, Status::Unavailable(gai_strerror(lookup)));
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(found, freeaddrinfo);
  int last_error = EADDRNOTAVAIL;
  for (const addrinfo* a = found; a != nullptr; a = a->ai_next) {
    Fd fd(socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!fd.valid()) {
      last_error = errno;
      continue;
    }
    last_error = ConnectBy(fd.get(), a->ai_addr, a->ai_addrlen, deadline_ns);
    if (last_error != 0) continue;
    const int on = 1;
    setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    return fd;
  }
  return ConnectError(entry, last_error);
}

}  // namespace

Status AtEntry(const PoolEntry& entry, const Status& status) {
  const std::string text = entry.ToString() + ": " + status.text();
  return Status(status.code(), text.c_str(), status.error());
}

Result<Fd> ConnectTo(const PoolEntry& entry, uint64_t deadline_ns) {
  switch (entry.scheme) {
    case PoolEntry::Scheme::kTcp:
    case PoolEntry::Scheme::kRdma:
      return ConnectTcp(entry, deadline_ns);
    case PoolEntry::Scheme::kUnix:
      return ConnectUnix(entry, deadline_ns);
    default:
      return AtEntry(entry,
                     Status::Unsupported("this is not the address of a donor (tcp://, rdma:// or unix://)"));
  }
}

}  // namespace farpool
