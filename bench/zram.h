#pragma once
// Kernel swap to compressed memory in a control group of its own: what farpool is compared with. Root only.

#include <cstdint>
#include <memory>
#include <string>

#include "farpool/status.h"

namespace bench {

class ZramSwap {
 public:
  // A zram device of `device_bytes` (lz4) as swap of the highest priority, and a memory control group limited
  // to `limit_bytes`. On any failure everything is as before and the message says what this machine lacks.
  static farpool::Result<std::unique_ptr<ZramSwap>> Create(uint64_t device_bytes, uint64_t limit_bytes);
  // Swaps off, resets and removes the device and the group.
  ~ZramSwap();
  ZramSwap(const ZramSwap&) = delete;

  // A process that writes itself there is under the limit.
  std::string cgroup_procs() const { return cgroup_ + "/cgroup.procs"; }
  // Read from and written to the device so far.
  uint64_t bytes_moved() const;

 private:
  ZramSwap() = default;
  farpool::Status CreateDevice(uint64_t device_bytes);
  farpool::Status CreateGroup(uint64_t limit_bytes);

  int number_ = -1;         // Of the device; -1: none.
  bool hot_added_ = false;  // The device was made for this object.
  bool swapping_ = false;
  std::string cgroup_;           // Empty: none.
  std::string undo_controller_;  // A subtree_control file that got "+memory".
};

}  // namespace bench
