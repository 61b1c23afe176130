#pragma once
// Where the slots of a swap device come from: sessions with the donors, slabs leased ahead of need, their
// memory mapped and locked here, connections opened beforehand. One per process; every I/O thread's
// RemoteStore asks it.

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/mutex.h"
#include "blockdev/segment.h"
#include "registry/pool_spec.h"
#include "store/lease/donors.h"
#include "store/remote_store.h"

namespace farpool {

class SlabSource final : public SlabProvider {
 public:
  // Told of every new slab before it is used, with its memory or -1: the standby must have it, too. Called
  // with the source locked.
  using Announce = std::function<void(uint32_t index, uint32_t slots, int memory)>;

  explicit SlabSource(SegmentOwner* segment) : segment_(segment) {}

  // Opens the sessions and leases the first slabs. Errors name the donor.
  Status Open(const std::vector<PoolEntry>& pool, Announce announce);
  // Leases ahead until enough is free or all of the device is covered. A full pool is no error.
  void KeepAhead();
  // A data channel to a TCP donor that one I/O thread may have.
  struct Channel {
    Fd fd;            // Invalid: it is opened when it is wanted.
    uint64_t holder;  // Of this device's daemons, by which the donor knows it.
  };
  using Channels = std::vector<std::vector<Channel>>;  // By donor.
  // One for each I/O thread to every TCP donor, open unless that fails. `takeovers`: how many there will have
  // been when they are used.
  Status OpenChannels(uint32_t takeovers, Channels* channels);
  void SetChannels(Channels channels);
  // Ends those of the daemon that died: what it sent must not come over what is written from now on.
  void EndPredecessors();
  // Looks after donors whose control connection broke.
  void CheckDonors();
  void Close();

  // --- for the standby
  void Lock() { mutex_.Lock(); }
  void Unlock() { mutex_.Unlock(); }
  // In a process just forked, by a thread that held Lock(): lets go of what is the daemon's.
  void AfterFork();
  Status Adopt(uint32_t index, uint32_t slots, Fd memory);
  std::vector<int> memory_fds() const;

  // --- SlabProvider: any thread
  Result<uint32_t> LeaseSlab() override;
  Result<std::byte*> MapSlab(uint32_t index) override;
  Result<int> Connect(uint32_t donor) override;
  void Disconnect(int fd) override;
  Status LinkBroke(uint32_t donor) override;
  bool shared_memory(uint32_t donor) const override { return shared_memory_[donor]; }

  std::vector<int> control_fds();
  std::string Names();
  unsigned lost_donors() const { return lost_donors_.load(); }
  uint64_t lost_bytes() const { return lost_bytes_.load(); }
  uint64_t leased_bytes() const;

 private:
  Status Map(uint32_t index, uint32_t slots, int memory);
  uint64_t FreeSlots() const;
  Status CheckLocked(uint32_t donor) REQUIRES(mutex_);
  void EndLocked(uint32_t donor, uint64_t holder) REQUIRES(mutex_);
  // Says so, once, if the donor is gone for good.
  void NoteIfLost(uint32_t donor) REQUIRES(mutex_);

  SegmentOwner* segment_;
  Mutex mutex_;
  Donors donors_ GUARDED_BY(mutex_);
  Channels channels_ GUARDED_BY(mutex_);  // That are not given out.
  Channels given_ GUARDED_BY(mutex_);     // The descriptors are the stores'.
  uint64_t refused_ns_ GUARDED_BY(mutex_) = 0;
  Announce announce_;
  bool shared_memory_[kDonorsMax] = {};
  bool noted_lost_[kDonorsMax] GUARDED_BY(mutex_) = {};
  std::atomic<unsigned> lost_donors_{0};
  std::atomic<uint64_t> lost_bytes_{0};
  std::atomic<std::byte*> mapped_[kSlabsMax] = {};
};

}  // namespace farpool
