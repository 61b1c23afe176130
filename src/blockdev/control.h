#pragma once
// How `farpool swap` and the daemons find and ask each other: a socket per device in a folder that only root
// enters.

#include <cstdint>
#include <string>
#include <vector>

#include "base/fd.h"
#include "farpool/status.h"

namespace farpool {

inline constexpr char kSwapFolder[] = "/run/farpool/swap";

enum class SwapRequest : uint32_t { kStatus = 1, kDelete = 2 };

struct SwapStatus {
  Status::Code code;  // Of the request.
  char text[184];     // Why not.
  int32_t daemon;     // Process ids; 0: none.
  int32_t standby;
  uint32_t takeovers;
  uint32_t lost_donors;
  uint64_t lost_bytes;  // Of what was stored, with those donors.
  uint64_t size_bytes;
  uint64_t stored_bytes;  // At donors now.
  uint64_t leased_bytes;
  uint64_t pages_read, pages_written, pages_zero, pages_discarded, errors, corrupt;
  char pool[1024];
};

// A socket of the daemon's to be, listening under a passing name; Publish gives it the device's.
struct SwapListener {
  Fd fd;
  std::string path;
};
Result<SwapListener> ListenForSwap();
Status PublishSwap(SwapListener* listener, const std::string& device);  // "nbd0"

// Asks the daemon of `device`. kNotFound: there never was one. kUnavailable: it is dead.
Result<SwapStatus> AskSwap(const std::string& device, SwapRequest request);
// Devices that have or had a daemon: "nbd0", ...
std::vector<std::string> SwapDevices();
void ForgetSwap(const std::string& device);

}  // namespace farpool
