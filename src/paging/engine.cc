// See engine.h for the state machine. This file: faults, prefetch, mapping changes, fork. evict.cc: the way
// out.

#include "paging/engine.h"

#include <linux/futex.h>
#include <sys/syscall.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <climits>
#include <cstring>

#include "base/assert.h"
#include "base/clock.h"
#include "base/sys.h"
#include "base/text.h"
#include "base/uffd_abi.h"

namespace farpool {

namespace {
// First touch of an isolated page fills its aligned block of this many pages; a stream doubles up to a group.
constexpr unsigned kFirstTouchPages = 4;
// While less than half the limit is in use memory is not scarce: more at once.
constexpr unsigned kFirstTouchPagesPlenty = 16;
// Flights of more pages tell how long streams take.
constexpr unsigned kStreamPagesMin = 16;
// Tries to place a frame that the kernel calls busy; most of them yield the processor.
constexpr int kBusyTriesMax = 10000;
// Looks before whoever waits for a landing sleeps: a few microseconds, longer than most flights.
constexpr int kLandingSpins = 200;

// Memory for [first, last) by one call, not by a fault for each page of it; before Linux 5.14 by those.
void PopulateTable(PageEntry* first, PageEntry* last) {
  const uintptr_t begin = reinterpret_cast<uintptr_t>(first) & ~(kPageBytes - 1);
  sys::Call(SYS_madvise, begin, reinterpret_cast<uintptr_t>(last) - begin, MADV_POPULATE_WRITE);
}

}  // namespace

Status Engine::Init(const EngineConfig& config) {
  FARPOOL_ASSERT(config.arena_pages <= kArenaPagesMax);
  config_ = config;
  areas_.Init(config.arena_pages);
  if (Status s = groups_.Init(config.arena_pages / kGroupPages); !s.ok()) return s;
  const long zeros = sys::Call(SYS_mmap, nullptr, kZeroBytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (sys::Failed(zeros)) return Status::FromErrno("mmap of zeros", static_cast<int>(-zeros));
  zeros_ = reinterpret_cast<std::byte*>(zeros);
  remap_.store(config.move && config.remap, std::memory_order_relaxed);
  // Pages come and go one by one; what mremap makes of the arena's mappings in staging inherits this.
  sys::Call(SYS_madvise, config.arena, config.arena_pages * kPageBytes, MADV_NOHUGEPAGE);
  return staging_.Init(config.staging, config.uffd);
}

void Engine::LockExclusive() {
  lock_.Lock();
  ++exclusive_waiters_;
  while (flights_ != 0 || writing_) AwaitLanding();
  --exclusive_waiters_;
}

void Engine::AwaitLanding() {
  const uint32_t seen = landings_.load(std::memory_order_relaxed);
  ++landing_waiters_;
  lock_.Unlock();
  for (int i = 0; i < kLandingSpins && landings_.load(std::memory_order_relaxed) == seen; ++i) SpinPause();
  while (landings_.load(std::memory_order_relaxed) == seen)
    sys::Call(SYS_futex, &landings_, FUTEX_WAIT_PRIVATE, seen, nullptr);
  lock_.Lock();
  --landing_waiters_;
}

Status Engine::Fault(uintptr_t address, bool* foreign) {
  address -= reinterpret_cast<uintptr_t>(config_.arena);
  const uint64_t page = address / kPageBytes;
  __builtin_prefetch(&config_.table[page], 1);  // Seldom in the cache.
  const uint64_t start = NowNs();
  MutexLock hold(&lock_);
  for (;; AwaitLanding()) {
    const Area* area = areas_.Find(page);
    if (foreign != nullptr) *foreign = area != nullptr && area->foreign;
    // Not mapped (any more): the kernel answers the next touch with SIGSEGV, as it would without us.
    if (area == nullptr || area->foreign || area->protection == PROT_NONE) return Status::Ok();
    const PageEntry::State state = config_.table[page].state;
    if (state == PageEntry::State::kResident) {
      // Usually another thread was faster. The kernel knows; if the page is gone behind our back nobody can
      // tell what was in it.
      unsigned char present = 1;
      if (sys::Call(SYS_mincore, PageAt(page), kPageBytes, &present) != 0 || (present & 1) != 0)
        return Status::Ok();
      return Status::Corrupt("a resident page of the program vanished");
    }
    if (state == PageEntry::State::kArriving || state == PageEntry::State::kLeaving ||
        std::popcount(flights_) == kFlightsMax)
      continue;
    Flight flight = FlightFor(page, *area);
    PageIo io[kGroupPages];
    Histogram* times = &config_.stats->fetch;
    Status s;
    if (state == PageEntry::State::kStored) {
      s = Fetch(page, address, &flight, io);
    } else if (state == PageEntry::State::kNone) {
      times = &config_.stats->first_touch;
      s = FirstTouch(page, &flight);
    } else {
      times = &config_.stats->second_chance;
      s = SecondChance(page, address, &flight);
    }
    if (!s.ok()) return s;
    if (flight.count == 0) continue;
    s = Fly(&flight, io);
    const uint64_t took = NowNs() - start;
    times->Add(took);
    if (flight.count > kStreamPagesMin && state == PageEntry::State::kStored)
      writer_.Took(took, flight.count);
    if (flight.count == 1 && state == PageEntry::State::kStored) hot_pages_.Fetched(took);
    if (flight.count == 1 && state == PageEntry::State::kStaged) hot_pages_.Chanced(took);
    return s;
  }
}

Engine::Flight Engine::FlightFor(uint64_t page, const Area& area) const {
  Flight flight;  // Its lists stay as they are.
  flight.load = static_cast<unsigned>(std::countr_one(flights_));
  flight.before = config_.table[page].state;
  flight.area = area;
  return flight;
}

Status Engine::Fly(Flight* flight, const PageIo* io) {
  TakeOff(*flight);
  Status s = ChooseWay(flight);
  if (!s.ok()) {
    Land(*flight, Outcome::kNotTried);
    return s;
  }
  Departure departure;
  if (flight->before == PageEntry::State::kStored) config_.store->StartLoad(flight->load, io, flight->count);
  // While they travel: frames for the next fault.
  if (flight->before != PageEntry::State::kStaged) s = KeepReserve(*flight, &departure);
  // Who waits for the lock alone should not wait for ever.
  const bool keep_lock = exclusive_waiters_ > 0;
  if (!keep_lock) lock_.Unlock();
  if (departure.count > 0) s = Store(&departure);
  const uint64_t freed_ns = GiveBack(departure.freed);
  Status arrived = Load(*flight);
  Outcome outcome = Outcome::kNotTried;
  const uint64_t before = flight->timed ? NowNs() : 0;
  if (arrived.ok()) {
    arrived = Install(*flight);
    outcome = arrived.ok() ? Outcome::kArrived : Outcome::kLost;
  }
  const uint64_t took = flight->timed ? NowNs() - before : 0;
  if (departure.call_writer) sys::Call(SYS_futex, &writer_calls_, FUTEX_WAKE_PRIVATE, 1);
  if (!keep_lock) lock_.Lock();
  if (flight->timed) move_or_copy_.Took(flight->copy, took);
  if (s.ok()) Left(departure);
  GaveBack(departure.freed, freed_ns);
  Land(*flight, outcome);
  return arrived.ok() ? s : arrived;
}

// From here on these pages and frames are the flight's.
void Engine::TakeOff(const Flight& flight) {
  for (unsigned i = 0; i < flight.count; ++i) {
    PageEntry& entry = config_.table[flight.pages[i]];
    FARPOOL_ASSERT(entry.state == flight.before);
    entry.state = PageEntry::State::kArriving;
    ++GroupOf(flight.pages[i]).arriving;
    if (flight.from == From::kFrames) staging_.TookOff(flight.frames[i]);
  }
  if (flights_ == 0) {
    if (crowd_ > 0) --crowd_;
  } else if (crowd_ < kCrowdMax) {
    ++crowd_;
  }
  flights_ |= 1U << flight.load;
}

// Of pages that have frames. Those that are copied need budget of their own.
Status Engine::ChooseWay(Flight* flight) {
  if (flight->from != From::kFrames) return Status::Ok();
  bool copy = !Movable(*flight);
  if (!copy && flight->before == PageEntry::State::kStaged) {
    const MoveOrCopy::Choice choice = move_or_copy_.Next(flight->count);
    flight->timed = choice.timed;
    copy = choice.copy;
  }
  Status s;
  if (copy) s = MakeRoom(flight->count, &flight->copy);
  if (!flight->copy) staging_.MemoryGoes(flight->count);
  return s;
}

// The frames get their contents.
Status Engine::Load(const Flight& flight) {
  for (unsigned i = 0; i < flight.count; ++i)
    if ((flight.unclean >> i & 1) != 0) std::memset(Source(flight, i), 0, kPageBytes);
  if (flight.before != PageEntry::State::kStored) return Status::Ok();
  if (Status s = config_.store->FinishLoad(flight.load); !s.ok()) return s;
  for (unsigned i = 0; i < flight.count; ++i) {
    if (HashPage(Source(flight, i), config_.hash_seed) == config_.table[flight.pages[i]].hash) continue;
    TextBuffer<128> text;
    text.Add("a page came back changed from its donor (address ");
    text.AddHex(reinterpret_cast<uint64_t>(PageAt(flight.pages[i]))).Add(")");
    return Status::Corrupt(text.c_str());
  }
  return Status::Ok();
}

// Not tried: pages and frames are what they were. Lost: nobody may ever see these pages again; others who
// touch them wait until the program is stopped.
void Engine::Land(const Flight& flight, Outcome outcome) {
  for (unsigned i = 0; i < flight.count; ++i)
    FARPOOL_ASSERT(config_.table[flight.pages[i]].state == PageEntry::State::kArriving);
  const bool staged = flight.before == PageEntry::State::kStaged;
  bool frames_stay = false;  // Free ones.
  if (outcome == Outcome::kArrived) {
    Returned(flight);
    for (unsigned i = 0; i < flight.count; ++i) BecameResident(flight.pages[i]);
    frames_stay = flight.copy;
  } else if (outcome == Outcome::kNotTried) {
    for (unsigned i = 0; i < flight.count; ++i) config_.table[flight.pages[i]].state = flight.before;
    if (staged) staging_.StageAgain(flight.frames[0], flight.count);
    if (flight.copy) {
      spare_ += flight.count;
    } else {
      staging_.MemoryStays(flight.count);
    }
    frames_stay = !staged;
  }
  for (unsigned i = 0; i < flight.count; ++i) {
    --GroupOf(flight.pages[i]).arriving;
    if (flight.from != From::kFrames) continue;
    if (frames_stay) staging_.Freed(flight.frames[i]);
    staging_.Landed(flight.frames[i]);
  }
  flights_ &= ~(1U << flight.load);
  WakeLandingWaiters();
}

void Engine::WakeLandingWaiters() {
  landings_.fetch_add(1, std::memory_order_relaxed);
  if (landing_waiters_ > 0) sys::Call(SYS_futex, &landings_, FUTEX_WAKE_PRIVATE, INT_MAX);
}

bool Engine::AllResident(uint64_t first, uint64_t last) const {
  for (uint64_t page = first; page < last;) {
    // Where all is here that is quicker than the table, which is not in the cache.
    if (groups_.Full(page / kGroupPages)) {
      page = (page / kGroupPages + 1) * kGroupPages;
      continue;
    }
    uint32_t word;  // That `state` is in.
    __atomic_load(reinterpret_cast<const uint32_t*>(&config_.table[page]) + 5, &word, __ATOMIC_RELAXED);
    if ((word & 0xf) != static_cast<uint32_t>(PageEntry::State::kResident)) return false;
    ++page;
  }
  return true;
}

bool Engine::Passed(uint64_t first, uint64_t last) const {
  for (uint64_t page = first; page < last;) {
    const unsigned resident = groups_[page / kGroupPages].resident;
    if (resident == 0) return false;
    if (resident == kGroupPages) {
      page = (page / kGroupPages + 1) * kGroupPages;
    } else if (config_.table[page++].state != PageEntry::State::kResident) {
      return false;
    }
  }
  return true;
}

Engine::Stream* Engine::StreamOf(uint64_t page) {
  Stream* const stream = streams_.Of(page, [&](uint64_t from, uint64_t to) { return Passed(from, to); });
  // It went on behind what was brought ahead: that was used.
  if (stream->ahead > 0) Count(config_.stats->prefetch_hits, stream->ahead);
  stream->ahead = 0;
  return stream;
}

void Engine::BecameResident(uint64_t page) {
  config_.table[page].state = PageEntry::State::kResident;
  groups_.Arrived(page / kGroupPages);
  ++resident_;
}

// Linux 6.18 can move pages and yet report an error: after a page was busy for a moment (somebody looks
// through the process's memory) it tries the ones it has just moved once more, and finds their places taken
// (EEXIST). So after any error the kernel is asked what is where: a page that is missing here and present
// there has moved.
unsigned Engine::Move(std::byte* to, std::byte* from, unsigned pages, uint64_t mode, int* error) {
  FARPOOL_ASSERT(pages <= kMoveMax);
  uffdio_move io = {.dst = reinterpret_cast<uint64_t>(to),
                    .src = reinterpret_cast<uint64_t>(from),
                    .len = pages * kPageBytes,
                    .mode = mode,
                    .move = 0};
  *error = static_cast<int>(-sys::Call(SYS_ioctl, config_.uffd, UFFDIO_MOVE, &io));
  if (*error == 0) return pages;
  unsigned through = io.move > 0 ? static_cast<unsigned>(static_cast<uint64_t>(io.move) / kPageBytes) : 0;
  unsigned char here[kMoveMax];
  unsigned char there[kMoveMax];
  if (*error == EINVAL || sys::Call(SYS_mincore, from, pages * kPageBytes, here) != 0 ||
      sys::Call(SYS_mincore, to, pages * kPageBytes, there) != 0)
    return through;
  for (unsigned i = through; i < pages; ++i)
    if ((here[i] & 1) == 0 && (there[i] & 1) != 0) through = i + 1;
  if (*error == EEXIST && through > 0) *error = EAGAIN;
  return through;
}

// Puts the frames in place. COPY is also for kernels without MOVE (before 6.8) and for mappings that MOVE
// refuses: it wants both sides writable with equal protection. Without budget of their own the copies have
// the frames'.
Status Engine::Install(const Flight& flight) {
  bool move = !flight.copy && Movable(flight);
  unsigned chunk_max = flight.count;
  int busy_tries = 0;
  for (unsigned done = 0; done < flight.count;) {
    unsigned chunk = 1;
    while (chunk < chunk_max && done + chunk < flight.count &&
           flight.pages[done + chunk] == flight.pages[done] + chunk &&
           Source(flight, done + chunk) == Source(flight, done) + chunk * kPageBytes)
      ++chunk;
    std::byte* const to = PageAt(flight.pages[done]);
    std::byte* const from = Source(flight, done);
    unsigned through = 0;
    int error = 0;
    if (move) {
      through = Move(to, from, chunk, 0, &error);
    } else {
      uffdio_copy io = {.dst = reinterpret_cast<uint64_t>(to),
                        .src = reinterpret_cast<uint64_t>(from),
                        .len = chunk * kPageBytes,
                        .mode = 0,
                        .copy = 0};
      error = static_cast<int>(-sys::Call(SYS_ioctl, config_.uffd, UFFDIO_COPY, &io));
      if (io.copy > 0) through = static_cast<unsigned>(static_cast<uint64_t>(io.copy) / kPageBytes);
      if (through > 0 && !flight.copy) sys::Call(SYS_madvise, from, through * kPageBytes, MADV_DONTNEED);
    }
    done += through;
    if (error == 0 || error == EAGAIN) continue;
    if (error == EBUSY && move && busy_tries++ < kBusyTriesMax) {
      // Came out by mremap while shared with a forked process: a write makes it ours alone. Or somebody reads
      // this process's memory just now.
      for (unsigned i = done; i < flight.count; ++i)
        __atomic_fetch_or(reinterpret_cast<unsigned char*>(Source(flight, i)), 0, __ATOMIC_RELAXED);
      if (busy_tries > 3) sys::Call(SYS_sched_yield);
      continue;
    }
    // The kernel may keep alike neighbours as two mappings, and no call may span two (COPY answers ENOENT):
    // in halves, then.
    if ((error == EINVAL || (error == ENOENT && !move)) && chunk > 1) {
      chunk_max = chunk / 2;
    } else if (error == EINVAL && move) {
      move = false;
    } else {
      return Status::FromErrno(move ? "UFFDIO_MOVE into place" : "UFFDIO_COPY into place", error);
    }
  }
  return Status::Ok();
}

bool Engine::IsPlenty() const { return config_.budget.used() * 2 < config_.budget.limit(); }

Status Engine::FirstTouch(uint64_t page, Flight* flight) {
  const Area& area = flight->area;
  Stream* const stream = StreamOf(page);
  const uint64_t block = IsPlenty() ? kFirstTouchPagesPlenty : kFirstTouchPages;
  auto untouched = [&](uint64_t p) { return config_.table[p].state == PageEntry::State::kNone; };
  // What the stream wants, and the rest of the block.
  auto [first, count] = Streams::Wanted(*stream, page, area, untouched);
  uint64_t last = first + count;
  while (last % block != 0 && last < area.last && untouched(last)) ++last;
  while (first % block != 0 && first > area.first && untouched(first - 1)) --first;
  count = static_cast<unsigned>(last - first);
  // While there is room, new memory. Only frames of pages that had to leave are worth a flush of the TLB.
  flight->copy = TakeRoom(count);
  if (flight->copy) {
    TakeZeros(flight);
  } else if (Status s = TakeFrames(count, flight, &count); !s.ok() || count == 0) {
    return s;
  }
  if (first + count <= page)
    first = page + 1 - count;  // Fewer frames than asked for: the page itself at least.
  config_.budget.AddFar(count);
  Streams::GoOn(stream, {first, count});
  SetPages({first, count}, flight);
  return Status::Ok();
}

// The first time they are mapped in one call: a fault for each of them costs more.
void Engine::TakeZeros(Flight* flight) {
  flight->from = From::kZeros;
  if (zeros_mapped_) return;
  sys::Call(SYS_madvise, zeros_, kZeroBytes, MADV_POPULATE_READ);
  zeros_mapped_ = true;
}

Status Engine::BecameWritable(uint64_t first, uint64_t last) {
  if (last - first > kFirstTouchPagesPlenty) return Status::Ok();
  MutexLock hold(&lock_);
  // Of one group each, behind the one before.
  while (first < last) {
    const Area* area = areas_.Find(first);
    if (!IsPlenty() || std::popcount(flights_) == kFlightsMax || area == nullptr || area->foreign ||
        area->protection != (PROT_READ | PROT_WRITE) || area->first == first ||
        config_.table[first - 1].state != PageEntry::State::kResident)
      return Status::Ok();
    const uint64_t group_end = (first / kGroupPages + 1) * kGroupPages;
    const uint64_t end = std::min({last, area->last, group_end});
    uint64_t page = first;
    while (page < end && config_.table[page].state == PageEntry::State::kNone) ++page;
    Flight flight = FlightFor(first, *area);
    SetPages({first, static_cast<unsigned>(page - first)}, &flight);
    flight.copy = flight.count > 0 && TakeRoom(flight.count);
    if (!flight.copy) return Status::Ok();
    TakeZeros(&flight);
    config_.budget.AddFar(flight.count);
    if (Status s = Fly(&flight, nullptr); !s.ok()) return s;
    first = page;
  }
  return Status::Ok();
}

void Engine::SetPages(Range range, Flight* flight) {
  flight->count = range.count;
  for (unsigned i = 0; i < range.count; ++i) flight->pages[i] = static_cast<uint32_t>(range.first + i);
}

Status Engine::SecondChance(uint64_t page, uint64_t address, Flight* flight) {
  // A trend goes on behind it.
  if (Strides::Trend* trend = TrendOf(address, *flight); trend != nullptr) Strides::Covered(trend, 1);
  const uint32_t frame = config_.table[page].frame;
  if (!flight->ahead && !staging_.hot(frame / kGroupPages)) hot_pages_.Touched(config_.table[page].hot);
  Stream* const stream = StreamOf(page);
  // Neighbours that are staged as such.
  const Range wanted = Streams::Wanted(*stream, page, flight->area, [&](uint64_t p) {
    const PageEntry& entry = config_.table[p];
    return entry.state == PageEntry::State::kStaged && entry.frame + page == frame + p &&
           entry.frame / kGroupPages == frame / kGroupPages;
  });
  SetPages(wanted, flight);
  for (unsigned i = 0; i < wanted.count; ++i) flight->frames[i] = config_.table[wanted.first + i].frame;
  staging_.Unstage(flight->frames[0], flight->count);
  Streams::GoOn(stream, wanted);
  return Status::Ok();
}

Strides::Trend* Engine::TrendOf(uint64_t address, const Flight& flight) {
  if (flight.ahead || flight.area.access != Access::kNormal) return nullptr;
  const uint64_t page = address / kPageBytes;
  if (streams_.Expects(page)) return nullptr;
  Strides::Trend* const trend = strides_.GoesOn(address);
  if (trend == nullptr) return nullptr;
  // Only then what was brought ahead counts as used.
  if (trend->beyond) {
    Count(config_.stats->prefetch_hits, trend->ahead);
    trend->ahead = 0;
  }
  return trend;
}

unsigned Engine::FollowTrend(const Strides::Trend& trend, uint64_t page, unsigned most,
                             Flight* flight) const {
  SetPages({page, 1}, flight);
  return Strides::Follow(trend, [&](uint64_t p) {
    if (flight->count == most || p < flight->area.first || p >= flight->area.last) return false;
    if (p != page && config_.table[p].state == PageEntry::State::kStored)
      flight->pages[flight->count++] = static_cast<uint32_t>(p);
    return true;
  });
}

Engine::Pattern Engine::ChoosePages(uint64_t page, uint64_t address, Flight* flight) {
  Pattern pattern = {.stream = nullptr, .trend = TrendOf(address, *flight), .steps = 1};
  if (pattern.trend == nullptr) {
    pattern.stream = StreamOf(page);
    SetPages(Streams::Wanted(*pattern.stream, page, flight->area,
                             [&](uint64_t p) { return config_.table[p].state == PageEntry::State::kStored; }),
             flight);
    if (pattern.stream->window <= Streams::kWindowMin && flight->area.access == Access::kNormal &&
        !flight->ahead)
      pattern.trend = strides_.Begins(address);
  }
  if (pattern.trend != nullptr)
    pattern.steps = FollowTrend(*pattern.trend, page, pattern.trend->window, flight);
  return pattern;
}

Status Engine::FindRoom(uint64_t page, Pattern* pattern, Flight* flight) {
  const unsigned wanted = flight->count;
  if (Movable(*flight) && !flight->ahead) {
    // Pages that are not neighbours go one by one whichever way.
    const MoveOrCopy::Choice choice = pattern->trend != nullptr
                                          ? MoveOrCopy::Choice{move_or_copy_.copy_is_sooner(), false}
                                          : move_or_copy_.Next(wanted);
    flight->timed = choice.timed;
    if (choice.copy && wanted <= kBouncePages)
      if (Status s = MakeRoom(wanted, &flight->copy); !s.ok()) return s;
    if (flight->copy) flight->from = From::kBuffer;
  }
  if (flight->from == From::kBuffer) return Status::Ok();
  unsigned got = 0;
  if (Status s = TakeFrames(wanted, flight, &got); !s.ok() || got == 0) {
    flight->count = 0;
    return s;
  }
  if (got < wanted && pattern->trend != nullptr) {
    pattern->steps = FollowTrend(*pattern->trend, page, got, flight);
    FARPOOL_ASSERT(flight->count == got);  // What was stored still is.
  } else if (got < wanted) {
    // The page itself at least.
    const uint64_t first = flight->pages[0];
    SetPages({first + got <= page ? page + 1 - got : first, got}, flight);
  }
  return Status::Ok();
}

Status Engine::Fetch(uint64_t page, uint64_t address, Flight* flight, PageIo* io) {
  Pattern pattern = ChoosePages(page, address, flight);
  if (Status s = FindRoom(page, &pattern, flight); !s.ok() || flight->count == 0) return s;
  const unsigned count = flight->count;
  for (unsigned i = 0; i < count; ++i) io[i] = {config_.table[flight->pages[i]].slot, Source(*flight, i)};
  if (pattern.trend != nullptr) {
    Strides::Covered(pattern.trend, pattern.steps);
    pattern.trend->ahead += count - 1;
  }
  if (pattern.stream != nullptr) {
    const bool along = pattern.trend == nullptr;
    Streams::GoOn(pattern.stream, along ? Range{flight->pages[0], count} : Range{page, 1});
    pattern.stream->ahead = along && !flight->ahead ? count - 1 : 0;
  }
  Count(config_.stats->pages_in, count);
  if (count > 1 && !flight->ahead) Count(config_.stats->pages_prefetched, count - 1);
  return Status::Ok();
}

void Engine::Discard(uint64_t first, uint64_t last) {
  ExclusiveLock hold(this);
  DiscardLocked(first, last);
}

void Engine::DiscardLocked(uint64_t first, uint64_t last) {
  uint64_t far_pages = 0;
  uint64_t run_first = 0, run_last = 0;  // Resident pages whose memory goes back in one call.
  auto drop_run = [&] {
    const long r = run_first == run_last ? 0
                                         : sys::Call(SYS_madvise, PageAt(run_first),
                                                     (run_last - run_first) * kPageBytes, MADV_DONTNEED);
    FARPOOL_ASSERT(r == 0);  // Who maps the range next would find what is there now.
    run_first = run_last = 0;
  };
  for (uint64_t page = first; page < last;) {
    if (!GroupOf(page).used) {
      page = (page / kGroupPages + 1) * kGroupPages;
      continue;
    }
    PageEntry& entry = config_.table[page];
    if (entry.state != PageEntry::State::kNone) {
      ++far_pages;
      // Cleared before the slot is released: whoever is killed in between leaks a slot, but the supervisor
      // does not release it a second time.
      const PageEntry old = entry;
      entry = PageEntry{};
      if (old.slot != SlotId::kNone) config_.store->Release(old.slot);
      if (old.state == PageEntry::State::kResident) {
        // One call may span absent pages in between; they lose nothing.
        if (run_first == run_last) run_first = page;
        run_last = page + 1;
        --GroupOf(page).resident;
        --resident_;
        config_.budget.Give(1);
      } else if (old.state == PageEntry::State::kStaged) {
        const uint32_t frame = old.frame;
        staging_.Unstage(frame, 1);
        staging_.Freed(frame);
      }
    }
    if (++page % kGroupPages == 0 && first <= page - kGroupPages) GroupOf(page - 1).used = false;
  }
  drop_run();
  ahead_.Forget(first, last);
  evict_first_.Forget(first, last);
  if (far_pages > 0) config_.budget.SubFar(far_pages);
}

bool Engine::LetGoLocked(uint64_t first, uint64_t last) {
  for (uint64_t page = first; page < last; ++page)
    if (config_.table[page].state != PageEntry::State::kResident) return false;
  for (uint64_t page = first; page < last; ++page) {
    PageEntry& entry = config_.table[page];
    const SlotId slot = entry.slot;
    entry = PageEntry{};
    if (slot != SlotId::kNone) config_.store->Release(slot);
    --GroupOf(page).resident;
  }
  resident_ -= last - first;
  config_.budget.Give(last - first);
  config_.budget.SubFar(last - first);
  return true;
}

Status Engine::Remap(uint64_t from, uint64_t to, uint64_t count) {
  ExclusiveLock hold(this);
  return RemapLocked(from, to, count);
}

Status Engine::RemapLocked(uint64_t from, uint64_t to, uint64_t count) {
  for (uint64_t i = 0; i < count;) {
    if (!GroupOf(from + i).used) {
      i += kGroupPages - (from + i) % kGroupPages;
      continue;
    }
    PageEntry& entry = config_.table[from + i];
    if (entry.state != PageEntry::State::kResident) {
      if (entry.state == PageEntry::State::kStaged) staging_.SetOwner(entry.frame, to + i);
      if (entry.state != PageEntry::State::kNone) {
        GroupOf(to + i).used = true;
        config_.table[to + i] = entry;
        entry = PageEntry{};
      }
      ++i;
      continue;
    }
    uint64_t run = 1;
    while (i + run < count && run < kMoveMax &&
           config_.table[from + i + run].state == PageEntry::State::kResident)
      ++run;
    uint64_t done = 0;
    while (done < run) {
      int error = EINVAL;
      const unsigned moved = config_.move ? Move(PageAt(to + i + done), PageAt(from + i + done),
                                                 static_cast<unsigned>(run - done), 0, &error)
                                          : 0;
      for (uint64_t k = 0; k < moved; ++k) {
        PageEntry& old = config_.table[from + i + done + k];
        const PageEntry kept = old;
        old = PageEntry{};
        --GroupOf(from + i + done + k).resident;
        --resident_;
        config_.table[to + i + done + k] = kept;
        BecameResident(to + i + done + k);
      }
      done += moved;
      if (error == 0 || error == EAGAIN) continue;
      // Shared after fork, pinned or not writable: copy, then drop the old one.
      uffdio_copy copy = {.dst = reinterpret_cast<uint64_t>(PageAt(to + i + done)),
                          .src = reinterpret_cast<uint64_t>(PageAt(from + i + done)),
                          .len = kPageBytes,
                          .mode = 0,
                          .copy = 0};
      long c;
      do c = sys::Call(SYS_ioctl, config_.uffd, UFFDIO_COPY, &copy);
      while (c == -EAGAIN);
      if (c != 0) return Status::FromErrno("mremap of far memory", static_cast<int>(-c));
      PageEntry& old = config_.table[from + i + done];
      const PageEntry kept = old;
      old = PageEntry{};
      --GroupOf(from + i + done).resident;
      --resident_;
      config_.table[to + i + done] = kept;
      BecameResident(to + i + done);
      sys::Call(SYS_madvise, PageAt(from + i + done), kPageBytes, MADV_DONTNEED);
      ++done;
    }
    i += run;
  }
  return Status::Ok();
}

Status Engine::BeforeFork(PageEntry* child_table, Budget child) {
  LockExclusive();
  // The child's copy of the resident set counts too. What cannot be had under the limit is evicted here: each
  // page that goes makes the copy one smaller and leaves its share of the budget to the child, directly, so
  // that other processes do not take it meanwhile.
  Status s;
  for (bool progress = true; s.ok();) {
    while (s.ok() && staging_.staged() > 0) s = Drain(kGroupPages);
    DropFreeFrames(&child);
    const uint64_t has = child.mine();
    if (!s.ok() || has >= resident_ || child.TryTake(resident_ - has)) break;
    if (!progress) {
      child.Take(resident_ - has);  // The rest is pinned or cannot move.
      break;
    }
    s = Evict(kGroupPages, kGroupPages, &progress);
  }
  if (s.ok() && child.mine() > resident_) child.Give(child.mine() - resident_);
  if (!s.ok()) {
    lock_.Unlock();
    return s;
  }
  const auto next_group = [](uint64_t page) { return (page / kGroupPages + 1) * kGroupPages; };
  uint64_t far_pages = 0;
  for (size_t a = 0; a < areas_.size(); ++a) {
    for (uint64_t page = areas_.at(a).first; page < areas_.at(a).last;) {
      uint64_t end = page;  // Of what is in use.
      while (end < areas_.at(a).last && GroupOf(end).used) end = next_group(end);
      if (end == page) {
        page = next_group(page);
        continue;
      }
      end = std::min(end, areas_.at(a).last);
      PopulateTable(child_table + page, child_table + end);
      for (; page < end; ++page) {
        const PageEntry& entry = config_.table[page];
        if (entry.state == PageEntry::State::kNone) continue;
        if (entry.slot != SlotId::kNone) config_.store->Retain(entry.slot);
        child_table[page] = entry;
        ++far_pages;
      }
    }
  }
  config_.budget.AddFar(far_pages);
  return Status::Ok();
}

void Engine::AfterForkInParent() { lock_.Unlock(); }

Status Engine::AfterForkInChild(int uffd, Budget budget) {
  config_.uffd = uffd;
  config_.budget = budget;
  lock_.Reset();
  landing_waiters_ = 0;
  exclusive_waiters_ = 0;
  writer_.Gone();
  pins_.Reset();
  zeros_mapped_ = false;
  if (huge_at_ > 0) std::memset(huge_, 0, sizeof(huge_));  // The table is another.
  ahead_.Clear();                                          // Nobody follows it here.
  return staging_.InitInChild(uffd);
}

}  // namespace farpool
