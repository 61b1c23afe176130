// What the program says it will do: pages brought in ahead of their faults, and victims it named.

#include <bit>

#include "base/assert.h"
#include "paging/engine.h"

namespace farpool {

namespace {
// Entries looked at in one go, under the lock.
constexpr uint64_t kLookMax = 4096;
constexpr unsigned kGroupsLookMax = 1024;
// Left to faults of the program.
constexpr int kFaultFlights = 4;
}  // namespace

// More than half of what it may hold would send away what it brought first.
void Engine::WillNeed(uint64_t first, uint64_t last) {
  MutexLock hold(&lock_);
  ahead_.Add(first, last, config_.budget.share() / 2);
}

// As a fault on the first page that is away would bring it, in the middle of a stream that goes on to the end
// of the range. So whoever then reads beyond the range finds the stream, too.
Status Engine::BringAhead(bool* more) {
  MutexLock hold(&lock_);
  while (std::popcount(flights_) + kFaultFlights > static_cast<int>(kFlightsMax)) AwaitLanding();
  *more = !ahead_.empty();
  if (ahead_.empty()) return Status::Ok();
  HintQueue::Hint& hint = ahead_.oldest();
  const uint64_t most = hint.most;
  const size_t at = areas_.LowerBound(hint.first);
  if (most == 0 || hint.first >= hint.last || at == areas_.size() || areas_.at(at).first >= hint.last) {
    ahead_.Pop();
    return Status::Ok();
  }
  Area area = areas_.at(at);
  if (hint.first < area.first) hint.first = area.first;
  if (hint.last < area.last) area.last = hint.last;
  const bool ours = !area.foreign && area.protection != PROT_NONE;
  uint64_t page = ours ? hint.first : area.last;
  for (const uint64_t begin = page; page < area.last && page - begin < kLookMax;) {
    const Groups::Group& group = GroupOf(page);
    // Entries of groups that were never used have no memory yet.
    const PageEntry::State state = group.used ? config_.table[page].state : PageEntry::State::kNone;
    if (state == PageEntry::State::kStored || state == PageEntry::State::kStaged) break;
    page = !group.used || group.resident == kGroupPages ? (page / kGroupPages + 1) * kGroupPages : page + 1;
  }
  if (page > area.last) page = area.last;
  hint.first = page;
  if (page == area.last) return Status::Ok();
  const PageEntry::State state = config_.table[page].state;
  if (state != PageEntry::State::kStored && state != PageEntry::State::kStaged) return Status::Ok();
  if (area.last - page > most) area.last = page + most;
  area.first = page;
  area.access = Access::kSequential;
  Flight flight = FlightFor(page, area);
  flight.ahead = true;
  PageIo io[kGroupPages];
  const Status s =
      state == PageEntry::State::kStored ? Fetch(page, 0, &flight, io) : SecondChance(page, 0, &flight);
  if (!s.ok()) return s;
  // Without frames it is not worth more.
  hint.first = flight.count > 0 ? page + flight.count : hint.last;
  hint.most -= flight.count;
  if (flight.count == 0) return Status::Ok();
  Count(config_.stats->hinted_in, flight.count);
  // Worth more than what has been kept for long, like what came back soon.
  groups_.Prefer(page / kGroupPages);
  return Fly(&flight, io);
}

void Engine::EvictFirst(uint64_t first, uint64_t last) {
  MutexLock hold(&lock_);
  evict_first_.Add(first, last, last - first);
}

// The group stays in the queue it is in, and is none of those that come back: nothing is learnt from it.
bool Engine::NextHintedVictim() {
  for (unsigned looked = 0; looked < kGroupsLookMax && !evict_first_.empty(); ++looked) {
    HintQueue::Hint& hint = evict_first_.oldest();
    const uint64_t group = hint.first / kGroupPages;
    const uint64_t end = (group + 1) * kGroupPages;
    const uint64_t first = hint.first;
    const uint64_t last = end < hint.last ? end : hint.last;
    if (last == hint.last) {
      evict_first_.Pop();
    } else {
      hint.first = last;
    }
    if (groups_[group].resident == 0 || groups_[group].arriving > 0) continue;
    victim_ = {.first = group * kGroupPages,
               .last = last,
               .next = first,
               .block = Staging::kNoBlock,
               .remap = ByRemap(group * kGroupPages)};
    return true;
  }
  return false;
}

Status Engine::EvictNow(uint64_t first, uint64_t last) {
  for (uint64_t page = first; page < last;) {
    const uint64_t group_end = (page / kGroupPages + 1) * kGroupPages;
    const uint64_t end = group_end < last ? group_end : last;
    // A group at a time, so that the program's faults get their turn.
    MutexLock hold(&lock_);
    while (GroupOf(page).arriving > 0) AwaitLanding();
    if (GroupOf(page).resident == 0) {
      page = end;
      continue;
    }
    Victim victim = {.first = group_end - kGroupPages,
                     .last = end,
                     .next = page,
                     .block = Staging::kNoBlock,
                     .remap = ByRemap(group_end - kGroupPages)};
    bool room = true;
    Count(config_.stats->hinted_out, EvictSlice(&victim, kGroupPages, kGroupPages, &room));
    if (!room) {
      const uint64_t frames = staging_.Compact();
      config_.budget.Give(frames);
      if (frames > 0) continue;
    }
    if (const unsigned block = victim.block; block != Staging::kNoBlock) {
      // To the head of the queue, not behind what has been staged for longer, and out of it again.
      staging_.LastFirst();
      for (uint64_t p = page; p < end; ++p) config_.table[p].hot = 0;
      while (staging_.staged_of(block) != 0) {
        const Status s = Drain(kGroupPages);
        if (s.code() == Status::Code::kExhausted)
          return Status::Ok();  // No room in the pool: they stay staged.
        if (!s.ok()) return s;
      }
      (void)staging_.Oldest();  // Takes the block out of the queue.
      config_.budget.Give(staging_.DropBlock(block));
    }
    page = end;
  }
  return Status::Ok();
}

}  // namespace farpool
