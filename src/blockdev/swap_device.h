#pragma once
// What `farpool swap` does. Devices are named "/dev/nbd0" or "nbd0". Needs root.

#include <string>
#include <vector>

#include "blockdev/control.h"
#include "blockdev/daemon.h"
#include "farpool/status.h"

namespace farpool {

// Starts a daemon and its standby; the device can be used when this returns. Its path.
Result<std::string> CreateSwap(const SwapOptions& options);

// Makes it swap space that the kernel uses, freed pages being discarded. Nothing happens where that is so
// already.
Status SwapOn(const std::string& device);
// The reverse, the same way.
Status SwapOff(const std::string& device);

struct SwapInfo {
  std::string path;
  const char* driver = "";
  bool alive = false;  // Otherwise only the path is known.
  bool on = false;
  SwapStatus status = {};
};
std::vector<SwapInfo> ListSwaps();
SwapInfo FindSwap(const std::string& device);

// Ends a device that is not on and that nobody has open, and gives back what its donors lent.
Status DeleteSwap(const std::string& device);

}  // namespace farpool
