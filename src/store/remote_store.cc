#include "store/remote_store.h"

#include <sys/mman.h>

#include <bit>
#include <cstring>
#include <span>

#include "base/assert.h"
#include "base/clock.h"
#include "base/prefetch.h"

namespace farpool {

namespace {
// A transfer whose link breaks is tried this often; each try is bounded by the link's deadline.
constexpr int kTriesMax = 3;
}  // namespace

void RemoteStore::Init(SlabTable* table, SlabProvider* provider) {
  table_ = table;
  provider_ = provider;
  for (int& fd : channel_) fd = -1;
}

void RemoteStore::AfterFork() {
  links_lock_.Reset();
  pack_lock_.Reset();
  choices_lock_.Reset();
  for (unsigned i = 0; i < kDonorsMax; ++i) {
    if (channel_[i] < 0) continue;
    if (provider_->verbs(i) != nullptr) rdma_[i]->Abandon();
    Disconnect(i);
  }
  // The kernel leaves page tables of shared mappings to be filled again.
  std::memset(populated_, 0, slabs_known_ * sizeof(populated_[0]));
  std::memset(open_, 0, sizeof(open_));
  current_ = 0;  // Parent and child take their slots from different slabs while there are several.
}

// The shared-memory link names slabs by their index in the table: the donor's own id is not needed for a
// load.
std::byte* RemoteStore::Lookup(void* self, SlabId slab, uint64_t* bytes) {
  auto* store = static_cast<RemoteStore*>(self);
  const auto index = static_cast<uint32_t>(slab);
  std::byte* const base = store->Mapped(index);
  if (base != nullptr) *bytes = static_cast<uint64_t>(store->table_->slabs[index].slots) * kPageBytes;
  return base;
}

void RemoteStore::SetMapped(uint32_t slab, std::byte* base) {
  for (uint32_t known = slabs_known_; known <= slab; slabs_known_.store(++known, std::memory_order_release)) {
    mapped_[known] = nullptr;
    std::memset(populated_[known], 0, sizeof(populated_[0]));
  }
  std::atomic_ref(mapped_[slab]).store(base, std::memory_order_release);
}

Result<uint32_t> RemoteStore::Lease() {
  MutexLock hold(&links_lock_);
  return provider_->LeaseSlab();
}

// Smooth weighted round robin: whoever is furthest behind its share.
uint32_t RemoteStore::NextDonor() {
  int64_t total = 0;
  uint32_t next = kDonorsMax;
  for (uint32_t i = 0; i < kDonorsMax; ++i) {
    const int64_t weight = table_->weights[i];
    if (weight == 0) continue;
    total += weight;
    credit_[i] += weight;
    if (next == kDonorsMax || credit_[i] > credit_[next]) next = i;
  }
  if (next != kDonorsMax) credit_[next] -= total;
  return next;
}

unsigned RemoteStore::ReserveStripe(unsigned count, SlotId* out) {
  if (table_->weights[0] == 0) return 0;  // Then nobody has one.
  if (count > kStripePages) count = kStripePages;
  for (unsigned tries = 0; tries < kDonorsMax; ++tries) {
    const uint32_t donor = NextDonor();
    if (donor == kDonorsMax) return 0;
    const auto take = [&](uint32_t index) -> unsigned {
      const SlabEntry& slab = table_->slabs[index];
      if (index == 0 || slab.state.load(std::memory_order_acquire) != SlabEntry::kReady ||
          slab.donor != donor)
        return 0;
      const unsigned taken = table_->Take(index, count, out);
      if (taken > 0) open_[donor] = index;
      return taken;
    };
    if (const unsigned taken = take(open_[donor]); taken > 0) return taken;
    const uint32_t slabs = table_->count.load(std::memory_order_acquire);
    for (uint32_t i = 1; i < slabs; ++i) {
      if (table_->slabs[i].used.load(std::memory_order_relaxed) + count > table_->slabs[i].slots) continue;
      if (const unsigned taken = take(i); taken > 0) return taken;
    }
    // The supervisor leases by the same weights, so it is this donor's slab that comes, or soon; unless it is
    // full.
    for (; misses_[donor] < kMissesMax; ++misses_[donor]) {
      const Result<uint32_t> leased = Lease();
      if (!leased.ok()) return 0;
      if (const unsigned taken = take(leased.value()); taken > 0) {
        misses_[donor] = 0;
        return taken;
      }
    }
  }
  return 0;
}

Status RemoteStore::Reserve(unsigned count, SlotId* out, unsigned* reserved) {
  *reserved = ReserveStripe(count, out);
  if (*reserved > 0) return Status::Ok();
  if (current_ != 0 && table_->slabs[current_].state.load(std::memory_order_acquire) == SlabEntry::kReady) {
    *reserved = table_->Take(current_, count, out);
    if (*reserved > 0) return Status::Ok();
  }
  // Another slab of the run may have room again before more memory is asked for.
  const uint32_t slabs = table_->count.load(std::memory_order_acquire);
  for (uint32_t i = 1; i < slabs; ++i) {
    const SlabEntry& slab = table_->slabs[i];
    if (slab.state.load(std::memory_order_acquire) != SlabEntry::kReady) continue;
    if (slab.used.load(std::memory_order_relaxed) + count > slab.slots) continue;
    *reserved = table_->Take(i, count, out);
    if (*reserved > 0) {
      current_ = i;
      return Status::Ok();
    }
  }
  Result<uint32_t> leased = Lease();
  if (leased.ok()) {
    current_ = leased.value();
    *reserved = table_->Take(current_, count, out);
    if (*reserved > 0) return Status::Ok();
  }
  // The pool gives no more; single free slots may still be anywhere.
  for (uint32_t i = 1; i < slabs; ++i) {
    if (table_->slabs[i].state.load(std::memory_order_acquire) != SlabEntry::kReady) continue;
    *reserved = table_->Take(i, count, out);
    if (*reserved > 0) return Status::Ok();
  }
  return leased.ok() ? Status::Exhausted("the pool has no free slot") : leased.status();
}

Status RemoteStore::LinkFor(uint32_t slab, Link** link) {
  const SlabEntry& entry = table_->slabs[slab];
  if (entry.state.load(std::memory_order_acquire) != SlabEntry::kReady)
    return Status::Unavailable("the donor of this page is gone");
  if (Mapped(slab) != nullptr) {
    *link = &shm_;
    return Status::Ok();
  }
  MutexLock hold(&links_lock_);
  if (provider_->shared_memory(entry.donor)) {
    if (Mapped(slab) == nullptr) {
      Result<std::byte*> base = provider_->MapSlab(slab);
      if (!base.ok()) return base.status();
      SetMapped(slab, base.value());
    }
    *link = &shm_;
    return Status::Ok();
  }
  const uint32_t donor = entry.donor;
  *link = LinkOf(donor);
  if (channel_[donor] >= 0 && !(*link)->alive()) Disconnect(donor);
  return channel_[donor] >= 0 ? Status::Ok() : Connect(donor);
}

Link* RemoteStore::LinkOf(uint32_t donor) {
  const uint64_t bit = uint64_t{1} << donor;
  const bool made = (links_made_ & bit) != 0;
  links_made_ |= bit;
  if (provider_->verbs(donor) != nullptr) {
    if (!made) rdma_[donor].Make();
    return &*rdma_[donor];
  }
  if (!made) tcp_[donor].Make();
  return &*tcp_[donor];
}

Status RemoteStore::Connect(uint32_t donor) {
  Result<int> fd = provider_->Connect(donor);
  if (!fd.ok()) return fd.status();
  channel_[donor] = fd.value();
  const Verbs* verbs = provider_->verbs(donor);
  if (verbs == nullptr) {
    tcp_[donor]->Reset(fd.value());
    return Status::Ok();
  }
  RdmaLink& link = *rdma_[donor];
  if (Status s = link.Open(verbs, fd.value()); !s.ok()) {
    Disconnect(donor);
    return s;
  }
  link.SetDeviceFd(provider_->KeepDevice(donor, link.device_fd()));
  return Status::Ok();
}

void RemoteStore::Disconnect(uint32_t donor) {
  if (provider_->verbs(donor) != nullptr) {
    rdma_[donor]->Close();
    provider_->DropDevice(donor);
  }
  provider_->Disconnect(channel_[donor]);
  channel_[donor] = -1;
}

void RemoteStore::PopulateAround(SlotId slot) {
  const uint32_t slab = SlabOf(slot);
  const uint32_t part = SlotOf(slot) / kPopulateSlots;
  const std::atomic_ref word(populated_[slab][part / 64]);
  const uint64_t bit = uint64_t{1} << (part % 64);
  if ((word.load(std::memory_order_relaxed) & bit) != 0) return;
  word.fetch_or(bit, std::memory_order_relaxed);
  const uint32_t first = part * kPopulateSlots;
  const uint32_t left = table_->slabs[slab].slots - first;
  const uint64_t bytes = uint64_t{left < kPopulateSlots ? left : kPopulateSlots} * kPageBytes;
  // Linux 5.14; without it, or without memory, page faults do it one by one.
  sys::Call(SYS_madvise, mapped_[slab] + uint64_t{first} * kPageBytes, bytes, MADV_POPULATE_WRITE);
}

void RemoteStore::Start(Transfer* transfer, LinkOp::Kind kind, const PageIo* pages, unsigned count) {
  FARPOOL_ASSERT(count <= kStoreBatchMax);
  if (count == 1 && kind == LinkOp::Kind::kRead) {
    // The random fault on shared memory deserves the short way: the page is on its way to the cache while the
    // caller works, Finish() copies it.
    const SlabEntry& slab = table_->slabs[SlabOf(pages->slot)];
    const std::byte* base = Mapped(SlabOf(pages->slot));
    if (base != nullptr && slab.state.load(std::memory_order_acquire) == SlabEntry::kReady) {
      transfer->mapped = base + static_cast<size_t>(SlotOf(pages->slot)) * kPageBytes;
      PrefetchPage(transfer->mapped, PrefetchLines::kAll);
      transfer->pages = pages;
      return;
    }
  }
  transfer->kind = kind;
  transfer->pages = pages;
  transfer->count = count;
  std::memset(transfer->packed, 0, count * sizeof(transfer->packed[0]));
}

RemoteStore::Transfer* RemoteStore::TransferOf(unsigned number) {
  if ((transfers_made_ >> number & 1) == 0) transfers_[number].Make();
  transfers_made_ |= 1U << number;
  return &*transfers_[number];
}

void RemoteStore::StartLoad(unsigned load, const PageIo* pages, unsigned count) {
  Transfer& transfer = *TransferOf(load);
  Start(&transfer, LinkOp::Kind::kRead, pages, count);
  if (transfer.mapped != nullptr) return;
  if (table_->compress != SlabTable::kPlain)
    for (unsigned i = 0; i < count; ++i) transfer.packed[i] = PackedSize(pages[i].slot);
  PostAll(&transfer);
}

// They have come to where the pages belong.
Status RemoteStore::Unpack(const Transfer& transfer) {
  for (unsigned i = 0; i < transfer.count; ++i) {
    const uint16_t bytes = transfer.packed[i];
    if (bytes == 0) continue;
    std::byte packed[kPackedMax];
    FARPOOL_ASSERT(bytes <= kPackedMax);
    std::memcpy(packed, transfer.pages[i].page, bytes);
    if (!UnpackPage({packed, bytes}, transfer.pages[i].page))
      return Status::Corrupt("a packed page came back changed from its donor");
    table_->packed_in_pages.fetch_add(1, std::memory_order_relaxed);
    table_->packed_in_bytes.fetch_add(bytes, std::memory_order_relaxed);
  }
  return Status::Ok();
}

void RemoteStore::Pack(Transfer* transfer, uint64_t pack) {
  for (unsigned i = 0; i < transfer->count; ++i) {
    const PageIo& io = transfer->pages[i];
    if ((pack >> table_->slabs[SlabOf(io.slot)].donor & 1) == 0) continue;
    transfer->packed[i] = static_cast<uint16_t>(PackPage(&pack_state_, io.page, pack_room_[i]));
  }
}

void RemoteStore::NotePacked(const Transfer& transfer) {
  for (unsigned i = 0; i < transfer.count; ++i) {
    const uint16_t bytes = transfer.packed[i];
    const SlotId slot = transfer.pages[i].slot;
    // Of most slots nobody need know: their part of the table takes no memory.
    if (PackedSize(slot) != bytes) PackedSize(slot) = bytes;
    if (bytes == 0) continue;
    table_->packed_out_pages.fetch_add(1, std::memory_order_relaxed);
    table_->packed_out_bytes.fetch_add(bytes, std::memory_order_relaxed);
  }
}

Status RemoteStore::StoreAll(Transfer* transfer, const PageIo* pages, unsigned count) {
  Start(transfer, LinkOp::Kind::kWrite, pages, count);
  uint64_t donors = 0;  // Bit per donor; those that pages may travel packed to.
  unsigned pages_for[kDonorsMax] = {};
  for (unsigned i = 0; i < count && table_->compress != SlabTable::kPlain; ++i) {
    const uint32_t donor = table_->slabs[SlabOf(pages[i].slot)].donor;
    if (provider_->shared_memory(donor)) continue;
    donors |= uint64_t{1} << donor;
    ++pages_for[donor];
  }
  if (donors == 0) {
    PostAll(transfer);
    return Finish(transfer);
  }
  uint64_t pack = donors;
  if (table_->compress == SlabTable::kWhatIsSooner) {
    MutexLock hold(&choices_lock_);
    for (uint64_t left = donors; left != 0; left &= left - 1) {
      const int donor = std::countr_zero(left);
      if (!choices_[donor].Pack(pages_for[donor])) pack &= ~(uint64_t{1} << donor);
    }
  }
  const uint64_t began = NowNs();
  Status s;
  if (pack != 0) {
    MutexLock hold(&pack_lock_);
    Pack(transfer, pack);
    PostAll(transfer);
    s = Finish(transfer);
  } else {
    PostAll(transfer);
    s = Finish(transfer);
  }
  if (!s.ok()) return s;
  NotePacked(*transfer);
  MutexLock hold(&choices_lock_);
  for (uint64_t left = donors; left != 0; left &= left - 1) {
    const int donor = std::countr_zero(left);
    choices_[donor].Took((pack >> donor & 1) != 0, pages_for[donor], NowNs() - began);
  }
  return s;
}

void RemoteStore::PostAll(Transfer* transfer) {
  const PageIo* pages = transfer->pages;
  const unsigned count = transfer->count;
  transfer->ops = 0;
  transfer->status = Status::Ok();
  // What goes to one donor goes together, but for the first read, which somebody waits for.
  LinkOp* batch[kStoreBatchMax];
  unsigned batched = 0;
  Link* batch_link = nullptr;
  for (unsigned i = 0; i < count;) {
    const uint32_t slab = SlabOf(pages[i].slot);
    Link* link = nullptr;
    if (transfer->status = LinkFor(slab, &link); !transfer->status.ok()) break;
    FARPOOL_ASSERT(link != nullptr);
    if (batched > 0 &&
        (link != batch_link || (transfer->kind == LinkOp::Kind::kRead && transfer->ops == 1))) {
      batch_link->Post(batch, batched);
      batched = 0;
    }
    LinkOp& op = transfer->op[transfer->ops];
    op = LinkOp{};
    op.kind = transfer->kind;
    op.slab = link == &shm_ ? SlabId{slab} : table_->slabs[slab].id;
    op.offset = static_cast<uint64_t>(SlotOf(pages[i].slot)) * kPageBytes;
    const uint16_t packed = transfer->packed[i];
    op.local = packed != 0 && op.kind == LinkOp::Kind::kWrite ? pack_room_[i] : pages[i].page;
    op.bytes = packed != 0 ? packed : kPageBytes;
    // Neighbours on both sides travel as one operation, unless they are packed.
    unsigned k = i + 1;
    while (k < count && packed == 0 && transfer->packed[k] == 0 && op.bytes < kMaxLinkBytes &&
           static_cast<uint32_t>(pages[k].slot) == static_cast<uint32_t>(pages[k - 1].slot) + 1 &&
           SlabOf(pages[k].slot) == slab &&
           pages[k].page == static_cast<std::byte*>(pages[k - 1].page) + kPageBytes) {
      op.bytes += kPageBytes;
      ++k;
    }
    if (link == &shm_ && transfer->kind == LinkOp::Kind::kWrite) PopulateAround(pages[i].slot);
    transfer->link[transfer->ops++] = link;
    i = k;
    if (link == &shm_) continue;  // WaitAll() copies: the caller may hold a lock now.
    batch_link = link;
    batch[batched++] = &op;
  }
  if (batched > 0) batch_link->Post(batch, batched);
}

// Waits for all that was posted, whatever becomes of it: until then the pages belong to the links.
Status RemoteStore::WaitAll(Transfer* transfer) {
  Status result = transfer->status;
  for (unsigned i = 0; i < transfer->ops; ++i) {
    LinkOp* const op = &transfer->op[i];
    if (transfer->link[i] == &shm_) shm_.Post(&op, 1);
  }
  for (unsigned i = 0; i < transfer->ops; ++i) {
    LinkOp& op = transfer->op[i];
    transfer->link[i]->Wait(&op);
    if (op.code != Status::Code::kOk && result.ok())
      result = Status(op.code, "a donor did not answer or refused a page transfer");
  }
  return result;
}

Status RemoteStore::Finish(Transfer* transfer) {
  if (transfer->mapped != nullptr) {
    std::memcpy(transfer->pages->page, transfer->mapped, kPageBytes);
    transfer->mapped = nullptr;
    return Status::Ok();
  }
  Status last = WaitAll(transfer);
  for (int attempt = 1; !last.ok() && attempt < kTriesMax; ++attempt) {
    // Reads and whole-page writes may be repeated: a page write that happened twice leaves the same bytes.
    for (unsigned i = 0; i < transfer->count; ++i) {
      const uint32_t donor = table_->slabs[SlabOf(transfer->pages[i].slot)].donor;
      MutexLock hold(&links_lock_);
      if (provider_->shared_memory(donor) || (channel_[donor] >= 0 && LinkOf(donor)->alive())) continue;
      if (Status s = provider_->LinkBroke(donor); !s.ok()) return s;
      break;
    }
    PostAll(transfer);
    last = WaitAll(transfer);
  }
  return last.ok() && transfer->kind == LinkOp::Kind::kRead ? Unpack(*transfer) : last;
}

}  // namespace farpool
