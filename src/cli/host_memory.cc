#include "cli/host_memory.h"

#include <algorithm>
#include <fstream>
#include <string>

namespace farpool {

namespace {

// The cgroup v2 directory of this process, "" where there is none.
std::string OwnCgroup() {
  std::ifstream file("/proc/self/cgroup");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("0::")) return "/sys/fs/cgroup" + line.substr(3);
  return {};
}

uint64_t ReadNumber(const std::string& path) {
  std::ifstream file(path);
  uint64_t value = 0;
  return file >> value ? value : 0;  // "max" is no number: no limit.
}

}  // namespace

HostMemory ReadHostMemory() {
  HostMemory out;
  std::ifstream file("/proc/meminfo");
  for (std::string name, unit; file >> name;) {
    uint64_t kib = 0;
    if (!(file >> kib)) break;
    std::getline(file, unit);
    if (name == "MemTotal:") out.total_bytes = kib << 10;
    if (name == "MemAvailable:") out.available_bytes = kib << 10;
    if (name == "SwapTotal:") out.swap_total_bytes = kib << 10;
  }
  constexpr size_t kRootChars = sizeof("/sys/fs/cgroup") - 1;
  for (std::string dir = OwnCgroup(); dir.size() > kRootChars; dir.resize(dir.rfind('/'))) {
    const uint64_t limit = ReadNumber(dir + "/memory.max");
    if (limit == 0) continue;
    const uint64_t used = ReadNumber(dir + "/memory.current");
    out.available_bytes = std::min(out.available_bytes, limit > used ? limit - used : 0);
    if (out.cgroup_limit_bytes == 0 || limit < out.cgroup_limit_bytes) out.cgroup_limit_bytes = limit;
  }
  return out;
}

}  // namespace farpool
