// syscalls [MiB]: system calls whose buffers, paths and structures lie in heap pages that nobody touched for
// a while. MiB is what is stirred in between, so that pages not in use have every reason to be gone.

#include <dirent.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <spawn.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "far.h"

extern char** environ;

namespace {

constexpr size_t kBytes = 300000;

// As code that is not libc's makes its calls.
long Raw(long number, uint64_t a = 0, const void* b = nullptr, uint64_t c = 0, uint64_t d = 0) {
  long r = number;
  register uint64_t r10 asm("r10") = d;
  asm volatile("syscall" : "+a"(r) : "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
  return r;
}

void Files(const std::string& folder) {
  const std::string path = folder + "/data";
  // Half of it in the next page.
  char* far_path = static_cast<char*>(FarRoom(3 * 4096));
  far_path += 2 * 4096 - reinterpret_cast<uintptr_t>(far_path) % 4096 - path.size() / 2;
  memcpy(far_path, path.c_str(), path.size() + 1);
  char* out = Buffer(kBytes, 7);
  char* in = Buffer(kBytes, 8);
  Stir();
  const int fd = open(far_path, O_RDWR | O_CREAT | O_TRUNC, 0600);
  CHECK(fd >= 0, "open of a far path: %s", strerror(errno));
  Stir();
  CHECK(write(fd, out, kBytes) == static_cast<ssize_t>(kBytes), "write");
  Stir();
  CHECK(pread(fd, in, kBytes, 0) == static_cast<ssize_t>(kBytes), "pread");
  Verify(in, kBytes, 7, "pread");
  memset(in, 0, kBytes);
  CHECK(lseek(fd, 0, SEEK_SET) == 0, "lseek");
  Stir();
  CHECK(read(fd, in, kBytes) == static_cast<ssize_t>(kBytes), "read");
  Verify(in, kBytes, 7, "read");
  CHECK(read(fd, in, kBytes) == 0, "read at the end");
  Stir();
  CHECK(pwrite(fd, out + 1, kBytes - 1, 1) == static_cast<ssize_t>(kBytes - 1), "pwrite");

  auto* vector = static_cast<iovec*>(malloc(200000));
  for (int i = 0; i < 30; ++i) vector[i] = {in + i * 10000, 10000};
  memset(in, 0, kBytes);
  Stir();
  CHECK(preadv(fd, vector, 30, 0) == static_cast<ssize_t>(kBytes), "preadv");
  Verify(in, kBytes, 7, "preadv");
  CHECK(lseek(fd, 0, SEEK_SET) == 0, "lseek");
  memset(in, 0, kBytes);
  Stir();
  CHECK(readv(fd, vector, 30) == static_cast<ssize_t>(kBytes), "readv");
  Verify(in, kBytes, 7, "readv");
  CHECK(lseek(fd, 0, SEEK_SET) == 0, "lseek");
  Stir();
  CHECK(writev(fd, vector, 30) == static_cast<ssize_t>(kBytes), "writev");

  auto* info = reinterpret_cast<struct stat*>(Buffer(kBytes, 9));
  Stir();
  CHECK(stat(far_path, info) == 0 && info->st_size == static_cast<off_t>(kBytes), "stat");
  Stir();
  CHECK(fstat(fd, info) == 0 && info->st_size == static_cast<off_t>(kBytes), "fstat");
  char* link = Text(folder + "/link");
  Stir();
  CHECK(symlink(far_path, link) == 0, "symlink");
  Stir();
  memset(in, 0, 1000);
  Stir();
  const ssize_t got = readlink(link, in, kBytes);
  CHECK(got == static_cast<ssize_t>(path.size()) && memcmp(in, path.c_str(), path.size()) == 0, "readlink");
  Stir();
  CHECK(access(link, R_OK) == 0 && rename(link, Text(folder + "/link2")) == 0, "access, rename");
  Stir();
  char* here = getcwd(in, kBytes);
  CHECK(here == in && here[0] == '/', "getcwd");
  Stir();
  DIR* directory = opendir(Text(folder));
  CHECK(directory != nullptr, "opendir");
  int entries = 0;
  for (;;) {
    Stir();
    if (readdir(directory) == nullptr) break;
    ++entries;
  }
  closedir(directory);
  CHECK(entries == 4, "readdir found %d entries", entries);
  FILE* stream = fopen(far_path, "r");
  CHECK(stream != nullptr && setvbuf(stream, Buffer(kBytes, 3), _IOFBF, kBytes) == 0, "fopen");
  memset(in, 0, kBytes);
  Stir();
  CHECK(fread(in, 1, kBytes, stream) == kBytes, "fread");
  Verify(in, kBytes, 7, "fread");
  fclose(stream);
  close(fd);
  CHECK(unlink(Text(folder + "/link2")) == 0 && unlink(far_path) == 0, "unlink");
  free(vector);
  printf("syscalls: files, vectors, paths and directories\n");
}

void Sockets() {
  auto* pair = static_cast<int*>(static_cast<void*>(Buffer(kBytes, 1)));
  Stir();
  CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0, "socketpair");
  const int a = pair[0];
  const int b = pair[1];
  char* out = Buffer(kBytes, 11);
  char* in = Buffer(kBytes, 12);
  auto* waits = static_cast<pollfd*>(malloc(200000));
  waits[0] = {b, POLLIN, 0};
  Stir();
  CHECK(poll(waits, 1, 0) == 0, "poll of nothing");
  std::thread sender([&] {
    size_t sent = 0;
    while (sent < kBytes) {
      const ssize_t n = send(a, out + sent, kBytes - sent, 0);
      CHECK(n > 0, "send");
      sent += static_cast<size_t>(n);
    }
  });
  Stir();
  CHECK(poll(waits, 1, 10000) == 1 && waits[0].revents == POLLIN, "poll");
  size_t got = 0;
  while (got < kBytes) {
    const ssize_t n = recv(b, in + got, kBytes - got, 0);
    CHECK(n > 0, "recv");
    got += static_cast<size_t>(n);
  }
  sender.join();
  Verify(in, kBytes, 11, "send and recv");

  // sendmsg and recvmsg: header, vector, name and control all far.
  auto* message = static_cast<msghdr*>(malloc(200000));
  auto* vector = static_cast<iovec*>(malloc(200000));
  vector[0] = {out, 50000};
  *message = msghdr{};
  message->msg_iov = vector;
  message->msg_iovlen = 1;
  Stir();
  CHECK(sendmsg(a, message, 0) == 50000, "sendmsg");
  memset(in, 0, kBytes);
  vector[0] = {in, 50000};
  Stir();
  CHECK(recvmsg(b, message, MSG_WAITALL) == 50000, "recvmsg");
  Verify(in, 50000, 11, "sendmsg and recvmsg");

  // A receive that blocks while its buffer's pages have every reason to leave.
  memset(in, 0, kBytes);
  std::thread receiver([&] { CHECK(recv(b, in, 20000, MSG_WAITALL) == 20000, "blocked recv"); });
  Stir();
  CHECK(send(a, out, 20000, 0) == 20000, "send");
  receiver.join();
  Verify(in, 20000, 11, "blocked recv");

  const int epoll = epoll_create1(0);
  auto* events = static_cast<epoll_event*>(malloc(200000));
  events[0] = {EPOLLIN, {.u64 = 77}};
  Stir();
  CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, b, events) == 0, "epoll_ctl");
  CHECK(write(a, out, 1) == 1, "write");
  memset(events, 0, 200000);
  Stir();
  CHECK(epoll_wait(epoll, events, 100, 1000) == 1 && events[0].data.u64 == 77, "epoll_wait");
  close(epoll);
  close(a);
  close(b);

  int ends[2];
  CHECK(pipe(ends) == 0, "pipe");
  Stir();
  CHECK(write(ends[1], out, 40000) == 40000, "write to a pipe");
  memset(in, 0, 40000);
  Stir();
  size_t have = 0;
  while (have < 40000) {
    const ssize_t n = read(ends[0], in + have, 40000 - have);
    CHECK(n > 0, "read from a pipe");
    have += static_cast<size_t>(n);
  }
  Verify(in, 40000, 11, "pipe");
  // Blocks in read; a signal must end it with EINTR, which only works with the program's own mask.
  struct sigaction action = {};
  action.sa_handler = [](int) {};
  sigaction(SIGALRM, &action, nullptr);
  itimerval timer = {{0, 20000}, {0, 20000}};
  setitimer(ITIMER_REAL, &timer, nullptr);
  Stir();
  errno = 0;
  CHECK(read(ends[0], in, 40000) == -1 && errno == EINTR, "read interrupted by a signal");
  timer = {};
  setitimer(ITIMER_REAL, &timer, nullptr);
  close(ends[0]);
  close(ends[1]);
  printf("syscalls: sockets, pipes, polls and an interrupted read\n");
}

// Large transfers where borders and short counts matter.
void Borders(const std::string& folder) {
  constexpr size_t kPipe = 256 << 10;
  constexpr size_t kMiB = 1 << 20;
  char* out = Buffer(kMiB, 21);
  char* in = Buffer(kMiB, 22);
  int ends[2];
  CHECK(pipe(ends) == 0, "pipe");
  const bool wide = fcntl(ends[1], F_SETPIPE_SZ, static_cast<int>(kMiB)) >= static_cast<int>(kMiB);
  if (wide) {
    Stir();
    CHECK(write(ends[1], out, kPipe) == static_cast<ssize_t>(kPipe), "write to a wide pipe");
    Stir();
    CHECK(read(ends[0], in, kMiB) == static_cast<ssize_t>(kPipe), "read of all that is in a pipe");
    Verify(in, kPipe, 21, "wide pipe");
    iovec halves[2] = {{in, kMiB / 2}, {in + kMiB / 2, kMiB / 2}};
    CHECK(write(ends[1], out, kPipe) == static_cast<ssize_t>(kPipe), "write to a wide pipe");
    memset(in, 0, kMiB);
    Stir();
    CHECK(readv(ends[0], halves, 2) == static_cast<ssize_t>(kPipe), "readv of all that is in a pipe");
    Verify(in, kPipe, 21, "wide pipe and readv");
  }
  // The pipe must not notice what becomes of the pages. `out` does not change meanwhile: that would show.
  const size_t room = static_cast<size_t>(fcntl(ends[1], F_GETPIPE_SZ)) / 2;
  iovec gift = {out, room};
  Stir();
  const ssize_t given = vmsplice(ends[1], &gift, 1, 0);
  CHECK(given > 0 && given <= static_cast<ssize_t>(room), "vmsplice: %s", strerror(errno));
  Stir();
  memset(in, 0, kMiB);
  for (size_t have = 0; have < static_cast<size_t>(given);) {
    const ssize_t n = read(ends[0], in + have, static_cast<size_t>(given) - have);
    CHECK(n > 0, "read after vmsplice");
    have += static_cast<size_t>(n);
  }
  Verify(in, static_cast<size_t>(given), 21, "vmsplice");
  // The same by an instruction of our own. Where that is refused, programs write.
  Verify(out, room, 21, "before vmsplice");
  gift.iov_len = room;
  long kept = Raw(SYS_vmsplice, static_cast<uint64_t>(ends[1]), &gift, 1);
  CHECK(kept > 0 || kept == -EINVAL, "raw vmsplice: %ld", kept);
  if (kept < 0) kept = write(ends[1], out, room);
  CHECK(kept > 0, "write: %s", strerror(errno));
  Stir();
  for (size_t have = 0; have < static_cast<size_t>(kept);) {
    const ssize_t n = read(ends[0], in + have, static_cast<size_t>(kept) - have);
    CHECK(n > 0, "read after raw vmsplice");
    have += static_cast<size_t>(n);
  }
  Verify(in, static_cast<size_t>(kept), 21, "raw vmsplice");
  // More than fits: takes what fits and does not wait for a reader.
  gift.iov_len = kMiB;
  size_t filled = 0;
  for (;;) {
    const ssize_t n = vmsplice(ends[1], &gift, 1, SPLICE_F_NONBLOCK);
    if (n < 0) break;
    filled += static_cast<size_t>(n);
  }
  CHECK(errno == EAGAIN && filled > 0, "vmsplice to a full pipe: %s", strerror(errno));
  close(ends[0]);
  close(ends[1]);

  for (int type : {SOCK_SEQPACKET, SOCK_DGRAM}) {
    constexpr size_t kMessage = 600000;
    int pair[2];
    CHECK(socketpair(AF_UNIX, type, 0, pair) == 0, "socketpair");
    const int buffer = 4 << 20;
    if (setsockopt(pair[0], SOL_SOCKET, SO_SNDBUFFORCE, &buffer, sizeof(buffer)) != 0)
      setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &buffer, sizeof(buffer));
    Stir();
    const ssize_t sent = send(pair[0], out, kMessage, MSG_DONTWAIT);
    if (sent < 0 && errno == EMSGSIZE) {
      printf("syscalls: no large messages allowed here\n");
    } else {
      CHECK(sent == static_cast<ssize_t>(kMessage), "send of a message: %s", strerror(errno));
      memset(in, 0, kMiB);
      Stir();
      CHECK(recv(pair[1], in, kMiB, 0) == static_cast<ssize_t>(kMessage), "recv of a message");
      Verify(in, kMessage, 21, "message");
    }
    // A bad near pointer costs no more than one message.
    CHECK(send(pair[0], "1", 1, 0) == 1 && send(pair[0], "22", 2, 0) == 2, "send");
    char* volatile nowhere = reinterpret_cast<char*>(16);
    auto* vector = static_cast<iovec*>(malloc(200000));
    vector[0] = {nowhere, 100};
    errno = 0;
    CHECK(readv(pair[1], vector, 1) == -1 && errno == EFAULT, "readv to a bad pointer");
    CHECK(recv(pair[1], in, kMiB, MSG_DONTWAIT) > 0, "recv of what is left");
    free(vector);
    close(pair[0]);
    close(pair[1]);
  }

  constexpr int kBuffers = 64;
  const std::string path = folder + "/vectors";
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600);
  CHECK(fd >= 0, "open");
  iovec many[kBuffers];
  for (int i = 0; i < kBuffers; ++i) {
    many[i] = {malloc(kMiB), kMiB};
    CHECK(many[i].iov_base != nullptr, "malloc");
    memset(many[i].iov_base, i + 1, kMiB);
  }
  constexpr ssize_t kAll = kBuffers * static_cast<ssize_t>(kMiB);
  CHECK(writev(fd, many, kBuffers) == kAll, "writev of much");
  CHECK(lseek(fd, 0, SEEK_CUR) == kAll, "position after writev");
  CHECK(pwritev(fd, many, kBuffers, 1) == kAll, "pwritev of much");
  for (const iovec& one : many) memset(one.iov_base, 0, kMiB);
  CHECK(preadv(fd, many, kBuffers, 1) == kAll, "preadv of much");
  for (int i = 0; i < kBuffers; ++i) {
    const auto* bytes = static_cast<const char*>(many[i].iov_base);
    for (size_t j = 0; j < kMiB; ++j) CHECK(bytes[j] == i + 1, "preadv: buffer %d byte %zu", i, j);
  }
  CHECK(pread(fd, in, 2, 0) == 2 && in[0] == 1 && in[1] == 1, "first bytes");
  CHECK(pread(fd, in, 2, kAll) == 1 && in[0] == kBuffers, "last byte");
  // Many small ones to a pipe.
  CHECK(pipe(ends) == 0, "pipe");
  for (int i = 0; i < kBuffers; ++i) many[i].iov_len = static_cast<size_t>(i);
  Stir();
  constexpr ssize_t kSmall = kBuffers * (kBuffers - 1) / 2;
  CHECK(writev(ends[1], many, kBuffers) == kSmall, "writev of many small ones");
  CHECK(read(ends[0], in, kMiB) == kSmall, "read of many small ones");
  for (int i = 0, at = 0; i < kBuffers; ++i)
    for (int j = 0; j < i; ++j, ++at) CHECK(in[at] == i + 1, "small ones: byte %d", at);
  close(ends[0]);
  close(ends[1]);
  for (const iovec& one : many) free(one.iov_base);
  close(fd);
  unlink(path.c_str());
  // Must neither fail nor populate the arena.
  CHECK(mlockall(MCL_CURRENT | MCL_FUTURE) == 0 || errno == ENOMEM || errno == EPERM, "mlockall");
  CHECK(munlockall() == 0, "munlockall");
  const long locked = Raw(SYS_mlockall, MCL_FUTURE);
  CHECK(locked == 0 || locked == -ENOMEM || locked == -EPERM, "raw mlockall: %ld", locked);
  CHECK(Raw(SYS_munlockall) == 0, "raw munlockall");
  free(in);
  free(out);
  printf("syscalls: messages, short counts, large vectors%s\n", wide ? ", a wide pipe" : "");
}

void Errors() {
  int ends[2];
  CHECK(pipe(ends) == 0 && write(ends[1], "x", 1) == 1, "pipe");
  char* volatile nowhere = reinterpret_cast<char*>(16);
  errno = 0;
  CHECK(read(ends[0], nowhere, 1) == -1 && errno == EFAULT, "read to a near bad pointer");
  errno = 0;
  CHECK(open(nowhere, O_RDONLY) == -1 && errno == EFAULT, "open of a bad pointer");
  auto* page =
      static_cast<char*>(mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  memset(page, 5, 1 << 20);
  CHECK(mprotect(page, 1 << 20, PROT_READ) == 0, "mprotect");
  Stir();
  errno = 0;
  CHECK(read(ends[0], page, 1) == -1 && errno == EFAULT, "read to a read-only page");
  CHECK(write(ends[1], page, 100) == 100, "write from a read-only page");
  CHECK(mprotect(page, 1 << 20, PROT_NONE) == 0, "mprotect");
  Stir();
  errno = 0;
  CHECK(write(ends[1], page, 1) == -1 && errno == EFAULT, "write from a page without rights");
  CHECK(munmap(page, 1 << 20) == 0, "munmap");
  errno = 0;
  CHECK(write(ends[1], page, 1) == -1 && errno == EFAULT, "write from where nothing is mapped");
  // The good half of a buffer that ends in nothing is transferred.
  page =
      static_cast<char*>(mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  memset(page, 6, 1 << 20);
  // Not munmap: another mapping could come to lie there.
  CHECK(mmap(page + (1 << 19), 1 << 19, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) !=
            MAP_FAILED,
        "mmap of nothing over a half");
  char* name = Text("/dev/zero");
  Stir();
  const int zero = open(name, O_RDONLY);
  CHECK(zero >= 0, "open");
  CHECK(read(zero, page + (1 << 19) - 4096, 8192) == 4096, "read across the end of a mapping");
  for (size_t i = 0; i < 4096; ++i) CHECK(page[(1 << 19) - 4096 + i] == 0, "byte %zu", i);
  CHECK(page[(1 << 19) - 4097] == 6, "byte before");
  close(zero);
  munmap(page, 1 << 20);
  close(ends[0]);
  close(ends[1]);
  printf("syscalls: bad pointers answer EFAULT\n");
}

// One read and one write larger than what may be resident.
void Large(const std::string& folder, size_t bytes) {
  char* out = static_cast<char*>(malloc(bytes));
  CHECK(out != nullptr, "malloc");
  for (size_t i = 0; i < bytes; i += 8) {
    const uint64_t word = Mix(i);
    memcpy(out + i, &word, 8);
  }
  const std::string path = folder + "/large";
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600);
  CHECK(fd >= 0, "open");
  for (size_t done = 0; done < bytes;) {
    const ssize_t n = write(fd, out + done, bytes - done);
    CHECK(n > 0, "large write: %s", strerror(errno));
    done += static_cast<size_t>(n);
  }
  memset(out, 0, bytes);
  for (size_t done = 0; done < bytes;) {
    const ssize_t n = pread(fd, out + done, bytes - done, static_cast<off_t>(done));
    CHECK(n > 0, "large read: %s", strerror(errno));
    done += static_cast<size_t>(n);
  }
  for (size_t i = 0; i < bytes; i += 8) {
    uint64_t word;
    memcpy(&word, out + i, 8);
    CHECK(word == Mix(i), "large read: byte %zu", i);
  }
  free(out);
  close(fd);
  unlink(path.c_str());
  printf("syscalls: one buffer of %zu MiB written and read\n", bytes >> 20);
}

// Two append to one file, each record by one call and larger than what farpool keeps here for a call: no
// record is torn.
void Appended(const std::string& folder) {
  constexpr size_t kRecord = 900'000, kCount = 24;
  const std::string path = folder + "/appended";
  close(open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600));
  const auto append = [&path](char tag, bool vector) {
    const int fd = open(path.c_str(), O_WRONLY | O_APPEND);
    CHECK(fd >= 0, "open: %s", strerror(errno));
    std::vector<char> record(kRecord);
    for (size_t i = 0; i < kCount; ++i) {
      memset(record.data(), tag + static_cast<char>(i), kRecord);
      iovec parts[3];
      for (size_t k = 0; k < 3; ++k) parts[k] = {record.data() + k * (kRecord / 3), kRecord / 3};
      const ssize_t n = vector ? writev(fd, parts, 3) : write(fd, record.data(), kRecord);
      CHECK(n == static_cast<ssize_t>(kRecord), "append: %zd, %s", n, strerror(errno));
    }
    close(fd);
  };
  const pid_t child = fork();
  CHECK(child >= 0, "fork");
  if (child == 0) {
    append('a', true);
    _exit(0);
  }
  append('A', false);
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child && status == 0, "appending child: %x",
        static_cast<unsigned>(status));
  const int fd = open(path.c_str(), O_RDONLY);
  std::vector<char> record(kRecord);
  for (size_t i = 0; i < 2 * kCount; ++i) {
    for (size_t done = 0; done < kRecord;) {
      const ssize_t n = read(fd, record.data() + done, kRecord - done);
      CHECK(n > 0, "reading what was appended: %zd", n);
      done += static_cast<size_t>(n);
    }
    for (size_t at = 1; at < kRecord; ++at)
      CHECK(record[at] == record[0], "record %zu is torn at byte %zu: %c in %c", i, at, record[at],
            record[0]);
  }
  close(fd);
  unlink(path.c_str());
  puts("syscalls: records appended by two");
}

struct Meeting {
  pthread_mutex_t mutex;
  char far_between[50000];
  pthread_cond_t changed;
  char more_between[50000];
  int turn;
};

// A file as large as files may be: what comes to the limit is written, what begins there is a signal.
void Limited(const std::string& folder) {
  fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    constexpr size_t kLimit = 512 << 10;
    static volatile int signals;
    signal(SIGXFSZ, [](int) { signals = signals + 1; });
    const rlimit limit = {kLimit, kLimit};
    CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0, "setrlimit: %s", strerror(errno));
    const std::string path = folder + "/limited";
    const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600);
    CHECK(fd >= 0, "open: %s", strerror(errno));
    char* out = Buffer(3 * kLimit, 11);
    const iovec halves[] = {{out, kLimit}, {out + kLimit, kLimit}};
    const auto calls = {+[](int file, char* from, const iovec*) { return write(file, from, 3 * kLimit); },
                        +[](int file, char* from, const iovec*) { return pwrite(file, from, 3 * kLimit, 0); },
                        +[](int file, char*, const iovec* vector) { return writev(file, vector, 2); },
                        +[](int file, char*, const iovec* vector) { return pwritev(file, vector, 2, 0); }};
    for (const auto call : calls) {
      CHECK(lseek(fd, 0, SEEK_SET) == 0, "lseek");
      Stir();
      const ssize_t n = call(fd, out, halves);
      CHECK(n == kLimit && signals == 0, "%zd bytes and %d signals: %s", n, signals, strerror(errno));
      CHECK(lseek(fd, kLimit, SEEK_SET) == kLimit, "lseek");
    }
    CHECK(write(fd, out, 3 * kLimit) == -1 && errno == EFBIG && signals == 1, "beyond: %d signals", signals);
    CHECK(unlink(path.c_str()) == 0, "unlink");
    _exit(0);
  }
  int status;
  CHECK(waitpid(child, &status, 0) == child && status == 0, "child: %x", static_cast<unsigned>(status));
  printf("syscalls: limited files\n");
}

void WriteText(const char* path, const std::string& text) {
  const int fd = open(path, O_WRONLY);
  CHECK(fd >= 0 && write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size()), "%s: %s", path,
        strerror(errno));
  close(fd);
}

// A device that gives a record for each read and takes no buffer that is too small for the largest: a file
// system in a program, with as large records as there are. Where users may not mount one there is no more to
// see.
void Records(const std::string& folder) {
  fflush(stdout);
  const pid_t server = fork();
  if (server == 0) {
    const uid_t user = getuid();
    const gid_t group = getgid();
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) _exit(0);
    WriteText("/proc/self/setgroups", "deny");
    WriteText("/proc/self/uid_map", "0 " + std::to_string(user) + " 1");
    WriteText("/proc/self/gid_map", "0 " + std::to_string(group) + " 1");
    const int fd = open("/dev/fuse", O_RDWR);
    if (fd < 0) _exit(0);
    const std::string place = folder + "/records";
    const std::string options = "fd=" + std::to_string(fd) + ",rootmode=40000,user_id=0,group_id=0";
    CHECK(mkdir(place.c_str(), 0700) == 0, "mkdir: %s", strerror(errno));
    if (mount("records", place.c_str(), "fuse", MS_NOSUID | MS_NODEV, options.c_str()) != 0) _exit(0);
    constexpr uint32_t kData = 1 << 20;
    constexpr size_t kRecord = kData + 4096;
    struct Request {
      fuse_in_header header;
      fuse_init_in init;
    };
    auto* const request = static_cast<Request*>(FarRoom(kRecord));
    CHECK(read(fd, request, kRecord) >= 40 && request->header.opcode == FUSE_INIT, "the first request: %s",
          strerror(errno));
    struct {
      fuse_out_header header;
      fuse_init_out init;
    } answer = {};
    answer.header = {.len = sizeof(answer), .error = 0, .unique = request->header.unique};
    answer.init.major = FUSE_KERNEL_VERSION;
    answer.init.minor = FUSE_KERNEL_MINOR_VERSION;
    answer.init.flags = FUSE_BIG_WRITES | FUSE_MAX_PAGES;
    answer.init.max_write = kData;
    answer.init.max_pages = kData / 4096;
    answer.init.max_background = 1;
    answer.init.congestion_threshold = 1;
    CHECK(write(fd, &answer, sizeof(answer)) == sizeof(answer), "the first answer: %s", strerror(errno));
    const pid_t user_of_it = fork();
    if (user_of_it == 0) {
      struct stat status;
      _exit(stat(place.c_str(), &status) == -1 ? errno : 0);
    }
    Stir();
    CHECK(read(fd, request, kRecord) >= 40 && request->header.opcode == FUSE_GETATTR, "a request: %s",
          strerror(errno));
    const fuse_out_header refused = {
        .len = sizeof(refused), .error = -EXDEV, .unique = request->header.unique};
    CHECK(write(fd, &refused, sizeof(refused)) == sizeof(refused), "an answer: %s", strerror(errno));
    int status;
    CHECK(waitpid(user_of_it, &status, 0) == user_of_it && WEXITSTATUS(status) == EXDEV, "stat: %x",
          static_cast<unsigned>(status));
    _exit(0);
  }
  int status;
  CHECK(waitpid(server, &status, 0) == server && status == 0, "server: %x", static_cast<unsigned>(status));
  rmdir((folder + "/records").c_str());
  printf("syscalls: records\n");
}

void Futexes() {
  auto* meeting = static_cast<Meeting*>(calloc(1, sizeof(Meeting)));
  pthread_mutex_init(&meeting->mutex, nullptr);
  pthread_cond_init(&meeting->changed, nullptr);
  constexpr int kTurns = 8;
  const auto play = [meeting](int me) {
    for (int i = 0; i < kTurns; ++i) {
      pthread_mutex_lock(&meeting->mutex);
      while (meeting->turn % 2 != me) pthread_cond_wait(&meeting->changed, &meeting->mutex);
      Stir();  // While the other one waits in FUTEX_WAIT on a page that may go.
      ++meeting->turn;
      pthread_cond_broadcast(&meeting->changed);
      pthread_mutex_unlock(&meeting->mutex);
    }
  };
  std::thread a(play, 0);
  std::thread b(play, 1);
  a.join();
  b.join();
  CHECK(meeting->turn == 2 * kTurns, "turn %d", meeting->turn);
  auto* deadline = static_cast<timespec*>(malloc(200000));
  clock_gettime(CLOCK_REALTIME, deadline);
  deadline->tv_nsec += 5'000'000;
  if (deadline->tv_nsec >= 1'000'000'000) {
    deadline->tv_nsec -= 1'000'000'000;
    ++deadline->tv_sec;
  }
  Stir();
  pthread_mutex_lock(&meeting->mutex);
  CHECK(pthread_cond_timedwait(&meeting->changed, &meeting->mutex, deadline) == ETIMEDOUT, "timed wait");
  pthread_mutex_unlock(&meeting->mutex);
  auto* pause = static_cast<timespec*>(malloc(200000));
  *pause = {0, 1000};
  Stir();
  CHECK(nanosleep(pause, pause) == 0, "nanosleep");
  printf("syscalls: mutexes and conditions in far pages\n");
}

std::string Drain(FILE* stream) {
  std::string text;
  char buffer[1000];
  size_t n;
  while ((n = fread(buffer, 1, sizeof(buffer), stream)) > 0) text.append(buffer, n);
  return text;
}

void Programs() {
  setenv("FAR_VALUE", std::string(75000, 'v').c_str(), 1);
  auto** argv = static_cast<char**>(malloc(200000));
  argv[0] = Text("sh");
  argv[1] = Text("-c");
  argv[2] = Text("test ${#FAR_VALUE} = 75000 && test \"$1\" = far-argument && exit 7");
  argv[3] = Text("sh");
  argv[4] = Text("far-argument");
  argv[5] = nullptr;
  char* path = Text("/bin/sh");
  pid_t child = 0;
  int status = 0;
  Stir();
  CHECK(posix_spawn(&child, path, nullptr, nullptr, argv, environ) == 0, "posix_spawn");
  Stir();
  CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 7,
        "posix_spawn: status %x", static_cast<unsigned>(status));

  auto* far_status = static_cast<int*>(malloc(200000));
  *far_status = -1;
  child = fork();
  if (child == 0) {
    Stir();
    execve(path, argv, environ);
    _exit(99);
  }
  Stir();
  CHECK(waitpid(child, far_status, 0) == child && WEXITSTATUS(*far_status) == 7, "execve: status %x",
        static_cast<unsigned>(*far_status));
  child = vfork();
  if (child == 0) {
    execve(path, argv, environ);
    _exit(99);
  }
  CHECK(waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 7, "vfork: status %x",
        static_cast<unsigned>(status));
  char* command = Text("exit 9");
  Stir();
  status = system(command);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 9, "system: status %x", static_cast<unsigned>(status));
  command = Text("echo far-output");
  Stir();
  FILE* stream = popen(command, "r");
  CHECK(stream != nullptr, "popen");
  CHECK(Drain(stream) == "far-output\n" && pclose(stream) == 0, "popen");
  argv[2] = Text("exit 0");
  Stir();
  CHECK(posix_spawn(&child, Text("/nonexistent/program"), nullptr, nullptr, argv, environ) == ENOENT,
        "posix_spawn of nothing");
  printf("syscalls: posix_spawn, fork and exec, vfork, system, popen\n");
}

}  // namespace

int main(int argc, char** argv) {
  setvbuf(stdout, nullptr, _IOLBF, 0);
  const uint64_t mib = Argument(argc, argv, 1, 96);
  StirInit(mib);
  char folder[] = "/tmp/syscalls-XXXXXX";
  CHECK(mkdtemp(folder) != nullptr, "mkdtemp");
  Files(folder);
  Sockets();
  Borders(folder);
  Errors();
  Large(folder, mib << 20);
  Appended(folder);
  Limited(folder);
  Records(folder);
  Futexes();
  Programs();
  CHECK(rmdir(folder) == 0, "rmdir: %s", strerror(errno));
  printf("syscalls: all verified\n");
  return 0;
}
