#include "bench/zram.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>

#include "bench/process.h"

namespace bench {

namespace {

std::string ReadWord(const std::string& path) {
  std::ifstream file(path);
  std::string word;
  file >> word;
  return word;
}

Status WriteText(const std::string& path, const std::string& text) {
  const int fd = open(path.c_str(), O_WRONLY | O_CLOEXEC);
  if (fd < 0) return Status::FromErrno(path.c_str(), errno);
  const ssize_t n = write(fd, text.data(), text.size());
  const int error = errno;
  close(fd);
  return n == static_cast<ssize_t>(text.size()) ? Status::Ok() : Status::FromErrno(path.c_str(), error);
}

std::string Sys(int number) { return "/sys/block/zram" + std::to_string(number); }
std::string Dev(int number) { return "/dev/zram" + std::to_string(number); }

// sysfs knows the device before udev (which may not run at all) has made its node.
Status EnsureNode(int number) {
  if (access(Dev(number).c_str(), F_OK) == 0) return Status::Ok();
  unsigned major_number = 0;
  unsigned minor_number = 0;
  char colon = 0;
  std::ifstream file(Sys(number) + "/dev");
  if (!(file >> major_number >> colon >> minor_number))
    return Status::Unsupported("zram device has no number");
  if (mknod(Dev(number).c_str(), S_IFBLK | 0600, makedev(major_number, minor_number)) != 0 && errno != EEXIST)
    return Status::FromErrno("mknod for zram", errno);
  return Status::Ok();
}

}  // namespace

Status ZramSwap::CreateDevice(uint64_t device_bytes) {
  if (access("/sys/class/zram-control/hot_add", R_OK) == 0) {
    const std::string number = ReadWord("/sys/class/zram-control/hot_add");
    if (!number.empty()) {
      number_ = std::stoi(number);
      hot_added_ = true;
    }
  }
  if (number_ < 0) {
    // No device can be added: take one that nobody has set up.
    if (ReadWord("/sys/block/zram0/disksize") != "0") return Status::Unsupported("no free zram device");
    number_ = 0;
  }
  if (const Status s = EnsureNode(number_); !s.ok()) return s;
  if (const Status s = WriteText(Sys(number_) + "/comp_algorithm", "lz4"); !s.ok()) return s;
  if (const Status s = WriteText(Sys(number_) + "/disksize", std::to_string(device_bytes)); !s.ok()) return s;
  if (const auto made = RunForOutput({"mkswap", Dev(number_)}, 30); !made.ok()) return made.status();
  constexpr int kHighest = 32767;
  if (swapon(Dev(number_).c_str(), SWAP_FLAG_PREFER | kHighest) != 0)
    return Status::FromErrno("swapon", errno);
  swapping_ = true;
  return Status::Ok();
}

Status ZramSwap::CreateGroup(uint64_t limit_bytes) {
  const std::string name = "/farpool-bench-" + std::to_string(getpid());
  const bool v1 = access("/sys/fs/cgroup/memory/memory.limit_in_bytes", W_OK) == 0;
  const std::string root = v1 ? "/sys/fs/cgroup/memory" : "/sys/fs/cgroup";
  if (!v1) {
    if (access("/sys/fs/cgroup/cgroup.subtree_control", W_OK) != 0)
      return Status::Unsupported("no memory control groups that may be changed");
    std::ifstream file(root + "/cgroup.subtree_control");
    const std::string controllers((std::istreambuf_iterator<char>(file)), {});
    if (controllers.find("memory") == std::string::npos) {
      if (const Status s = WriteText(root + "/cgroup.subtree_control", "+memory"); !s.ok()) return s;
      undo_controller_ = root + "/cgroup.subtree_control";
    }
  }
  if (mkdir((root + name).c_str(), 0755) != 0)
    return Status::FromErrno("mkdir of a memory control group", errno);
  cgroup_ = root + name;
  return WriteText(cgroup_ + (v1 ? "/memory.limit_in_bytes" : "/memory.max"), std::to_string(limit_bytes));
}

farpool::Result<std::unique_ptr<ZramSwap>> ZramSwap::Create(uint64_t device_bytes, uint64_t limit_bytes) {
  if (geteuid() != 0) return Status::Unsupported("needs root");
  if (access("/sys/block/zram0", F_OK) != 0 && access("/sys/class/zram-control", F_OK) != 0)
    return Status::Unsupported("this kernel has no zram (modprobe zram)");
  std::unique_ptr<ZramSwap> zram(new ZramSwap);
  if (const Status s = zram->CreateDevice(device_bytes); !s.ok()) return s;
  if (const Status s = zram->CreateGroup(limit_bytes); !s.ok()) return s;
  return zram;
}

ZramSwap::~ZramSwap() {
  // The group is empty by now: whoever was in it has been waited for. The kernel may need a moment to see
  // that.
  for (int i = 0; !cgroup_.empty() && rmdir(cgroup_.c_str()) != 0 && errno == EBUSY && i < 100; ++i)
    usleep(20'000);
  if (!undo_controller_.empty()) (void)WriteText(undo_controller_, "-memory");
  if (swapping_) swapoff(Dev(number_).c_str());
  if (number_ >= 0) (void)WriteText(Sys(number_) + "/reset", "1");
  if (hot_added_) (void)WriteText("/sys/class/zram-control/hot_remove", std::to_string(number_));
}

uint64_t ZramSwap::bytes_moved() const {
  // reads, merged, sectors, ms, writes, merged, sectors; a sector is 512 bytes.
  std::ifstream file(Sys(number_) + "/stat");
  uint64_t field[7] = {};
  for (uint64_t& value : field) file >> value;
  return (field[2] + field[6]) * 512;
}

}  // namespace bench
