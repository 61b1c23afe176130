#pragma once
// PageStore over the donors of a run: slots in leased slabs, reached through one link per donor.

#include <sys/syscall.h>

#include <atomic>

#include "base/later.h"
#include "base/mutex.h"
#include "base/page_codec.h"
#include "base/sys.h"
#include "store/pack_or_plain.h"
#include "store/page_store.h"
#include "store/slab_table.h"
#include "transport/rdma/rdma_link.h"
#include "transport/shm/shm_link.h"
#include "transport/tcp/tcp_link.h"

namespace farpool {

// The most pages one Load or Store may carry: one group of the fault engine.
inline constexpr unsigned kStoreBatchMax = 64;

// What the store needs from whoever holds the sessions with the donors (the supervisor, reached over a
// socket). Called by one thread at a time, possibly in a signal handler. Each call ends in bounded time.
class SlabProvider {
 public:
  // A slab with free slots was added to the table: its index.
  virtual Result<uint32_t> LeaseSlab() = 0;
  // Where slab `index` is mapped in this process (shared-memory donors).
  virtual Result<std::byte*> MapSlab(uint32_t index) = 0;
  // A fresh data channel to a donor without shared memory. Nothing that the store sent by an earlier one,
  // which it has disconnected, happens after that. The descriptor is the store's until Disconnect().
  virtual Result<int> Connect(uint32_t donor) = 0;
  // The store has no more use for a descriptor from Connect().
  virtual void Disconnect(int fd) { sys::Call(SYS_close, fd); }
  // The link to `donor` broke. Ok: a new channel may be tried; anything else: its data is lost.
  virtual Status LinkBroke(uint32_t donor) = 0;
  virtual bool shared_memory(uint32_t donor) const = 0;
  // For an RDMA donor, what its links are made with; null otherwise.
  virtual const Verbs* verbs(uint32_t) const { return nullptr; }
  // An RDMA link to `donor` was made, with this descriptor, or is gone: where it is to be kept meanwhile.
  virtual int KeepDevice(uint32_t /*donor*/, int fd) { return fd; }
  virtual void DropDevice(uint32_t /*donor*/) {}

 protected:
  ~SlabProvider() = default;
};

class RemoteStore final : public PageStore {
 public:
  RemoteStore() : shm_(&RemoteStore::Lookup, this) {}
  void Init(SlabTable* table, SlabProvider* provider);

  Status Reserve(unsigned count, SlotId* out, unsigned* reserved) override;
  void Retain(SlotId slot) override { table_->Retain(slot); }
  void Release(SlotId slot) override { table_->Release(slot); }
  bool Exclusive(SlotId slot) const override { return table_->Exclusive(slot); }
  Status Load(const PageIo* pages, unsigned count) override {
    StartLoad(0, pages, count);
    return FinishLoad(0);
  }
  Status Store(const PageIo* pages, unsigned count) override {
    return StoreAll(TransferOf(kStore), pages, count);
  }
  void StartLoad(unsigned load, const PageIo* pages, unsigned count) override;
  Status FinishLoad(unsigned load) override { return Finish(&*transfers_[load]); }
  Status StoreBeside(const PageIo* pages, unsigned count) override {
    Transfer stores;
    return StoreAll(&stores, pages, count);
  }

  // In a forked child, before anything else: connections are the parent's; mappings of slabs are shared and
  // stay.
  void AfterFork();

 private:
  static std::byte* Lookup(void* self, SlabId slab, uint64_t* bytes);

  // One Load or Store under way.
  struct Transfer {
    LinkOp::Kind kind;
    const PageIo* pages;
    unsigned count;
    const std::byte* mapped = nullptr;  // A single page to be copied from there; no operation then.
    uint16_t packed[kStoreBatchMax];    // Size of page i where it travels packed, else 0.
    unsigned ops;                       // Used of `op` and `link`.
    Status status;                      // Why not everything could be posted.
    LinkOp op[kStoreBatchMax];
    Link* link[kStoreBatchMax];
  };
  // That of a load, or of Store(), which is about to begin: made when it is first wanted.
  static constexpr unsigned kStore = kLoadsMax;
  Transfer* TransferOf(unsigned number);
  void Start(Transfer* transfer, LinkOp::Kind kind, const PageIo* pages, unsigned count);
  // Pages that packing makes no smaller than this travel as they are.
  static constexpr size_t kPackedMax = kPageBytes / 4 * 3;
  Status StoreAll(Transfer* transfer, const PageIo* pages, unsigned count);
  // Packs the pages for donors that have a bit in `pack`, where that makes them smaller.
  void Pack(Transfer* transfer, uint64_t pack);
  // Notes what is in the slots now.
  void NotePacked(const Transfer& transfer);
  Status Unpack(const Transfer& transfer);
  uint16_t& PackedSize(SlotId slot) { return table_->packed[SlabOf(slot)][SlotOf(slot)]; }
  void PostAll(Transfer* transfer);
  Status WaitAll(Transfer* transfer);
  Status Finish(Transfer* transfer);
  // Reserve() where donors have weights: from the donor whose turn it is, a stripe at most. 0: nobody has
  // room.
  unsigned ReserveStripe(unsigned count, SlotId* out);
  uint32_t NextDonor();
  Result<uint32_t> Lease();
  Status LinkFor(uint32_t slab, Link** link);
  // Null: not yet, or not of a shared-memory donor.
  std::byte* Mapped(uint32_t slab) {
    return slab < slabs_known_.load(std::memory_order_acquire)
               ? std::atomic_ref(mapped_[slab]).load(std::memory_order_acquire)
               : nullptr;
  }
  void SetMapped(uint32_t slab, std::byte* base);
  // The next three: under links_lock_.
  Link* LinkOf(uint32_t donor);
  Status Connect(uint32_t donor);
  void Disconnect(uint32_t donor);
  // Maps the part of a shared-memory slab around a slot that is written for the first time: one call for 512
  // pages instead of a page fault for each.
  void PopulateAround(SlotId slot);

  SlabTable* table_ = nullptr;
  // Guards what loads that end beside each other may change: the provider's work, and which links there are.
  Mutex links_lock_;
  SlabProvider* provider_ = nullptr;
  uint32_t current_ = 0;  // Slab that slots are taken from; 0: none yet.
  // By donor, where they have weights: the slab that slots are taken from, whose turn it is, and how often in
  // a row a lease on its behalf brought another donor's slab.
  static constexpr unsigned kStripePages = 8;
  static constexpr uint8_t kMissesMax = 3;
  uint32_t open_[kDonorsMax] = {};
  int64_t credit_[kDonorsMax] = {};
  uint8_t misses_[kDonorsMax] = {};
  ShmLink shm_;
  uint64_t links_made_ = 0;      // Bit per donor.
  uint32_t transfers_made_ = 0;  // Bit each.
  std::atomic<uint32_t> slabs_known_ = 0;
  // Stores with packed pages go one at a time: the link they are for is slower than that.
  Mutex pack_lock_;
  Mutex choices_lock_;
  PackOrPlain choices_[kDonorsMax];
  int channel_[kDonorsMax];  // Of the link to the donor; -1: there is none.
  // What a process that starts does not touch, and most never touch all of: there is room for many.
  Later<TcpLink> tcp_[kDonorsMax];
  Later<RdmaLink> rdma_[kDonorsMax];
  Later<Transfer> transfers_[kLoadsMax + 1];
  PackState pack_state_;
  std::byte pack_room_[kStoreBatchMax][kPackedMax];
  std::byte* mapped_[kSlabsMax];
  static constexpr uint32_t kPopulateSlots = 512;
  uint64_t populated_[kSlabsMax][kSlotsPerSlabMax / kPopulateSlots / 64];  // Bit per so many slots.
};

}  // namespace farpool
