#pragma once
// The sessions of one client (a run, a swap device) with its donors: leasing slabs, handing out their memory
// or connections, noticing and surviving trouble. Fills the client's slab table. Threads: one at a time.

#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/fd.h"
#include "store/slab_table.h"
#include "transport/session/donor_session.h"
#include "verbs/verbs.h"

namespace farpool {

// Where pages go when there are several donors.
enum class Placement {
  kSlabs,     // Slab by slab, to whoever has memory free.
  kEven,      // Each batch of pages to all donors, in equal shares.
  kWeighted,  // The same, by the bandwidth of each as measured when the sessions are opened.
};

class Donors {
 public:
  // Called with each new slab, its memory being -1 where it is not shared, before anybody can take slots from
  // it; an error keeps it out of the table.
  using SlabHook = std::function<Status(uint32_t index, uint32_t slots, int memory)>;

  // Opens a session with every entry of `pool`, whose leases outlive a broken connection for `grace_ms`. A
  // donor that is silent for a fifth of that is taken for gone.
  // `slabs` must be zero and stay. Errors name the donor.
  Status Open(const std::vector<PoolEntry>& pool, uint64_t grace_ms, SlabTable* slabs, SlabHook hook = {},
              Placement placement = Placement::kSlabs);
  // True if some donor can lend a slab, as far as is known.
  bool HasRoom() const;
  // Leases a slab from the donor that placement picks. kExhausted: nobody has room.
  Result<uint32_t> LeaseSlab();
  // Memory of a slab of a shared-memory donor, borrowed.
  Result<int> SlabMemory(uint32_t index) const;
  // A data channel for `holder`, not 0.
  Result<Fd> Connect(uint32_t donor, uint64_t holder);
  // Returns when nothing of what `holder` sent by its channels can happen any more; if the donor does not
  // answer to that, it is gone for good.
  void EndChannels(uint32_t donor, uint64_t holder);
  // The control connection of `donor` broke, or a process says its link did. Ok: it works (again). Otherwise
  // the donor is gone for good; `lost_bytes` says how much of the run's data only it had.
  Status Check(uint32_t donor, uint64_t* lost_bytes);
  void Close();

  // In a process forked off the one that leases, which is to go on after its death: lets go of the shared
  // control connections (Check() resumes the sessions), and learns of slabs leased since.
  void Detach();
  void Adopt(uint32_t index, Fd memory);

  size_t size() const { return donors_.size(); }
  int control_fd(size_t donor) const {
    return donors_[donor].gone ? -1 : donors_[donor].session->control_fd();
  }
  bool shared_memory(size_t donor) const { return donors_[donor].session->shared_memory(); }
  bool rdma(size_t donor) const { return donors_[donor].session->rdma(); }
  bool gone(size_t donor) const { return donors_[donor].gone; }
  std::string Names() const;
  std::string Name(size_t donor) const { return donors_[donor].session->entry().ToString(); }
  uint64_t leased_bytes() const { return leased_bytes_; }

 private:
  struct Donor {
    std::unique_ptr<DonorSession> session;
    uint64_t free_bytes = 0;
    uint64_t slab_bytes = 0;
    uint64_t leased_bytes = 0;
    bool gone = false;
  };
  // Declares it gone for good: nobody takes slots of its slabs any more. How much of the run's data only it
  // had.
  uint64_t Lose(uint32_t donor);
  // That the way to an RDMA donor works, found out before anything depends on it.
  Status TryRdma(DonorSession* session);
  // Resumes a session whose connection broke; gives up after a fifth of the grace, at once where that cannot
  // help.
  Status Reconnect(DonorSession* session) const;
  // A slab of the size that the donor said its slabs have: the table's room is made for that.
  static Result<SlabLease> LeaseFrom(const Donor& donor);
  Status AddSlab(size_t donor, SlabLease lease, uint32_t* index);

  SlabTable* slabs_ = nullptr;
  uint64_t resume_ns_ = 0;
  std::unique_ptr<Verbs> verbs_;  // Once there is an RDMA donor.
  SlabHook hook_;
  std::vector<Donor> donors_;
  std::vector<Fd> slab_memory_;  // By slab index.
  std::mt19937_64 random_{std::random_device{}()};
  uint64_t leased_bytes_ = 0;
  uint64_t asked_ns_ = 0;  // When the donors were last asked what is free, because nothing seemed to be.
};

}  // namespace farpool
