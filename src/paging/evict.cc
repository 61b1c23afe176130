// The way out: groups leave the arena by MOVE into empty staging blocks; staged pages are hashed, written if
// they changed, and their frames become free. Only this file moves a page resident -> staged -> stored.

#include <linux/mman.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <bit>
#include <cerrno>
#include <cstring>

#include "base/assert.h"
#include "base/prefetch.h"
#include "base/sys.h"
#include "base/uffd_abi.h"
#include "paging/engine.h"

namespace farpool {

namespace {
// Staging is the second chance: this share of the limit, within bounds.
constexpr uint64_t kStagingShare = 16;
constexpr uint64_t kStagingPagesMin = 2 * kGroupPages;
constexpr uint64_t kStagingPagesMax = 4096;
constexpr uint64_t kStagingPagesLeast = 16;
// When frames are needed one by one a drain ends with the first page that need not be written; pages that
// must be are written so many at a time.
constexpr unsigned kWritePages = 4;
// A stream's frames are kept ready for the faults of others too, up to this part of staging.
constexpr uint64_t kReserveShare = 4;
// Neighbours MOVEd out per eviction when single frames are needed, for the same reason; a stream, and mremap,
// moves whole groups.
constexpr uint64_t kSlicePages = 22;
// Neighbouring groups go by one mremap, and one flush of the TLB: so many pages, where staging has so much
// room.
constexpr uint64_t kNeighboursPages = 4 * kGroupPages;
constexpr uint64_t kNeighboursFrom = 4 * kNeighboursPages;
// mremap waits for all other threads' faults, and they for it. While so many of the last take-offs found
// others in the air, groups whose resident pages are so few runs go by UFFDIO_MOVE instead, which flushes the
// TLB for each.
constexpr unsigned kCrowd = 8;
constexpr unsigned kRunsMax = 6;
// Given back at most at each call of another process: a millisecond under the lock.
constexpr uint64_t kYieldPages = 4 * kGroupPages;
// A call that empties the TLB makes the fault it is made in three to five times as long, for the most part
// behind it: so this part of staging goes at once, and few faults are long.
constexpr uint64_t kBatchShare = 4;
constexpr uint64_t kBatchPagesMax = 4 * kGroupPages;
// Groups looked at before giving up: hot ones get another round, pinned ones stay.
constexpr unsigned kEvictTriesMax = 256;
// Evictions at most for one fault that needs frames, and for one that has them and takes its turn.
constexpr unsigned kEvictionsMax = 4;
constexpr unsigned kBatchEvictionsMax = 8;
// Runs of frames for one flight, each of which is a call of its own, where that gives half of it at least.
constexpr unsigned kFrameRunsMax = 4;
// Free frames in a block that are worth giving it back for, and blocks that are drained in search of one.
constexpr uint64_t kRoomPages = 4;
constexpr int kRoomDrainsMax = 4;
// With less room than this part of a batch for what is to be copied more is made ahead; by the half batch at
// least while it is not less than that.
constexpr uint64_t kSpareLowShare = 4;
constexpr uint64_t kSpareLeastShare = 16;
// A group that is back before so small a share of the groups has left came back soon.
constexpr uint64_t kSoonShare = 5;
// Every so many victims one is taken from the groups that are kept.
constexpr uint32_t kKeptTurn = 8;
// Groups that begin to be kept, for each victim.
constexpr unsigned kKeptAtOnce = 16;
// The clock of departures that fits a page table entry.
constexpr uint32_t kClockMask = (1 << 28) - 1;
// Shares of a page copied on write by an atomic OR before a MOVE is tried again.
constexpr int kUnshareTriesMax = 3;

bool Bit(const uint64_t* words, unsigned i) { return (words[i / 64] >> (i % 64) & 1) != 0; }
void SetBit(uint64_t* words, unsigned i) { words[i / 64] |= uint64_t{1} << (i % 64); }
void ClearBit(uint64_t* words, unsigned i) { words[i / 64] &= ~(uint64_t{1} << (i % 64)); }

// Neighbouring frames as bits of their block.
uint64_t BitsOf(uint32_t first, unsigned count) {
  return (count == 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1) << (first % kGroupPages);
}

}  // namespace

uint64_t Engine::StagingTarget() const {
  // A process that holds little of the budget keeps most of that in place.
  const uint64_t holds = config_.budget.mine();
  if (holds < 4 * kStagingPagesMin) return holds / 4 < kStagingPagesLeast ? kStagingPagesLeast : holds / 4;
  const uint64_t share = config_.budget.limit() / kStagingShare;
  return share < kStagingPagesMin ? kStagingPagesMin : share > kStagingPagesMax ? kStagingPagesMax : share;
}

uint64_t Engine::BatchPages() const {
  const uint64_t target = StagingTarget();
  const uint64_t least = target / 2 < kGroupPages ? target / 2 : kGroupPages;
  const uint64_t share = target / kBatchShare;
  return share < least ? least : share > kBatchPagesMax ? kBatchPagesMax : share;
}

void Engine::QueueGroup(uint64_t group, QueueName name) {
  Queue& queue = queues_[name];
  Group& entry = groups_[group];
  entry.queued = true;
  entry.next = 0;
  (queue.tail != 0 ? groups_[queue.tail - 1].next : queue.head) = static_cast<uint32_t>(group) + 1;
  queue.tail = static_cast<uint32_t>(group) + 1;
  ++queue.size;
}

uint64_t Engine::TakeHead(Queue* queue) {
  const uint64_t index = queue->head - 1;
  queue->head = groups_[index].next;
  if (queue->head == 0) queue->tail = 0;
  --queue->size;
  groups_[index].queued = false;
  return index;
}

void Engine::FrameFreed(uint32_t frame) {
  const unsigned block = frame / kGroupPages;
  const uint64_t bit = uint64_t{1} << (frame % kGroupPages);
  free_[block] |= bit;
  ++free_frames_;
  zero_[block] &= ~bit;
  SetBit(any_free_, block);
}

void Engine::FramesTaken(uint32_t first, unsigned count) {
  const unsigned block = first / kGroupPages;
  FARPOOL_ASSERT((first + count - 1) / kGroupPages == block);
  const uint64_t bits = BitsOf(first, count);
  free_[block] &= ~bits;
  free_frames_ -= count;
  zero_[block] &= ~bits;
  if (free_[block] == 0) ClearBit(any_free_, block);
}

void Engine::EnterStaging(uint32_t first, unsigned count) {
  staged_mask_[first / kGroupPages] |= BitsOf(first, count);
  staged_ += count;
}

void Engine::LeaveStaging(uint32_t first, unsigned count) {
  staged_mask_[first / kGroupPages] &= ~BitsOf(first, count);
  staged_ -= count;
}

// Some frames of the block are gone.
void Engine::BlockLeft(unsigned block) {
  if (free_[block] == 0 && in_flight_[block] == 0 && !Bit(in_queue_, block)) ClearBit(not_empty_, block);
}

// Gives a whole empty block memory: 64 zero pages in one call, cheaper than 64 faults.
bool Engine::Populate(bool even_over_limit) {
  const unsigned block = EmptyBlock(0);
  if (block == kBlocksMax) return false;
  unsigned pages = kGroupPages;
  while (!config_.budget.TryTake(pages)) {
    pages /= 2;
    if (pages == 0) {
      if (!even_over_limit) return false;
      pages = 1;
      config_.budget.Take(1);
      break;
    }
  }
  long r = sys::Call(SYS_madvise, FrameAt(block * kGroupPages), pages * kPageBytes, MADV_POPULATE_WRITE);
  if (r == -EINVAL) {  // Before Linux 5.14: one fault a page.
    for (unsigned i = 0; i < pages; ++i)
      *reinterpret_cast<volatile std::byte*>(FrameAt(block * kGroupPages + i)) = std::byte{0};
    r = 0;
  }
  if (r != 0) {
    config_.budget.Give(pages);
    return false;
  }
  const uint64_t bits = pages == 64 ? ~uint64_t{0} : (uint64_t{1} << pages) - 1;
  free_[block] = bits;
  zero_[block] = bits;
  populated_ += pages;
  free_frames_ += pages;
  SetBit(any_free_, block);
  SetBit(not_empty_, block);
  return true;
}

// Free frames of one block in a row: the shortest run of at least `count`, so that longer ones last; else the
// longest there is. 0: no frame is free.
unsigned Engine::FindRun(unsigned count, uint32_t* first) const {
  unsigned best = 0;
  for (unsigned word = 0; word < kBlocksMax / 64; ++word) {
    for (uint64_t blocks = any_free_[word]; blocks != 0; blocks &= blocks - 1) {
      const unsigned block = word * 64 + static_cast<unsigned>(std::countr_zero(blocks));
      for (uint64_t bits = free_[block]; bits != 0;) {
        const auto at = static_cast<unsigned>(std::countr_zero(bits));
        const auto run = static_cast<unsigned>(std::countr_one(bits >> at));
        if (best < count ? run > best : run >= count && run < best) {
          best = run;
          *first = block * kGroupPages + at;
          if (best == count) return count;
        }
        bits &= ~BitsOf(at, run);
      }
    }
  }
  return best < count ? best : count;
}

// Neighbours in one call.
void Engine::DropBlocks(const FreeBlocks& blocks) const {
  for (unsigned i = 0, next; i < blocks.count; i = next) {
    for (next = i + 1; next < blocks.count && blocks.blocks[next] == blocks.blocks[next - 1] + 1;) ++next;
    sys::Call(SYS_madvise, FrameAt(blocks.blocks[i] * kGroupPages), (next - i) * kGroupPages * kPageBytes,
              MADV_DONTNEED);
  }
}

// The block's free frames are no longer.
uint64_t Engine::FramesOfBlockTaken(unsigned block) {
  const auto pages = static_cast<uint64_t>(std::popcount(free_[block]));
  free_[block] = zero_[block] = 0;
  ClearBit(any_free_, block);
  populated_ -= pages;
  free_frames_ -= pages;
  return pages;
}

// The block's frames go back; it has no other pages than free ones.
void Engine::DropFreeBlock(unsigned block) {
  sys::Call(SYS_madvise, FrameAt(block * kGroupPages), kGroupPages * kPageBytes, MADV_DONTNEED);
  config_.budget.Give(FramesOfBlockTaken(block));
  BlockLeft(block);
}

void Engine::DropSome(Departure* departure) {
  FreeBlocks* const freed = &departure->freed;
  *freed = BlocksToDrop(BatchPages());
  if (freed->frames < BatchPages() / 2 && spare_ > BatchPages() / kSpareLeastShare)
    *freed = {};  // There may soon be more.
  for (unsigned i = 0; i < freed->count; ++i) {
    FramesOfBlockTaken(freed->blocks[i]);
    ++in_flight_[freed->blocks[i]];  // Until Dropped().
  }
}

// With `wanted` frames together, or what there is. None of them is one that more of a group is going to come
// to.
Engine::FreeBlocks Engine::BlocksToDrop(uint64_t wanted) const {
  FreeBlocks found;
  for (unsigned word = 0; word < kBlocksMax / 64; ++word) {
    for (uint64_t left = any_free_[word]; left != 0; left &= left - 1) {
      const unsigned block = word * 64 + static_cast<unsigned>(std::countr_zero(left));
      const auto frames = static_cast<uint64_t>(std::popcount(free_[block]));
      if (!OnlyFree(block) || block == victim_.block || frames < kRoomPages) continue;
      found.blocks[found.count++] = block;
      found.frames += frames;
      if (found.frames >= wanted || found.count == std::size(found.blocks)) return found;
    }
  }
  return found;
}

// What is held for copies goes back.
void Engine::GiveSpare() {
  config_.budget.Give(spare_);
  spare_ = 0;
}

// Free frames lie scattered where single faults left them. Gives their memory back, so that whole blocks can
// be had again. True if any went.
bool Engine::Compact() {
  bool any = false;
  for (unsigned block = 0; block < kBlocksMax; ++block) {
    if (!OnlyFree(block) || free_[block] == ~uint64_t{0}) continue;
    DropFreeBlock(block);
    any = true;
  }
  return any;
}

// Takes budget for `count` pages that are to be copied. At the limit, blocks of free frames give theirs: at
// most one flush of the TLB for many pages. False if there is none.
Status Engine::MakeRoom(unsigned count, bool* taken) {
  for (int drains = 0; drains < kRoomDrainsMax;) {
    *taken = spare_ >= count;
    if (*taken) {
      spare_ -= count;
      return Status::Ok();
    }
    *taken = config_.budget.TryTake(count - spare_);
    if (*taken) {
      spare_ = 0;
      return Status::Ok();
    }
    evicts_.store(true, std::memory_order_relaxed);
    config_.budget.AtLimit();
    if (const FreeBlocks freed = BlocksToDrop(count - spare_); freed.count > 0) {
      DropBlocks(freed);
      for (unsigned i = 0; i < freed.count; ++i) {
        spare_ += FramesOfBlockTaken(freed.blocks[i]);
        BlockLeft(freed.blocks[i]);
      }
      continue;
    }
    // A whole group of it is going to go.
    if (Status s = FillStaging(StagingTarget() + kGroupPages, kGroupPages, kEvictionsMax); !s.ok()) return s;
    if (staged_ == 0) return Status::Ok();
    if (Status s = Drain(kGroupPages); !s.ok()) return s;
    ++drains;
  }
  return Status::Ok();
}

// Pages leave the arena until staging has `target`, so that they spend some time there before they go.
// `count` frames are wanted.
Status Engine::FillStaging(uint64_t target, unsigned count, unsigned evictions) {
  bool progress = true;
  for (unsigned i = 0; i < evictions && progress && populated_ < target; ++i)
    if (Status s = Evict(count, kNeighboursPages, &progress); !s.ok()) return s;
  return Status::Ok();
}

void Engine::DropFreeFrames(Budget* heir) {
  if (heir != nullptr) {
    config_.budget.TransferTo(heir, spare_);
    spare_ = 0;
  } else {
    GiveSpare();
  }
  for (unsigned block = 0; block < kBlocksMax; ++block) {
    while (free_[block] != 0) {
      const auto at = static_cast<unsigned>(std::countr_zero(free_[block]));
      const auto run = static_cast<unsigned>(std::countr_one(free_[block] >> at));
      const uint32_t frame = block * kGroupPages + at;
      sys::Call(SYS_madvise, FrameAt(frame), run * kPageBytes, MADV_DONTNEED);
      FramesTaken(frame, run);
      BlockLeft(block);
      populated_ -= run;
      if (heir != nullptr) {
        config_.budget.TransferTo(heir, run);
      } else {
        config_.budget.Give(run);
      }
    }
  }
}

Status Engine::TakeFrames(unsigned count, Flight* flight, unsigned* got) {
  *got = 0;
  while (free_frames_ * 2 < count) {
    if (Populate(false)) continue;
    evicts_.store(true, std::memory_order_relaxed);
    config_.budget.AtLimit();
    if (spare_ > 0 && !move_or_copy_.copy_is_sooner()) {
      GiveSpare();
      continue;
    }
    // At the limit: the oldest staged pages give their frames.
    if (Status s = FillStaging(StagingTarget() + count, count, kEvictionsMax); !s.ok()) return s;
    if (staged_ > 0) {
      if (Status s = Drain(count > kWritePages ? kGroupPages : count); !s.ok()) return s;
      continue;
    }
    if (spare_ > 0) {
      GiveSpare();
      continue;
    }
    if (free_frames_ > 0) break;
    if (flight->ahead || flights_ != 0) return Status::Ok();  // What arrives can be evicted.
    if (Populate(true)) continue;
    return Status::Exhausted(
        "no memory for a page: everything resident is pinned, or the host is out of memory");
  }
  for (unsigned runs = 0; *got < count && free_frames_ > 0; ++runs) {
    if (runs >= kFrameRunsMax && *got * 2 >= count) break;
    uint32_t first = 0;
    const unsigned run = FindRun(count - *got, &first);
    const unsigned block = first / kGroupPages;
    if (flight->before == PageEntry::State::kNone)
      flight->unclean |= (~zero_[block] >> (first % kGroupPages) & BitsOf(0, run)) << *got;
    FramesTaken(first, run);
    for (unsigned i = 0; i < run; ++i) flight->frames[(*got)++] = first + i;
  }
  return Status::Ok();
}

Status Engine::KeepReserve(const Flight& flight, Departure* departure) {
  if (config_.budget.used() + kGroupPages <= config_.budget.limit()) return Status::Ok();  // There is room.
  const unsigned count = flight.count;
  const bool many = count > kWritePages;
  const uint64_t batch = BatchPages();
  uint64_t target = StagingTarget();
  uint64_t has = populated_ - staged_;
  uint64_t reserve = count;
  const bool copying = flight.bounce && move_or_copy_.copy_is_sooner();
  if (copying) {
    if (spare_ <= batch / kSpareLowShare) DropSome(departure);
    // While that is used up, the next blocks are drained.
    target += batch;
    has = spare_ + departure->freed.frames + free_frames_;
    reserve += batch + batch / 2;
  } else if (many && count * (1 + static_cast<unsigned>(std::popcount(flights_))) <= target / kReserveShare) {
    // A stream's next fault may be another thread's, while this one's pages still leave.
    reserve *= 1 + static_cast<unsigned>(std::popcount(flights_));
  }
  if (has >= reserve) return Status::Ok();
  config_.budget.AtLimit();
  if (many) {
    bool progress = true;
    if (populated_ < target)
      if (Status s = Evict(count, kNeighboursPages, &progress); !s.ok()) return s;
  } else if (populated_ + batch / 2 < target) {
    if (Status s = FillStaging(target + batch / 2, count, kBatchEvictionsMax); !s.ok()) return s;
  }
  if (staged_ == 0) return Status::Ok();
  const unsigned most = many && !copying ? kGroupPages : many ? count : kWritePages;
  // Nobody else wants the lock of a thread that is alone.
  if ((many || crowd_ > 0) && Depart(most, departure)) return Status::Ok();
  return Drain(copying ? count + 1 : count);  // One more than were taken, so that it becomes a batch.
}

// A page is back from its donor: what else has left since it had.
void Engine::Returned(const Flight& flight) {
  if (flight.before != PageEntry::State::kStored || flight.ahead) return;
  const uint64_t since = (left_ - config_.table[flight.pages[0]].frame) & kClockMask;
  const uint64_t distance = since * PagingStats::kDistancesPerLimit / config_.budget.limit();
  constexpr uint64_t kLast = PagingStats::kDistances - 1;
  Count(config_.stats->distances[distance < kLast ? distance : kLast]);
}

// Looks for the oldest block that has staged pages.
bool Engine::NextBlock() {
  for (; staged_count_ > 0; --staged_count_) {
    const unsigned block = staged_queue_[staged_head_];
    if (staged_mask_[block] != 0) return true;
    ClearBit(in_queue_, block);
    BlockLeft(block);
    staged_head_ = (staged_head_ + 1) % kBlocksMax;
  }
  return false;
}

Engine::Fate Engine::Examine(uint32_t frame, bool fresh, PageHash* hash) const {
  if (IsZeroPage(FrameAt(frame))) return Fate::kZero;
  *hash = HashPage(FrameAt(frame), config_.hash_seed);
  return !fresh && config_.table[owner_[frame]].hash == *hash ? Fate::kClean : Fate::kChanged;
}

// The page is where it belongs, its frame free.
void Engine::Settle(uint32_t frame, Fate fate, const PageHash& hash) {
  PageEntry& entry = config_.table[owner_[frame]];
  FrameFreed(frame);
  if (fate == Fate::kZero) {
    const SlotId slot = entry.slot;
    entry = PageEntry{};
    if (slot != SlotId::kNone) config_.store->Release(slot);
    config_.budget.SubFar(1);
    zero_[frame / kGroupPages] |= uint64_t{1} << (frame % kGroupPages);
    Count(config_.stats->pages_zero);
    return;
  }
  if (fate == Fate::kChanged) entry.hash = hash;
  entry.state = PageEntry::State::kStored;
  entry.frame = left_++ & kClockMask;
  Count(fate == Fate::kChanged ? config_.stats->pages_out : config_.stats->pages_clean);
}

// Hashes the oldest staged pages, `most` of them or as many more as make up a write of kWritePages, writes
// those that changed, frees their frames. On an error they stay staged.
Status Engine::Drain(unsigned most) {
  if (!NextBlock()) return Status::Ok();
  const unsigned block = staged_queue_[staged_head_];
  PageIo io[kGroupPages];
  PageHash hashes[kGroupPages];
  uint32_t frames[kGroupPages];
  unsigned dirty = 0;
  unsigned without_slot = 0;
  unsigned looked = 0;
  for (uint64_t bits = staged_mask_[block]; bits != 0; bits &= bits - 1, ++looked) {
    if (looked >= most && (dirty == 0 || dirty >= kWritePages)) break;
    const uint32_t frame = block * kGroupPages + static_cast<uint32_t>(std::countr_zero(bits));
    PageEntry& entry = config_.table[owner_[frame]];
    if (const uint64_t rest = bits & (bits - 1); rest != 0)
      PrefetchPage(FrameAt(block * kGroupPages + static_cast<uint32_t>(std::countr_zero(rest))));
    PageHash hash;
    if (const Fate fate = Examine(frame, entry.slot == SlotId::kNone, &hash); fate != Fate::kChanged) {
      LeaveStaging(frame, 1);
      Settle(frame, fate, hash);
      continue;
    }
    if (entry.slot != SlotId::kNone && !config_.store->Exclusive(entry.slot)) {
      const SlotId slot = entry.slot;
      entry.slot = SlotId::kNone;
      config_.store->Release(slot);
    }
    if (entry.slot == SlotId::kNone) ++without_slot;
    hashes[dirty] = hash;
    frames[dirty] = frame;
    io[dirty++] = {entry.slot, FrameAt(frame)};
  }
  if (dirty == 0) return Status::Ok();
  for (unsigned i = 0; i < dirty && without_slot > 0;) {
    SlotId slots[kGroupPages];
    unsigned reserved = 0;
    Status s = config_.store->Reserve(without_slot, slots, &reserved);
    if (s.code() == Status::Code::kExhausted) {
      // Resident pages hold slots only to save a write later; this page has nowhere else to go.
      unsigned dropped = 0;
      if (Status d = DropResidentSlots(kGroupPages, &dropped); !d.ok()) return d;
      if (dropped > 0) continue;
    }
    if (!s.ok()) {
      for (unsigned k = 0; k < dirty; ++k)
        if (io[k].slot != config_.table[owner_[frames[k]]].slot) config_.store->Release(io[k].slot);
      return s;
    }
    without_slot -= reserved;
    for (unsigned k = 0; k < reserved; ++i) {
      if (io[i].slot != SlotId::kNone) continue;
      io[i].slot = slots[k++];
    }
  }
  // From here on the slots belong to the pages, written or not.
  for (unsigned i = 0; i < dirty; ++i) config_.table[owner_[frames[i]]].slot = io[i].slot;
  if (Status s = config_.store->Store(io, dirty); !s.ok()) return s;
  for (unsigned i = 0; i < dirty; ++i) {
    LeaveStaging(frames[i], 1);
    Settle(frames[i], Fate::kChanged, hashes[i]);
  }
  return Status::Ok();
}

// The oldest staged pages begin to leave, each with a slot to go to. Those that share theirs with another
// process may need a new one and wait for Drain().
bool Engine::Depart(unsigned most, Departure* departure) {
  uint32_t* const frames = departure->frames;
  unsigned count = 0;
  if (!NextBlock()) return false;
  unsigned looked = 0;
  for (uint32_t i = 0; i < staged_count_ && count < most && looked < kGroupPages; ++i) {
    const unsigned block = staged_queue_[(staged_head_ + i) % kBlocksMax];
    for (uint64_t bits = staged_mask_[block]; bits != 0 && count < most && looked < kGroupPages;
         bits &= bits - 1, ++looked) {
      const uint32_t frame = block * kGroupPages + static_cast<uint32_t>(std::countr_zero(bits));
      const SlotId slot = config_.table[owner_[frame]].slot;
      if (slot == SlotId::kNone) {
        departure->fresh |= uint64_t{1} << count;
      } else if (!config_.store->Exclusive(slot)) {
        continue;
      }
      frames[count++] = frame;
    }
  }
  const auto slot_of = [&](uint64_t bits) -> SlotId& {
    return config_.table[owner_[frames[std::countr_zero(bits)]]].slot;
  };
  for (uint64_t without = departure->fresh; without != 0;) {
    SlotId slots[kGroupPages];
    unsigned reserved = 0;
    if (!config_.store->Reserve(static_cast<unsigned>(std::popcount(without)), slots, &reserved).ok()) {
      for (uint64_t with = departure->fresh & ~without; with != 0; with &= with - 1) {
        const SlotId slot = slot_of(with);
        slot_of(with) = SlotId::kNone;
        config_.store->Release(slot);
      }
      return false;
    }
    for (unsigned k = 0; k < reserved; ++k, without &= without - 1) slot_of(without) = slots[k];
  }
  for (unsigned i = 0; i < count; ++i) {
    LeaveStaging(frames[i], 1);
    ++in_flight_[frames[i] / kGroupPages];
    config_.table[owner_[frames[i]]].state = PageEntry::State::kLeaving;
  }
  departure->count = count;
  return count > 0;
}

Status Engine::Store(Departure* departure) const {
  PageIo io[kGroupPages];
  unsigned changed = 0;
  for (unsigned i = 0; i < departure->count; ++i) {
    const uint32_t frame = departure->frames[i];
    if (i + 1 < departure->count) PrefetchPage(FrameAt(departure->frames[i + 1]));
    departure->fates[i] = Examine(frame, (departure->fresh >> i & 1) != 0, &departure->hashes[i]);
    if (departure->fates[i] == Fate::kChanged)
      io[changed++] = {config_.table[owner_[frame]].slot, FrameAt(frame)};
  }
  return changed > 0 ? config_.store->StoreBeside(io, changed) : Status::Ok();
}

void Engine::Left(const Departure& departure) {
  for (unsigned i = 0; i < departure.count; ++i) {
    Settle(departure.frames[i], departure.fates[i], departure.hashes[i]);
    --in_flight_[departure.frames[i] / kGroupPages];
  }
}

void Engine::Dropped(const FreeBlocks& blocks) {
  for (unsigned i = 0; i < blocks.count; ++i)
    if (--in_flight_[blocks.blocks[i]] == 0) BlockLeft(blocks.blocks[i]);
  spare_ += blocks.frames;
}

// The pool is full: resident pages give up the slots they keep, at least `wanted` if there are so many.
Status Engine::DropResidentSlots(unsigned wanted, unsigned* dropped) {
  *dropped = 0;
  for (const Queue& queue : queues_) {
    for (uint32_t at = queue.head; at != 0 && *dropped < wanted; at = groups_[at - 1].next) {
      const uint64_t first = static_cast<uint64_t>(at - 1) * kGroupPages;
      for (uint64_t page = first; page < first + kGroupPages; ++page) {
        PageEntry& entry = config_.table[page];
        if (entry.state != PageEntry::State::kResident || entry.slot == SlotId::kNone) continue;
        const SlotId slot = entry.slot;
        entry.slot = SlotId::kNone;
        config_.store->Release(slot);
        ++*dropped;
      }
    }
  }
  return Status::Ok();
}

// The page table entries of [first, last) become those of as many frames, in one step; the mapping stays,
// empty and registered. The frames' own mapping is replaced by a copy of the arena's, which is not
// registered. That fails where the process may not have more mappings or address space, perhaps with the
// frames' mapping gone.
bool Engine::RemapOut(uint64_t first, uint64_t last, uint32_t frame) {
  const uint64_t bytes = (last - first) * kPageBytes;
  const long r = sys::Call(SYS_mremap, PageAt(first), bytes, bytes,
                           MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, FrameAt(frame));
  if (!sys::Failed(r)) return true;
  for (uint64_t i = frame; i < frame + (last - first); ++i)
    SetBit(broken_, static_cast<unsigned>(i / kGroupPages));
  remap_.store(false, std::memory_order_relaxed);
  return false;
}

unsigned Engine::EmptyBlock(unsigned from) const {
  while (from < kBlocksMax && (Bit(not_empty_, from) || Bit(broken_, from))) ++from;
  return from;
}

unsigned Engine::EmptyBlocks(unsigned block, unsigned end) const {
  const unsigned first = block;
  while (block < end && block - first < kNeighboursPages / kGroupPages && EmptyBlock(block) == block) ++block;
  return block - first;
}

// Moves the resident pages of [first, last), one group or neighbours, out to frames of the same order. Holes
// are fine. Returns how many went; they are staged then.
unsigned Engine::MoveOut(uint64_t first, uint64_t last, uint32_t frame, const Area& area) {
  unsigned went = 0;
  auto staged = [&](uint64_t page) {
    PageEntry& entry = config_.table[page];
    if (entry.state != PageEntry::State::kResident) return;
    const uint32_t to = frame + static_cast<uint32_t>(page - first);
    entry.state = PageEntry::State::kStaged;
    entry.frame = to & kClockMask;
    owner_[to] = static_cast<uint32_t>(page);
    EnterStaging(to, 1);
    --GroupOf(page).resident;
    ++went;
  };
  const bool writable = (area.protection & PROT_WRITE) != 0;
  if ((area.protection & PROT_READ) != 0 && (!writable || !config_.move)) {
    // A copy is as good as a MOVE where nobody can write meanwhile: in mappings without the right to, which
    // MOVE refuses, and, without MOVE, behind a write protection: a writer then waits in the fault handler
    // for our lock.
    if (writable) {
      uffdio_writeprotect protect = {
          .range = {reinterpret_cast<uint64_t>(PageAt(first)), (last - first) * kPageBytes},
          .mode = UFFDIO_WRITEPROTECT_MODE_WP};
      long r;
      do r = sys::Call(SYS_ioctl, config_.uffd, UFFDIO_WRITEPROTECT, &protect);
      while (r == -EAGAIN);
      if (r != 0) return 0;  // Stays resident.
    }
    for (uint64_t page = first; page < last; ++page) {
      if (config_.table[page].state != PageEntry::State::kResident) continue;
      std::memcpy(FrameAt(frame + static_cast<uint32_t>(page - first)), PageAt(page), kPageBytes);
      staged(page);
    }
    sys::Call(SYS_madvise, PageAt(first), (last - first) * kPageBytes, MADV_DONTNEED);
  } else if (area.protection == (PROT_READ | PROT_WRITE) && frame / kGroupPages < kMoveBlocks) {
    if (!RemapOut(first, last, frame)) return 0;  // They stay, and go another way next time.
    for (uint64_t page = first; page < last; ++page) staged(page);
  } else if (area.protection == (PROT_READ | PROT_WRITE)) {
    int unshare_tries = 0;
    uint64_t chunk = last - first;
    for (uint64_t page = first; page < last;) {
      if (chunk > last - page) chunk = last - page;
      int error = 0;
      const unsigned through = Move(FrameAt(frame + static_cast<uint32_t>(page - first)), PageAt(page),
                                    static_cast<unsigned>(chunk), UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES, &error);
      if (through > 0) {
        for (const uint64_t end = page + through; page < end; ++page) staged(page);
        unshare_tries = 0;
      }
      if (error == 0 || error == EAGAIN) continue;
      if (error == EBUSY && unshare_tries++ < kUnshareTriesMax) {
        // Shared with a forked process, or was until its last write: an atomic OR of 0 makes it ours alone
        // without racing with the program's own writes.
        for (uint64_t p = page; p < last; ++p)
          if (config_.table[p].state == PageEntry::State::kResident)
            __atomic_fetch_or(reinterpret_cast<unsigned char*>(PageAt(p)), 0, __ATOMIC_RELAXED);
        continue;
      }
      if ((error == EINVAL || error == ENOENT) && chunk > 1) {  // Two mappings to the kernel: in halves.
        chunk /= 2;
        continue;
      }
      ++page;  // Pinned by a device, or not movable: stays resident.
      unshare_tries = 0;
    }
  } else {
    // Nobody may read them where they are (PROT_NONE), or somebody may run them while he writes. mremap takes
    // pages as they are, at once and leaving the mapping, to a place where they can be copied from.
    uint64_t chunk = last - first;
    for (uint64_t page = first; page < last;) {
      if (chunk > last - page) chunk = last - page;
      const uint64_t bytes = chunk * kPageBytes;
      const long aside =
          sys::Call(SYS_mremap, PageAt(page), bytes, bytes, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, nullptr);
      if (sys::Failed(aside)) {  // Two mappings to the kernel, or older than Linux 5.7.
        if (chunk > 1) {
          chunk /= 2;
        } else {
          ++page;
        }
        continue;
      }
      const long readable = sys::Call(SYS_mprotect, aside, bytes, PROT_READ);
      FARPOOL_ASSERT(readable == 0);
      for (const uint64_t end = page + chunk; page < end; ++page) {
        if (config_.table[page].state != PageEntry::State::kResident) continue;
        std::memcpy(FrameAt(frame + static_cast<uint32_t>(page - first)),
                    reinterpret_cast<const std::byte*>(aside) + (page - (end - chunk)) * kPageBytes,
                    kPageBytes);
        staged(page);
      }
      sys::Call(SYS_munmap, aside, bytes);
    }
  }
  return went;
}

// A page of a group that had been evicted is back. Soon: then it is worth more than what has been kept for
// long.
void Engine::CameBack(Group* group) {
  group->away = false;
  if (departures_ - group->left_at >= (queues_[kPassing].size + queues_[kKept].size) / kSoonShare) return;
  group->hot = true;
  ++owed_;
}

Engine::QueueName Engine::QueueToTakeFrom() {
  if (queues_[kKept].size == 0) return kPassing;
  if (queues_[kPassing].size == 0) return kKept;
  if (owed_ > 0) {
    --owed_;
    return kKept;
  }
  return ++turn_ % kKeptTurn == 0 ? kKept : kPassing;
}

// Which group goes next; false if there is none. What a loop over more than fits has brought would, first in
// first out, always be gone when it is wanted again. So most groups are kept and the rest passes through: a
// loop over twice the limit finds two fifths of itself here. Nobody knows how kept groups are used, since
// touches of what is resident are not seen; now and then one goes, and stays if it comes back soon. Random
// touches bring every group back soon, which makes this first in first out again. (After LIRS, Jiang and
// Zhang 2002, with departures for its recency.)
bool Engine::NextVictim(uint64_t most) {
  if (NextHintedVictim()) return true;
  unsigned kept = 0;
  QueueName name = QueueToTakeFrom();
  for (unsigned tries = 0; tries < kEvictTriesMax; ++tries) {
    if (queues_[name].head == 0) name = name == kKept ? kPassing : kKept;
    Queue& queue = queues_[name];
    if (queue.head == 0) return false;
    const uint64_t index = TakeHead(&queue);
    Group& group = groups_[index];
    if (group.resident == 0) continue;
    const uint64_t others = queues_[kPassing].size + queues_[kKept].size;
    if (group.arriving > 0) {
      QueueGroup(index, name);
      continue;
    }
    const bool room = name == kPassing && kept < kKeptAtOnce && queues_[kKept].size < others - others / 10;
    if ((group.hot && tries < others) || room) {
      group.hot = false;
      ++kept;
      QueueGroup(index, kKept);
      continue;
    }
    const uint64_t first = index * kGroupPages;
    victim_ = {.first = first,
               .last = first + kGroupPages,
               .next = first,
               .block = kNoBlock,
               .remap = ByRemap(first)};
    Leaves(index);
    // Neighbours that are next anyway.
    const unsigned groups =
        victim_.remap && StagingTarget() >= kNeighboursFrom ? static_cast<unsigned>(most / kGroupPages) : 1;
    for (unsigned i = 1; i < groups && queue.head == index + i + 1; ++i) {
      const Group& next = groups_[index + i];
      if (next.resident == 0 || next.arriving > 0 || next.hot) break;
      (void)TakeHead(&queue);
      Leaves(index + i);
      victim_.last += kGroupPages;
      if (owed_ > 0 && name == kKept) --owed_;
    }
    return true;
  }
  return false;
}

bool Engine::ByRemap(uint64_t first) const {
  const bool crowded = crowd_ >= kCrowd || move_or_copy_.interrupts();
  return remaps() && !(crowded && ResidentRuns(first) <= kRunsMax);
}

unsigned Engine::ResidentRuns(uint64_t first) const {
  unsigned runs = 0;
  bool before = false;
  for (uint64_t page = first; page < first + kGroupPages; ++page) {
    const bool resident = config_.table[page].state == PageEntry::State::kResident;
    if (resident && !before) ++runs;
    before = resident;
  }
  return runs;
}

void Engine::Leaves(uint64_t group) {
  groups_[group].hot = false;
  groups_[group].away = true;
  groups_[group].left_at = ++departures_;
  // In the queue again for whatever becomes or stays resident.
  QueueGroup(group, kPassing);
}

unsigned Engine::EvictSlice(Victim* victim, unsigned count, uint64_t most, bool* room) {
  *room = true;
  const bool remap = victim->remap && remaps();
  const uint64_t first = victim->next;
  if (first >= victim->first + kGroupPages) {  // The next of several groups.
    victim->first = first;
    victim->block = kNoBlock;
  }
  const uint64_t slice = remap ? most : count > 1 ? kGroupPages : kSlicePages;
  uint64_t last = first + slice < victim->last ? first + slice : victim->last;
  uint32_t block = victim->block;
  unsigned blocks = 1;
  if (block == kNoBlock) {
    const unsigned end = remap ? kMoveBlocks : kBlocksMax;
    block = EmptyBlock(remap ? 0 : kMoveBlocks);
    *room = block < end;
    if (!*room) return 0;
    if (remap) blocks = EmptyBlocks(block, end);
    if (victim != &victim_ && block == victim_.block)
      victim_.next = victim_.last;  // No more of it goes there.
  }
  if (last > victim->first + blocks * kGroupPages) last = victim->first + blocks * kGroupPages;
  // What is in the air may be in place already. (Whoever calls has looked at the first group.)
  for (uint64_t page = (first / kGroupPages + 1) * kGroupPages; page < last; page += kGroupPages)
    if (GroupOf(page).arriving > 0) last = page;
  victim->next = last;
  const auto begin = reinterpret_cast<uintptr_t>(PageAt(first));
  const uintptr_t end_of_slice = begin + (last - first) * kPageBytes;
  if (!pins_.BeginEvict(begin, end_of_slice)) {
    pins_.Reclaim(sys::ThreadEnded);  // A thread that was cancelled inside a call pins for ever.
    if (!pins_.BeginEvict(begin, end_of_slice)) return 0;
  }
  unsigned went = 0;
  for (uint64_t page = first; page < last;) {
    const Area* area = areas_.Find(page);
    if (area == nullptr) {
      ++page;
      continue;
    }
    const uint64_t end = area->last < last ? area->last : last;
    // Trim to what is resident, so that the kernel walks no more than it must.
    uint64_t from = page, to = end;
    while (from < to && config_.table[from].state != PageEntry::State::kResident) ++from;
    while (to > from && config_.table[to - 1].state != PageEntry::State::kResident) --to;
    if (from < to && !area->foreign)
      went += MoveOut(from, to, block * kGroupPages + static_cast<uint32_t>(from - victim->first), *area);
    page = end;
  }
  pins_.EndEvict();
  if (went == 0) return 0;
  resident_ -= went;
  populated_ += went;
  for (uint32_t b = block; b < block + (last - victim->first + kGroupPages - 1) / kGroupPages; ++b) {
    if (staged_mask_[b] == 0 || Bit(in_queue_, b)) continue;
    SetBit(not_empty_, b);
    SetBit(in_queue_, b);
    FARPOOL_ASSERT(staged_count_ < kBlocksMax);
    staged_queue_[(staged_head_ + staged_count_++) % kBlocksMax] = b;
  }
  victim->block = block;
  return went;
}

// Pages of the current victim leave, or of the next one. `progress` says whether any went. `count` frames are
// wanted.
Status Engine::Evict(unsigned count, uint64_t most, bool* progress) {
  *progress = false;
  bool room = true;
  for (unsigned tries = 0; tries < kEvictTriesMax && room && !*progress; ++tries) {
    // A block that left the queue between two slices may be used for something else by now.
    const bool block_taken = victim_.block != kNoBlock && !Bit(in_queue_, victim_.block);
    if (victim_.next == victim_.last || block_taken || GroupOf(victim_.next).arriving > 0) {
      if (!NextVictim(most)) return Status::Ok();
      continue;
    }
    *progress = EvictSlice(&victim_, count, most, &room) > 0;
  }
  return Status::Ok();
}

Status Engine::YieldShare() {
  MutexLock hold(&lock_);
  const uint64_t share = config_.budget.share();
  const uint64_t holds = config_.budget.mine();
  if (holds <= share) return Status::Ok();
  const uint64_t target = holds - share < kYieldPages ? share : holds - kYieldPages;
  for (bool progress = true; progress && config_.budget.mine() > target;) {
    if (Status s = Evict(kGroupPages, kGroupPages, &progress); !s.ok()) return s;
    if (Status s = Drain(kGroupPages); !s.ok()) return s;
    DropFreeFrames(nullptr);
  }
  return Status::Ok();
}

Status Engine::Shrink(uint64_t pages) {
  ExclusiveLock hold(this);
  GiveSpare();
  while (resident_ + populated_ > pages || staged_ > 0) {
    bool progress = false;
    if (resident_ > 0 && resident_ + populated_ > pages)
      if (Status s = Evict(kGroupPages, kGroupPages, &progress); !s.ok()) return s;
    while (staged_ > 0)
      if (Status s = Drain(kGroupPages); !s.ok()) return s;
    DropFreeFrames(nullptr);
    if (!progress) break;
  }
  return Status::Ok();
}

}  // namespace farpool
