// Futexes in far memory. A private futex is known by its address alone, so a waiter sleeps on although its
// page leaves, and can be woken without it. Only the first look at the word needs the page.

#include <linux/futex.h>
#include <sys/syscall.h>

#include <cerrno>
#include <cstddef>

#include "preload/guard.h"
#include "preload/own_thread.h"
#include "preload/prepare.h"
#include "preload/runtime.h"
#include "preload/thread.h"

namespace farpool {

namespace {

bool HasTimeout(int operation) {
  return operation == FUTEX_WAIT || operation == FUTEX_WAIT_BITSET || operation == FUTEX_LOCK_PI ||
         operation == 13 /*FUTEX_LOCK_PI2*/ || operation == FUTEX_WAIT_REQUEUE_PI;
}

bool HasSecondWord(int operation) {
  return operation == FUTEX_REQUEUE || operation == FUTEX_CMP_REQUEUE || operation == FUTEX_WAKE_OP ||
         operation == FUTEX_WAIT_REQUEUE_PI || operation == FUTEX_CMP_REQUEUE_PI;
}

}  // namespace

// Not pinned: a sleeper would keep its page here for as long as it sleeps, and an EFAULT costs nothing, since
// it comes before anything is done. Those with priority inheritance write to the word after the sleep, too.
long CallFutex(const GuardFrame* frame) {
  const int operation = static_cast<int>(frame->args[1]) & FUTEX_CMD_MASK;
  switch (operation) {
    case FUTEX_LOCK_PI:
    case FUTEX_UNLOCK_PI:
    case FUTEX_TRYLOCK_PI:
    case 13 /*FUTEX_LOCK_PI2*/:
    case FUTEX_WAIT_REQUEUE_PI:
    case FUTEX_CMP_REQUEUE_PI:
      return CallPrepared(frame);
  }
  const bool is_private = (frame->args[1] & FUTEX_PRIVATE_FLAG) != 0;
  const bool wakes = operation == FUTEX_WAKE || operation == FUTEX_WAKE_BITSET;
  if (wakes && is_private) return Forward(frame);
  const uintptr_t second = HasSecondWord(operation) ? frame->args[4] : 0;
  const uintptr_t timeout = HasTimeout(operation) ? frame->args[3] : 0;
  const bool far = InArena(frame->args[0]) || InArena(second) || InArena(timeout);
  for (int retry = 0;; ++retry) {
    const bool mapped = MakePresent(frame->args[0], sizeof(uint32_t)) &
                        MakePresent(second, sizeof(uint32_t)) & MakePresent(timeout, sizeof(timespec));
    const long r = Forward(frame);
    if (r != -EFAULT || !mapped || !far || retry == kFaultRetriesMax) return r;
    // One of them may be just leaving. What may not be touched stays the program's fault.
    if (!Allows(frame->args[0], sizeof(uint32_t), PROT_READ) ||
        !Allows(second, sizeof(uint32_t), PROT_READ) || !Allows(timeout, sizeof(timespec), PROT_READ))
      return r;
  }
}

// The words are named in memory only.
long CallFutexWaiters(const GuardFrame* frame, uint64_t count) {
  struct Waiter {
    uint64_t value, address;
    uint32_t flags, reserved;
  };
  if (frame->args[0] == 0 || count > 128) return CallPrepared(frame);
  for (int attempt = 0;; ++attempt) {
    bool far = false;
    for (uint64_t i = 0; i < count; ++i) {
      Waiter waiter;
      if (!CopyElement(&waiter, frame->args[0], i)) return CallPrepared(frame);
      far |= InArena(waiter.address);
      MakePresent(waiter.address, sizeof(uint32_t));
    }
    const long r = CallPrepared(frame);
    if (r != -EFAULT || !far || attempt >= kFaultRetriesMax) return r;
  }
}

namespace {

// What the kernel does to each robust futex of a thread that ends (kernel/futex/core.c calls it handling a
// futex death). `address` is aligned and readable.
void OwnerDied(uintptr_t address, uint32_t thread, bool inherits) {
  auto* word = reinterpret_cast<uint32_t*>(address);
  uint32_t value = __atomic_load_n(word, __ATOMIC_RELAXED);
  do {
    if ((value & FUTEX_TID_MASK) != thread) return;
  } while (!__atomic_compare_exchange_n(word, &value, (value & FUTEX_WAITERS) | FUTEX_OWNER_DIED, false,
                                        __ATOMIC_SEQ_CST, __ATOMIC_RELAXED));
  if (!inherits && (value & FUTEX_WAITERS) != 0) sys::Call(SYS_futex, word, FUTEX_WAKE, 1);
}

}  // namespace

// The kernel walks the list of robust mutexes that the thread still holds, and stops at the first absent
// page: whoever waits for one would wait for ever. So what is far is dealt with before.
long GuardThreadExit(const GuardFrame* frame) {
  constexpr unsigned kEntriesMax = 2048;  // The kernel's own bound (ROBUST_LIST_LIMIT).
  const auto me = static_cast<uintptr_t>(CurrentThread()->id);
  // What the kernel fills is on the near stack: the program's may be far, and evicted in that moment.
  const auto head_of = [](GuardFrame*) -> long {
    long at = 0;
    size_t bytes = 0;
    return sys::Call(SYS_get_robust_list, 0, &at, &bytes) == 0 ? at : 0;
  };
  const auto is_last = [](GuardFrame*) -> long { return OnlyOwnThreadsStay(); };
  const auto head_at = static_cast<uintptr_t>(OnNearStack(head_of, {}));
  robust_list_head head;
  if (head_at != 0 && CopyIn(&head, head_at, sizeof(head))) {
    const auto handle = [&](uintptr_t entry) {
      const uintptr_t word = (entry & ~uintptr_t{1}) + static_cast<uint64_t>(head.futex_offset);
      uint32_t value;
      if (InArena(word) && word % sizeof(uint32_t) == 0 && CopyIn(&value, word, sizeof(value)))
        OwnerDied(word, static_cast<uint32_t>(me), (entry & 1) != 0);
    };
    auto entry = reinterpret_cast<uintptr_t>(head.list.next);
    for (unsigned i = 0; i < kEntriesMax && (entry & ~uintptr_t{1}) != head_at; ++i) {
      uintptr_t next;
      if (!CopyIn(&next, entry & ~uintptr_t{1}, sizeof(next))) break;
      handle(entry);
      entry = next;
    }
    if (head.list_op_pending != nullptr) handle(reinterpret_cast<uintptr_t>(head.list_op_pending));
  }
  // A cancelled thread may have left calls in the middle.
  if (g_runtime.has_started())
    g_runtime.engine->pins().Reclaim([me](uintptr_t owner) { return owner == me; });
  if (OnNearStack(is_last, {}) != 0) sys::Call(SYS_exit_group, frame->args[0]);
  return Forward(frame);
}

}  // namespace farpool
