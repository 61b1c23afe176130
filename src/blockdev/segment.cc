#include "blockdev/segment.h"

#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/shm.h>

#include <cerrno>

#include "base/assert.h"

// System V shared memory, because SHM_LOCK is a property of the segment: a memfd's pages are locked only by
// who has mapped and locked them, and if that one is killed they can be swapped out onto the very device that
// needs them.

namespace farpool {

namespace {

// Makes pages present that are locked anyway. Linux 5.14; before, first uses take page faults, as ever.
Status PopulateRange(const void* from, const void* to) {
  const uintptr_t first = reinterpret_cast<uintptr_t>(from) / kPageBytes * kPageBytes;
  const uintptr_t bytes = reinterpret_cast<uintptr_t>(to) - first;
  if (madvise(reinterpret_cast<void*>(first), bytes, MADV_POPULATE_WRITE) == 0 || errno == EINVAL)
    return Status::Ok();
  return Status::FromErrno("locking the device's page map in memory", errno);
}

}  // namespace

Result<SegmentOwner> SegmentOwner::Create(uint64_t pages) {
  SegmentOwner owner;
  owner.id_ =
      shmget(IPC_PRIVATE, sizeof(SwapSegment) + pages * sizeof(MapEntry), IPC_CREAT | SHM_NORESERVE | 0600);
  if (owner.id_ < 0) return Status::FromErrno("shmget", errno);
  void* at = shmat(owner.id_, nullptr, 0);
  const int attach_error = errno;
  const bool locked = shmctl(owner.id_, SHM_LOCK, nullptr) == 0;
  const int lock_error = errno;
  // Removed by name already: it lives as long as somebody has it attached.
  shmctl(owner.id_, IPC_RMID, nullptr);
  if (at == reinterpret_cast<void*>(-1)) return Status::FromErrno("shmat", attach_error);
  owner.segment_ = static_cast<SwapSegment*>(at);
  if (!locked) return Status::FromErrno("locking the device's page map (SHM_LOCK)", lock_error);
  owner.segment_->pages = pages;
  owner.segment_->device = -1;
  if (getrandom(&owner.segment_->hash_seed, sizeof(uint64_t), 0) != sizeof(uint64_t))
    return Status::FromErrno("getrandom", errno);
  SwapSegment* const segment = owner.segment_;
  if (Status s = PopulateRange(segment, segment->slabs.holders); !s.ok()) return s;
  if (Status s = PopulateRange(segment->map(), segment->map() + pages); !s.ok()) return s;
  return owner;
}

void SegmentOwner::Detach() { shmdt(segment_); }

Status SegmentOwner::Attach() {
  if (shmat(id_, segment_, 0) != segment_) return Status::FromErrno("shmat", errno);
  const uint32_t slabs = segment_->slabs.count.load();
  for (uint32_t i = 1; i < slabs; ++i)
    if (Status s = Populate(i, segment_->slabs.slabs[i].slots); !s.ok()) return s;
  if (Status s = PopulateRange(segment_, segment_->slabs.holders); !s.ok()) return s;
  return PopulateRange(segment_->map(), segment_->map() + segment_->pages);
}

Status SegmentOwner::Populate(uint32_t slab, uint32_t slots) {
  return PopulateRange(segment_->slabs.holders[slab], segment_->slabs.holders[slab] + slots);
}

}  // namespace farpool
