#pragma once
// What `farpool swap` does. Devices are named "/dev/nbd0" or "nbd0". Needs root. For processes with one
// thread: some of it forks. What asks a daemon takes up to a minute where that waits for a donor. Errors are
// words for the user.

#include <string>
#include <vector>

#include "blockdev/control.h"
#include "blockdev/daemon.h"
#include "farpool/status.h"

namespace farpool {

// Starts a daemon and its standby; the device can be used when this returns. Its path.
Result<std::string> CreateSwap(const SwapOptions& options);

// Priority among the swap spaces of a machine; the kernel uses the highest first. What is set up without one
// gets -2 and less, zram 100 as a rule.
inline constexpr int kSwapPriorityDefault = 90;
inline constexpr int kSwapPriorityMax = 32767;

// Makes it swap space that the kernel uses, freed pages being discarded. Nothing happens where that is so
// already.
Status SwapOn(const std::string& device, int priority);
// The reverse, the same way.
Status SwapOff(const std::string& device);

struct SwapInfo {
  std::string path;
  const char* driver = "";
  bool alive = false;  // Or only the path is known.
  bool answers = false;
  bool on = false;
  SwapStatus status = {};
};
std::vector<SwapInfo> ListSwaps();
SwapInfo FindSwap(const std::string& device);

// Ends a device that is not on and that nobody has open, and gives back what its donors lent. One whose
// daemon and standby are dead goes whether it is on or not: nobody can bring back what is swapped out there.
Status DeleteSwap(const std::string& device);

}  // namespace farpool
