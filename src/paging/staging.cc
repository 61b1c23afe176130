#include "paging/staging.h"

#include <sys/mman.h>
#include <sys/syscall.h>

#include <cerrno>
#include <cstring>
#include <iterator>

#include "base/assert.h"
#include "base/sys.h"
#include "base/uffd_abi.h"

namespace farpool {

namespace {
// Free frames in a block that are worth giving it back for.
constexpr uint64_t kFramesWorthACall = 4;

// Neighbouring frames as bits of their block.
uint64_t BitsOf(uint32_t first, unsigned count) {
  FARPOOL_ASSERT(count > 0 && (first + count - 1) / kGroupPages == first / kGroupPages);
  return (count == 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1) << (first % kGroupPages);
}

// Calls `look` with place and length of each run of ones, upwards, until it returns false.
template <typename Look>
void ForEachRun(uint64_t bits, Look look) {
  while (bits != 0) {
    const auto at = static_cast<unsigned>(std::countr_zero(bits));
    const auto run = static_cast<unsigned>(std::countr_one(bits >> at));
    if (!look(at, run)) return;
    bits &= ~BitsOf(at, run);
  }
}

}  // namespace

template <typename Look>
void Staging::Blocks::ForEach(Look look) const {
  for (unsigned word = 0; word < kWords; ++word)
    for (uint64_t left = words_[word]; left != 0; left &= left - 1)
      if (!look(word * 64 + static_cast<unsigned>(std::countr_zero(left)))) return;
}

Status Staging::Init(std::byte* area, int uffd) {
  area_ = area;
  if (Status s = Map(0, kFramesMax, MAP_FIXED_NOREPLACE); !s.ok()) return s;
  return Register(uffd);
}

Status Staging::InitInChild(int uffd) {
  // Was not inherited.
  FARPOOL_ASSERT(populated_ == 0);
  broken_ = Blocks();
  // Over what came by mremap while the arena was about to be inherited.
  if (Status s = Map(0, kFramesMax, MAP_FIXED); !s.ok()) return s;
  return Register(uffd);
}

Status Staging::Map(uint32_t first, uint32_t last, int fixed) {
  const size_t bytes = (last - first) * kPageBytes;
  const long map = sys::Call(SYS_mmap, At(first), bytes, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | fixed, -1, 0);
  if (sys::Failed(map))
    return Status::FromErrno("mmap of the staging area (a limit, ulimit -d or -v?)", static_cast<int>(-map));
  // Frames are single pages; a huge page there would be counted wrongly and split again by the first MOVE.
  sys::Call(SYS_madvise, map, bytes, MADV_NOHUGEPAGE);
  // A child starts with an empty staging area of its own.
  sys::Call(SYS_madvise, map, bytes, MADV_DONTFORK);
  return Status::Ok();
}

Status Staging::Register(int uffd) {
  // A MOVE's target must be registered with the same userfaultfd. Write-protect mode, which nobody uses,
  // leaves ordinary faults there to the kernel.
  uffdio_register reg = {
      .range = {reinterpret_cast<uint64_t>(area_), kBytes}, .mode = UFFDIO_REGISTER_MODE_WP, .ioctls = 0};
  if (long r = sys::Call(SYS_ioctl, uffd, UFFDIO_REGISTER, &reg); r != 0)
    return Status::FromErrno("UFFDIO_REGISTER of the staging area", static_cast<int>(-r));
  return Status::Ok();
}

bool Staging::Populate(unsigned block, unsigned pages) {
  FARPOOL_ASSERT(!not_empty_.Has(block));
  const long r = sys::Call(SYS_madvise, At(block * kGroupPages), pages * kPageBytes, MADV_POPULATE_WRITE);
  if (r == -EINVAL) {  // Before Linux 5.14: one fault a page.
    for (unsigned i = 0; i < pages; ++i)
      *reinterpret_cast<volatile std::byte*>(At(block * kGroupPages + i)) = std::byte{0};
  } else if (r != 0) {
    return false;
  }
  free_of_[block] = zero_of_[block] = BitsOf(0, pages);
  populated_ += pages;
  free_frames_ += pages;
  with_free_.Add(block);
  not_empty_.Add(block);
  return true;
}

unsigned Staging::FindRun(unsigned count, uint32_t* first) const {
  unsigned best = 0;
  for (const bool hot : {false, true}) {
    with_free_.ForEach([&](unsigned block) {
      if (hot_.Has(block) != hot) return true;
      ForEachRun(free_of_[block], [&](unsigned at, unsigned run) {
        if (best < count ? run > best : run >= count && run < best) {
          best = run;
          *first = block * kGroupPages + at;
        }
        return best != count;
      });
      return best != count;
    });
    if (best > 0) break;
  }
  return best < count ? best : count;
}

uint64_t Staging::Take(uint32_t first, unsigned count) {
  const unsigned block = first / kGroupPages;
  const uint64_t bits = BitsOf(first, count);
  FARPOOL_ASSERT((free_of_[block] & bits) == bits);
  const uint64_t not_zero = (bits & ~zero_of_[block]) >> (first % kGroupPages);
  free_of_[block] &= ~bits;
  zero_of_[block] &= ~bits;
  free_frames_ -= count;
  if (free_of_[block] == 0) with_free_.Remove(block);
  return not_zero;
}

void Staging::Freed(uint32_t frame, bool zero) {
  const unsigned block = frame / kGroupPages;
  const uint64_t bit = BitsOf(frame, 1);
  FARPOOL_ASSERT(((free_of_[block] | staged_of_[block]) & bit) == 0);
  free_of_[block] |= bit;
  if (zero) zero_of_[block] |= bit;
  ++free_frames_;
  with_free_.Add(block);
}

void Staging::BlockLeft(unsigned block) {
  if (free_of_[block] == 0 && in_flight_[block] == 0 && !queued_.Has(block)) not_empty_.Remove(block);
}

uint64_t Staging::TakeAllOf(unsigned block) {
  const auto frames = static_cast<uint64_t>(std::popcount(free_of_[block]));
  free_of_[block] = zero_of_[block] = 0;
  with_free_.Remove(block);
  populated_ -= frames;
  free_frames_ -= frames;
  return frames;
}

uint64_t Staging::DropFree() {
  const uint64_t before = populated_;
  with_free_.ForEach([&](unsigned block) {
    ForEachRun(free_of_[block], [&](unsigned at, unsigned run) {
      sys::Call(SYS_madvise, At(block * kGroupPages + at), run * kPageBytes, MADV_DONTNEED);
      return true;
    });
    TakeAllOf(block);
    BlockLeft(block);
    return true;
  });
  return before - populated_;
}

uint64_t Staging::DropBlock(unsigned block) {
  sys::Call(SYS_madvise, At(block * kGroupPages), kGroupPages * kPageBytes, MADV_DONTNEED);
  const uint64_t frames = TakeAllOf(block);
  BlockLeft(block);
  return frames;
}

uint64_t Staging::Compact() {
  uint64_t frames = 0;
  with_free_.ForEach([&](unsigned block) {
    if (OnlyFree(block) && free_of_[block] != ~uint64_t{0}) frames += DropBlock(block);
    return true;
  });
  return frames;
}

Staging::FreeBlocks Staging::FindBlocks(uint64_t wanted, unsigned spared) const {
  FreeBlocks found;
  with_free_.ForEach([&](unsigned block) {
    const auto frames = static_cast<uint64_t>(std::popcount(free_of_[block]));
    if (!OnlyFree(block) || block == spared || frames < kFramesWorthACall) return true;
    found.blocks[found.count++] = block;
    found.frames += frames;
    return found.frames < wanted && found.count < std::size(found.blocks);
  });
  return found;
}

void Staging::TakeBlocks(const FreeBlocks& blocks) {
  for (unsigned i = 0; i < blocks.count; ++i) {
    TakeAllOf(blocks.blocks[i]);
    TookOff(blocks.blocks[i] * kGroupPages);
  }
}

// Neighbours in one call.
void Staging::Drop(const FreeBlocks& blocks) const {
  for (unsigned i = 0, next; i < blocks.count; i = next) {
    for (next = i + 1; next < blocks.count && blocks.blocks[next] == blocks.blocks[next - 1] + 1;) ++next;
    sys::Call(SYS_madvise, At(blocks.blocks[i] * kGroupPages), (next - i) * kGroupPages * kPageBytes,
              MADV_DONTNEED);
  }
}

void Staging::Dropped(const FreeBlocks& blocks) {
  for (unsigned i = 0; i < blocks.count; ++i) Landed(blocks.blocks[i] * kGroupPages);
}

void Staging::Landed(uint32_t frame) {
  const unsigned block = frame / kGroupPages;
  FARPOOL_ASSERT(in_flight_[block] > 0);
  if (--in_flight_[block] == 0) BlockLeft(block);
}

void Staging::Stage(uint32_t frame, uint64_t page) {
  SetOwner(frame, page);
  StageAgain(frame, 1);
  ++populated_;
}

void Staging::Unstage(uint32_t first, unsigned count) {
  const unsigned block = first / kGroupPages;
  const uint64_t bits = BitsOf(first, count);
  FARPOOL_ASSERT((staged_of_[block] & bits) == bits);
  staged_of_[block] &= ~bits;
  staged_ -= count;
  kept_ -= static_cast<uint64_t>(std::popcount(kept_of_[block] & bits));
  kept_of_[block] &= ~bits;
}

void Staging::StageAgain(uint32_t first, unsigned count) {
  const unsigned block = first / kGroupPages;
  const uint64_t bits = BitsOf(first, count);
  FARPOOL_ASSERT(((free_of_[block] | staged_of_[block]) & bits) == 0);
  staged_of_[block] |= bits;
  staged_ += count;
}

void Staging::Ring::PushFirst(unsigned block) {
  head = (head + kBlocksMax - 1) % kBlocksMax;
  blocks[head] = block;
  ++size;
}

unsigned Staging::Ring::PopFirst() {
  const unsigned block = At(0);
  head = (head + 1) % kBlocksMax;
  --size;
  return block;
}

void Staging::Enqueue(unsigned block) {
  if (staged_of_[block] == 0 || queued_.Has(block)) return;
  not_empty_.Add(block);
  queued_.Add(block);
  queue_.PushLast(block);
}

bool Staging::queued(unsigned block) const { return queued_.Has(block); }

unsigned Staging::Oldest() {
  while (queue_.size > 0) {
    const unsigned block = queue_.At(0);
    if (staged_of_[block] != 0) return block;
    queue_.PopFirst();
    queued_.Remove(block);
    BlockLeft(block);
  }
  return kNoBlock;
}

void Staging::LastFirst() {
  const unsigned block = queue_.At(--queue_.size);
  queue_.PushFirst(block);
}

void Staging::Keep(uint32_t frame) {
  kept_of_[frame / kGroupPages] |= BitsOf(frame, 1);
  ++kept_;
}

bool Staging::MoveToHot(uint32_t frame, uint32_t* to) {
  unsigned block = kNoBlock;
  with_free_.ForEach([&](unsigned with_free) {
    if (hot_.Has(with_free)) block = with_free;
    return block == kNoBlock;
  });
  if (block == kNoBlock) return false;
  *to = FirstOf(block, free_of_[block]);
  Take(*to, 1);
  std::memcpy(At(*to), At(frame), kPageBytes);
  SetOwner(*to, owner(frame));
  StageAgain(*to, 1);
  Keep(*to);
  Unstage(frame, 1);
  Freed(frame);
  return true;
}

void Staging::OldestBecomesHot() {
  const unsigned block = queue_.PopFirst();
  hot_.Add(block);
  hot_queue_.PushLast(block);
}

unsigned Staging::OldestHotGoes() {
  if (hot_queue_.size == 0) return kNoBlock;
  const unsigned block = hot_queue_.PopFirst();
  hot_.Remove(block);
  kept_ -= static_cast<uint64_t>(std::popcount(kept_of_[block]));
  kept_of_[block] = 0;
  queue_.PushFirst(block);
  return block;
}

unsigned Staging::EmptyBlock(unsigned from) const {
  while (from < kBlocksMax && !Empty(from)) ++from;
  return from;
}

unsigned Staging::EmptyBlocks(unsigned block, unsigned end) const {
  const unsigned first = block;
  while (block < end && Empty(block)) ++block;
  return block - first;
}

bool Staging::Renew(uint32_t first, uint32_t last) {
  if (Map(first, last, MAP_FIXED).ok()) return true;
  for (uint32_t block = first / kGroupPages; block <= (last - 1) / kGroupPages; ++block) broken_.Add(block);
  return false;
}

}  // namespace farpool
