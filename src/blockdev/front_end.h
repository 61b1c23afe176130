#pragma once
// How requests come from the kernel: one implementation a kind of device. Each has a thread for every
// BlockStore it is given, and a BlockStore is used by that thread alone.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "blockdev/block_store.h"
#include "farpool/status.h"

namespace farpool {

class FrontEnd {
 public:
  virtual ~FrontEnd() = default;
  // Makes a new device and serves it. Returns its number.
  virtual Result<int> Create(uint64_t device_bytes) = 0;
  // Goes on with a device whose daemon has died; what was under way there is sent again by the kernel.
  virtual Status TakeOver(int device) = 0;
  // Ends the device; nobody may have it open. The threads have ended when this returns.
  virtual Status Delete() = 0;
};

enum class SwapDriver : uint32_t { kNbd, kUblk };

inline const char* DriverName(SwapDriver driver) { return driver == SwapDriver::kUblk ? "ublk" : "nbd"; }
// "nbd0", "ublkb0": as in /dev.
std::string DeviceName(SwapDriver driver, int device);
// The reverse; false for other devices.
bool ParseDeviceName(const std::string& name, SwapDriver* driver, int* device);

// Loads the module if need be. kUnsupported: this kernel has no such devices.
Status ProbeDriver(SwapDriver driver);
// The better one of those that this kernel has: ublk's requests cost less, and it notices a dead daemon at
// once.
SwapDriver ChooseDriver();
std::unique_ptr<FrontEnd> NewFrontEnd(SwapDriver driver, const std::vector<BlockStore*>& stores);
// Clears away a device that nobody serves any more.
Status EndDeadDevice(SwapDriver driver, int device);

// --- each driver's; use the above
Status ProbeNbd();
std::unique_ptr<FrontEnd> NewNbdFrontEnd(const std::vector<BlockStore*>& stores);
Status EndNbd(int device);
Status ProbeUblk();
std::unique_ptr<FrontEnd> NewUblkFrontEnd(const std::vector<BlockStore*>& stores);
Status EndUblk(int device);
// modprobe NAME; whether it helped shows when the module is used.
void LoadModule(const char* name);

}  // namespace farpool
