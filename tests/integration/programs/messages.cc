// messages [MiB]: messages of many buffers, asynchronous and direct I/O, other processes' memory, nested
// pointers, timeouts, cancellation; all of it in heap pages that nobody touched for a while.

#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/filter.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <atomic>
#include <cerrno>
#include <ctime>
#include <functional>
#include <thread>
#include <vector>

#include "far.h"

namespace {

constexpr int kMany = 40;
constexpr size_t kEach = 1000;

void FillMany(iovec* vector, uint64_t key) {
  for (int i = 0; i < kMany; ++i) {
    vector[i] = {FarRoom(kEach), kEach};
    for (size_t j = 0; j < kEach; ++j)
      static_cast<char*>(vector[i].iov_base)[j] =
          key == 0 ? 0 : static_cast<char>(Mix(key + static_cast<size_t>(i) * kEach + j));
  }
}
void VerifyMany(const iovec* vector, uint64_t key, const char* what) {
  for (int i = 0; i < kMany; ++i)
    Verify(static_cast<const char*>(vector[i].iov_base), kEach, key + static_cast<size_t>(i) * kEach, what);
}

// A thread that makes a call, once it sleeps in it.
class Sleeper {
 public:
  explicit Sleeper(const std::function<void()>& call) {
    thread_ = std::thread([this, call] {
      tid_ = static_cast<pid_t>(syscall(SYS_gettid));
      call();
    });
    UntilAsleep(tid_);
  }
  void Join() { thread_.join(); }
  // Until it sleeps in the kernel.
  static void UntilAsleep(const std::atomic<pid_t>& tid) {
    for (char state = 0; state != 'S';) {
      if (tid == 0) continue;
      char path[64];
      snprintf(path, sizeof(path), "/proc/self/task/%d/stat", tid.load());
      FILE* file = fopen(path, "r");
      if (file == nullptr || fscanf(file, "%*d %*s %c", &state) != 1) state = 0;
      if (file != nullptr) fclose(file);
    }
  }

 private:
  std::thread thread_;
  std::atomic<pid_t> tid_{0};
};

// One message of more buffers than anybody would look after one by one, with a descriptor in far control
// data.
void ManyBuffers(int type, const char* name) {
  int pair[2];
  CHECK(socketpair(AF_UNIX, type, 0, pair) == 0, "socketpair");
  auto* out = FarArray<iovec>(kMany);
  auto* in = FarArray<iovec>(kMany);
  FillMany(out, 5);
  FillMany(in, 0);
  const size_t room = CMSG_SPACE(sizeof(int));
  auto* control = FarArray<char>(room);
  msghdr message = {};
  message.msg_iov = out;
  message.msg_iovlen = kMany;
  message.msg_control = control;
  message.msg_controllen = room;
  cmsghdr* head = CMSG_FIRSTHDR(&message);
  head->cmsg_level = SOL_SOCKET;
  head->cmsg_type = SCM_RIGHTS;
  head->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(head), &pair[0], sizeof(int));
  if (type == SOCK_STREAM) message.msg_controllen = 0;  // A receive would end with it.
  msghdr* far_message = Far(message);
  Stir();
  CHECK(sendmsg(pair[0], far_message, 0) == kMany * kEach, "%s: sendmsg: %s", name, strerror(errno));
  message = {};
  message.msg_iov = in;
  message.msg_iovlen = kMany;
  message.msg_control = FarArray<char>(room);
  message.msg_controllen = room;
  msghdr* target = Far(message);
  Stir();
  CHECK(recvmsg(pair[1], target, type == SOCK_STREAM ? MSG_WAITALL : 0) == kMany * kEach, "%s: recvmsg",
        name);
  VerifyMany(in, 5, name);
  CHECK(target->msg_iov == in && target->msg_iovlen == kMany, "%s: header", name);
  if (type != SOCK_STREAM) {
    head = CMSG_FIRSTHDR(target);
    CHECK(head != nullptr && head->cmsg_type == SCM_RIGHTS, "%s: control data", name);
    int passed;
    memcpy(&passed, CMSG_DATA(head), sizeof(int));
    CHECK(write(passed, "y", 1) == 1, "%s: the descriptor that was passed", name);
    char byte;
    CHECK(read(pair[1], &byte, 1) == 1 && byte == 'y', "%s: byte", name);
    close(passed);
  }
  FillMany(in, 0);
  Stir();
  CHECK(writev(pair[0], out, kMany) == kMany * kEach, "%s: writev", name);
  Stir();
  if (type != SOCK_STREAM) {
    CHECK(readv(pair[1], in, kMany) == kMany * kEach, "%s: readv", name);
    VerifyMany(in, 5, name);
  }
  close(pair[0]);
  close(pair[1]);
  printf("messages: %d buffers, %s\n", kMany, name);
}

// A message of many buffers that is long in coming, while the buffers' pages have every reason to leave.
// There is only one, so it must not get lost on the way.
void BlockedMessage() {
  int pair[2];
  CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) == 0, "socketpair");
  const timeval limit = {20, 0};  // To fail, not to hang.
  CHECK(setsockopt(pair[1], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) == 0, "SO_RCVTIMEO");
  auto* out = FarArray<iovec>(kMany);
  auto* in = FarArray<iovec>(kMany);
  FillMany(out, 6);
  for (const bool vector : {false, true}) {
    FillMany(in, 0);
    msghdr message = {};
    message.msg_iov = in;
    message.msg_iovlen = kMany;
    msghdr* target = Far(message);
    Sleeper receiver([&] {
      const ssize_t n = vector ? readv(pair[1], in, kMany) : recvmsg(pair[1], target, 0);
      CHECK(n == kMany * kEach, "a blocked receive: %zd, %s", n, strerror(errno));
    });
    Stir();
    CHECK(writev(pair[0], out, kMany) == kMany * kEach, "writev: %s", strerror(errno));
    receiver.Join();
    VerifyMany(in, 6, "a blocked receive");
  }
  close(pair[0]);
  close(pair[1]);
  printf("messages: a blocked receive\n");
}

void ManyMessages() {
  int pair[2];
  CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) == 0, "socketpair");
  constexpr int kCount = 8;  // No more fit into the queue by default.
  auto* out = FarArray<mmsghdr>(kCount);
  auto* in = FarArray<mmsghdr>(kCount);
  for (int i = 0; i < kCount; ++i) {
    for (mmsghdr* each : {&out[i], &in[i]}) {
      auto* vector = FarArray<iovec>(3);
      for (int j = 0; j < 3; ++j) vector[j] = {FarRoom(100), 100};
      each->msg_hdr.msg_iov = vector;
      each->msg_hdr.msg_iovlen = 3;
    }
    for (int j = 0; j < 3; ++j) memset(out[i].msg_hdr.msg_iov[j].iov_base, i * 3 + j + 1, 100);
  }
  Stir();
  CHECK(sendmmsg(pair[0], out, kCount, 0) == kCount, "sendmmsg: %s", strerror(errno));
  auto* limit = Far(timespec{10, 0});
  Stir();
  CHECK(recvmmsg(pair[1], in, kCount, MSG_WAITFORONE, limit) == kCount, "recvmmsg: %s", strerror(errno));
  CHECK(limit->tv_sec < 10, "recvmmsg leaves the rest of the time");
  for (int i = 0; i < kCount; ++i) {
    CHECK(out[i].msg_len == 300 && in[i].msg_len == 300, "message %d: %u bytes", i, in[i].msg_len);
    for (int j = 0; j < 3; ++j)
      for (int k = 0; k < 100; ++k)
        CHECK(static_cast<char*>(in[i].msg_hdr.msg_iov[j].iov_base)[k] == i * 3 + j + 1, "message %d", i);
  }
  errno = 0;
  CHECK(recvmmsg(pair[1], in, kCount, MSG_DONTWAIT, nullptr) == -1 && errno == EAGAIN, "recvmmsg of nothing");
  close(pair[0]);
  close(pair[1]);
  printf("messages: sendmmsg and recvmmsg\n");
}

// A whole run of requests in flight while the pages have every reason to go.
void AsynchronousIo(const std::string& path, int flags) {
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | flags, 0600);
  if (fd < 0) {
    CHECK(errno == EINVAL, "open: %s", strerror(errno));
    return;
  }
  constexpr int kRequests = 48;
  constexpr size_t kBytes = 16384;
  aio_context_t context = 0;
  CHECK(syscall(SYS_io_setup, kRequests, &context) == 0, "io_setup: %s", strerror(errno));
  auto** blocks = FarArray<iocb*>(kRequests);
  char* buffers[kRequests];
  for (int i = 0; i < kRequests; ++i) {
    buffers[i] = static_cast<char*>(aligned_alloc(4096, kBytes));
    for (size_t j = 0; j < kBytes; ++j)
      buffers[i][j] = static_cast<char>(Mix(static_cast<size_t>(i) * kBytes + j));
    blocks[i] = FarArray<iocb>(1);
    blocks[i]->aio_fildes = static_cast<uint32_t>(fd);
    blocks[i]->aio_data = static_cast<uint64_t>(i);
    blocks[i]->aio_nbytes = kBytes;
    blocks[i]->aio_offset = static_cast<int64_t>(static_cast<size_t>(i) * kBytes);
    blocks[i]->aio_buf = reinterpret_cast<uint64_t>(buffers[i]);
    if (i % 2 == 1) {
      blocks[i]->aio_buf = reinterpret_cast<uint64_t>(Far(iovec{buffers[i], kBytes}));
      blocks[i]->aio_nbytes = 1;
    }
  }
  auto* events = FarArray<io_event>(kRequests);
  for (const bool reads : {false, true}) {
    for (int i = 0; i < kRequests; ++i) {
      blocks[i]->aio_lio_opcode =
          static_cast<uint16_t>(i % 2 == 1 ? reads ? IOCB_CMD_PREADV : IOCB_CMD_PWRITEV
                                : reads    ? IOCB_CMD_PREAD
                                           : IOCB_CMD_PWRITE);
      if (reads) memset(buffers[i], 0, kBytes);
    }
    Stir();
    for (long done = 0; done < kRequests;) {
      const long n = syscall(SYS_io_submit, context, kRequests - done, blocks + done);
      CHECK(n > 0, "io_submit: %s", strerror(errno));
      done += n;
    }
    Stir();
    for (long done = 0; done < kRequests;) {
      const long n = syscall(SYS_io_getevents, context, 1, kRequests, events, nullptr);
      CHECK(n > 0, "io_getevents: %s", strerror(errno));
      for (long i = 0; i < n; ++i)
        CHECK(events[i].res == static_cast<int64_t>(kBytes), "request %llu: %lld", events[i].data,
              events[i].res);
      done += n;
    }
    Stir();
    for (int i = 0; i < kRequests; ++i)
      Verify(buffers[i], kBytes, static_cast<size_t>(i) * kBytes,
             reads ? "io_submit: read" : "io_submit: written");
  }
  for (char* each : buffers) {
    memset(each, 0, kBytes);
  }
  Stir();
  for (int i = 0; i < kRequests; ++i)
    CHECK(pread(fd, buffers[i], kBytes, blocks[i]->aio_offset) == static_cast<ssize_t>(kBytes), "pread");
  Stir();
  for (int i = 0; i < kRequests; ++i) Verify(buffers[i], kBytes, static_cast<size_t>(i) * kBytes, "pread");
  CHECK(syscall(SYS_io_destroy, context) == 0, "io_destroy");
  for (char* each : buffers) free(each);
  close(fd);
  unlink(path.c_str());
}

void OtherMemory() {
  auto* from = FarArray<iovec>(kMany);
  auto* to = FarArray<iovec>(kMany);
  FillMany(from, 9);
  FillMany(to, 0);
  Stir();
  CHECK(process_vm_readv(getpid(), to, kMany, from, kMany, 0) == kMany * kEach, "process_vm_readv");
  VerifyMany(to, 9, "process_vm_readv");
  FillMany(to, 0);
  Stir();
  CHECK(process_vm_writev(getpid(), from, 3, to, 3, 0) == 3 * kEach, "process_vm_writev");
  Verify(static_cast<char*>(to[2].iov_base), kEach, 9 + 2 * kEach, "process_vm_writev");
  const int self = static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0));
  auto* block =
      static_cast<char*>(mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  memset(block, 7, 1 << 20);
  iovec range = {block, 1 << 19};
  CHECK(syscall(SYS_process_madvise, self, &range, 1, MADV_COLD, 0) == 1 << 19, "process_madvise");
  errno = 0;
  const long dropped = syscall(SYS_process_madvise, self, &range, 1, MADV_DONTNEED, 0);
  CHECK(dropped == 1 << 19 || errno == EINVAL, "process_madvise: %s", strerror(errno));
  Stir();
  for (size_t i = 0; i < 1 << 20; ++i) CHECK(block[i] == (dropped > 0 && i < 1 << 19 ? 0 : 7), "byte %zu", i);
  close(self);
  printf("messages: process_vm_readv, process_vm_writev, process_madvise\n");
}

// Pointers inside of what a call points to.
void Nested() {
  const int fd = socket(AF_INET, SOCK_DGRAM, 0);
  auto* requests = FarArray<ifreq>(64);
  ifconf configuration = {};
  configuration.ifc_len = 64 * sizeof(ifreq);
  configuration.ifc_req = requests;
  ifconf* far_configuration = Far(configuration);
  Stir();
  CHECK(ioctl(fd, SIOCGIFCONF, far_configuration) == 0, "SIOCGIFCONF: %s", strerror(errno));
  Stir();
  CHECK(ioctl(fd, SIOCGIFCONF, &configuration) == 0 && configuration.ifc_len == far_configuration->ifc_len,
        "SIOCGIFCONF: %s", strerror(errno));
  auto* code = FarArray<sock_filter>(1);
  code[0] = {BPF_RET | BPF_K, 0, 0, 0xffff};
  sock_fprog program = {1, code};
  Stir();
  CHECK(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) == 0, "SO_ATTACH_FILTER: %s",
        strerror(errno));
  close(fd);
  // More descriptors than an fd_set has.
  constexpr int kWords = 2048 / 64;
  auto* set = FarArray<uint64_t>(kWords + 1024);
  Stir();
  timeval none = {0, 0};
  CHECK(select(2048, reinterpret_cast<fd_set*>(set + 1000), nullptr, nullptr, &none) == 0, "select: %s",
        strerror(errno));
  printf("messages: nested pointers\n");
}

std::atomic<int> destroyed{0}, cleaned{0}, inside{0};
struct Guard {
  ~Guard() { ++destroyed; }
};

template <typename Call>
void CancelInside(const char* name, Call call) {
  struct Context {
    Call* call;
    int* tid;
  };
  std::atomic<pid_t> tid{0};
  struct Arguments {
    Call* call;
    std::atomic<pid_t>* tid;
  } arguments = {&call, &tid};
  const auto run = [](void* given) -> void* {
    auto* mine = static_cast<Arguments*>(given);
    Guard guard;
    pthread_cleanup_push([](void*) { ++cleaned; }, nullptr);
    *mine->tid = static_cast<pid_t>(syscall(SYS_gettid));
    (*mine->call)();
    pthread_cleanup_pop(0);
    return nullptr;
  };
  pthread_t thread;
  destroyed = cleaned = 0;
  CHECK(pthread_create(&thread, nullptr, run, &arguments) == 0, "pthread_create");
  Sleeper::UntilAsleep(tid);
  void* result = nullptr;
  CHECK(pthread_cancel(thread) == 0 && pthread_join(thread, &result) == 0, "pthread_cancel");
  CHECK(result == PTHREAD_CANCELED && destroyed == 1 && cleaned == 1, "%s: destroyed %d, cleaned %d", name,
        destroyed.load(), cleaned.load());
}

// Wherever a call into memory that is away happens to be when it is cancelled, the stack unwinds.
void CancelledAnywhere() {
  constexpr size_t kRoom = 64 << 20;
  static int ends[2];
  static char* room;
  static std::atomic<uint32_t> seed{0};
  CHECK(pipe(ends) == 0, "pipe");
  room = static_cast<char*>(FarRoom(kRoom + kEach));
  std::memset(room, 3, kRoom + kEach);  // Far more than may be here.
  uint32_t random = 7;
  for (uint32_t i = 0; i < 1000; ++i) {
    inside = destroyed = 0;
    seed = i * 7919 + 1;
    pthread_t thread;
    CHECK(pthread_create(
              &thread, nullptr,
              [](void*) -> void* {
                const Guard guard;
                inside = 1;
                for (uint32_t at = seed;; at = at * 1664525 + 1013904223)
                  if (read(ends[0], room + at % kRoom, kEach) >= 0) abort();
              },
              nullptr) == 0,
          "pthread_create");
    while (inside == 0) {
    }
    random = random * 1664525 + 1013904223;
    for (uint32_t wait = (random >> 16) % 40000; wait > 0; --wait)
      std::atomic_signal_fence(std::memory_order_seq_cst);
    void* result = nullptr;
    CHECK(pthread_cancel(thread) == 0 && pthread_join(thread, &result) == 0, "pthread_cancel");
    CHECK(result == PTHREAD_CANCELED && destroyed == 1, "cancelled anywhere: destroyed %d", destroyed.load());
  }
  printf("messages: cancelled anywhere\n");
}

void Cancellation() {
  int pair[2], ends[2];
  CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0 && pipe(ends) == 0, "socketpair");
  char* buffer = static_cast<char*>(FarRoom(kEach));
  auto* vector = Far(iovec{buffer, kEach});
  msghdr message = {};
  message.msg_iov = vector;
  message.msg_iovlen = 1;
  auto* far_message = Far(message);
  auto* wait = Far(pollfd{ends[0], POLLIN, 0});
  auto* name = Far(sockaddr_storage{});
  auto* name_bytes = Far(socklen_t{sizeof(sockaddr_storage)});
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  CHECK(listen(listener, 1) == 0, "listen");
  auto* pause = Far(timespec{1000, 0});
  for (int round = 0; round < 30; ++round) {  // What a cancelled thread held must not add up.
    if (round == 0) Stir();
    CancelInside("read", [&] { return read(ends[0], buffer, kEach); });
    CancelInside("recv", [&] { return recv(pair[0], buffer, kEach, 0); });
  }
  CancelInside("readv", [&] { return readv(ends[0], vector, 1); });
  CancelInside("recvmsg", [&] { return recvmsg(pair[0], far_message, 0); });
  CancelInside("poll", [&] { return poll(wait, 1, -1); });
  CancelInside("accept", [&] { return accept(listener, reinterpret_cast<sockaddr*>(name), name_bytes); });
  CancelInside("nanosleep", [&] { return nanosleep(pause, nullptr); });
  CancelInside("near read", [&] {
    char near[8];
    return read(ends[0], near, sizeof(near));
  });
  CancelInside("asynchronous", [&] {
    pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, nullptr);
    return read(ends[0], buffer, kEach);
  });
  // A signal with SA_RESTART goes unnoticed, without it the call ends.
  static std::atomic<int> signals{0};
  for (const bool restart : {true, false}) {
    struct sigaction action = {};
    action.sa_handler = [](int) { ++signals; };
    action.sa_flags = restart ? SA_RESTART : 0;
    sigaction(SIGUSR1, &action, nullptr);
    std::atomic<ssize_t> got{-100};
    std::atomic<int> error{0};
    signals = 0;
    std::thread reader([&] {
      const ssize_t n = read(ends[0], buffer, kEach);
      error = errno;
      got = n;
    });
    while (signals == 0 || (!restart && got == -100)) {
      pthread_kill(reader.native_handle(), SIGUSR1);
      usleep(1000);
    }
    if (restart) CHECK(got == -100 && write(ends[1], "z", 1) == 1, "a restarted read came back");
    reader.join();
    CHECK(restart ? got == 1 : got == -1 && error == EINTR, "read and a signal: %zd", got.load());
  }
  close(listener);
  printf("messages: cancellation, signals\n");
}

// Nothing comes, and each call says so when its time is over; what it was handed is as it was.
void Timeouts() {
  const auto expires = [](const char* name, int error, const auto& call) {
    Stir();
    errno = 0;
    const long r = call();
    CHECK(r == (error == 0 ? 0 : -1) && errno == error, "%s: %ld, %s", name, r, strerror(errno));
  };
  constexpr timespec kMoment = {0, 20'000'000};
  const timeval limit = {0, 20'000};
  const int epoll = epoll_create1(0);
  for (const int type : {SOCK_STREAM, SOCK_DGRAM}) {
    int pair[2];
    CHECK(socketpair(AF_UNIX, type, 0, pair) == 0, "socketpair");
    CHECK(setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) == 0, "SO_RCVTIMEO");
    char* buffer = Buffer(600'000, 3);
    auto* many = FarArray<iovec>(kMany);
    FillMany(many, 4);
    msghdr message = {};
    message.msg_iov = many;
    message.msg_iovlen = kMany;
    auto* far_message = Far(message);
    auto* one = Far(iovec{buffer, 1000});
    expires("read", EAGAIN, [&] { return read(pair[0], buffer, 1000); });
    expires("recv of much", EAGAIN, [&] { return recv(pair[0], buffer, 600'000, MSG_WAITALL); });
    expires("readv", EAGAIN, [&] { return readv(pair[0], one, 1); });
    expires("readv of many", EAGAIN, [&] { return readv(pair[0], many, kMany); });
    expires("recvmsg of many", EAGAIN, [&] { return recvmsg(pair[0], far_message, 0); });
    CHECK(memcmp(far_message, &message, sizeof(message)) == 0, "recvmsg of nothing: header");
    Verify(buffer, 600'000, 3, "after timeouts");
    VerifyMany(many, 4, "after timeouts");
    auto* wait = Far(pollfd{pair[0], POLLIN, 0});
    auto* moment = Far(kMoment);
    expires("poll", 0, [&] { return poll(wait, 1, 20); });
    expires("ppoll", 0, [&] { return ppoll(wait, 1, moment, nullptr); });
    auto* set = FarArray<fd_set>(1);
    FD_SET(pair[0], set);
    auto* left = Far(limit);
    expires("select", 0, [&] { return select(pair[0] + 1, set, nullptr, nullptr, left); });
    CHECK(!FD_ISSET(pair[0], set) && left->tv_sec == 0 && left->tv_usec == 0, "select: what is left");
    auto* event = Far(epoll_event{EPOLLIN, {}});
    CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, pair[0], event) == 0, "epoll_ctl");
    expires("epoll_wait", 0, [&] { return epoll_wait(epoll, event, 1, 20); });
    close(pair[0]);
    close(pair[1]);
    free(buffer);
  }
  close(epoll);
  auto* usr1 = FarArray<sigset_t>(1);
  sigaddset(usr1, SIGUSR1);
  CHECK(pthread_sigmask(SIG_BLOCK, usr1, nullptr) == 0, "pthread_sigmask");
  auto* info = FarArray<siginfo_t>(1);
  auto* moment = Far(kMoment);
  expires("sigtimedwait", EAGAIN, [&] { return sigtimedwait(usr1, info, moment); });
  CHECK(pthread_sigmask(SIG_UNBLOCK, usr1, nullptr) == 0, "pthread_sigmask");
  auto* semaphore = FarArray<sem_t>(1);
  auto* until = Far(timespec{});
  CHECK(sem_init(semaphore, 0, 0) == 0 && clock_gettime(CLOCK_REALTIME, until) == 0, "sem_init");
  expires("sem_timedwait", ETIMEDOUT, [&] { return sem_timedwait(semaphore, until); });
  printf("messages: timeouts\n");
}

}  // namespace

int main(int argc, char** argv) {
  setvbuf(stdout, nullptr, _IOLBF, 0);
  StirInit(Argument(argc, argv, 1, 40));
  char folder[] = "/tmp/messages-XXXXXX";
  CHECK(mkdtemp(folder) != nullptr, "mkdtemp");
  ManyBuffers(SOCK_STREAM, "a stream");
  ManyBuffers(SOCK_DGRAM, "datagrams");
  ManyBuffers(SOCK_SEQPACKET, "packets");
  BlockedMessage();
  ManyMessages();
  for (int flags : {0, O_DIRECT}) AsynchronousIo(std::string(folder) + "/data", flags);
  printf("messages: io_submit\n");
  OtherMemory();
  Nested();
  Timeouts();
  CancelledAnywhere();
  Cancellation();
  CHECK(rmdir(folder) == 0, "rmdir");
  printf("messages: all verified\n");
  return 0;
}
