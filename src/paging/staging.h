#pragma once
// The staging area: frames that pages pass through on their way out of the arena and, where they are moved,
// on their way in.
//
// Frames lie in blocks of as many as a group has pages. A frame is empty (it has no memory), free (it has,
// and nobody wants its contents), staged (it holds a page that left the arena; the page can still be had
// back) or in flight (it is somebody's who works without the lock). Blocks with staged frames wait in a
// queue, oldest first, for their pages to be stored. Pages that are kept meanwhile end up together in hot
// blocks, which wait in a queue of their own.
//
// Budget is the caller's, who serialises too: every function wants the engine's lock unless it says
// otherwise.
// Frames that are not what a function wants of them end the process (base/assert.h): one with two owners
// would be somebody's wrong data.
// To be made in memory that is zero: a process that does not evict touches little of it.

#include <bit>
#include <cstddef>
#include <cstdint>

#include "farpool/status.h"
#include "farpool/types.h"
#include "paging/groups.h"

namespace farpool {

class Staging {
 public:
  static constexpr unsigned kBlocksMax = 1024;
  static constexpr unsigned kFramesMax = kBlocksMax * kGroupPages;
  static constexpr size_t kBytes = static_cast<size_t>(kFramesMax) * kPageBytes;
  // Blocks below are for groups that come by mremap, which leaves them unregistered; from here on for the
  // rest.
  static constexpr unsigned kMoveBlocks = kBlocksMax / 2;
  static constexpr unsigned kNoBlock = UINT32_MAX;

  // Some blocks that have no other frames than free ones.
  struct FreeBlocks {
    unsigned count = 0;
    uint64_t frames = 0;
    uint32_t blocks[8];
  };

  // Maps all frames at `area`, kBytes of address space where nothing is yet, and registers them. Again, after
  // a fork: without a frame in it.
  Status Init(std::byte* area, int uffd);
  Status InitInChild(int uffd);

  // No lock.
  std::byte* At(uint32_t frame) const { return area_ + static_cast<size_t>(frame) * kPageBytes; }
  // Frames with memory: free, staged, or in flight with memory that is to stay.
  uint64_t populated() const { return populated_; }
  uint64_t free_frames() const { return free_frames_; }
  uint64_t staged() const { return staged_; }

  // Free frames.
  //
  // Gives the empty `block` memory: `pages` zero pages in one call, cheaper than as many faults. False, and
  // nothing changed, if the host has none.
  bool Populate(unsigned block, unsigned pages);
  // Free frames of one block in a row: the shortest run of at least `count`, so that longer ones last; else
  // the longest there is. 0: no frame is free. Those of hot blocks come last: they wait for hot pages.
  unsigned FindRun(unsigned count, uint32_t* first) const;
  // Neighbours in one block: no longer free. Returns a bit for each that is not known to be zero.
  uint64_t Take(uint32_t first, unsigned count);
  void Freed(uint32_t frame, bool zero = false);
  // Gives back the memory of all that are free / of those in blocks that have nothing else, but are not all
  // free, so that whole blocks can be had again / of a block that has nothing else. Returns how many they
  // were.
  uint64_t DropFree();
  uint64_t Compact();
  uint64_t DropBlock(unsigned block);
  // The same for many frames at once. Which: blocks with `wanted` of them together, or what there is, but not
  // `spared`; few frames are not worth a call. They are in flight; their memory goes back, for which no lock
  // is needed; it has gone.
  FreeBlocks FindBlocks(uint64_t wanted, unsigned spared) const;
  void TakeBlocks(const FreeBlocks& blocks);
  void Drop(const FreeBlocks& blocks) const;
  void Dropped(const FreeBlocks& blocks);

  // Frames in flight.
  void TookOff(uint32_t frame) { ++in_flight_[frame / kGroupPages]; }
  void Landed(uint32_t frame);
  // The memory of `count` of them goes into the arena / has not gone there.
  void MemoryGoes(unsigned count) { populated_ -= count; }
  void MemoryStays(unsigned count) { populated_ += count; }

  // Staged frames.
  //
  // `page` has come, with its memory, to an empty frame; Enqueue() its block afterwards.
  void Stage(uint32_t frame, uint64_t page);
  // Neighbours in one block: no longer staged, but in flight or about to be freed / staged as before.
  void Unstage(uint32_t first, unsigned count);
  void StageAgain(uint32_t first, unsigned count);
  uint64_t owner(uint32_t frame) const { return owner_[frame]; }
  void SetOwner(uint32_t frame, uint64_t page) { owner_[frame] = static_cast<uint32_t>(page); }
  // Bit per frame of the block: staged / of those, not kept.
  uint64_t staged_of(unsigned block) const { return staged_of_[block]; }
  uint64_t leaving_of(unsigned block) const { return staged_of_[block] & ~kept_of_[block]; }
  // The first frame of the block whose bit is set in `bits`, not 0.
  static uint32_t FirstOf(unsigned block, uint64_t bits) {
    return block * kGroupPages + static_cast<uint32_t>(std::countr_zero(bits));
  }

  // The queue of blocks.
  //
  // Does nothing for blocks without staged frames and for those that are in it.
  void Enqueue(unsigned block);
  bool queued(unsigned block) const;
  // The oldest block that has staged frames; those before it leave the queue. kNoBlock: there is none.
  unsigned Oldest();
  unsigned queue_size() const { return queue_.size; }
  unsigned queue_at(unsigned i) const { return queue_.At(i); }
  // What came last becomes the oldest.
  void LastFirst();

  // Staged frames that are kept.
  void Keep(uint32_t frame);
  uint64_t kept() const { return kept_; }
  bool hot(unsigned block) const { return hot_.Has(block); }
  unsigned hot_blocks() const { return hot_queue_.size; }
  // A page that is kept moves to a free frame of a hot block; false if there is none.
  bool MoveToHot(uint32_t frame, uint32_t* to);
  // The oldest block of the queue becomes the newest hot one.
  void OldestBecomesHot();
  // The oldest hot block is the oldest of the queue again, its pages not kept. kNoBlock: there is none.
  unsigned OldestHotGoes();

  // The first block from `from` on where nothing is, or kBlocksMax; how many follow each other from `block`
  // on, before `end`.
  unsigned EmptyBlock(unsigned from) const;
  unsigned EmptyBlocks(unsigned block, unsigned end) const;
  // A failed mremap may have left the empty [first, last) unmapped: maps them anew. False where that fails
  // too; their blocks are not used again.
  bool Renew(uint32_t first, uint32_t last);

 private:
  // A set of blocks.
  class Blocks {
   public:
    static constexpr unsigned kWords = kBlocksMax / 64;
    bool Has(unsigned block) const { return (words_[block / 64] >> (block % 64) & 1) != 0; }
    void Add(unsigned block) { words_[block / 64] |= uint64_t{1} << (block % 64); }
    void Remove(unsigned block) { words_[block / 64] &= ~(uint64_t{1} << (block % 64)); }
    // Calls `look` with each block in ascending order until it returns false.
    template <typename Look>
    void ForEach(Look look) const;

   private:
    uint64_t words_[kWords] = {};
  };

  // Of blocks.
  struct Ring {
    unsigned head, size;
    uint32_t blocks[kBlocksMax];
    unsigned At(unsigned i) const { return blocks[(head + i) % kBlocksMax]; }
    void PushLast(unsigned block) { blocks[(head + size++) % kBlocksMax] = block; }
    void PushFirst(unsigned block);
    unsigned PopFirst();
  };

  Status Map(uint32_t first, uint32_t last, int fixed);
  Status Register(int uffd);
  bool OnlyFree(unsigned block) const {
    return free_of_[block] != 0 && in_flight_[block] == 0 && staged_of_[block] == 0;
  }
  bool Empty(unsigned block) const { return !not_empty_.Has(block) && !broken_.Has(block); }
  // Its free frames are no longer, nor is their memory.
  uint64_t TakeAllOf(unsigned block);
  // Some frames of the block are gone.
  void BlockLeft(unsigned block);

  std::byte* area_ = nullptr;
  uint64_t populated_ = 0;
  uint64_t free_frames_ = 0;
  uint64_t staged_ = 0;
  uint64_t kept_ = 0;
  Blocks with_free_;  // A frame is free.
  Blocks not_empty_;  // Memory, frames in flight, or in the queue.
  Blocks queued_;
  Blocks broken_;
  Blocks hot_;

  // Not initialised: see the class. Of blocks, a bit per frame: free; of those, known to be zero; staged; of
  // those, kept. Then how many are in flight.
  uint64_t free_of_[kBlocksMax];
  uint64_t zero_of_[kBlocksMax];
  uint64_t staged_of_[kBlocksMax];
  uint64_t kept_of_[kBlocksMax];
  uint16_t in_flight_[kBlocksMax];
  Ring queue_;
  Ring hot_queue_;
  uint32_t owner_[kFramesMax];  // Page of a staged frame.
};

}  // namespace farpool
