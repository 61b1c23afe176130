// callcost: what system calls on heap memory cost that is all here, in ns a call, medians. Prints a line
// each.

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <ctime>
#include <functional>
#include <vector>

#include "far.h"

namespace {

constexpr size_t kBytes = 4096;

double Now() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) * 1e9 + static_cast<double>(now.tv_nsec);
}

void Measure(const char* name, const std::function<bool()>& call) {
  constexpr int kRounds = 21, kCalls = 4000;
  std::vector<double> rounds;
  for (int round = 0; round < kRounds; ++round) {
    const double began = Now();
    for (int i = 0; i < kCalls; ++i) CHECK(call(), "%s", name);
    rounds.push_back((Now() - began) / kCalls);
  }
  std::sort(rounds.begin(), rounds.end());
  printf("%s %.0f\n", name, rounds[kRounds / 2]);
}

}  // namespace

int main() {
  char* buffer = Buffer(16 << 20, 1);
  const int file = memfd_create("callcost", 0);
  CHECK(file >= 0 && write(file, buffer, kBytes) == kBytes, "memfd_create");
  int pair[2];
  CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0, "socketpair");
  iovec four[4];
  for (size_t i = 0; i < 4; ++i) four[i] = {buffer + i * 100000, kBytes / 4};
  iovec* far_four = FarArray<iovec>(4);
  memcpy(far_four, four, sizeof(four));
  const auto start = [=] { return lseek(file, 0, SEEK_SET) == 0; };
  const auto whole = [](ssize_t n) { return n == kBytes; };
  Measure("lseek", start);
  Measure("lseek+read", [=] { return start() && whole(read(file, buffer, kBytes)); });
  Measure("lseek+write", [=] { return start() && whole(write(file, buffer, kBytes)); });
  Measure("pread", [=] { return whole(pread(file, buffer, kBytes, 0)); });
  Measure("lseek+readv", [&] { return start() && whole(readv(file, four, 4)); });
  Measure("lseek+writev", [&] { return start() && whole(writev(file, four, 4)); });
  Measure("readv-far-vector", [&] { return start() && whole(readv(file, far_four, 4)); });
  Measure("send+recv",
          [=] { return send(pair[0], buffer, 64, 0) == 64 && recv(pair[1], buffer, 1000, 0) == 64; });
  msghdr message = {};
  message.msg_iov = four;
  message.msg_iovlen = 1;
  Measure("sendmsg+recvmsg", [&] {
    return whole(4 * sendmsg(pair[0], &message, 0)) && whole(4 * recvmsg(pair[1], &message, 0));
  });
  return 0;
}
