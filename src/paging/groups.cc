#include "paging/groups.h"

#include <sys/mman.h>
#include <sys/syscall.h>

#include "base/sys.h"

namespace farpool {

namespace {
// Looked at before giving up, and so many hot ones get another round.
constexpr unsigned kTriesMax = 256;
constexpr unsigned kHotTriesMax = kTriesMax / 2;
// One that is back before so small a share of the groups has left came back soon.
constexpr uint64_t kSoonShare = 5;
// Every so many that leave one is taken from those that are kept.
constexpr uint32_t kKeptTurn = 8;
// And at most this part of all is kept.
constexpr uint64_t kPassingShare = 10;
// That begin to be kept, for each that leaves.
constexpr unsigned kKeptAtOnce = 16;
}  // namespace

Status Groups::Init(uint64_t count) {
  const uint64_t bytes = count * sizeof(Group);
  const long map = sys::Call(SYS_mmap, nullptr, bytes, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (sys::Failed(map))
    return Status::FromErrno("mmap of the group table (a limit, ulimit -d or -v?)", static_cast<int>(-map));
  table_ = reinterpret_cast<Group*>(map);
  // Sparse.
  sys::Call(SYS_madvise, map, bytes, MADV_DONTDUMP);
  sys::Call(SYS_madvise, map, bytes, MADV_NOHUGEPAGE);
  return Status::Ok();
}

void Groups::Append(uint64_t group, Queue queue) {
  List& list = lists_[queue];
  Group& entry = table_[group];
  entry.queued = true;
  entry.next = 0;
  (list.tail != 0 ? table_[list.tail - 1].next : list.head) = static_cast<uint32_t>(group) + 1;
  list.tail = static_cast<uint32_t>(group) + 1;
  ++list.size;
}

uint64_t Groups::TakeHead(Queue queue) {
  List& list = lists_[queue];
  const uint64_t group = list.head - 1;
  list.head = table_[group].next;
  if (list.head == 0) list.tail = 0;
  --list.size;
  table_[group].queued = false;
  return group;
}

void Groups::Arrived(uint64_t group) {
  Group& entry = table_[group];
  ++entry.resident;
  entry.used = true;
  if (entry.away) {
    entry.away = false;
    if (departures_ - entry.left_at < (lists_[kPassing].size + lists_[kKept].size) / kSoonShare) {
      entry.hot = true;
      // It went for another that came back soon, and the next one in the queue would go for it. In a loop
      // that is wanted next, is back soon, and so on: each is sent away just before it is touched.
      if (entry.owed) TurnKept();
      ++owed_;
    }
  }
  if (!entry.queued) Append(group, kPassing);
}

void Groups::Prefer(uint64_t group) {
  if (!table_[group].hot) ++owed_;
  table_[group].hot = true;
}

bool Groups::TakeOwed() {
  if (owed_ == 0 || lists_[kKept].size == 0) return false;
  --owed_;
  return true;
}

// Some get another round: numbers below 16 that are spread as evenly as can be (multiples of the golden
// ratio; Knuth, The Art of Computer Programming 3, 6.4).
void Groups::TurnKept() {
  constexpr uint32_t kGolden = 2654435769;
  if (lists_[kKept].size == 0) return;
  for (uint32_t i = departures_ * kGolden >> 28; i > 0; --i) Append(TakeHead(kKept), kKept);
}

bool Groups::Next(Leaving* leaving) {
  unsigned kept = 0;
  const bool owed = TakeOwed();
  Queue queue = owed || ++turn_ % kKeptTurn == 0 ? kKept : kPassing;
  for (unsigned tries = 0; tries < kTriesMax;) {
    if (lists_[queue].head == 0) queue = queue == kKept ? kPassing : kKept;
    if (lists_[queue].head == 0) return false;
    const uint64_t group = TakeHead(queue);
    Group& entry = table_[group];
    if (entry.resident == 0) continue;  // Was queued once, and is looked at once.
    ++tries;
    if (entry.arriving > 0) {
      Append(group, queue);
      continue;
    }
    const uint64_t others = lists_[kPassing].size + lists_[kKept].size;
    const bool room =
        queue == kPassing && kept < kKeptAtOnce && lists_[kKept].size < others - others / kPassingShare;
    if ((entry.hot && tries <= others && tries <= kHotTriesMax) || room) {
      entry.hot = false;
      ++kept;
      Append(group, kKept);
      continue;
    }
    Leaves(group, owed && queue == kKept);
    *leaving = {group, queue};
    return true;
  }
  return false;
}

unsigned Groups::NextNeighbours(const Leaving& leaving, unsigned most) {
  unsigned count = 1;
  for (; count < most && lists_[leaving.from].head == leaving.group + count + 1; ++count) {
    const Group& next = table_[leaving.group + count];
    if (next.resident == 0 || next.arriving > 0 || next.hot) break;
    const bool owed = leaving.from == kKept && TakeOwed();
    Leaves(TakeHead(leaving.from), owed);
  }
  return count;
}

void Groups::Leaves(uint64_t group, bool owed) {
  table_[group].hot = false;
  table_[group].owed = owed;
  table_[group].away = true;
  table_[group].left_at = ++departures_;
  // In the queue again for whatever becomes or stays resident.
  Append(group, kPassing);
}

}  // namespace farpool
