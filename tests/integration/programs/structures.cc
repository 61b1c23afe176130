// structures [MiB]: system calls of many kinds whose structures lie in heap pages that nobody touched for a
// while. Prints what they answer. What a system does not have or allow says so by its errno, which is printed
// too.

#include <fcntl.h>
#include <linux/capability.h>
#include <mqueue.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/sendfile.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/times.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <termios.h>

#include <cerrno>
#include <csignal>
#include <ctime>

#include "far.h"

namespace {

// After much else was in memory; prints the answer, or the error.
template <typename Call>
long Answer(const char* name, Call call) {
  Stir();
  errno = 0;
  const long r = call();
  if (r == -1) {
    printf("%s: error %d\n", name, errno);
  } else {
    printf("%s: %ld\n", name, r);
  }
  return r;
}
template <typename Call>
void Succeeds(const char* name, Call call) {
  Stir();
  errno = 0;
  CHECK(call() != -1, "%s: %s", name, strerror(errno));
  printf("%s\n", name);
}

void Queues() {
  char name[64];
  snprintf(name, sizeof(name), "/structures-%d", getpid());
  char* far_name = Text(name + 1);  // The system call wants it without the slash.
  auto* attributes = Far(mq_attr{});
  attributes->mq_maxmsg = 4;
  attributes->mq_msgsize = 100;
  const int queue = static_cast<int>(syscall(SYS_mq_open, far_name, O_CREAT | O_RDWR, 0600, attributes));
  if (queue < 0) {
    printf("mq_open: error %d\n", errno);
  } else {
    char* out = Text("message");
    char* in = static_cast<char*>(FarRoom(100));
    auto* limit = Far(timespec{0, 0});
    auto* priority = Far(0u);
    Succeeds("mq_send", [=] { return syscall(SYS_mq_timedsend, queue, out, 8, 3, limit); });
    Answer("mq_receive", [=] { return syscall(SYS_mq_timedreceive, queue, in, 100, priority, limit); });
    CHECK(strcmp(in, "message") == 0 && *priority == 3, "mq_receive");
    Answer("mq_receive of nothing",
           [=] { return syscall(SYS_mq_timedreceive, queue, in, 100, priority, limit); });
    auto* now = Far(mq_attr{});
    auto* set = Far(mq_attr{});
    set->mq_flags = O_NONBLOCK;
    Succeeds("mq_getsetattr", [=] { return syscall(SYS_mq_getsetattr, queue, set, now); });
    CHECK(now->mq_maxmsg == 4 && now->mq_msgsize == 100 && now->mq_curmsgs == 0, "mq_getsetattr");
    auto* event = Far(sigevent{});
    event->sigev_notify = SIGEV_NONE;
    Succeeds("mq_notify", [=] { return syscall(SYS_mq_notify, queue, event); });
    Succeeds("mq_unlink", [=] { return syscall(SYS_mq_unlink, far_name); });
    close(queue);
  }
  struct Message {
    long type;
    char text[2000];
  };
  const int messages = msgget(IPC_PRIVATE, 0600);
  CHECK(messages >= 0, "msgget: %s", strerror(errno));
  auto* out = Far(Message{7, "hello"});
  auto* in = Far(Message{});
  auto* info = Far(msqid_ds{});
  Succeeds("msgsnd", [=] { return msgsnd(messages, out, 1000, 0); });
  Succeeds("msgctl", [=] { return msgctl(messages, IPC_STAT, info); });
  CHECK(info->msg_qnum == 1, "msgctl");
  Answer("msgrcv", [=] { return msgrcv(messages, in, 2000, 0, 0); });
  CHECK(in->type == 7 && strcmp(in->text, "hello") == 0, "msgrcv");
  Succeeds("msgctl set", [=] { return msgctl(messages, IPC_SET, info); });
  msgctl(messages, IPC_RMID, nullptr);

  const int semaphores = semget(IPC_PRIVATE, 3, 0600);
  CHECK(semaphores >= 0, "semget");
  auto* values = FarArray<unsigned short>(3);
  auto* operations = FarArray<sembuf>(2);
  for (unsigned short i = 0; i < 3; ++i) values[i] = static_cast<unsigned short>(i + 1);
  operations[0] = {0, -1, 0};
  operations[1] = {2, 5, 0};
  auto* limit = Far(timespec{0, 1000});
  Succeeds("semctl SETALL", [=] { return semctl(semaphores, 0, SETALL, values); });
  Succeeds("semop", [=] { return semop(semaphores, operations, 2); });
  Answer("semtimedop", [=] { return semtimedop(semaphores, operations, 2, limit); });
  Succeeds("semctl GETALL", [=] { return semctl(semaphores, 0, GETALL, values); });
  CHECK(values[0] == 0 && values[1] == 2 && values[2] == 8, "GETALL");
  auto* state = Far(semid_ds{});
  Succeeds("semctl IPC_STAT", [=] { return semctl(semaphores, 0, IPC_STAT, state); });
  CHECK(state->sem_nsems == 3, "IPC_STAT");
  semctl(semaphores, 0, IPC_RMID);

  const int segment = shmget(IPC_PRIVATE, 10000, 0600);
  CHECK(segment >= 0, "shmget");
  auto* about = Far(shmid_ds{});
  Succeeds("shmctl", [=] { return shmctl(segment, IPC_STAT, about); });
  CHECK(about->shm_segsz == 10000, "shmctl");
  shmctl(segment, IPC_RMID, nullptr);
}

void Attributes(const std::string& path, int fd) {
  char* far_path = Text(path);
  char* name = Text("user.structures");
  char* value = Text("the value");
  char* in = static_cast<char*>(FarRoom(5000));
  if (Answer("setxattr", [=] { return setxattr(far_path, name, value, 9, 0); }) == 0) {
    Answer("getxattr", [=] { return getxattr(far_path, name, in, 5000); });
    CHECK(memcmp(in, "the value", 9) == 0, "getxattr");
    Succeeds("fsetxattr", [=] { return fsetxattr(fd, name, value, 3, 0); });
    Answer("fgetxattr", [=] { return fgetxattr(fd, name, in, 5000); });
    Succeeds("listxattr", [=] { return listxattr(far_path, in, 5000); });
    Succeeds("flistxattr", [=] { return flistxattr(fd, in, 5000); });
    Succeeds("removexattr", [=] { return removexattr(far_path, name); });
  }
  char* type = Text("user");
  char* key = Text("structures");
  constexpr int kProcessKeyring = -2;  // KEY_SPEC_PROCESS_KEYRING
  Stir();
  const long id = syscall(SYS_add_key, type, key, value, 9, kProcessKeyring);
  if (id > 0) {
    constexpr int kRead = 11, kDescribe = 6, kSearch = 10;
    Answer("keyctl read", [=] { return syscall(SYS_keyctl, kRead, id, in, 5000); });
    CHECK(memcmp(in, "the value", 9) == 0, "keyctl read");
    Succeeds("keyctl describe", [=] { return syscall(SYS_keyctl, kDescribe, id, in, 5000); });
    Stir();
    CHECK(syscall(SYS_keyctl, kSearch, kProcessKeyring, type, key, 0) == id, "keyctl search");
  } else {
    printf("add_key: error %d\n", errno);
  }
}

void Scheduling() {
  auto* parameter = Far(sched_param{});
  Succeeds("sched_getparam", [=] { return sched_getparam(0, parameter); });
  Succeeds("sched_setparam", [=] { return sched_setparam(0, parameter); });
  parameter = Far(sched_param{});
  Succeeds("sched_setscheduler", [=] { return sched_setscheduler(0, SCHED_BATCH, parameter); });
  struct Attributes {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
  };
  auto* attributes = Far(Attributes{});
  Succeeds("sched_getattr", [=] { return syscall(SYS_sched_getattr, 0, attributes, sizeof(Attributes), 0); });
  CHECK(attributes->policy == SCHED_BATCH, "sched_getattr");
  Succeeds("sched_setattr", [=] { return syscall(SYS_sched_setattr, 0, attributes, 0); });
  auto* interval = Far(timespec{-1, -1});
  Succeeds("sched_rr_get_interval", [=] { return sched_rr_get_interval(0, interval); });
  CHECK(interval->tv_sec == 0 && interval->tv_nsec >= 0, "sched_rr_get_interval");
  auto* set = FarArray<cpu_set_t>(1);
  Succeeds("sched_getaffinity", [=] { return sched_getaffinity(0, sizeof(cpu_set_t), set); });
  CHECK(CPU_COUNT(set) > 0, "sched_getaffinity");
  Succeeds("sched_setaffinity", [=] { return sched_setaffinity(0, sizeof(cpu_set_t), set); });
  auto* cpu = Far(~0u);
  auto* node = Far(~0u);
  Succeeds("getcpu", [=] { return syscall(SYS_getcpu, cpu, node, nullptr); });
  CHECK(*cpu < 65536 && *node < 65536, "getcpu");

  auto* header = Far(__user_cap_header_struct{_LINUX_CAPABILITY_VERSION_3, 0});
  auto* data = FarArray<__user_cap_data_struct>(2);
  Succeeds("capget", [=] { return syscall(SYS_capget, header, data); });
  printf("capget: %x %x\n", data[0].effective, data[1].effective);
  Succeeds("capset", [=] { return syscall(SYS_capset, header, data); });
  auto* limit = Far(rlimit{1, 1});
  auto* old = Far(rlimit{1, 1});
  Succeeds("prlimit", [=] { return prlimit(0, RLIMIT_CORE, nullptr, limit); });
  Succeeds("prlimit both", [=] { return prlimit(0, RLIMIT_CORE, limit, old); });
  CHECK(old->rlim_max == limit->rlim_max, "prlimit");
  Succeeds("getrlimit", [=] { return syscall(SYS_getrlimit, RLIMIT_CORE, limit); });
  Succeeds("setrlimit", [=] { return syscall(SYS_setrlimit, RLIMIT_CORE, limit); });
  auto* usage = Far(rusage{});
  Succeeds("getrusage", [=] { return getrusage(RUSAGE_SELF, usage); });
  CHECK(usage->ru_utime.tv_sec + usage->ru_utime.tv_usec > 0, "getrusage");
  auto* machine = Far(utsname{});
  Succeeds("uname", [=] { return uname(machine); });
  printf("uname: %s %s\n", machine->sysname, machine->machine);
  auto* system = FarArray<struct sysinfo>(1);
  Succeeds("sysinfo", [=] { return sysinfo(system); });
  CHECK(system->totalram > 0, "sysinfo");
  auto* spent = Far(tms{});
  Succeeds("times", [=] { return times(spent); });
  auto* groups = FarArray<gid_t>(100);
  Answer("getgroups", [=] { return getgroups(100, groups); });
  auto* ids = FarArray<uid_t>(3);
  Succeeds("getresuid", [=] { return getresuid(ids, ids + 1, ids + 2); });
  CHECK(ids[0] == getuid() && ids[1] == geteuid(), "getresuid");
}

void Children() {
  auto* info = FarArray<siginfo_t>(1);
  auto* usage = Far(rusage{});
  const pid_t child = fork();
  CHECK(child >= 0, "fork");
  if (child == 0) _exit(5);
  Succeeds("waitid", [=] { return syscall(SYS_waitid, P_PID, child, info, WEXITED, usage); });
  CHECK(info->si_pid == child && info->si_status == 5 && info->si_code == CLD_EXITED, "waitid");
}

void Interrupted() {
  struct sigaction action = {};
  action.sa_handler = [](int) {};
  sigaction(SIGALRM, &action, nullptr);
  for (const bool clock : {false, true}) {
    auto* pause = Far(timespec{1000, 0});
    auto* left = Far(timespec{-1, -1});
    auto* timer = Far(itimerval{{0, 0}, {0, 20000}});
    auto* old = Far(itimerval{{9, 9}, {9, 9}});
    Stir();
    CHECK(setitimer(ITIMER_REAL, timer, old) == 0 && old->it_value.tv_sec == 0, "setitimer");
    errno = 0;
    const long r = clock ? syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, pause, left)
                         : syscall(SYS_nanosleep, pause, left);
    CHECK(r == -1 && errno == EINTR, "nanosleep: %ld %d", r, errno);
    CHECK(left->tv_sec > 900 && left->tv_sec < 1000, "what is left: %ld", static_cast<long>(left->tv_sec));
    printf("%s: %d\n", clock ? "clock_nanosleep" : "nanosleep", errno);
  }
  auto* now = Far(itimerval{{9, 9}, {9, 9}});
  Succeeds("getitimer", [=] { return getitimer(ITIMER_REAL, now); });
  CHECK(now->it_value.tv_sec == 0 && now->it_value.tv_usec == 0, "getitimer");
  for (clockid_t clock : {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_PROCESS_CPUTIME_ID}) {
    auto* time = Far(timespec{-1, -1});
    Succeeds("clock_gettime", [=] { return syscall(SYS_clock_gettime, clock, time); });
    CHECK(time->tv_nsec >= 0, "clock_gettime");
    auto* resolution = Far(timespec{-1, -1});
    Succeeds("clock_getres", [=] { return syscall(SYS_clock_getres, clock, resolution); });
    printf("clock_getres: %ld\n", static_cast<long>(resolution->tv_nsec));
  }
  const int timer = timerfd_create(CLOCK_MONOTONIC, 0);
  auto* setting = Far(itimerspec{{0, 0}, {0, 1000000}});
  auto* old = Far(itimerspec{{9, 9}, {9, 9}});
  auto* fired = Far(uint64_t{0});
  Succeeds("timerfd_settime", [=] { return timerfd_settime(timer, 0, setting, old); });
  CHECK(old->it_value.tv_sec == 0, "timerfd_settime");
  Answer("timerfd read", [=] { return read(timer, fired, 8); });
  CHECK(*fired == 1, "timerfd: %lu", static_cast<unsigned long>(*fired));
  Succeeds("timerfd_gettime", [=] { return timerfd_gettime(timer, old); });
  CHECK(old->it_value.tv_nsec == 0, "timerfd_gettime");
  close(timer);
  auto* event = Far(sigevent{});
  event->sigev_notify = SIGEV_NONE;
  auto* id = Far(-1);
  Succeeds("timer_create", [=] { return syscall(SYS_timer_create, CLOCK_MONOTONIC, event, id); });
  auto* later = Far(itimerspec{{0, 0}, {1000, 0}});
  Succeeds("timer_settime", [=] { return syscall(SYS_timer_settime, *id, 0, later, nullptr); });
  Succeeds("timer_gettime", [=] { return syscall(SYS_timer_gettime, *id, old); });
  CHECK(old->it_value.tv_sec > 900, "timer_gettime");
  syscall(SYS_timer_delete, *id);
}

void Descriptors(const std::string& folder, const std::string& path, int fd) {
  const int directory = open(folder.c_str(), O_RDONLY | O_DIRECTORY);
  CHECK(directory >= 0, "open");
  char* entries = static_cast<char*>(FarRoom(20000));
  int found = 0;
  Stir();
  for (long n; (n = syscall(SYS_getdents64, directory, entries, 20000)) != 0; Stir()) {
    CHECK(n > 0, "getdents64: %s", strerror(errno));
    for (long at = 0; at < n; ++found) {
      unsigned short bytes;
      memcpy(&bytes, entries + at + 16, sizeof(bytes));
      at += bytes;
    }
  }
  printf("getdents64: %d entries\n", found);
  close(directory);

  int ends[2];
  CHECK(pipe(ends) == 0, "pipe");
  char* in = static_cast<char*>(FarRoom(5000));
  auto* from = Far(loff_t{100});
  auto* to = Far(loff_t{40000});
  Answer("splice", [=] { return splice(fd, from, ends[1], nullptr, 1000, 0); });
  CHECK(*from == 1100, "splice: %ld", static_cast<long>(*from));
  Answer("splice to", [=] { return splice(ends[0], nullptr, fd, to, 1000, 0); });
  CHECK(*to == 41000, "splice: %ld", static_cast<long>(*to));
  Answer("pread", [=] { return pread(fd, in, 1000, 40000); });
  Verify(in, 1000, 5 + 100, "splice");
  *from = 300;
  Answer("sendfile", [=] { return sendfile(ends[1], fd, from, 700); });
  CHECK(*from == 1000, "sendfile");
  Answer("read", [=] { return read(ends[0], in, 5000); });
  Verify(in, 700, 5 + 300, "sendfile");
  *from = 200;
  *to = 50000;
  Answer("copy_file_range", [=] { return copy_file_range(fd, from, fd, to, 900, 0); });
  CHECK(*from == 1100 && *to == 50900, "copy_file_range");
  Answer("pread", [=] { return pread(fd, in, 900, 50000); });
  Verify(in, 900, 5 + 200, "copy_file_range");

  auto* lock = Far(flock{});
  lock->l_type = F_WRLCK;
  Succeeds("fcntl F_SETLK", [=] { return fcntl(fd, F_SETLK, lock); });
  Succeeds("fcntl F_GETLK", [=] { return fcntl(fd, F_GETLK, lock); });
  CHECK(lock->l_type == F_UNLCK, "F_GETLK");
  auto* times = FarArray<timespec>(2);
  times[0].tv_sec = times[1].tv_sec = 1000;
  char* far_path = Text(path);
  Succeeds("utimensat", [=] { return utimensat(AT_FDCWD, far_path, times, 0); });
  struct stat info;
  CHECK(stat(path.c_str(), &info) == 0 && info.st_mtime == 1000, "utimensat");
  auto* wide = FarArray<struct statx>(1);
  Succeeds("statx", [=] { return statx(AT_FDCWD, far_path, 0, STATX_BASIC_STATS, wide); });
  printf("statx: %llu bytes\n", static_cast<unsigned long long>(wide->stx_size));

  const int terminal = posix_openpt(O_RDWR | O_NOCTTY);
  char* name =
      terminal < 0 || grantpt(terminal) != 0 || unlockpt(terminal) != 0 ? nullptr : ptsname(terminal);
  const int other = name == nullptr ? -1 : open(name, O_RDWR | O_NOCTTY);
  if (other < 0) {
    printf("terminal: error %d\n", errno);
  } else {
    auto* size = Far(winsize{40, 100, 0, 0});
    auto* size_back = Far(winsize{});
    auto* settings = Far(termios{});
    Succeeds("TIOCSWINSZ", [=] { return ioctl(terminal, TIOCSWINSZ, size); });
    Succeeds("TIOCGWINSZ", [=] { return ioctl(other, TIOCGWINSZ, size_back); });
    CHECK(size_back->ws_row == 40 && size_back->ws_col == 100, "TIOCGWINSZ");
    Succeeds("tcgetattr", [=] { return ioctl(other, TCGETS, settings); });
    settings->c_lflag &= ~static_cast<tcflag_t>(ECHO);
    Succeeds("tcsetattr", [=] { return ioctl(other, TCSETS, settings); });
    Succeeds("tcgetattr", [=] { return tcgetattr(other, settings); });
    CHECK((settings->c_lflag & ECHO) == 0, "ECHO");
    close(other);
    auto* ready = Far(pollfd{terminal, POLLOUT, 0});
    Answer("poll", [=] { return poll(ready, 1, 0); });
  }
  close(terminal);
}

}  // namespace

int main(int argc, char** argv) {
  setvbuf(stdout, nullptr, _IOLBF, 0);
  StirInit(Argument(argc, argv, 1, 24));
  char folder[] = "/tmp/structures-XXXXXX";
  CHECK(mkdtemp(folder) != nullptr, "mkdtemp");
  const std::string path = std::string(folder) + "/data";
  const int fd = open(path.c_str(), O_RDWR | O_CREAT, 0600);
  constexpr size_t kBytes = 30000;
  char* content = Buffer(kBytes, 5);
  CHECK(fd >= 0 && write(fd, content, kBytes) == static_cast<ssize_t>(kBytes), "write");
  Queues();
  Attributes(path, fd);
  Scheduling();
  Children();
  Interrupted();
  Descriptors(folder, path, fd);
  CHECK(unlink(path.c_str()) == 0 && rmdir(folder) == 0, "rmdir");
  printf("structures: all verified\n");
  return 0;
}
