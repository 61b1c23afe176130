#include "blockdev/front_end.h"

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <charconv>

namespace farpool {

namespace {
const char* PrefixOf(SwapDriver driver) { return driver == SwapDriver::kUblk ? "ublkb" : "nbd"; }
}  // namespace

std::string DeviceName(SwapDriver driver, int device) { return PrefixOf(driver) + std::to_string(device); }

bool ParseDeviceName(const std::string& name, SwapDriver* driver, int* device) {
  for (const SwapDriver candidate : {SwapDriver::kNbd, SwapDriver::kUblk}) {
    const std::string prefix = PrefixOf(candidate);
    if (!name.starts_with(prefix)) continue;
    const char* const end = name.data() + name.size();
    const auto [at, error] = std::from_chars(name.data() + prefix.size(), end, *device);
    *driver = candidate;
    return error == std::errc() && at == end && *device >= 0;
  }
  return false;
}

Status ProbeDriver(SwapDriver driver) { return driver == SwapDriver::kUblk ? ProbeUblk() : ProbeNbd(); }

SwapDriver ChooseDriver() {
  return ProbeDriver(SwapDriver::kUblk).ok() ? SwapDriver::kUblk : SwapDriver::kNbd;
}

std::unique_ptr<FrontEnd> NewFrontEnd(SwapDriver driver, const std::vector<BlockStore*>& stores) {
  return driver == SwapDriver::kUblk ? NewUblkFrontEnd(stores) : NewNbdFrontEnd(stores);
}

Status EndDeadDevice(SwapDriver driver, int device) {
  return driver == SwapDriver::kUblk ? EndUblk(device) : EndNbd(device);
}

void LoadModule(const char* name) {
  const char* const argv[] = {"modprobe", "-q", name, nullptr};
  pid_t pid;
  if (posix_spawnp(&pid, argv[0], nullptr, nullptr, const_cast<char* const*>(argv), environ) == 0)
    waitpid(pid, nullptr, 0);
}

}  // namespace farpool
