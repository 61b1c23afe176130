#pragma once
// The kernel's NBD client, configured by generic netlink (family "nbd"). Allocates nothing. Threads: one at a
// time per object.

#include <cstdint>

#include "base/fd.h"
#include "farpool/status.h"

namespace farpool {

class NbdControl {
 public:
  // kUnsupported: this kernel has no NBD (after `modprobe nbd`, which is the caller's to try).
  static Result<NbdControl> Open();

  // Makes a free /dev/nbdN a device of `bytes` with a connection by each of `sockets`. Returns N.
  Result<int> Connect(uint64_t bytes, const int* sockets, unsigned count);
  // Offers a connection in place of one that died. The kernel takes it only if one has: if it does not, the
  // other end of `socket` sees the end of the stream once the caller has closed this one.
  Status Reconnect(int device, int socket);
  // Ends the device; kNotFound if it is not connected.
  Status Disconnect(int device);

 private:
  struct Message;
  Status Exchange(Message* message, int* index);

  Fd socket_;
  uint16_t family_ = 0;
  uint32_t sequence_ = 0;
};

}  // namespace farpool
