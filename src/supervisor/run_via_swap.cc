#include "supervisor/run_via_swap.h"

#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>

#include "base/physical_memory.h"
#include "base/refuse.h"
#include "base/write_file.h"
#include "blockdev/front_end.h"
#include "blockdev/swap_device.h"
#include "supervisor/program.h"
#include "transport/session/donor_session.h"

namespace farpool {

namespace {

constexpr uint64_t kLocalMin = 4u << 20;
constexpr uint64_t kDeviceMax = uint64_t{1} << 40;
constexpr uint64_t kDeviceShare = 16;  // Of this host's memory: the device's map takes a 256th of it, locked.
constexpr int kSignals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2};
// After the program's end its group is looked at this often until the last of its processes has gone, too.
constexpr useconds_t kGroupPauseUs = 50'000;

// What the donors have free now, less a slab of each: nothing is promised.
Result<uint64_t> FreeInPool(const std::vector<PoolEntry>& pool) {
  uint64_t bytes = 0;
  for (const PoolEntry& entry : pool) {
    Result<std::unique_ptr<DonorSession>> session = DonorSession::Open(entry, /*grace_ms=*/0);
    if (!session.ok()) return session.status();
    Result<DonorInfo> info = session.value()->Info();
    (void)session.value()->Close();
    if (!info.ok()) return info.status();
    bytes += info.value().free_bytes - std::min(info.value().free_bytes, info.value().slab_bytes);
  }
  return std::min(bytes, kDeviceMax) / kPageBytes * kPageBytes;
}

class MemoryGroup {
 public:
  ~MemoryGroup() { Remove(); }

  Status Create(uint64_t limit_bytes) {
    const bool v1 = access("/sys/fs/cgroup/memory/memory.limit_in_bytes", W_OK) == 0;
    const std::string root = v1 ? "/sys/fs/cgroup/memory" : "/sys/fs/cgroup";
    if (!v1 && !WriteFile(root + "/cgroup.subtree_control", "+memory"))
      return Status::FromErrno("--via swap needs memory control groups: /sys/fs/cgroup", errno);
    const std::string path = root + "/farpool-run-" + std::to_string(getpid());
    if (mkdir(path.c_str(), 0755) != 0) return Status::FromErrno(("mkdir " + path).c_str(), errno);
    path_ = path;
    if (!WriteFile(path_ + (v1 ? "/memory.limit_in_bytes" : "/memory.max"), std::to_string(limit_bytes)))
      return Status::FromErrno(("limiting the memory of " + path).c_str(), errno);
    return Status::Ok();
  }
  bool Enter() const { return WriteFile(path_ + "/cgroup.procs", "0"); }
  std::vector<pid_t> Processes() const {
    std::ifstream file(path_ + "/cgroup.procs");
    return {std::istream_iterator<pid_t>(file), {}};
  }
  void Remove() {
    if (!path_.empty()) rmdir(path_.c_str());
    path_.clear();
  }

 private:
  std::string path_;
};

// What signals go to: the program; once that has ended, `last_signal` is for whoever it left in the group.
volatile pid_t signalled_child = 0;
volatile sig_atomic_t last_signal = 0;
void PassOn(int signal) {
  if (signalled_child > 0)
    kill(signalled_child, signal);
  else
    last_signal = signal;
}

}  // namespace

int RunViaSwap(const RunOptions& options) {
  if (geteuid() != 0) return Refuse("--via swap makes a swap device: run it as root", kExitFarpoolFailed);
  if (options.local_bytes < kLocalMin)
    return Refuse("--via swap needs --local SIZE, at least 4M: what the program may keep here",
                  kExitFarpoolFailed);
  if (options.pool.empty())
    return Refuse("--via swap needs --pool: donors that lend the memory", kExitFarpoolFailed);
  if (options.placement != Placement::kSlabs)
    return Refuse("--via swap places pages slab by slab: leave --placement away", kExitFarpoolFailed);
  if (options.compress == SlabTable::kPack)
    return Refuse("--via swap sends pages as they are: leave --compress away", kExitFarpoolFailed);
  if (!options.report_path.empty() || !options.report_json_path.empty() || !options.near_programs.empty() ||
      !options.trace_path.empty() || options.threshold_bytes != 0 || options.handoff != "auto")
    return Refuse("--via swap takes --local and --pool; other flags are for --via preload",
                  kExitFarpoolFailed);
  const Program program = FindProgram(options.command.at(0));
  if (!program.status.ok()) return Refuse(program.status.text(), program.exit_status);

  // From here on there is something to clear away: signals wait until there is a program to pass them to.
  sigset_t signals, mask;
  sigemptyset(&signals);
  for (const int signal : kSignals) sigaddset(&signals, signal);
  sigprocmask(SIG_BLOCK, &signals, &mask);
  Result<uint64_t> bytes = FreeInPool(options.pool);
  if (!bytes.ok()) return Refuse(bytes.status().text(), kExitFarpoolFailed);
  if (bytes.value() == 0)
    return Refuse("no donor has room for two slabs; see farpool status", kExitFarpoolFailed);
  MemoryGroup group;
  if (Status s = group.Create(options.local_bytes); !s.ok()) return Refuse(s.text(), kExitFarpoolFailed);
  SwapOptions swap;
  swap.size_bytes = std::min(bytes.value(), PhysicalMemory() * kDeviceShare);
  swap.pool = options.pool;
  swap.driver = ChooseDriver();
  Result<std::string> device = CreateSwap(swap);
  if (!device.ok()) return Refuse(device.status().text(), kExitFarpoolFailed);
  if (Status s = SwapOn(device.value(), kSwapPriorityMax); !s.ok()) {
    (void)DeleteSwap(device.value());
    return Refuse(s.text(), kExitFarpoolFailed);
  }

  // Where SIGCHLD is ignored the kernel does not say how the program ended. It gets back what there was.
  struct sigaction by_default = {}, before;
  by_default.sa_handler = SIG_DFL;
  sigaction(SIGCHLD, &by_default, &before);
  const pid_t child = fork();
  if (child == 0) {
    sigaction(SIGCHLD, &before, nullptr);
    sigprocmask(SIG_SETMASK, &mask, nullptr);
    if (!group.Enter()) _exit(Refuse("cannot enter the memory control group", kExitFarpoolFailed));
    std::vector<char*> argv;
    for (const std::string& word : options.command) argv.push_back(const_cast<char*>(word.c_str()));
    argv.push_back(nullptr);
    execv(program.path.c_str(), argv.data());
    _exit(Refuse("cannot run '" + program.path + "': " + strerror(errno), kExitCannotExecute));
  }
  int exit_status = kExitFarpoolFailed;
  if (child > 0) {
    signalled_child = child;
    struct sigaction pass = {};
    pass.sa_handler = PassOn;
    for (const int signal : kSignals) sigaction(signal, &pass, nullptr);
    sigprocmask(SIG_SETMASK, &mask, nullptr);
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    signalled_child = 0;
    exit_status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    for (std::vector<pid_t> left; left = group.Processes(), !left.empty(); usleep(kGroupPauseUs)) {
      if (const int signal = last_signal; signal != 0) {
        last_signal = 0;
        for (const pid_t process : left) kill(process, signal);
      }
    }
  } else {
    Refuse(std::string("fork: ") + strerror(errno), kExitFarpoolFailed);
  }
  group.Remove();
  Status s = SwapOff(device.value());
  if (s.ok()) s = DeleteSwap(device.value());
  if (!s.ok()) Refuse("the swap device stays: " + std::string(s.text()), 0);
  return exit_status;
}

}  // namespace farpool
