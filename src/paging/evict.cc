// The way out: groups leave the arena, by mremap or MOVE, into empty staging blocks; staged pages are hashed,
// written if they changed, and their frames become free. Only this file moves a page resident -> staged ->
// stored.

#include <linux/mman.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <algorithm>
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
// must be are written so many at a time, where no more than that have to be hashed to find them.
constexpr unsigned kWritePages = 4;
constexpr unsigned kLookedMax = 2 * kWritePages;
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
// behind it: so this part of staging goes at once, and few faults are long. Of what is given back, less: the
// kernel hands out again what is still in the cache.
constexpr uint64_t kBatchShare = 4;
constexpr uint64_t kEvictBatchMax = 8 * kGroupPages;
constexpr uint64_t kDropBatchMax = 4 * kGroupPages;
// Groups tried before giving up: pinned ones stay.
constexpr unsigned kEvictTriesMax = 256;
// Evictions at most for one fault that needs frames, and for one that has them and takes its turn.
constexpr unsigned kEvictionsMax = 4;
constexpr unsigned kBatchEvictionsMax = 16;
// Runs of frames for one flight, each of which is a call of its own, where that gives half of it at least.
constexpr unsigned kFrameRunsMax = 4;
// Blocks that are drained in search of one whose memory is worth giving back.
constexpr int kRoomDrainsMax = 4;
// With less room than this part of a batch for what is to be copied more is made ahead.
constexpr uint64_t kSpareLowShare = 16;
// The clock of departures that fits a page table entry.
constexpr uint32_t kClockMask = (1 << 27) - 1;
// A page that is back before so small a share of the limit has left came back soon.
constexpr uint64_t kPageSoonShare = 8;
// Streams bring more at once.
constexpr unsigned kTouchedMax = 8;
// At most this share of what the process holds is kept staged, in so many blocks.
constexpr uint64_t kKeptShare = 5;
constexpr unsigned kHotBlocksMax = Staging::kBlocksMax / 4;
// Pages that leave between two looks for a part of the table that might be a huge page.
constexpr uint64_t kHugeLookEvery = 8192;
// Shares of a page copied on write by an atomic OR before a MOVE is tried again.
constexpr int kUnshareTriesMax = 3;

}  // namespace

uint64_t Engine::PassingTarget() const {
  // A process that holds little of the budget keeps most of that in place.
  const uint64_t holds = config_.budget.mine();
  if (holds < 4 * kStagingPagesMin) return holds / 4 < kStagingPagesLeast ? kStagingPagesLeast : holds / 4;
  const uint64_t share = config_.budget.limit() / kStagingShare;
  return share < kStagingPagesMin ? kStagingPagesMin : share > kStagingPagesMax ? kStagingPagesMax : share;
}

uint64_t Engine::Batch(uint64_t most) const {
  const uint64_t target = PassingTarget();
  const uint64_t least = target / 2 < kGroupPages ? target / 2 : kGroupPages;
  const uint64_t share = target / kBatchShare;
  return share < least ? least : share > most ? most : share;
}

uint64_t Engine::EvictBatch() const { return Batch(kEvictBatchMax); }
uint64_t Engine::DropBatch() const { return Batch(kDropBatchMax); }

bool Engine::Populate(bool even_over_limit) {
  const unsigned block = staging_.EmptyBlock(0);
  if (block == Staging::kBlocksMax) return false;
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
  if (staging_.Populate(block, pages)) return true;
  config_.budget.Give(pages);
  return false;
}

// What more of a group is going to come to stays.
void Engine::DropSome(Departure* departure) {
  const Staging::FreeBlocks found = staging_.FindBlocks(DropBatch(), victim_.block);
  staging_.TakeBlocks(found);
  departure->freed = found;
}

uint64_t Engine::GiveBack(const Staging::FreeBlocks& blocks) const {
  if (blocks.count == 0) return 0;
  const uint64_t start = NowNs();
  staging_.Drop(blocks);
  return NowNs() - start;
}

void Engine::GaveBack(const Staging::FreeBlocks& blocks, uint64_t ns) {
  if (blocks.count == 0) return;
  staging_.Dropped(blocks);
  spare_ += blocks.frames;
  move_or_copy_.RoomTook(ns, blocks.frames);
}

// What is held for copies goes back.
void Engine::GiveSpare() {
  config_.budget.Give(spare_);
  spare_ = 0;
}

bool Engine::TakeRoom(unsigned count) {
  if (spare_ >= count) {
    spare_ -= count;
    return true;
  }
  if (!config_.budget.TryTake(count - spare_)) return false;
  spare_ = 0;
  return true;
}

// Takes budget for `count` pages that are to be copied. At the limit, blocks of free frames give theirs: at
// most one flush of the TLB for many pages. False if there is none.
Status Engine::MakeRoom(unsigned count, bool* taken) {
  for (int drains = 0; drains < kRoomDrainsMax;) {
    *taken = TakeRoom(count);
    if (*taken) return Status::Ok();
    evicts_.store(true, std::memory_order_relaxed);
    config_.budget.AtLimit();
    const Staging::FreeBlocks found = staging_.FindBlocks(count - spare_, victim_.block);
    if (found.count > 0) {
      staging_.TakeBlocks(found);
      GaveBack(found, GiveBack(found));
      continue;
    }
    // A whole group of it is going to go.
    if (Status s = FillStaging(StagingTarget() + kGroupPages, kGroupPages, kEvictionsMax); !s.ok()) return s;
    if (staging_.staged() == 0) return Status::Ok();
    if (Status s = Drain(kGroupPages); !s.ok()) return s;
    ++drains;
  }
  return Status::Ok();
}

// Pages leave the arena until staging has `target`, so that they spend some time there before they go.
// `count` frames are wanted.
Status Engine::FillStaging(uint64_t target, unsigned count, unsigned evictions) {
  bool progress = true;
  for (unsigned i = 0; i < evictions && progress && staging_.populated() < target; ++i)
    if (Status s = Evict(count, kNeighboursPages, &progress); !s.ok()) return s;
  return Status::Ok();
}

void Engine::DropFreeFrames(Budget* heir) {
  const uint64_t pages = staging_.DropFree() + spare_;
  spare_ = 0;
  if (heir != nullptr) {
    config_.budget.TransferTo(heir, pages);
  } else {
    config_.budget.Give(pages);
  }
}

Status Engine::TakeFrames(unsigned count, Flight* flight, unsigned* got) {
  *got = 0;
  while (staging_.free_frames() * 2 < count) {
    if (Populate(false)) continue;
    evicts_.store(true, std::memory_order_relaxed);
    config_.budget.AtLimit();
    if (spare_ > 0 && !move_or_copy_.copy_is_sooner()) {
      GiveSpare();
      continue;
    }
    // At the limit: the oldest staged pages give their frames.
    if (Status s = FillStaging(StagingTarget() + count, count, kEvictionsMax); !s.ok()) return s;
    if (staging_.staged() > 0) {
      if (Status s = Drain(count > kWritePages ? kGroupPages : count); !s.ok()) return s;
      continue;
    }
    if (spare_ > 0) {
      GiveSpare();
      continue;
    }
    if (staging_.free_frames() > 0) break;
    if (flight->ahead || flights_ != 0) return Status::Ok();  // What arrives can be evicted.
    if (Populate(true)) continue;
    return Status::Exhausted(
        "no memory for a page: everything resident is pinned, or the host is out of memory");
  }
  for (unsigned runs = 0; *got < count && staging_.free_frames() > 0; ++runs) {
    if (runs >= kFrameRunsMax && *got * 2 >= count) break;
    uint32_t first = 0;
    const unsigned run = staging_.FindRun(count - *got, &first);
    const uint64_t unclean = staging_.Take(first, run);
    if (flight->before == PageEntry::State::kNone) flight->unclean |= unclean << *got;
    for (unsigned i = 0; i < run; ++i) flight->frames[(*got)++] = first + i;
  }
  return Status::Ok();
}

Status Engine::KeepReserve(const Flight& flight, Departure* departure) {
  if (config_.budget.used() + kGroupPages <= config_.budget.limit()) return Status::Ok();  // There is room.
  const unsigned count = flight.count;
  const bool many = count > kWritePages;
  if (Status s; many && LeftToWriter(count, departure, &s)) return s;
  if (flight.before == PageEntry::State::kNone) return Status::Ok();
  uint64_t target = StagingTarget();
  uint64_t has = staging_.populated() - staging_.staged();
  uint64_t reserve = count;
  const bool copying = flight.from == From::kBuffer && move_or_copy_.copy_is_sooner();
  if (copying) {
    const uint64_t batch = DropBatch();
    if (spare_ <= batch / kSpareLowShare) DropSome(departure);
    // While that is used up, the next blocks are drained.
    target += batch;
    has = spare_ + departure->freed.frames + staging_.free_frames();
    reserve += batch + batch / 2;
  } else if (many && count * (1 + static_cast<unsigned>(std::popcount(flights_))) <= target / kReserveShare) {
    // A stream's next fault may be another thread's, while this one's pages still leave.
    reserve *= 1 + static_cast<unsigned>(std::popcount(flights_));
  }
  if (has >= reserve) return Status::Ok();
  config_.budget.AtLimit();
  if (many) {
    bool progress = true;
    if (staging_.populated() < target)
      if (Status s = Evict(count, kNeighboursPages, &progress); !s.ok()) return s;
  } else if (const uint64_t half = EvictBatch() / 2;
             staging_.populated() + (departure->freed.count > 0 ? 0 : half) < target) {
    // Where the TLB is going to be empty anyway this comes sooner.
    if (Status s = FillStaging(target + half, count, kBatchEvictionsMax); !s.ok()) return s;
  }
  if (staging_.staged() == 0) return Status::Ok();
  const unsigned most = many && !copying ? kGroupPages : many ? count : kWritePages;
  // Nobody else wants the lock of a thread that is alone.
  if ((many || crowd_ > 0) && Depart(most, departure)) return Status::Ok();
  return Drain(copying ? count + 1 : count);  // One more than were taken, so that it becomes a batch.
}

// Pages are back, from staging or from their donor: what else has left since they had says what a larger
// limit would have saved, and which are hot. Streams say nothing about single pages.
void Engine::Returned(const Flight& flight) {
  if (flight.before == PageEntry::State::kNone) return;
  const bool staged = flight.before == PageEntry::State::kStaged;
  const uint64_t limit = config_.budget.limit();
  const auto since = [&](const PageEntry& entry) -> uint64_t { return (left_ - entry.frame) & kClockMask; };
  if (!staged && !flight.ahead) {
    const uint64_t distance = since(config_.table[flight.pages[0]]) * PagingStats::kDistancesPerLimit / limit;
    constexpr uint64_t kLast = PagingStats::kDistances - 1;
    Count(config_.stats->distances[distance < kLast ? distance : kLast]);
  }
  const bool touched = !flight.ahead && flight.count <= kTouchedMax;
  for (unsigned i = 0; i < flight.count; ++i) {
    PageEntry& entry = config_.table[flight.pages[i]];
    entry.hot = touched && (staged || since(entry) < limit / kPageSoonShare);
  }
}

// What is kept of the blocks before it comes together in hot ones. What is kept for longest goes when there
// is too much of that, or nothing else.
unsigned Engine::NextBlock() {
  for (;;) {
    const unsigned block = staging_.Oldest();
    const bool much =
        staging_.kept() > config_.budget.mine() / kKeptShare || staging_.hot_blocks() > kHotBlocksMax;
    if (const unsigned hot =
            block == Staging::kNoBlock || much ? staging_.OldestHotGoes() : Staging::kNoBlock;
        hot != Staging::kNoBlock) {
      for (uint64_t bits = staging_.staged_of(hot); bits != 0; bits &= bits - 1)
        config_.table[staging_.owner(Staging::FirstOf(hot, bits))].hot = 0;
      continue;
    }
    if (block == Staging::kNoBlock) return block;
    if (staging_.leaving_of(block) != 0) return block;
    uint64_t bits = staging_.staged_of(block);
    for (; bits != 0; bits &= bits - 1) {
      uint32_t to = 0;
      if (!staging_.MoveToHot(Staging::FirstOf(block, bits), &to)) break;
      config_.table[staging_.owner(to)].frame = to & kClockMask;
    }
    if (bits != 0) staging_.OldestBecomesHot();
  }
}

bool Engine::Stays(uint32_t frame) {
  const bool hot = config_.table[staging_.owner(frame)].hot;
  hot_pages_.Missed(hot);
  if (!hot || !config_.move || !hot_pages_.Stay()) return false;
  staging_.Keep(frame);
  return true;
}

Engine::Fate Engine::Examine(uint32_t frame, bool fresh, PageHash* hash) const {
  if (IsZeroPage(staging_.At(frame))) return Fate::kZero;
  *hash = HashPage(staging_.At(frame), config_.hash_seed);
  return !fresh && config_.table[staging_.owner(frame)].hash == *hash ? Fate::kClean : Fate::kChanged;
}

// The page is where it belongs, its frame free.
void Engine::Settle(uint32_t frame, Fate fate, const PageHash& hash) {
  PageEntry& entry = config_.table[staging_.owner(frame)];
  FARPOOL_ASSERT(entry.state == PageEntry::State::kStaged || entry.state == PageEntry::State::kLeaving);
  staging_.Freed(frame, fate == Fate::kZero);
  if (fate == Fate::kZero) {
    const SlotId slot = entry.slot;
    entry = PageEntry{};
    if (slot != SlotId::kNone) config_.store->Release(slot);
    config_.budget.SubFar(1);
    Count(config_.stats->pages_zero);
    return;
  }
  if (fate == Fate::kChanged) entry.hash = hash;
  entry.state = PageEntry::State::kStored;
  entry.hot = 0;
  entry.frame = left_++ & kClockMask;
  Count(fate == Fate::kChanged ? config_.stats->pages_out : config_.stats->pages_clean);
}

// Hashes the oldest staged pages, `most` of them or as many more as make up a write of kWritePages, writes
// those that changed, frees their frames. On an error they stay staged.
Status Engine::Drain(unsigned most) {
  PageIo io[kGroupPages];
  PageHash hashes[kGroupPages];
  uint32_t frames[kGroupPages];
  unsigned dirty = 0;
  unsigned without_slot = 0;
  unsigned looked = 0;
  while (looked == 0) {
    const unsigned block = NextBlock();
    if (block == Staging::kNoBlock) return Status::Ok();
    for (uint64_t bits = staging_.leaving_of(block); bits != 0; bits &= bits - 1) {
      if (looked >= most && (dirty == 0 || dirty >= kWritePages || looked >= kLookedMax)) break;
      const uint32_t frame = Staging::FirstOf(block, bits);
      if (Stays(frame)) continue;
      ++looked;
      PageEntry& entry = config_.table[staging_.owner(frame)];
      if (const uint64_t rest = bits & (bits - 1); rest != 0)
        PrefetchPage(staging_.At(Staging::FirstOf(block, rest)));
      PageHash hash;
      if (const Fate fate = Examine(frame, entry.slot == SlotId::kNone, &hash); fate != Fate::kChanged) {
        staging_.Unstage(frame, 1);
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
      io[dirty++] = {entry.slot, staging_.At(frame)};
    }
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
        if (io[k].slot != config_.table[staging_.owner(frames[k])].slot) config_.store->Release(io[k].slot);
      return s;
    }
    without_slot -= reserved;
    for (unsigned k = 0; k < reserved; ++i) {
      if (io[i].slot != SlotId::kNone) continue;
      io[i].slot = slots[k++];
    }
  }
  // From here on the slots belong to the pages, written or not.
  for (unsigned i = 0; i < dirty; ++i) config_.table[staging_.owner(frames[i])].slot = io[i].slot;
  if (Status s = config_.store->Store(io, dirty); !s.ok()) return s;
  for (unsigned i = 0; i < dirty; ++i) {
    staging_.Unstage(frames[i], 1);
    Settle(frames[i], Fate::kChanged, hashes[i]);
  }
  return Status::Ok();
}

// The oldest staged pages begin to leave, each with a slot to go to. Those that share theirs with another
// process may need a new one and wait for Drain().
bool Engine::Depart(unsigned most, Departure* departure) {
  uint32_t* const frames = departure->frames;
  unsigned count = 0;
  if (NextBlock() == Staging::kNoBlock) return false;
  unsigned looked = 0;
  for (uint32_t i = 0; i < staging_.queue_size() && count < most && looked < kGroupPages; ++i) {
    const unsigned block = staging_.queue_at(i);
    for (uint64_t bits = staging_.leaving_of(block); bits != 0 && count < most && looked < kGroupPages;
         bits &= bits - 1, ++looked) {
      const uint32_t frame = Staging::FirstOf(block, bits);
      if (Stays(frame)) continue;
      const SlotId slot = config_.table[staging_.owner(frame)].slot;
      if (slot == SlotId::kNone) {
        departure->fresh |= uint64_t{1} << count;
      } else if (!config_.store->Exclusive(slot)) {
        continue;
      }
      frames[count++] = frame;
    }
  }
  const auto slot_of = [&](uint64_t bits) -> SlotId& {
    return config_.table[staging_.owner(frames[std::countr_zero(bits)])].slot;
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
    staging_.Unstage(frames[i], 1);
    staging_.TookOff(frames[i]);
    config_.table[staging_.owner(frames[i])].state = PageEntry::State::kLeaving;
  }
  departure->count = count;
  return count > 0;
}

Status Engine::Store(Departure* departure) const {
  PageIo io[kGroupPages];
  unsigned changed = 0;
  for (unsigned i = 0; i < departure->count; ++i) {
    const uint32_t frame = departure->frames[i];
    if (i + 1 < departure->count) PrefetchPage(staging_.At(departure->frames[i + 1]));
    departure->fates[i] = Examine(frame, (departure->fresh >> i & 1) != 0, &departure->hashes[i]);
    if (departure->fates[i] == Fate::kChanged)
      io[changed++] = {config_.table[staging_.owner(frame)].slot, staging_.At(frame)};
  }
  return changed > 0 ? config_.store->StoreBeside(io, changed) : Status::Ok();
}

void Engine::Left(const Departure& departure) {
  for (unsigned i = 0; i < departure.count; ++i) {
    Settle(departure.frames[i], departure.fates[i], departure.hashes[i]);
    staging_.Landed(departure.frames[i]);
  }
}

// The pool is full: resident pages give up the slots they keep, at least `wanted` if there are so many.
Status Engine::DropResidentSlots(unsigned wanted, unsigned* dropped) {
  *dropped = 0;
  groups_.WalkQueued([&](uint64_t group) {
    for (uint64_t page = group * kGroupPages; page < (group + 1) * kGroupPages; ++page) {
      PageEntry& entry = config_.table[page];
      if (entry.state != PageEntry::State::kResident || entry.slot == SlotId::kNone) continue;
      const SlotId slot = entry.slot;
      entry.slot = SlotId::kNone;
      config_.store->Release(slot);
      ++*dropped;
    }
    return *dropped < wanted;
  });
  return Status::Ok();
}

// The page table entries of [first, last) become those of as many frames, in one step; the mapping stays,
// empty and registered. The frames' own mapping is replaced by a copy of the arena's, which is not
// registered. That fails where the range is two mappings to the kernel, and where the process may not have
// more mappings or address space just now, perhaps with the frames' mapping gone.
bool Engine::RemapOut(uint64_t first, uint64_t last, uint32_t frame) {
  const uint64_t bytes = (last - first) * kPageBytes;
  const long r = sys::Call(SYS_mremap, PageAt(first), bytes, bytes,
                           MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, staging_.At(frame));
  if (!sys::Failed(r)) return true;
  const bool renewed = staging_.Renew(frame, frame + static_cast<uint32_t>(last - first));
  if (r == -EINVAL || !renewed) remap_.store(false, std::memory_order_relaxed);  // Not in this kernel.
  return false;
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
    staging_.Stage(to, page);
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
      std::memcpy(staging_.At(frame + static_cast<uint32_t>(page - first)), PageAt(page), kPageBytes);
      staged(page);
    }
    sys::Call(SYS_madvise, PageAt(first), (last - first) * kPageBytes, MADV_DONTNEED);
  } else if (area.protection == (PROT_READ | PROT_WRITE) && frame / kGroupPages < Staging::kMoveBlocks) {
    if (!RemapOut(first, last, frame)) return 0;
    for (uint64_t page = first; page < last; ++page) staged(page);
  } else if (area.protection == (PROT_READ | PROT_WRITE)) {
    int unshare_tries = 0;
    uint64_t chunk = last - first;
    for (uint64_t page = first; page < last;) {
      if (chunk > last - page) chunk = last - page;
      int error = 0;
      const unsigned through = Move(staging_.At(frame + static_cast<uint32_t>(page - first)), PageAt(page),
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
        std::memcpy(staging_.At(frame + static_cast<uint32_t>(page - first)),
                    reinterpret_cast<const std::byte*>(aside) + (page - (end - chunk)) * kPageBytes,
                    kPageBytes);
        staged(page);
      }
      sys::Call(SYS_munmap, aside, bytes);
    }
  }
  return went;
}

// Which group goes next, or which neighbours; false if there is none.
bool Engine::NextVictim(uint64_t most) {
  if (NextHintedVictim()) return true;
  Groups::Leaving leaving;
  if (!groups_.Next(&leaving)) return false;
  const uint64_t first = leaving.group * kGroupPages;
  const bool remap = ByRemap(first);
  const bool neighbours = remap && PassingTarget() >= kNeighboursFrom;
  const unsigned groups =
      neighbours ? groups_.NextNeighbours(leaving, static_cast<unsigned>(most / kGroupPages)) : 1;
  victim_ = {.first = first,
             .last = first + groups * kGroupPages,
             .next = first,
             .block = Staging::kNoBlock,
             .remap = remap};
  return true;
}

// Random faults find their entries sooner. A sparse part is not worth the memory. Seldom, since MADV_COLLAPSE
// waits for all processors.
void Engine::MakeTableHuge(uint64_t page) {
  if (left_ < huge_at_) return;
  huge_at_ = left_ + kHugeLookEvery;
  const auto table = reinterpret_cast<uintptr_t>(config_.table);
  const uintptr_t at = (table + page * sizeof(PageEntry)) & ~(kHugePageBytes - 1);
  const uint64_t number = at / kHugePageBytes - table / kHugePageBytes;
  if (at < table || (huge_[number / 64] >> (number % 64) & 1) != 0) return;
  constexpr unsigned kPages = kHugePageBytes / kPageBytes;
  unsigned char there[kPages];
  if (sys::Call(SYS_mincore, at, kHugePageBytes, there) != 0) return;  // It ends before.
  if (std::count_if(there, there + kPages, [](auto t) { return (t & 1) != 0; }) < kPages / 2) return;
  if (sys::Call(SYS_madvise, at, kHugePageBytes, MADV_COLLAPSE) == -EAGAIN) return;
  huge_[number / 64] |= uint64_t{1} << (number % 64);
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

unsigned Engine::EvictSlice(Victim* victim, unsigned count, uint64_t most, bool* room) {
  *room = true;
  const bool remap = victim->remap && remaps();
  const uint64_t first = victim->next;
  if (first >= victim->first + kGroupPages) {  // The next of several groups.
    victim->first = first;
    victim->block = Staging::kNoBlock;
  }
  const uint64_t slice = remap ? most : count > 1 ? kGroupPages : kSlicePages;
  uint64_t last = first + slice < victim->last ? first + slice : victim->last;
  unsigned block = victim->block;
  unsigned blocks = 1;
  if (block == Staging::kNoBlock) {
    const unsigned end = remap ? Staging::kMoveBlocks : Staging::kBlocksMax;
    block = staging_.EmptyBlock(remap ? 0 : Staging::kMoveBlocks);
    *room = block < end;
    if (!*room) return 0;
    const unsigned most_blocks = static_cast<unsigned>(kNeighboursPages / kGroupPages);
    if (remap) blocks = staging_.EmptyBlocks(block, block + most_blocks < end ? block + most_blocks : end);
    if (victim != &victim_ && block == victim_.block)
      victim_.next = victim_.last;  // No more of it goes there.
  }
  if (last > victim->first + blocks * kGroupPages) last = victim->first + blocks * kGroupPages;
  // What is in the air may be in place already. (Whoever calls has looked at the first group.)
  for (uint64_t page = (first / kGroupPages + 1) * kGroupPages; page < last; page += kGroupPages)
    if (GroupOf(page).arriving > 0) last = page;
  victim->next = last;
  MakeTableHuge(first);
  const auto begin = reinterpret_cast<uintptr_t>(PageAt(first));
  const uintptr_t end_of_slice = begin + (last - first) * kPageBytes;
  if (!pins_.BeginEvict(begin, end_of_slice)) {
    pins_.Reclaim(sys::ThreadEnded);  // A thread that was cancelled inside a call pins for ever.
    if (!pins_.BeginEvict(begin, end_of_slice)) return 0;
  }
  unsigned went = 0;
  bool stay = false;  // Some that could have gone.
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
    if (from < to && !area->foreign) {
      const uint32_t frame = block * kGroupPages + static_cast<uint32_t>(from - victim->first);
      const unsigned moved = MoveOut(from, to, frame, *area);
      stay |= moved == 0;
      went += moved;
    }
    page = end;
  }
  pins_.EndEvict();
  if (went == 0 && stay && remap) {  // They go the other way.
    victim->remap = false;
    victim->next = first;
    victim->block = Staging::kNoBlock;
    return EvictSlice(victim, count, most, room);
  }
  if (went == 0) return 0;
  resident_ -= went;
  for (unsigned b = block; b < block + (last - victim->first + kGroupPages - 1) / kGroupPages; ++b)
    staging_.Enqueue(b);
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
    const bool block_taken = victim_.block != Staging::kNoBlock &&
                             (!staging_.queued(victim_.block) || staging_.hot(victim_.block));
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
  while (resident_ + staging_.populated() > pages || staging_.staged() > 0) {
    bool progress = false;
    if (resident_ > 0 && resident_ + staging_.populated() > pages)
      if (Status s = Evict(kGroupPages, kGroupPages, &progress); !s.ok()) return s;
    while (staging_.staged() > 0)
      if (Status s = Drain(kGroupPages); !s.ok()) return s;
    DropFreeFrames(nullptr);
    if (!progress) break;
  }
  return Status::Ok();
}

}  // namespace farpool
