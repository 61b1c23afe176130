#include "blockdev/block_store.h"

#include <algorithm>
#include <cstring>

#include "base/assert.h"

// A page is never overwritten in its slot: it goes to a free one, and only then does the map name that. So
// whenever this process dies the map is right as it stands, for each page either the old or the new bytes;
// the kernel sends what was not answered again. Nor can a write that was still on its way to a donor at that
// moment harm anything: the slot it lands in is held by nobody, and no other process takes it (holder counts
// outlive us, too).

namespace farpool {

namespace {
constexpr unsigned kGroup = PageMap::kGroupPages;
}

Status BlockStore::Count(const Status& status) {
  if (!status.ok()) map_->counters().errors.fetch_add(1, std::memory_order_relaxed);
  if (status.code() == Status::Code::kCorrupt)
    map_->counters().corrupt.fetch_add(1, std::memory_order_relaxed);
  return status;
}

Status BlockStore::Read(uint64_t page, uint64_t count, std::byte* out) {
  FARPOOL_ASSERT(page <= pages() && count <= pages() - page);
  while (count > 0) {
    const auto now = static_cast<unsigned>(std::min(count, kGroup - page % kGroup));
    if (Status s = ReadGroup(page, now, out); !s.ok()) return Count(s);
    page += now;
    count -= now;
    out += now * kPageBytes;
  }
  return Status::Ok();
}

Status BlockStore::ReadGroup(uint64_t page, unsigned count, std::byte* out) {
  PageIo io[kGroup];
  const MapEntry* entries[kGroup];
  unsigned stored = 0;
  MutexLock lock(map_->LockOf(page));
  for (unsigned i = 0; i < count; ++i, out += kPageBytes) {
    const MapEntry& entry = map_->entry(page + i);
    if (entry.slot == SlotId::kNone) {
      std::memset(out, 0, kPageBytes);
      continue;
    }
    io[stored] = {entry.slot, out};
    entries[stored++] = &entry;
  }
  map_->counters().pages_read.fetch_add(count, std::memory_order_relaxed);
  if (stored == 0) return Status::Ok();
  if (Status s = store_->Load(io, stored); !s.ok()) return s;
  for (unsigned i = 0; i < stored; ++i)
    if (map_->HashOf(io[i].page) != entries[i]->hash)
      return Status::Corrupt("a donor returned other bytes than were stored");
  return Status::Ok();
}

Status BlockStore::ReserveAll(unsigned count, SlotId* slots) {
  for (unsigned have = 0; have < count;) {
    unsigned got = 0;
    if (Status s = store_->Reserve(count - have, slots + have, &got); !s.ok()) {
      while (have > 0) store_->Release(slots[--have]);
      return s;
    }
    have += got;
  }
  return Status::Ok();
}

Status BlockStore::Write(uint64_t page, uint64_t count, const std::byte* data, StillWanted* wanted) {
  FARPOOL_ASSERT(page <= pages() && count <= pages() - page);
  while (count > 0) {
    const auto now = static_cast<unsigned>(std::min(count, kGroup - page % kGroup));
    if (Status s = WriteGroup(page, now, data, wanted); !s.ok()) return Count(s);
    page += now;
    count -= now;
    data += now * kPageBytes;
  }
  return Status::Ok();
}

Status BlockStore::WriteGroup(uint64_t page, unsigned count, const std::byte* data, StillWanted* wanted) {
  PageIo io[kGroup];
  uint64_t at[kGroup];
  uint64_t zero[kGroup];
  SlotId slots[kGroup];
  unsigned stored = 0;
  unsigned zeros = 0;
  for (unsigned i = 0; i < count; ++i) {
    const std::byte* from = data + i * kPageBytes;
    if (IsZeroPage(from)) {
      zero[zeros++] = page + i;
      continue;
    }
    io[stored].page = const_cast<std::byte*>(from);  // PageIo serves both ways; a store only reads.
    at[stored++] = page + i;
  }
  MutexLock lock(map_->LockOf(page));
  if (!wanted->Ask()) return Status::Unavailable("the kernel sent this request again by another way");
  if (stored > 0) {
    if (Status s = ReserveAll(stored, slots); !s.ok()) return s;
    for (unsigned i = 0; i < stored; ++i) io[i].slot = slots[i];
    if (Status s = store_->Store(io, stored); !s.ok()) {
      // A broken link may still deliver them: the slots stay held, so that they never hold another page.
      if (s.code() == Status::Code::kInvalidArgument)
        for (unsigned i = 0; i < stored; ++i) store_->Release(slots[i]);
      return s;
    }
  }
  for (unsigned i = 0; i < stored; ++i) {
    MapEntry& entry = map_->entry(at[i]);
    const SlotId old = entry.slot;
    entry.Set(slots[i], map_->HashOf(io[i].page));
    if (old != SlotId::kNone) store_->Release(old);
  }
  for (unsigned i = 0; i < zeros; ++i) Clear(zero[i]);
  map_->counters().pages_written.fetch_add(count, std::memory_order_relaxed);
  map_->counters().pages_zero.fetch_add(zeros, std::memory_order_relaxed);
  return Status::Ok();
}

void BlockStore::Clear(uint64_t page) {
  MapEntry& entry = map_->entry(page);
  const SlotId old = entry.slot;
  if (old == SlotId::kNone) return;
  entry.Set(SlotId::kNone, 0);
  store_->Release(old);
}

Status BlockStore::Discard(uint64_t page, uint64_t count, StillWanted* wanted) {
  FARPOOL_ASSERT(page <= pages() && count <= pages() - page);
  for (const uint64_t end = page + count; page < end;) {
    const uint64_t group_end = std::min(end, page - page % kGroup + kGroup);
    MutexLock lock(map_->LockOf(page));
    if (!wanted->Ask())
      return Count(Status::Unavailable("the kernel sent this request again by another way"));
    for (; page < group_end; ++page) Clear(page);
  }
  map_->counters().pages_discarded.fetch_add(count, std::memory_order_relaxed);
  return Status::Ok();
}

}  // namespace farpool
