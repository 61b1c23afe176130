#pragma once
// The process behind a swap device, and its standby: a fork of it, locked in memory beforehand, that shares
// the page map and goes on with the device when the daemon is killed. Whichever serves has the other made.

#include <cstdint>
#include <string>
#include <vector>

#include "base/fd.h"
#include "blockdev/front_end.h"
#include "farpool/status.h"
#include "registry/pool_spec.h"

namespace farpool {

struct SwapOptions {
  uint64_t size_bytes = 0;  // Whole pages.
  SwapDriver driver = SwapDriver::kNbd;
  std::vector<PoolEntry> pool;
};

// Becomes the daemon: in a process of its own with one thread. Writes to `ready` a SwapReady once the device
// can be used or it is clear that it cannot. Returns when the device has been deleted or was never made.
struct SwapReady {
  Status status;
  int device = -1;
};
void RunSwapDaemon(const SwapOptions& options, Fd ready);

}  // namespace farpool
