// badpointers [MiB]: hands the kernel, and whoever stands before it, pointers to nothing, to memory without
// rights, and to structures that end in nothing or name such pointers. Prints every answer; they must be the
// same everywhere.

#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <cerrno>
#include <ctime>
#include <functional>
#include <vector>

#include "far.h"

namespace {

constexpr size_t kBlock = 1 << 20;  // Large enough to be far.
constexpr size_t kPage = 4096;

int stream[2], datagram[2], ends[2], file;

char* Map(size_t bytes, int protection) {
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(at != MAP_FAILED, "mmap");
  memset(at, 3, bytes);
  CHECK(mprotect(at, bytes, protection) == 0, "mprotect");
  return static_cast<char*>(at);
}

// `bytes` of good memory that end where nothing is allowed.
char* Edge(size_t block, size_t bytes) {
  char* at = Map(block, PROT_READ | PROT_WRITE);
  CHECK(mprotect(at + block / 2, block / 2, PROT_NONE) == 0, "mprotect");
  return at + block / 2 - bytes;
}

void Drain() {
  static char waste[kBlock];
  for (int fd : {stream[1], datagram[1], ends[0]})
    while (read(fd, waste, sizeof(waste)) > 0) {
    }
}
void Supply() {
  Drain();
  char text[6000];
  memset(text, 'x', sizeof(text));
  for (int fd : {stream[0], datagram[0], ends[1]}) CHECK(write(fd, text, sizeof(text)) > 0, "write");
}

void Report(const char* call, const char* where, const std::function<long()>& make) {
  Supply();
  CHECK(lseek(file, 0, SEEK_SET) == 0, "lseek");
  errno = 0;
  const long r = make();
  const int error = errno;
  // What is left tells whether a message was lost.
  static char waste[kBlock];
  long left[3] = {};
  int i = 0;
  for (int fd : {stream[1], datagram[1], ends[0]}) {
    for (ssize_t n; (n = read(fd, waste, sizeof(waste))) > 0;) left[i] += n;
    ++i;
  }
  printf("%s %s: %ld %s; left %ld %ld %ld, at %ld\n", call, where, r, r < 0 ? strerrorname_np(error) : "",
         left[0], left[1], left[2], static_cast<long>(lseek(file, 0, SEEK_CUR)));
}

// Each call with one pointer to `at`.
void Plain(const char* where, char* at, bool read_only) {
  auto* buffer = reinterpret_cast<void*>(at);
  const auto report = [where](const char* call, const std::function<long()>& make) {
    Report(call, where, make);
  };
  report("read", [=] { return read(stream[1], buffer, 100); });
  report("read-file", [=] { return read(file, buffer, 100); });
  report("read-pipe", [=] { return read(ends[0], buffer, 100); });
  report("pread", [=] { return pread(file, buffer, 100, 5); });
  report("recv-datagram", [=] { return recv(datagram[1], buffer, 100, 0); });
  report("write", [=] { return write(stream[0], buffer, 100); });
  report("write-file", [=] { return write(file, buffer, 100); });
  report("sendto", [=] { return sendto(datagram[0], buffer, 100, 0, nullptr, 0); });
  report("open", [=] { return open(at, O_RDONLY | O_DIRECTORY) < 0 ? -1 : 0; });
  report("stat", [=] { return stat(at, static_cast<struct stat*>(buffer)); });
  report("fstat", [=] { return fstat(file, static_cast<struct stat*>(buffer)); });
  report("readv", [=] { return syscall(SYS_readv, stream[1], buffer, 2); });
  report("writev", [=] { return syscall(SYS_writev, stream[0], buffer, 2); });
  report("preadv", [=] { return syscall(SYS_preadv, file, buffer, 2, 0, 0); });
  report("sendmsg", [=] { return syscall(SYS_sendmsg, stream[0], buffer, MSG_DONTWAIT); });
  report("recvmsg", [=] { return syscall(SYS_recvmsg, stream[1], buffer, MSG_DONTWAIT); });
  report("sendmmsg", [=] { return syscall(SYS_sendmmsg, stream[0], buffer, 2, MSG_DONTWAIT); });
  report("recvmmsg", [=] { return syscall(SYS_recvmmsg, stream[1], buffer, 2, MSG_DONTWAIT, nullptr); });
  report("vmsplice", [=] { return syscall(SYS_vmsplice, ends[1], buffer, 2, SPLICE_F_NONBLOCK); });
  report("process_vm_readv",
         [=] { return syscall(SYS_process_vm_readv, getpid(), buffer, 1, buffer, 1, 0); });
  report("process_madvise", [=] { return syscall(SYS_process_madvise, -1, buffer, 1, MADV_COLD, 0); });
  if (!read_only) report("poll", [=] { return syscall(SYS_poll, buffer, 1, 0); });
  report("select", [=] {
    timeval now = {0, 0};
    return syscall(SYS_select, 5, buffer, nullptr, nullptr, &now);
  });
  pollfd one = {stream[1], POLLIN, 0};
  timespec none = {0, 0};
  report("ppoll", [&, at] { return syscall(SYS_ppoll, &one, 1, &none, at, 8); });
  report("pselect", [&, at] { return syscall(SYS_pselect6, 0, nullptr, nullptr, nullptr, &none, at); });
  const int epoll = epoll_create1(0);
  epoll_event event = {EPOLLIN, {}};
  epoll_ctl(epoll, EPOLL_CTL_ADD, stream[1], &event);
  report("epoll_ctl", [=] { return syscall(SYS_epoll_ctl, epoll, EPOLL_CTL_ADD, ends[0], buffer); });
  report("epoll_wait", [=] { return syscall(SYS_epoll_wait, epoll, buffer, 1, 0); });
  report("epoll_pwait", [&, at] {
    epoll_event got;
    return syscall(SYS_epoll_pwait, epoll, &got, 1, 0, at, 8);
  });
  close(epoll);
  report("futex-wait", [&, at] { return syscall(SYS_futex, at, FUTEX_WAIT_PRIVATE, 77, &none); });
  report("futex-wait-shared", [&, at] { return syscall(SYS_futex, at, FUTEX_WAIT, 77, &none); });
  report("futex-wake", [=] { return syscall(SYS_futex, at, FUTEX_WAKE_PRIVATE, 1); });
  report("futex-wake-shared", [=] { return syscall(SYS_futex, at, FUTEX_WAKE, 1); });
  report("futex-lock-pi", [=] { return syscall(SYS_futex, at + 64, FUTEX_TRYLOCK_PI_PRIVATE, 0, nullptr); });
  report("futex-waitv", [&, at] { return syscall(449, at, 1, 0, &none, CLOCK_MONOTONIC); });
  report("nanosleep", [=] { return syscall(SYS_nanosleep, buffer, nullptr); });
  report("ioctl", [=] { return ioctl(stream[1], FIONREAD, buffer); });
  report("getsockopt", [=] { return syscall(SYS_getsockopt, stream[0], SOL_SOCKET, SO_TYPE, at, at + 8); });
  report("setsockopt",
         [=] { return setsockopt(stream[0], SOL_SOCKET, SO_SNDTIMEO, buffer, sizeof(timeval)); });
  report("getsockname", [=] { return syscall(SYS_getsockname, stream[0], at, at + 256); });
  report("pipe", [=] { return syscall(SYS_pipe, at) == 0 ? 0 : -1; });
  report("wait4", [=] { return syscall(SYS_wait4, -1, at, WNOHANG, at); });
  report("waitid", [=] { return syscall(SYS_waitid, P_ALL, 0, at, WNOHANG | WEXITED, nullptr); });
  report("prlimit", [=] { return syscall(SYS_prlimit64, 0, RLIMIT_NPROC, nullptr, at); });
  report("getrandom", [=] { return syscall(SYS_getrandom, at, 10, 0); });
  report("getcwd", [=] { return syscall(SYS_getcwd, at, 1000) > 0 ? 1 : -1; });
  report("execve", [=] { return syscall(SYS_execve, "/nonexistent", at, nullptr); });
  report("execve-environment", [=] {
    const pid_t child = fork();
    if (child == 0) {
      char name[] = "true";
      char* const arguments[] = {name, nullptr};
      char* const environment[] = {at, nullptr};
      execve("/bin/true", arguments, environment);
      _exit(errno);
    }
    int status = -1;
    CHECK(child > 0 && waitpid(child, &status, 0) == child, "waitpid");
    return status;
  });
  report("execve-path", [=] { return syscall(SYS_execve, at, nullptr, nullptr); });
  report("sigprocmask", [=] { return syscall(SYS_rt_sigprocmask, SIG_BLOCK, nullptr, at, 8); });
  report("sigaction", [=] { return syscall(SYS_rt_sigaction, SIGWINCH, nullptr, at, 8); });
}

// Structures in good memory that name `at`.
void Named(const char* where, char* at, size_t good) {
  const auto report = [where](const char* call, const std::function<long()>& make) {
    Report(call, where, make);
  };
  char* fine = static_cast<char*>(FarRoom(1000));
  iovec two[2] = {{fine, 50}, {at, 100}};
  iovec* far_two = FarArray<iovec>(2);
  memcpy(far_two, two, sizeof(two));
  Stir();
  for (iovec* vector : {two, far_two}) {
    report("readv", [=] { return readv(stream[1], vector, 2); });
    report("readv-datagram", [=] { return readv(datagram[1], vector, 2); });
    report("readv-file", [=] { return readv(file, vector, 2); });
    report("writev", [=] { return writev(stream[0], vector, 2); });
    report("writev-pipe", [=] { return writev(ends[1], vector, 2); });
    msghdr message = {};
    message.msg_iov = vector;
    message.msg_iovlen = 2;
    report("sendmsg", [&] { return sendmsg(stream[0], &message, 0); });
    report("sendmsg-datagram", [&] { return sendmsg(datagram[0], &message, 0); });
    report("recvmsg", [&] { return recvmsg(stream[1], &message, 0); });
    report("recvmsg-datagram", [&] { return recvmsg(datagram[1], &message, 0); });
    mmsghdr many[2] = {{message, 0}, {message, 0}};
    report("recvmmsg", [&] { return recvmmsg(datagram[1], many, 2, MSG_DONTWAIT, nullptr); });
    iovec target = {fine, 200};
    report("process_vm_readv", [&] { return process_vm_readv(getpid(), &target, 1, vector, 2, 0); });
    report("process_vm_writev", [&] { return process_vm_writev(getpid(), &target, 1, vector, 2, 0); });
  }
  msghdr message = {};
  message.msg_name = at;
  message.msg_namelen = sizeof(sockaddr_un);
  iovec one = {fine, 100};
  message.msg_iov = &one;
  message.msg_iovlen = 1;
  report("recvmsg-name", [&] { return recvmsg(datagram[1], &message, 0); });
  report("sendmsg-name", [&] { return sendmsg(datagram[0], &message, 0); });
  message.msg_name = nullptr;
  message.msg_namelen = 0;
  message.msg_control = at;
  message.msg_controllen = CMSG_SPACE(sizeof(int));
  report("sendmsg-control", [&] { return sendmsg(datagram[0], &message, 0); });
  // More than can be looked after at once, the last of which is bad.
  iovec many[40];
  for (iovec& each : many) each = {FarRoom(100), 100};
  many[39] = {at, 1000};
  Stir();
  report("readv-many", [&] { return readv(stream[1], many, 40); });
  report("readv-many-datagram", [&] { return readv(datagram[1], many, 40); });
  message = {};
  message.msg_iov = many;
  message.msg_iovlen = 40;
  report("recvmsg-many-datagram", [&] { return recvmsg(datagram[1], &message, 0); });
  report("sendmsg-many-datagram", [&] { return sendmsg(datagram[0], &message, 0); });
  report("writev-many", [&] { return writev(ends[1], many, 40); });
  // Half a buffer.
  report("read-half", [=] { return read(stream[1], at, good + 100); });
  report("read-half-file", [=] { return read(file, at, good + 100); });
  report("read-half-datagram", [=] { return read(datagram[1], at, good + 100); });
  report("write-half-pipe", [=] { return write(ends[1], at, good + 100); });
  report("write-half-file", [=] { return write(file, at, good + 100); });
  report("pread-half", [=] { return pread(file, at, good + 100, 0); });
}

}  // namespace

int main(int argc, char** argv) {
  setvbuf(stdout, nullptr, _IOLBF, 0);
  StirInit(Argument(argc, argv, 1, 40));
  CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, stream) == 0, "socketpair");
  CHECK(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, datagram) == 0, "socketpair");
  CHECK(pipe2(ends, O_NONBLOCK) == 0, "pipe");
  file = memfd_create("data", 0);
  CHECK(file >= 0 && ftruncate(file, 1 << 20) == 0, "memfd_create");

  char* near_none = Map(kPage, PROT_NONE);
  char* near_read = Map(kPage, PROT_READ);
  char* far_none = Map(kBlock, PROT_NONE);
  char* far_read = Map(kBlock, PROT_READ);
  char* near_edge = Edge(2 * kPage, 0);
  char* far_edge = Edge(kBlock, 0);
  // Where nothing is mapped, and nothing will be: a hole in the middle of a mapping that stays.
  char* far_hole = Map(kBlock, PROT_READ | PROT_WRITE) + kBlock / 2;
  CHECK(munmap(far_hole, kPage) == 0, "munmap");
  Stir();
  struct {
    const char* name;
    char* at;
    size_t good;
  } const bad[] = {{"null", nullptr, 0},
                   {"nowhere", reinterpret_cast<char*>(16), 0},
                   {"kernel", reinterpret_cast<char*>(0xffff800000000000), 0},
                   {"noncanonical", reinterpret_cast<char*>(0x800000000000), 0},
                   {"near-none", near_none, 0},
                   {"far-none", far_none + kBlock / 2, 0},
                   {"far-hole", far_hole, 0},
                   {"near-edge", near_edge - 4, 4},
                   {"far-edge", far_edge - 4, 4},
                   {"far-edge-page", far_edge - kPage - 4, kPage + 4}};
  for (const auto& each : bad) {
    if (each.good <= 4) Plain(each.name, each.at, false);
    Named(each.name, each.at, each.good);
    fflush(stdout);
  }
  Plain("near-read", near_read, true);
  Plain("far-read", far_read + kBlock / 2, true);
  Named("far-read", far_read + kBlock / 2, kPage);
  printf("badpointers: done\n");
  return 0;
}
