#pragma once
// What the system calls of one worker work on. A forked child opens its own: the parent's are in use.

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>

#include "model.h"

namespace stress {

// Calls until it is not interrupted.
template <typename Call>
auto Again(Call&& call) {
  for (;;) {
    const auto r = call();
    if (r != -1 || errno != EINTR) return r;
  }
}

// `call(done)` moves some bytes from there on; until `bytes` are through.
template <typename Call>
void Fully(size_t bytes, const char* what, Call&& call) {
  for (size_t done = 0; done < bytes;) {
    const ssize_t r = Again([&] { return call(done); });
    HOLDS(r > 0, "%s: %zd after %zu of %zu bytes", what, r, done, bytes);
    done += static_cast<size_t>(r);
  }
}

struct Channels {
  int file = -1, direct = -1, event = -1, epoll = -1;
  int pipe[2], stream[2], packets[2];

  void Open() {
    const char* directory = getenv("TMPDIR");
    if (directory == nullptr) directory = "/tmp";
    char name[256];
    snprintf(name, sizeof(name), "%s/stress.XXXXXX", directory);
    file = mkstemp(name);
    HOLDS(file >= 0, "mkstemp in %s", directory);
    direct = open(name, O_RDWR | O_DIRECT);  // Not every file system can.
    unlink(name);
    HOLDS(::pipe(pipe) == 0, "pipe");
    HOLDS(socketpair(AF_UNIX, SOCK_STREAM, 0, stream) == 0, "socketpair");
    HOLDS(socketpair(AF_UNIX, SOCK_DGRAM, 0, packets) == 0, "socketpair");
    event = eventfd(0, 0);
    epoll = epoll_create1(0);
    epoll_event wanted = {EPOLLIN, {.u64 = kEventTag}};
    HOLDS(event >= 0 && epoll >= 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, event, &wanted) == 0, "epoll");
  }
  void Close() {
    for (int fd :
         {file, direct, event, epoll, pipe[0], pipe[1], stream[0], stream[1], packets[0], packets[1]})
      if (fd >= 0) close(fd);
  }
  static constexpr uint64_t kEventTag = 0x5eed5eed5eed5eed;
};

// `bytes` at `at`, cut into 1..`most` pieces at random places.
inline int Cut(iovec* out, int most, char* at, size_t bytes, Random& random) {
  int n = 0;
  while (bytes > 0 && n < most - 1) {
    const size_t take = random.Below(4) == 0 ? random.Below(bytes + 1) : random.Below(bytes / 8 + 2);
    out[n++] = {at, take < bytes ? take : bytes};
    at += out[n - 1].iov_len;
    bytes -= out[n - 1].iov_len;
    if (random.Below(static_cast<uint64_t>(most)) == 0) break;
  }
  if (bytes > 0) out[n++] = {at, bytes};
  return n;
}

}  // namespace stress
