#pragma once
// Ranges that must not be evicted while the kernel works on them (a system call with a far buffer).
//
// Protocol (Dekker): a guard publishes its range, fences, and waits while the evictor's announced range
// overlaps; the evictor announces its range, fences, and gives up if a pin overlaps. So once Pin() has
// returned, a page of the range that is touched stays resident until Unpin(). Any thread; no locks, usable in
// signal handlers.

#include <atomic>
#include <cstdint>

#include "base/clock.h"

namespace farpool {

class Pins {
 public:
  static constexpr unsigned kPinsMax = 128;  // Threads of one process inside guarded calls at once.

  // Pins [begin, end). `owner` names the thread (any unique number), `stack` its stack pointer: a pin of the
  // same owner from deeper down the stack was abandoned by a longjmp and is taken over. Returns a handle, or
  // -1 when all are taken (the caller goes on unpinned and relies on its retry).
  int Pin(uintptr_t begin, uintptr_t end, uintptr_t owner, uintptr_t stack, bool first = false) {
    for (unsigned probe = 0; probe < kPinsMax; ++probe) {
      const unsigned i = static_cast<unsigned>(owner + probe) % kPinsMax;
      Slot& slot = slots_[i];
      uintptr_t holder = slot.owner.load(std::memory_order_relaxed);
      const bool abandoned = holder == owner && (slot.stack < stack || (first && slot.stack == stack));
      if (holder != 0 && !abandoned) continue;
      if (!abandoned && !slot.owner.compare_exchange_strong(holder, owner, std::memory_order_acquire))
        continue;
      slot.stack = stack;
      slot.begin.store(begin, std::memory_order_relaxed);
      slot.end.store(end, std::memory_order_relaxed);
      std::atomic_thread_fence(std::memory_order_seq_cst);
      while (evicting_begin_.load(std::memory_order_relaxed) < end &&
             evicting_end_.load(std::memory_order_relaxed) > begin)
        SpinPause();
      std::atomic_thread_fence(std::memory_order_acquire);
      return static_cast<int>(i);
    }
    return -1;
  }
  void Unpin(int handle) {
    if (handle < 0) return;
    Slot& slot = slots_[handle];
    slot.begin.store(0, std::memory_order_relaxed);
    slot.end.store(0, std::memory_order_relaxed);
    slot.owner.store(0, std::memory_order_release);
  }

  // Drops the pins of owners of which `gone(owner)` is true: threads that ended inside a call (cancelled).
  template <typename Gone>
  void Reclaim(Gone&& gone) {
    for (Slot& slot : slots_) {
      uintptr_t owner = slot.owner.load(std::memory_order_acquire);
      if (owner == 0 || owner == kReclaiming || !gone(owner)) continue;
      // Two may come at once, and what the first has freed may be a third one's by now.
      if (slot.owner.compare_exchange_strong(owner, kReclaiming, std::memory_order_acquire))
        Unpin(static_cast<int>(&slot - slots_));
    }
  }

  // Evictor (one at a time): true if [begin, end) may go; then call EndEvict() once it is gone.
  bool BeginEvict(uintptr_t begin, uintptr_t end) {
    evicting_begin_.store(begin, std::memory_order_relaxed);
    evicting_end_.store(end, std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    for (const Slot& slot : slots_) {
      if (slot.end.load(std::memory_order_relaxed) > begin &&
          slot.begin.load(std::memory_order_relaxed) < end) {
        EndEvict();
        return false;
      }
    }
    return true;
  }
  void EndEvict() {
    evicting_end_.store(0, std::memory_order_release);
    evicting_begin_.store(UINTPTR_MAX, std::memory_order_release);
  }
  // In a forked child: the other threads' pins are not ours.
  void Reset() {
    for (Slot& slot : slots_) {
      slot.owner.store(0);
      slot.begin.store(0);
      slot.end.store(0);
    }
    EndEvict();
  }

 private:
  static constexpr uintptr_t kReclaiming = UINTPTR_MAX;  // Nobody's number.
  struct Slot {
    std::atomic<uintptr_t> owner{0};
    std::atomic<uintptr_t> begin{0};
    std::atomic<uintptr_t> end{0};
    uintptr_t stack = 0;  // Only the owner looks.
  };
  Slot slots_[kPinsMax];
  std::atomic<uintptr_t> evicting_begin_{UINTPTR_MAX};
  std::atomic<uintptr_t> evicting_end_{0};
};

}  // namespace farpool
