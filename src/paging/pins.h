#pragma once
// Ranges that must not be evicted while the kernel works on them (a system call with a far buffer).
//
// Protocol (Dekker): a guard publishes its range, fences, and waits while the evictor's announced range
// overlaps; the evictor announces its range, fences, and gives up if a pin overlaps. So once Pin() has
// returned, a page of the range that is touched stays resident until Unpin(). Any thread; no locks, usable in
// signal handlers.

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "base/clock.h"

namespace farpool {

// To be made in memory that is zero: there is room for many, and a process that starts touches none of it.
class Pins {
 public:
  static constexpr unsigned kPinsMax = 8192;  // Ranges of one process inside guarded calls at once.
  static constexpr unsigned kKeptMax = 4096;  // Ranges the kernel works on between calls (io_submit).

  // Pins [begin, end). `owner` names the thread (any unique number), `stack` its stack pointer: a pin of the
  // same owner from deeper down the stack was abandoned by a longjmp and is taken over; not so if the caller
  // is a handler on the alternate stack [alternate, alternate_end) and the pin is of the stack it
  // interrupted. Returns a handle, or -1 when all are taken (the caller goes on unpinned and relies on its
  // retry).
  int Pin(uintptr_t begin, uintptr_t end, uintptr_t owner, uintptr_t stack, bool first = false,
          uintptr_t alternate = 0, uintptr_t alternate_end = 0) {
    const bool handler = stack > alternate && stack <= alternate_end;
    for (unsigned probe = 0; probe < kPinsMax; ++probe) {
      // Each thread begins at another one, neighbours in different cache lines, among the few that usually
      // do: the evictor looks at those alone then.
      const uintptr_t own = owner * kPinsApart + owner / (kPinsUsual / kPinsApart) % kPinsApart;
      const unsigned i = probe < kPinsUsual ? static_cast<unsigned>(own + probe) % kPinsUsual : probe;
      Slot& slot = slots_[i];
      uintptr_t holder = slot.Owner().load(std::memory_order_relaxed);
      const bool abandoned = holder == owner && (slot.stack < stack || (first && slot.stack == stack)) &&
                             (!handler || (slot.stack > alternate && slot.stack <= alternate_end));
      if (holder != 0 && !abandoned) continue;
      if (!abandoned && !slot.Owner().compare_exchange_strong(holder, owner, std::memory_order_acquire))
        continue;
      slot.stack = stack;
      RaiseTo(i + 1, &pins_used_);
      Announce(&slot, begin, end);
      return static_cast<int>(i);
    }
    return -1;
  }
  void Unpin(int handle) {
    if (handle < 0) return;
    slots_[handle].Clear();
  }

  // Pins [begin, end) until Release() with the same key and group, or with the group alone. False when all
  // are taken. `key` is not zero.
  bool Keep(uintptr_t begin, uintptr_t end, uintptr_t key, uintptr_t group) {
    for (unsigned i = 0; i < kKeptMax; ++i) {
      uintptr_t free = 0;
      if (kept_[i].Owner().load(std::memory_order_relaxed) != 0 ||
          !kept_[i].Owner().compare_exchange_strong(free, kClaimed, std::memory_order_acquire))
        continue;
      RaiseTo(i + 1, &kept_used_);
      kept_[i].stack = group;
      Announce(&kept_[i], begin, end);
      kept_[i].Owner().store(key, std::memory_order_release);
      return true;
    }
    return false;
  }
  void Release(uintptr_t key, uintptr_t group) {
    ReleaseIf([&](const Slot& slot, uintptr_t owner) { return owner == key && slot.stack == group; });
  }
  void ReleaseGroup(uintptr_t group) {
    ReleaseIf([&](const Slot& slot, uintptr_t) { return slot.stack == group; });
  }

  // Drops the pins of owners of which `gone(owner)` is true: threads that ended inside a call (cancelled).
  template <typename Gone>
  void Reclaim(Gone&& gone) {
    const unsigned used = pins_used_.load(std::memory_order_acquire);
    for (unsigned i = 0; i < used; ++i) {
      Slot& slot = slots_[i];
      uintptr_t owner = slot.Owner().load(std::memory_order_acquire);
      if (owner == 0 || owner == kClaimed || !gone(owner)) continue;
      // Two may come at once, and what the first has freed may be a third one's by now.
      if (slot.Owner().compare_exchange_strong(owner, kClaimed, std::memory_order_acquire))
        Unpin(static_cast<int>(i));
    }
  }

  // Evictor (one at a time): true if [begin, end) may go; then call EndEvict() once it is gone.
  bool BeginEvict(uintptr_t begin, uintptr_t end) {
    evicting_begin_.store(begin, std::memory_order_relaxed);
    evicting_end_.store(end, std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    bool pinned = false;
    const unsigned used = pins_used_.load(std::memory_order_relaxed);
    for (unsigned i = 0; i < used; ++i) pinned |= slots_[i].Overlaps(begin, end);
    const unsigned kept = kept_used_.load(std::memory_order_relaxed);
    for (unsigned i = 0; i < kept; ++i) pinned |= kept_[i].Overlaps(begin, end);
    if (pinned) EndEvict();
    return !pinned;
  }
  void EndEvict() {
    evicting_end_.store(0, std::memory_order_release);
    evicting_begin_.store(UINTPTR_MAX, std::memory_order_release);
  }
  // In a forked child: the other threads' pins are not ours.
  void Reset() {
    for (unsigned i = 0; i < pins_used_.load(std::memory_order_relaxed); ++i) slots_[i].Clear();
    for (unsigned i = 0; i < kept_used_.load(std::memory_order_relaxed); ++i) kept_[i].Clear();
    EndEvict();
  }

 private:
  // None of it is initialised: see the class.
  struct Slot {
    uintptr_t owner, begin, end;
    uintptr_t stack;  // Only the owner looks. Of a kept one: its group.
    std::atomic_ref<uintptr_t> Owner() { return std::atomic_ref(owner); }
    bool Overlaps(uintptr_t from, uintptr_t to) {
      return std::atomic_ref(end).load(std::memory_order_relaxed) > from &&
             std::atomic_ref(begin).load(std::memory_order_relaxed) < to;
    }
    void SetRange(uintptr_t from, uintptr_t to) {
      std::atomic_ref(begin).store(from, std::memory_order_relaxed);
      std::atomic_ref(end).store(to, std::memory_order_relaxed);
    }
    void Clear() {
      SetRange(0, 0);
      Owner().store(0, std::memory_order_release);
    }
  };
  static constexpr unsigned kPinsUsual = 256;
  static constexpr size_t kCacheLine = 64;
  static constexpr unsigned kPinsApart = kCacheLine / sizeof(Slot);
  static constexpr uintptr_t kClaimed = UINTPTR_MAX;  // Owner of one that is being filled in or taken back.

  static void RaiseTo(unsigned count, std::atomic<unsigned>* used) {
    unsigned before = used->load(std::memory_order_relaxed);
    while (before < count && !used->compare_exchange_weak(before, count, std::memory_order_relaxed)) {
    }
  }
  void Announce(Slot* slot, uintptr_t begin, uintptr_t end) {
    slot->SetRange(begin, end);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    while (evicting_begin_.load(std::memory_order_relaxed) < end &&
           evicting_end_.load(std::memory_order_relaxed) > begin)
      SpinPause();
    std::atomic_thread_fence(std::memory_order_acquire);
  }
  template <typename Which>
  void ReleaseIf(Which&& which) {
    const unsigned kept = kept_used_.load(std::memory_order_acquire);
    for (unsigned i = 0; i < kept; ++i) {
      const uintptr_t owner = kept_[i].Owner().load(std::memory_order_acquire);
      if (owner != 0 && owner != kClaimed && which(kept_[i], owner)) kept_[i].Clear();
    }
  }

  std::atomic<unsigned> pins_used_{kPinsUsual}, kept_used_{0};  // None beyond was ever used.
  std::atomic<uintptr_t> evicting_begin_{UINTPTR_MAX};
  std::atomic<uintptr_t> evicting_end_{0};
  alignas(kCacheLine) Slot slots_[kPinsMax];
  Slot kept_[kKeptMax];
};

}  // namespace farpool
