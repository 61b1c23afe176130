#include "bench/kernel_swap.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <fstream>
#include <vector>

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

// Page tables are a 512th of what they map, swapped out or not, and a group has up to 256 KiB set aside for
// each CPU and 16 KiB a thread.
uint64_t Slack(uint64_t limit_bytes) { return limit_bytes / 64 + (2u << 20); }

uint64_t SectorsMoved(const std::string& stat_path) {
  // reads, merged, sectors, ms, writes, merged, sectors.
  std::ifstream file(stat_path);
  uint64_t field[7] = {};
  for (uint64_t& value : field) file >> value;
  return field[2] + field[6];
}
constexpr uint64_t kSectorBytes = 512;

class ZramSpace final : public SwapSpace {
 public:
  ~ZramSpace() override {
    Off();
    if (number_ < 0) return;
    (void)WriteText(Sys(number_) + "/reset", "1");
    if (hot_added_) (void)WriteText("/sys/class/zram-control/hot_remove", std::to_string(number_));
  }
  Status Create(uint64_t bytes) {
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
    path_ = Dev(number_);
    if (const Status s = EnsureNode(number_); !s.ok()) return s;
    if (const Status s = WriteText(Sys(number_) + "/comp_algorithm", "lz4"); !s.ok()) return s;
    if (const Status s = WriteText(Sys(number_) + "/disksize", std::to_string(bytes)); !s.ok()) return s;
    return RunToEnd({.argv = {"mkswap", path_}, .seconds_max = 30}).status();
  }
  uint64_t bytes_moved() const override { return SectorsMoved(Sys(number_) + "/stat") * kSectorBytes; }

 private:
  int number_ = -1;         // Of the device; -1: none.
  bool hot_added_ = false;  // The device was made for this object.
};

class FileSpace final : public SwapSpace {
 public:
  ~FileSpace() override {
    Off();
    if (created_) unlink(path_.c_str());
  }
  Status Create(const std::string& path, uint64_t bytes) {
    path_ = path;
    const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) return Status::FromErrno(path.c_str(), errno);
    created_ = true;
    struct stat about = {};
    int error = fstat(fd, &about) == 0 ? 0 : errno;
    stat_ = "/sys/dev/block/" + std::to_string(major(about.st_dev)) + ":" +
            std::to_string(minor(about.st_dev)) + "/stat";
    const bool on_disk = access(stat_.c_str(), R_OK) == 0;
    // Written, not merely allocated: some file systems refuse to swap to a file with holes or unwritten
    // extents.
    const std::vector<char> zeros(1 << 20);
    for (uint64_t at = 0; at < bytes && on_disk && error == 0; at += zeros.size())
      if (write(fd, zeros.data(), zeros.size()) != static_cast<ssize_t>(zeros.size())) error = errno;
    if (error == 0 && fsync(fd) != 0) error = errno;
    close(fd);
    if (error != 0) return Status::FromErrno("write of a swap file", error);
    if (!on_disk) return Status::Unsupported("TMPDIR is not on a disk");
    return RunToEnd({.argv = {"mkswap", path_}, .seconds_max = 30}).status();
  }
  // Of the whole disk: what else goes on there counts too.
  uint64_t bytes_moved() const override { return SectorsMoved(stat_) * kSectorBytes; }

 private:
  bool created_ = false;
  std::string stat_;
};

Status NeedRoot() { return geteuid() == 0 ? Status::Ok() : Status::Unsupported("needs root"); }

}  // namespace

farpool::Result<std::unique_ptr<SwapSpace>> SwapSpace::Zram(uint64_t bytes) {
  if (const Status s = NeedRoot(); !s.ok()) return s;
  if (access("/sys/block/zram0", F_OK) != 0 && access("/sys/class/zram-control", F_OK) != 0)
    return Status::Unsupported("this kernel has no zram (modprobe zram)");
  auto space = std::make_unique<ZramSpace>();
  if (const Status s = space->Create(bytes); !s.ok()) return s;
  return std::unique_ptr<SwapSpace>(std::move(space));
}

farpool::Result<std::unique_ptr<SwapSpace>> SwapSpace::File(const std::string& path, uint64_t bytes) {
  if (const Status s = NeedRoot(); !s.ok()) return s;
  auto space = std::make_unique<FileSpace>();
  if (const Status s = space->Create(path, bytes); !s.ok()) return s;
  return std::unique_ptr<SwapSpace>(std::move(space));
}

Status SwapSpace::On() {
  constexpr int kHighest = 32767;
  if (swapon(path_.c_str(), SWAP_FLAG_PREFER | kHighest) != 0)
    return Status::FromErrno(("swapon " + path_).c_str(), errno);
  on_ = true;
  return Status::Ok();
}

void SwapSpace::Off() {
  if (on_) swapoff(path_.c_str());
  on_ = false;
}

farpool::Result<std::unique_ptr<MemoryGroup>> MemoryGroup::Create(uint64_t limit_bytes) {
  if (const Status s = NeedRoot(); !s.ok()) return s;
  static int groups = 0;
  const std::string name = "/farpool-bench-" + std::to_string(getpid()) + "-" + std::to_string(groups++);
  const bool v1 = access("/sys/fs/cgroup/memory/memory.limit_in_bytes", W_OK) == 0;
  const std::string root = v1 ? "/sys/fs/cgroup/memory" : "/sys/fs/cgroup";
  std::unique_ptr<MemoryGroup> group(new MemoryGroup);
  if (!v1) {
    if (access("/sys/fs/cgroup/cgroup.subtree_control", W_OK) != 0)
      return Status::Unsupported("no memory control groups that may be changed");
    std::ifstream file(root + "/cgroup.subtree_control");
    const std::string controllers((std::istreambuf_iterator<char>(file)), {});
    if (controllers.find("memory") == std::string::npos) {
      if (const Status s = WriteText(root + "/cgroup.subtree_control", "+memory"); !s.ok()) return s;
      group->undo_controller_ = root + "/cgroup.subtree_control";
    }
  }
  if (mkdir((root + name).c_str(), 0755) != 0)
    return Status::FromErrno("mkdir of a memory control group", errno);
  group->path_ = root + name;
  if (const Status s = WriteText(group->path_ + (v1 ? "/memory.limit_in_bytes" : "/memory.max"),
                                 std::to_string(limit_bytes + Slack(limit_bytes)));
      !s.ok())
    return s;
  return group;
}

MemoryGroup::~MemoryGroup() {
  // Who was waited for may still be seen for a moment, and so may a server whose client was ended.
  for (int i = 0; !path_.empty() && rmdir(path_.c_str()) != 0 && errno == EBUSY && i < 250; ++i) {
    std::ifstream file(procs());
    for (pid_t pid = 0; file >> pid;) kill(pid, SIGKILL);
    usleep(20'000);
  }
  if (!undo_controller_.empty()) (void)WriteText(undo_controller_, "-memory");
}

}  // namespace bench
