#include "supervisor/private_donor.h"

#include <sys/random.h>

#include <cerrno>

#include "base/physical_memory.h"
#include "base/text.h"

namespace farpool {

Status PrivateDonor::Start(uint64_t bytes, PoolEntry* entry) {
  uint64_t name;
  if (getrandom(&name, sizeof(name), 0) != sizeof(name)) return Status::FromErrno("getrandom", errno);
  DonorOptions options;
  options.unix_path = TextBuffer<40>().Add("@farpool-").AddHex(name).c_str();
  options.memory_bytes = bytes != 0 ? bytes : PhysicalMemory() / 4 * 3;
  options.log = [this](const std::string& line) {
    MutexLock hold(&mutex_);
    trouble_ = line;
  };
  Result<std::unique_ptr<DonorServer>> started = DonorServer::Start(options);
  if (!started.ok()) return started.status();
  server_ = std::move(started).value();
  entry->scheme = PoolEntry::Scheme::kUnix;
  entry->path = options.unix_path;
  return Status::Ok();
}

std::string PrivateDonor::trouble() {
  MutexLock hold(&mutex_);
  return trouble_;
}

}  // namespace farpool
