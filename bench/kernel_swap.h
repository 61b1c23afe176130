#pragma once
// What farpool is compared with: the kernel's own swap, to compressed memory (zram) or to a file on a disk,
// by a program in a memory control group. Root only.

#include <cstdint>
#include <memory>
#include <string>

#include "farpool/status.h"

namespace bench {

// Swap space that is in use only between On() and Off(), so that two of them can take turns.
class SwapSpace {
 public:
  // A zram device (lz4). On any failure everything is as before and the message says what this machine lacks.
  static farpool::Result<std::unique_ptr<SwapSpace>> Zram(uint64_t bytes);
  // A file at `path`, which must not exist; it goes with this object.
  static farpool::Result<std::unique_ptr<SwapSpace>> File(const std::string& path, uint64_t bytes);
  virtual ~SwapSpace() = default;

  // The kernel swaps there first.
  farpool::Status On();
  void Off();
  // Read from and written to the device below so far.
  virtual uint64_t bytes_moved() const = 0;

 protected:
  std::string path_;  // Of the device or file.
  bool on_ = false;
};

// A memory control group that lasts for a run.
class MemoryGroup {
 public:
  // `limit_bytes` is what the program may have resident. The group gets a little more: the kernel counts page
  // tables, stacks of threads and what it set aside for each CPU too, and kills where that leaves it nothing.
  static farpool::Result<std::unique_ptr<MemoryGroup>> Create(uint64_t limit_bytes);
  // Ends who is still in it.
  ~MemoryGroup();
  MemoryGroup(const MemoryGroup&) = delete;
  // A process that writes itself there is under the limit.
  std::string procs() const { return path_ + "/cgroup.procs"; }
  // Reading it makes the kernel add up the group's counts, which it otherwise does every two seconds
  // (Linux 6.8 to 6.18 at least). Reclaim decides by them whether it must look for inactive pages: when they
  // are out of date and none are left, it finds nothing and kills the program, with most of the swap space
  // free. So it is read every few milliseconds while the program runs, at a cost of a percent of a CPU.
  std::string stat() const { return path_ + "/memory.stat"; }

 private:
  MemoryGroup() = default;
  std::string path_;             // Empty: none.
  std::string undo_controller_;  // A subtree_control file that got "+memory".
};

}  // namespace bench
