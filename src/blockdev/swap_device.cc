#include "blockdev/swap_device.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/swap.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <thread>

#include "blockdev/front_end.h"

#ifndef SWAP_FLAG_DISCARD
#define SWAP_FLAG_DISCARD 0x10000
#endif

namespace farpool {

namespace {

// First page of swap space, as the kernel reads it (version 1).
struct SwapHeader {
  char boot[1024];
  uint32_t version;
  uint32_t last_page;
  uint32_t bad_pages;
  unsigned char uuid[16];
  char volume[16];
  char padding[kPageBytes - 1024 - 44 - 10];
  char magic[10];
};
static_assert(sizeof(SwapHeader) == kPageBytes);

Status Refused(Status::Code code, const std::string& text) { return Status(code, text.c_str()); }

std::string NameOf(const std::string& device) {
  return device.starts_with("/dev/") ? device.substr(strlen("/dev/")) : device;
}
std::string PathOf(const std::string& device) { return "/dev/" + NameOf(device); }

bool IsOn(const std::string& path) {
  std::ifstream file("/proc/swaps");
  for (std::string line; std::getline(file, line);)
    if (line.substr(0, line.find_first_of(" \t")) == path) return true;
  return false;
}

// A device of ours, whether its daemon lives or not.
Status CheckOurs(const std::string& device) {
  const std::string name = NameOf(device);
  for (const std::string& known : SwapDevices())
    if (known == name) return Status::Ok();
  return Refused(Status::Code::kNotFound,
                 "'" + device.substr(0, 60) + "' is no swap device of farpool's; see farpool swap list");
}

}  // namespace

Result<std::string> CreateSwap(const SwapOptions& options) {
  if (Status s = ProbeDriver(options.driver); !s.ok()) return s;
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return Status::FromErrno("pipe", errno);
  Fd ours(ends[0]), theirs(ends[1]);
  const pid_t pid = fork();
  if (pid < 0) return Status::FromErrno("fork", errno);
  if (pid == 0) {
    ours.Reset();
    // Nobody's terminal, folder or file stays in use for as long as the device lives.
    setsid();
    (void)!chdir("/");
    const int null = open("/dev/null", O_RDWR);
    for (int fd = 0; fd < 3; ++fd) dup2(null, fd);
    const int ready = theirs.Release();
    if (ready > 3) close_range(3, static_cast<unsigned>(ready) - 1, 0);
    close_range(static_cast<unsigned>(ready) + 1, ~0U, 0);
    RunSwapDaemon(options, Fd(ready));
    _exit(0);
  }
  theirs.Reset();
  SwapReady outcome;
  const ssize_t got = read(ours.get(), &outcome, sizeof(outcome));
  if (got != static_cast<ssize_t>(sizeof(outcome)))
    return Status(Status::Code::kInternal, "the swap daemon died before it was ready; see dmesg");
  if (!outcome.status.ok()) {
    waitpid(pid, nullptr, 0);
    return outcome.status;
  }
  return "/dev/" + DeviceName(options.driver, outcome.device);
}

Status SwapOn(const std::string& device, int priority) {
  const std::string path = PathOf(device);
  if (Status s = CheckOurs(device); !s.ok()) return s;
  if (IsOn(path)) return Status::Ok();
  SwapHeader header = {};
  uint64_t bytes = 0;
  {
    const Fd fd(open(path.c_str(), O_RDWR | O_EXCL | O_CLOEXEC));
    if (!fd.valid()) return Status::FromErrno(("opening " + path).c_str(), errno);
    if (ioctl(fd.get(), BLKGETSIZE64, &bytes) != 0) return Status::FromErrno("BLKGETSIZE64", errno);
    header.version = 1;
    header.last_page = static_cast<uint32_t>(bytes / kPageBytes - 1);
    if (getrandom(header.uuid, sizeof(header.uuid), 0) != sizeof(header.uuid))
      return Status::FromErrno("getrandom", errno);
    std::memcpy(header.volume, "farpool", 7);
    std::memcpy(header.magic, "SWAPSPACE2", sizeof(header.magic));
    if (pwrite(fd.get(), &header, sizeof(header), 0) != static_cast<ssize_t>(sizeof(header)) ||
        fsync(fd.get()) != 0)
      return Status::FromErrno(("writing the swap header of " + path).c_str(), errno);
  }
  if (swapon(path.c_str(), SWAP_FLAG_DISCARD | SWAP_FLAG_PREFER | priority) != 0)
    return Status::FromErrno(("swapon " + path).c_str(), errno);
  return Status::Ok();
}

Status SwapOff(const std::string& device) {
  const std::string path = PathOf(device);
  if (Status s = CheckOurs(device); !s.ok()) return s;
  if (!IsOn(path)) return Status::Ok();
  if (swapoff(path.c_str()) == 0) return Status::Ok();
  if (errno == ENOMEM)
    return Refused(Status::Code::kExhausted,
                   "swapoff " + path +
                       ": what is swapped out there does not fit into memory; end programs or "
                       "add other swap space");
  return Status::FromErrno(("swapoff " + path).c_str(), errno);
}

SwapInfo FindSwap(const std::string& device) {
  SwapInfo info;
  info.path = PathOf(device);
  info.on = IsOn(info.path);
  SwapDriver driver;
  int number;
  if (ParseDeviceName(NameOf(device), &driver, &number)) info.driver = DriverName(driver);
  const Result<SwapStatus> status = AskSwap(NameOf(device), SwapRequest::kStatus);
  const Status::Code code = status.ok() ? Status::Code::kOk : status.status().code();
  info.alive = code != Status::Code::kUnavailable && code != Status::Code::kNotFound;
  info.answers = status.ok();
  if (status.ok()) info.status = status.value();
  return info;
}

std::vector<SwapInfo> ListSwaps() {
  std::vector<SwapInfo> infos;
  for (const std::string& name : SwapDevices()) infos.push_back(FindSwap(name));
  return infos;
}

namespace {

// Waits until `process` waits for a device, or has ended; two seconds at most.
void AwaitWaiting(pid_t process) {
  for (int i = 0; i < 200; ++i) {
    std::ifstream file("/proc/" + std::to_string(process) + "/stat");
    std::string number, name;
    char state = 0;
    file >> number >> name >> state;
    if (state == 'D' || state == 'Z' || state == 0) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

// A device whose daemon and standby are dead: the kernel's part of it goes, donors give up theirs when their
// grace is over. Whoever waits for what was there learns of its loss, and so does swapoff, which must be
// under way before: afterwards the device cannot be named any more.
Status ClearAway(const std::string& device) {
  const std::string path = PathOf(device);
  const pid_t off = IsOn(path) ? fork() : -1;
  if (off == 0) _exit(swapoff(path.c_str()) == 0 ? 0 : 1);
  if (off > 0) AwaitWaiting(off);
  SwapDriver driver;
  int number = -1;
  Status ended;
  if (ParseDeviceName(NameOf(device), &driver, &number)) ended = EndDeadDevice(driver, number);
  if (off > 0) waitpid(off, nullptr, 0);
  // Once more where it was ended by the errors themselves.
  if (IsOn(path) && swapoff(path.c_str()) != 0 && ended.ok())
    ended = Status::FromErrno(("swapoff " + path).c_str(), errno);
  if (ended.ok()) ForgetSwap(NameOf(device));
  return ended;
}

}  // namespace

Status DeleteSwap(const std::string& device) {
  const std::string path = PathOf(device);
  if (Status s = CheckOurs(device); !s.ok()) return s;
  if (IsOn(path)) {
    const Result<SwapStatus> alive = AskSwap(NameOf(device), SwapRequest::kStatus);
    if (!alive.ok() && alive.status().code() == Status::Code::kUnavailable) return ClearAway(device);
    return Refused(Status::Code::kInvalidArgument,
                   path + " is on: 'farpool swap off " + path + "' brings back what is swapped out there");
  }
  if (const Fd fd(open(path.c_str(), O_RDONLY | O_EXCL | O_CLOEXEC)); !fd.valid() && errno == EBUSY)
    return Refused(Status::Code::kInvalidArgument, path + " is in use by somebody else (mounted?)");
  const Result<SwapStatus> answer = AskSwap(NameOf(device), SwapRequest::kDelete);
  if (answer.ok())
    return answer.value().code == Status::Code::kOk ? Status::Ok()
                                                    : Status(answer.value().code, answer.value().text);
  return answer.status().code() == Status::Code::kUnavailable ? ClearAway(device) : answer.status();
}

}  // namespace farpool
