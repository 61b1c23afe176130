#pragma once
// Groups of neighbouring pages of the arena: what each has resident, and which one leaves next.
//
// What a loop over more than fits has brought would, first in first out, always be gone when it is wanted
// again. So most groups are kept and the rest passes through: a loop over twice the limit finds two fifths of
// itself resident. Nobody knows how kept groups are used, since touches of what is resident are not seen; now
// and then one goes, and stays if it comes back soon; then another goes for it. Random touches bring every
// group back soon, which makes this first in first out again. (After LIRS, Jiang and Zhang 2002, with
// departures for its recency.)
//
// Caller serialises.

#include <cstdint>

#include "farpool/status.h"

namespace farpool {

// Evicted together, as a rule.
inline constexpr unsigned kGroupPages = 64;

class Groups {
 public:
  struct Group {
    uint32_t next;      // In its queue.
    uint32_t left_at;   // Value of departures_ when it left.
    uint16_t resident;  // Pages resident: the caller takes off what is no longer.
    uint8_t arriving;   // Pages on their way in; the caller's. Such a group does not leave.
    bool queued : 1;
    bool away : 1;  // It left, and no page of it has come back.
    bool hot : 1;   // Came back soon: to be kept.
    bool owed : 1;  // It left for one that came back soon.
    bool used : 1;  // It may hold something, resident or not; the caller clears it.
  };
  static_assert(sizeof(Group) == 12);
  // Groups in the order they are looked at. Those that come go through kPassing, most of the others are
  // kKept.
  enum Queue : uint8_t { kPassing, kKept };
  struct Leaving {
    uint64_t group;
    Queue from;
  };

  // Maps the table for `count` groups; memory for it comes as it is used.
  Status Init(uint64_t count);

  Group& operator[](uint64_t group) { return table_[group]; }
  const Group& operator[](uint64_t group) const { return table_[group]; }
  // All its pages are resident, or were just now. No lock.
  bool Full(uint64_t group) const {
    return __atomic_load_n(&table_[group].resident, __ATOMIC_RELAXED) == kGroupPages;
  }

  // One more page is resident. If the group had left and is back soon it is worth more than what has been
  // kept for long.
  void Arrived(uint64_t group);
  // It is worth that by what the program says.
  void Prefer(uint64_t group);
  // The group whose pages leave next; it counts as gone. False if there is none.
  bool Next(Leaving* leaving);
  // How many groups, that one included, are neighbours and next anyway, `most` of them: they leave, too.
  unsigned NextNeighbours(const Leaving& leaving, unsigned most);
  // Calls `more(group)`, in the order of the queues, while it is true.
  template <typename More>
  void WalkQueued(More more) const {
    for (const List& list : lists_)
      for (uint32_t at = list.head; at != 0; at = table_[at - 1].next)
        if (!more(uint64_t{at} - 1)) return;
  }

 private:
  struct List {
    uint32_t head = 0;  // Groups + 1; 0: none.
    uint32_t tail = 0;
    uint64_t size = 0;
  };
  void Append(uint64_t group, Queue queue);
  uint64_t TakeHead(Queue queue);
  // Whether the next one is kept because it is owed to one that came back soon.
  bool TakeOwed();
  void TurnKept();
  void Leaves(uint64_t group, bool owed);

  Group* table_ = nullptr;
  List lists_[2];
  uint32_t departures_ = 0;
  uint32_t turn_ = 0;  // Counts those that left.
  uint32_t owed_ = 0;  // To be taken from kKept next.
};

}  // namespace farpool
