// sleepers MIB THREADS: so many threads sleep in recv with a buffer of two pages each in memory that the
// others' work has long displaced. Each gets one datagram, whole, and none is lost.

#include <sys/socket.h>

#include <atomic>
#include <thread>
#include <vector>

#include "far.h"

namespace {

constexpr size_t kBytes = 6000;

std::atomic<size_t> asleep;
std::atomic<size_t> received;

void Sleep(int socket, char* buffer) {
  ++asleep;
  const ssize_t n = recv(socket, buffer, 2 * kBytes, 0);
  CHECK(n == static_cast<ssize_t>(kBytes), "recv: %zd, %s", n, strerror(errno));
  uint64_t key;
  memcpy(&key, buffer, sizeof(key));
  Verify(buffer + sizeof(key), kBytes - sizeof(key), key, "datagram");
  received += key;
}

}  // namespace

int main(int argc, char** argv) {
  CHECK(argc == 3, "usage: sleepers MIB THREADS");
  const size_t count = strtoul(argv[2], nullptr, 10);
  StirInit(strtoul(argv[1], nullptr, 10));
  int pair[2];
  CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) == 0, "socketpair: %s", strerror(errno));
  std::vector<std::thread> threads;
  for (size_t i = 0; i < count; ++i) threads.emplace_back(Sleep, pair[1], Buffer(2 * kBytes, i));
  while (asleep < count) std::this_thread::yield();
  Stir();
  size_t sent = 0;
  for (uint64_t key = 1; key <= count; ++key) {
    char datagram[kBytes];
    memcpy(datagram, &key, sizeof(key));
    for (size_t i = 0; i < kBytes - sizeof(key); ++i)
      datagram[sizeof(key) + i] = static_cast<char>(Mix(key + i));
    CHECK(send(pair[0], datagram, kBytes, 0) == static_cast<ssize_t>(kBytes), "send: %s", strerror(errno));
    sent += key;
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(received == sent, "each datagram once");
  printf("sleepers: %zu datagrams, one each\n", count);
  return 0;
}
