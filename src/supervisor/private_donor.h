#pragma once
// A donor of our own on this host's shared memory, for one run.

#include <memory>
#include <string>

#include "base/mutex.h"
#include "donor/server.h"
#include "farpool/status.h"
#include "registry/pool_spec.h"

namespace farpool {

// Its socket has no place in the file system: nothing is left of it however we end.
class PrivateDonor {
 public:
  // Lends up to `bytes`; 0: three quarters of this host's memory. Where it is goes to `*entry`.
  Status Start(uint64_t bytes, PoolEntry* entry);
  // What it said last; empty if nothing.
  std::string trouble();

 private:
  Mutex mutex_;
  std::string trouble_ GUARDED_BY(mutex_);
  std::unique_ptr<DonorServer> server_;  // Goes first.
};

}  // namespace farpool
