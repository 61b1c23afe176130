#pragma once
// The fault engine: which page of the far arena is where, bringing it in, putting it out.
//
// A page is in one of four states (PageEntry::State). It moves
//   none -> resident            first touch: filled with zeros
//   resident -> staged          eviction: moved, with its whole group, into the staging area
//   staged -> resident          second chance: touched while still there
//   staged -> stored or none    hashed there; written to its slot only if the hash says it changed; all-zero
//                               pages are never stored. The frame becomes a receive buffer.
//   stored -> resident          fetched into a free staging frame, checked against its hash, MOVEd into
//                               place; or into a buffer, checked, and copied (move_or_copy.h)
// so frames are exchanged between arena and staging and, but for copies, nothing is allocated, zeroed or
// freed in the steady state. Once it is out nobody can write a page any more: comparing hashes is race-free.
// A page on its way in is `arriving`; one that is hashed and stored while others work is `leaving`.
//
// Eviction goes by group (64 neighbouring pages): most are kept, the rest passes through
// (groups.h). Single pages that are touched soon after they went stay staged for longer, where that pays
// (hot_pages.h). mremap moves a group in one call, as page table entries and with one flush of the TLB;
// UFFDIO_MOVE, page by page, is for when that could take a page from under a device (DevicesMayPin) or fails.
//
// Threads: every public function takes the engine's lock unless it says otherwise; no handler of the
// program may run in a thread meanwhile, since its faults take the same lock: signals are blocked or, in the
// fault handler, deferred. A fault lets go of the lock while its pages arrive: while they travel, are hashed
// and put in place; WriteBack() does while what it sees off is hashed and stored. Whoever changes mappings or
// contents holds the lock exclusively (ExclusiveLock): then nothing arrives or leaves. Others who touch such
// a page wait for it; the group of an arriving one is not evicted.
// No function allocates. A failed Status is final: the page cannot be made right and the program must be
// stopped.

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "base/hash.h"
#include "base/mutex.h"
#include "base/uffd_abi.h"
#include "farpool/status.h"
#include "paging/area_map.h"
#include "paging/budget.h"
#include "paging/groups.h"
#include "paging/hint_queue.h"
#include "paging/hot_pages.h"
#include "paging/move_or_copy.h"
#include "paging/pins.h"
#include "paging/staging.h"
#include "paging/stats.h"
#include "paging/streams.h"
#include "paging/strides.h"
#include "paging/writer.h"
#include "store/page_store.h"

namespace farpool {

struct PageEntry {
  enum class State : uint32_t {
    kNone = 0,
    kResident = 1,
    kStaged = 2,
    kStored = 3,
    kArriving = 4,
    kLeaving = 5
  };
  PageHash hash;                // Of the slot's contents; meaningful while slot is not kNone.
  SlotId slot = SlotId::kNone;  // Kept while resident, so that a clean page goes out without a write.
  State state : 4 = State::kNone;
  uint32_t hot : 1 = 0;  // Was touched soon after it had gone: may stay staged for longer.
  // While staged: its frame there. While stored: pages that had left before it.
  uint32_t frame : 27 = 0;
};
static_assert(sizeof(PageEntry) == 24);

inline constexpr uint64_t kArenaPagesMax = uint64_t{1} << 32;  // Their numbers are 32 bits in places.

struct EngineConfig {
  std::byte* arena = nullptr;
  uint64_t arena_pages = 0;
  PageEntry* table = nullptr;    // arena_pages entries, all zero, demand-allocated.
  std::byte* staging = nullptr;  // Staging::kBytes of address space, nothing there yet.
  int uffd = -1;      // The arena is registered with it (missing pages; write-protect too without move).
  bool move = true;   // The kernel has UFFDIO_MOVE (6.8). Without it pages are copied both ways.
  bool remap = true;  // Groups go out by mremap; only with `move`.
  uint64_t hash_seed = 0;
  PageStore* store = nullptr;
  Budget budget;
  PagingStats* stats = nullptr;
};

// To be made in memory that is zero.
class Engine {
 public:
  // Once, before anything else. Maps the staging area and the group table.
  Status Init(const EngineConfig& config);

  // Makes the page at `address` (inside a mapped area of the arena) present. Ok: it was; touch it again.
  // `foreign` is set if the address belongs to a foreign area: then the fault is none of ours.
  Status Fault(uintptr_t address, bool* foreign = nullptr);
  // Pages [first, last) have become writable. If a heap grows by them they are as good as touched: memory for
  // them costs less now than by a fault. Does nothing unless they are few, behind a resident one of the same
  // area, and memory is not scarce.
  Status BecameWritable(uint64_t first, uint64_t last);

  // The pages of [first, last) become zero, their slots free.
  void Discard(uint64_t first, uint64_t last);
  // Moves contents of `count` pages from `from` to `to`; both ranges are mapped, the target holds nothing.
  Status Remap(uint64_t from, uint64_t to, uint64_t count);

  // Evicts until at most `pages` are held, writes and empties all of staging.
  Status Shrink(uint64_t pages);

  // Advice on [first, last); changes nothing that a program can see but how long it takes (hints.cc).
  // WillNeed: it is going to be touched; BringAhead() is to be called until it says that there is no `more`,
  // by a thread that has time. It brings in a group at most, as a fault would.
  void WillNeed(uint64_t first, uint64_t last);
  Status BringAhead(bool* more);
  // It is not going to be touched soon: the next victims are taken from there / it goes now.
  void EvictFirst(uint64_t first, uint64_t last);
  Status EvictNow(uint64_t first, uint64_t last);

  // For the writer (writer.h), a thread of the caller's: WriteBack() makes frames free for the next faults, a
  // slice at a time, as long as there is `more` to do; then AwaitCall(), which takes no lock, waits until
  // there is. One thread only.
  Status WriteBack(bool* more);
  void AwaitCall();
  // Ends AwaitCall() without cause.
  void WakeWriter();

  // Others have too little: gives back a part of what this process holds beyond its share of the budget.
  Status YieldShare();
  // The program uses a device that may read or write its pages by itself for longer than a call takes. Pages
  // that the kernel has pinned stay where they are from now on. No lock.
  void DevicesMayPin() { remap_.store(false, std::memory_order_relaxed); }
  // Groups go out by mremap where that is possible and better.
  bool remaps() const { return remap_.load(std::memory_order_relaxed); }
  // Pages [first, last) are resident, or were just now: pinned before, they stay so. No lock.
  bool AllResident(uint64_t first, uint64_t last) const;
  // True once this process had to evict.
  bool evicts() const { return evicts_.load(std::memory_order_relaxed); }

  // fork. BeforeFork: staging is emptied, the resident set shrinks until parent and child fit under the
  // limit, and the table is copied to `child_table` with one more holder per slot; `child` is charged for its
  // copy of the resident set. Leaves the lock held; AfterFork* releases it. The child gets a userfaultfd of
  // its own with the arena registered. If the fork fails whoever owns the child's table and budget gives both
  // back.
  Status BeforeFork(PageEntry* child_table, Budget child) ACQUIRES(lock_);
  void AfterForkInParent() RELEASE();
  Status AfterForkInChild(int uffd, Budget budget) RELEASE();

  // Read under lock(), changed under an ExclusiveLock.
  AreaMap& areas() { return areas_; }
  Mutex* lock() { return &lock_; }
  // The lock, once nothing is arriving any more.
  void LockExclusive() ACQUIRES(lock_);
  void UnlockExclusive() RELEASE() { lock_.Unlock(); }
  Pins& pins() { return pins_; }
  // For callers that change mappings and contents in one step, under an ExclusiveLock.
  void DiscardLocked(uint64_t first, uint64_t last);
  Status RemapLocked(uint64_t from, uint64_t to, uint64_t count);
  // The resident pages [first, last) are no longer the engine's: contents stay where they are. False, and
  // nothing changed, if one of them is not resident.
  bool LetGoLocked(uint64_t first, uint64_t last);
  uint64_t resident_pages() const { return resident_; }
  uint64_t staging_pages() const { return staging_.populated(); }
  // Of those, staged pages that stay for longer.
  uint64_t kept_pages() const { return staging_.kept(); }
  // Held of the budget beyond those two, with nothing there.
  uint64_t spare_pages() const { return spare_; }

 private:
  // Pages of a group that are being evicted, slice by slice; or several neighbouring groups, at once.
  struct Victim {
    uint64_t first;  // Page of the group.
    uint64_t last;
    uint64_t next;   // First page not looked at yet.
    unsigned block;  // Of staging: page i of the group goes to frame i. kNoBlock: no page has gone yet.
    bool remap;      // By mremap, unless that is over.
  };
  using Stream = Streams::Stream;
  using Range = Streams::Range;

  // What pages come from. Only those that are copied need no frames.
  enum class From : uint8_t { kFrames, kBuffer, kZeros };
  // Pages of one area on their way into place.
  struct Flight {
    unsigned load;  // Its number, and that of its load from the store.
    unsigned count = 0;
    PageEntry::State before;  // kStored: to be loaded and checked.
    bool copy = false;        // By COPY, with budget of their own: frames stay.
    From from = From::kFrames;
    bool timed = false;
    bool ahead = false;           // Nobody waits for it: never at the price of the limit.
    uint64_t unclean = 0;         // Bit per page: to be filled with zeros.
    uint32_t pages[kGroupPages];  // Ascending, if neighbours.
    uint32_t frames[kGroupPages];
    Area area;
  };

  // Why a flight's pages are wanted together: a stream goes on, or a trend, or one of each begins.
  struct Pattern {
    Stream* stream;
    Strides::Trend* trend;  // Goes before the stream.
    unsigned steps;         // Of the trend.
  };

  // What becomes of a staged page.
  enum class Fate : uint8_t { kZero, kClean, kChanged };
  // Staged pages on their way to their slots, and free frames whose memory goes back.
  struct Departure {
    Staging::FreeBlocks freed;
    unsigned count = 0;
    bool call_writer = false;  // Once the fault that made it is over.
    uint64_t fresh = 0;        // Bit per page: nothing is in its slot yet.
    uint32_t frames[kGroupPages];
    PageHash hashes[kGroupPages];
    Fate fates[kGroupPages];
  };

  std::byte* PageAt(uint64_t page) const { return config_.arena + page * kPageBytes; }
  // Where page `i` of the flight comes from.
  std::byte* Source(const Flight& flight, unsigned i) {
    if (flight.from == From::kFrames) return staging_.At(flight.frames[i]);
    return (flight.from == From::kBuffer ? bounce_[flight.load] : zeros_) + i * kPageBytes;
  }
  Groups::Group& GroupOf(uint64_t page) { return groups_[page / kGroupPages]; }

  // The next flight, for `page`: no pages and no frames yet.
  Flight FlightFor(uint64_t page, const Area& area) const;
  // What a fault does before its pages take off: which pages, from which frames. `flight->count` is 0 if
  // there are no frames before something has arrived.
  Status FirstTouch(uint64_t page, Flight* flight);
  bool IsPlenty() const;
  void TakeZeros(Flight* flight);
  Status SecondChance(uint64_t page, uint64_t address, Flight* flight);
  Status Fetch(uint64_t page, uint64_t address, Flight* flight, PageIo* io);
  // Of Fetch(): which pages, and what of their stream or trend that is; then frames for them, or for some.
  Pattern ChoosePages(uint64_t page, uint64_t address, Flight* flight);
  Status FindRoom(uint64_t page, Pattern* pattern, Flight* flight);
  static void SetPages(Range range, Flight* flight);
  // The trend that a fault at `address` goes on.
  Strides::Trend* TrendOf(uint64_t address, const Flight& flight);
  // The flight's pages: that of the fault, and what is stored along the trend, `most` of them. Returns how
  // many steps that is.
  unsigned FollowTrend(const Strides::Trend& trend, uint64_t page, unsigned most, Flight* flight) const;
  Status ChooseWay(Flight* flight);
  bool Movable(const Flight& flight) const {
    return config_.move && flight.area.protection == (PROT_READ | PROT_WRITE);
  }
  Status Fly(Flight* flight, const PageIo* io);
  void TakeOff(const Flight& flight);
  // Neither needs the lock.
  Status Load(const Flight& flight);
  Status Install(const Flight& flight);
  enum class Outcome { kArrived, kNotTried, kLost };
  void Land(const Flight& flight, Outcome outcome);
  // Lets go of the lock until a flight has landed.
  void AwaitLanding();
  Stream* StreamOf(uint64_t page);
  // Whether all of [first, last) is resident.
  bool Passed(uint64_t first, uint64_t last) const;
  void BecameResident(uint64_t page);

  // Frames for `count` pages of the flight, or fewer: half of them at least, unless there is only less (then
  // perhaps none), in few runs.
  Status TakeFrames(unsigned count, Flight* flight, unsigned* got);
  // Frames for the next faults, or room for what they will copy, if that means eviction: about as many as
  // this one took. Takes none itself. While several threads fault what has to leave only begins to: the rest
  // is for Store() and Staging::Drop(), without the lock, and Left(), with it.
  Status KeepReserve(const Flight& flight, Departure* departure);
  // Memory for an empty block of frames.
  bool Populate(bool even_over_limit);
  // Begins to give back the memory of a batch of free frames, for what is to be copied.
  void DropSome(Departure* departure);
  // The memory of these goes back, for which no lock is needed; how long it took, in ns / and has.
  uint64_t GiveBack(const Staging::FreeBlocks& blocks) const;
  void GaveBack(const Staging::FreeBlocks& blocks, uint64_t ns);
  // Pages that leave the arena / whose memory goes back at once: afterwards the TLB is empty.
  uint64_t EvictBatch() const;
  uint64_t DropBatch() const;
  uint64_t Batch(uint64_t most) const;
  Status FillStaging(uint64_t target, unsigned count, unsigned evictions);
  bool TakeRoom(unsigned count);  // If there is some.
  Status MakeRoom(unsigned count, bool* taken);
  void DropFreeFrames(Budget* heir);  // Their pages go to `heir`, or back if there is none.
  // Frames for what passes through staging / and for what stays there.
  uint64_t PassingTarget() const;
  uint64_t StagingTarget() const { return PassingTarget() + staging_.kept(); }

  Status Drain(unsigned most);
  uint64_t FramesWanted() const;  // Free at most, by the writer.
  // Calls the writer if its time has come, with pages staged that it can store. False if frames are not its
  // business.
  bool LeftToWriter(unsigned count, Departure* departure, Status* status);
  void WakeLandingWaiters();
  // The oldest block with pages that are to leave, or kNoBlock.
  unsigned NextBlock();
  // Whether the staged page, whose turn it is, stays all the same.
  bool Stays(uint32_t frame);
  void GiveSpare();
  void Returned(const Flight& flight);
  // Needs no lock.
  Fate Examine(uint32_t frame, bool fresh, PageHash* hash) const;
  void Settle(uint32_t frame, Fate fate, const PageHash& hash);
  // False, and none leaves, if the pool has no room or there are none that may.
  bool Depart(unsigned most, Departure* departure);
  Status Store(Departure* departure) const;  // Needs no lock.
  void Left(const Departure& departure);
  Status SeeOff(Departure* departure);  // All of it, for the writer.
  Status DropResidentSlots(unsigned wanted, unsigned* dropped);
  bool NextVictim(uint64_t most);
  bool NextHintedVictim();
  // Now and then: the part of the table that `page` is in becomes a huge page, if most of it is there.
  void MakeTableHuge(uint64_t page);
  // Whether the group that begins there had better go by mremap.
  bool ByRemap(uint64_t first) const;
  // In the group that begins there.
  unsigned ResidentRuns(uint64_t first) const;
  // Moves the resident pages among the next ones of `victim`, `most` of them, to its staging block, or to
  // empty ones. Returns how many went. `room` is false if there was no block for them.
  unsigned EvictSlice(Victim* victim, unsigned count, uint64_t most, bool* room);
  Status Evict(unsigned count, uint64_t most, bool* progress);
  unsigned MoveOut(uint64_t first, uint64_t last, uint32_t frame, const Area& area);
  bool RemapOut(uint64_t first, uint64_t last, uint32_t frame);
  // One UFFDIO_MOVE of at most kMoveMax pages. Returns how many are through (moved, or holes) and, through
  // `error`, 0 or the errno of what stopped it there.
  static constexpr unsigned kMoveMax = 512;
  unsigned Move(std::byte* to, std::byte* from, unsigned pages, uint64_t mode, int* error);

  EngineConfig config_;
  Mutex lock_;
  static constexpr unsigned kFlightsMax = PageStore::kLoadsMax;
  uint32_t flights_ = 0;               // Bit per flight.
  std::atomic<uint32_t> landings_{0};  // Futex.
  uint32_t landing_waiters_ = 0;
  uint32_t exclusive_waiters_ = 0;
  static constexpr unsigned kCrowdMax = 16;
  unsigned crowd_ =
      0;  // Up with each flight that takes off while there are others, down with each that does not.
  MoveOrCopy move_or_copy_;
  HotPages hot_pages_;
  Groups groups_;
  // A group of pages to be read, to the kernel one page many times.
  static constexpr size_t kZeroBytes = kGroupPages * kPageBytes;
  std::byte* zeros_ = nullptr;
  bool zeros_mapped_ = false;
  Victim victim_ = {.first = 0, .last = 0, .next = 0, .block = Staging::kNoBlock, .remap = false};  // None.
  uint64_t left_ = 0;     // Pages that have left for the store so far.
  uint64_t huge_at_ = 0;  // Value of that at which the table is looked at next.
  HintQueue ahead_;
  HintQueue evict_first_;
  uint64_t resident_ = 0;
  std::atomic<bool> evicts_{false};
  std::atomic<bool> remap_{false};
  // Budget that is held for pages to be copied, with no memory behind it: what was a free frame is not
  // populated again between two copies.
  uint64_t spare_ = 0;

  Writer writer_;
  bool writing_ = false;                   // It is at work without the lock.
  std::atomic<uint32_t> writer_calls_{0};  // Futex.
  uint32_t calls_heard_ = 0;

  Streams streams_;
  Strides strides_;

  // The large ones come last, and begin with what is small in them: what a process that starts touches lies
  // together.
  Pins pins_;
  AreaMap areas_;
  Staging staging_;
  // Of the table, by huge pages: those that are, or that the kernel has none for.
  static constexpr uint64_t kTableHugePagesMax = kArenaPagesMax * sizeof(PageEntry) / kHugePageBytes + 1;
  uint64_t huge_[kTableHugePagesMax / 64 + 1];
  // What is copied in comes to these buffers instead of to frames. Beyond the limit, but few. More pages than
  // that are never copied where they can be moved.
  static constexpr unsigned kBouncePages = 16;
  alignas(kPageBytes) std::byte bounce_[kFlightsMax][kBouncePages * kPageBytes];
};

class SCOPED_CAPABILITY ExclusiveLock {
 public:
  explicit ExclusiveLock(Engine* engine) ACQUIRES(engine->lock()) : engine_(engine) {
    engine_->LockExclusive();
  }
  ~ExclusiveLock() RELEASE() { engine_->UnlockExclusive(); }
  ExclusiveLock(const ExclusiveLock&) = delete;
  ExclusiveLock& operator=(const ExclusiveLock&) = delete;

 private:
  Engine* engine_;
};

}  // namespace farpool
