// The least a 4 KiB page costs over loopback TCP: a 32-byte request, a page as reply, both sides spinning.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>

#include "bench/worker.h"

namespace bench {

namespace {

constexpr size_t kRequestBytes = 32;

// False once the other side has closed.
bool SpinReceive(int fd, void* data, size_t bytes) {
  auto* at = static_cast<char*>(data);
  while (bytes > 0) {
    const ssize_t n = recv(fd, at, bytes, MSG_DONTWAIT);
    if (n == 0) return false;
    if (n > 0) {
      at += n;
      bytes -= static_cast<size_t>(n);
    } else if (errno != EAGAIN && errno != EINTR) {
      return false;
    }
  }
  return true;
}

bool SendAll(int fd, const void* data, size_t bytes) {
  const auto* at = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t n = send(fd, at, bytes, MSG_NOSIGNAL);
    if (n < 0 && errno != EINTR) return false;
    if (n > 0) {
      at += n;
      bytes -= static_cast<size_t>(n);
    }
  }
  return true;
}

void NoDelay(int fd) {
  const int on = 1;
  if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) != 0) Die("TCP_NODELAY");
}

[[noreturn]] void Serve(int listener, pid_t client) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != client) _exit(1);
  const int fd = accept(listener, nullptr, nullptr);
  if (fd < 0) _exit(1);
  NoDelay(fd);
  uint64_t page[kPageWords];
  for (size_t i = 0; i < kPageWords; ++i) page[i] = Mix(i);
  uint64_t request[kRequestBytes / sizeof(uint64_t)];
  while (SpinReceive(fd, request, sizeof(request))) {
    page[0] = request[0];
    if (!SendAll(fd, page, sizeof(page))) break;
  }
  _exit(0);
}

}  // namespace

void RunRawTcp(uint64_t count) {
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t address_bytes = sizeof(address);
  auto* const any = reinterpret_cast<sockaddr*>(&address);
  if (listener < 0 || bind(listener, any, sizeof(address)) != 0 || listen(listener, 1) != 0 ||
      getsockname(listener, any, &address_bytes) != 0)
    Die("cannot listen on loopback");
  const pid_t client = getpid();
  const pid_t server = fork();
  if (server < 0) Die("fork");
  if (server == 0) Serve(listener, client);
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  if (fd < 0 || connect(fd, any, sizeof(address)) != 0) Die("cannot connect on loopback");
  NoDelay(fd);

  Samples trips;
  uint64_t elapsed = 0;
  uint64_t request[kRequestBytes / sizeof(uint64_t)] = {};
  uint64_t page[kPageWords];
  const uint64_t warm_up = count / 10;
  for (uint64_t i = 0; i < count + warm_up; ++i) {
    request[0] = i;
    const uint64_t began = NowNs();
    if (!SendAll(fd, request, sizeof(request)) || !SpinReceive(fd, page, sizeof(page)))
      Die("the server went away");
    const uint64_t took = NowNs() - began;
    if (page[0] != i || page[kPageWords - 1] != Mix(kPageWords - 1)) Die("wrong reply");
    if (i < warm_up) continue;
    trips.Add(took);
    elapsed += took;
  }
  close(fd);
  waitpid(server, nullptr, 0);
  trips.Print(trips.count(), elapsed);
}

}  // namespace bench
