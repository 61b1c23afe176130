#pragma once
// PageStore over the donors of a run: slots in leased slabs, reached through one link per donor.

#include <sys/syscall.h>

#include "base/later.h"
#include "base/sys.h"
#include "store/page_store.h"
#include "store/slab_table.h"
#include "transport/shm/shm_link.h"
#include "transport/tcp/tcp_link.h"

namespace farpool {

inline constexpr unsigned kDonorsMax = 64;
// The most pages one Load or Store may carry: one group of the fault engine.
inline constexpr unsigned kStoreBatchMax = 64;

// What the store needs from whoever holds the sessions with the donors (the supervisor, reached over a
// socket). Called with the engine's lock held, possibly in a signal handler. Each call ends in bounded time.
class SlabProvider {
 public:
  // A slab with free slots was added to the table: its index.
  virtual Result<uint32_t> LeaseSlab() = 0;
  // Where slab `index` is mapped in this process (shared-memory donors).
  virtual Result<std::byte*> MapSlab(uint32_t index) = 0;
  // A fresh data channel to a TCP donor. The store owns the descriptor.
  virtual Result<int> Connect(uint32_t donor) = 0;
  // The store has no more use for a descriptor from Connect().
  virtual void Disconnect(int fd) { sys::Call(SYS_close, fd); }
  // The link to `donor` broke. Ok: a new channel may be tried; anything else: its data is lost.
  virtual Status LinkBroke(uint32_t donor) = 0;
  virtual bool shared_memory(uint32_t donor) const = 0;

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
    StartLoad(pages, count);
    return FinishLoad();
  }
  Status Store(const PageIo* pages, unsigned count) override {
    Start(&stores_, LinkOp::Kind::kWrite, pages, count);
    return Finish(&stores_);
  }
  void StartLoad(const PageIo* pages, unsigned count) override {
    Start(&loads_, LinkOp::Kind::kRead, pages, count);
  }
  Status FinishLoad() override { return Finish(&loads_); }

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
    unsigned ops;                       // Used of `op` and `link`.
    Status status;                      // Why not everything could be posted.
    LinkOp op[kStoreBatchMax];
    Link* link[kStoreBatchMax];
  };
  void Start(Transfer* transfer, LinkOp::Kind kind, const PageIo* pages, unsigned count);
  void PostAll(Transfer* transfer);
  Status WaitAll(Transfer* transfer);
  Status Finish(Transfer* transfer);
  Status LinkFor(uint32_t slab, Link** link);
  // Null: not yet, or not of a shared-memory donor.
  std::byte* Mapped(uint32_t slab) const { return slab < slabs_known_ ? mapped_[slab] : nullptr; }
  void SetMapped(uint32_t slab, std::byte* base);
  // Maps the part of a shared-memory slab around a slot that is written for the first time: one call for 512
  // pages instead of a page fault for each.
  void PopulateAround(SlotId slot);

  SlabTable* table_ = nullptr;
  SlabProvider* provider_ = nullptr;
  uint32_t current_ = 0;  // Slab that slots are taken from; 0: none yet.
  ShmLink shm_;
  int tcp_fd_[kDonorsMax];  // -1: no link.
  Later<TcpLink> tcp_[kDonorsMax];
  // What is known of slabs. A process that starts touches none of it: there is room for many.
  uint32_t slabs_known_ = 0;
  std::byte* mapped_[kSlabsMax];
  static constexpr uint32_t kPopulateSlots = 512;
  uint64_t populated_[kSlabsMax][kSlotsPerSlabMax / kPopulateSlots / 64];  // Bit per so many slots.
  Transfer loads_;
  Transfer stores_;
};

}  // namespace farpool
