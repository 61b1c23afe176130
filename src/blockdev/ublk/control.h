#pragma once
// /dev/ublk-control: commands over an io_uring. Threads: one at a time per object.

#include <liburing.h>

#include <memory>

#include "base/fd.h"
#include "blockdev/ublk/abi.h"
#include "farpool/status.h"

namespace farpool {

class UblkControl {
 public:
  // kUnsupported: this kernel has no ublk (after `modprobe ublk_drv`, which is the caller's to try), or one
  // without recovery.
  static Result<std::unique_ptr<UblkControl>> Open();
  ~UblkControl();
  UblkControl(const UblkControl&) = delete;

  // Adds a device of so many queues and sets its parameters. Returns its number; /dev/ublkcN is there then.
  Result<int> Add(unsigned queues, unsigned depth, uint32_t transfer_max, uint64_t device_bytes);
  // Waits until every queue has fetched with every tag; then /dev/ublkbN is there.
  Status Start(int device);
  // kExhausted: the dead server is not quite gone yet.
  Status StartRecovery(int device);
  Status EndRecovery(int device);
  Status Stop(int device);
  // Waits until nobody has /dev/ublkcN open.
  Status Delete(int device);

 private:
  UblkControl() = default;
  Status Command(const char* what, uint32_t op, int device, void* payload, uint16_t payload_bytes,
                 uint64_t data);

  Fd fd_;
  io_uring ring_ = {};
  bool ring_ready_ = false;
};

}  // namespace farpool
