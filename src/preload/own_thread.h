#pragma once
// Threads of the runtime's own inside the program: the monitor, the evictor, the writer and the prefetcher.
// The program's libc does not know of them.

#include <atomic>
#include <cstdint>

#include "farpool/status.h"

namespace farpool {

// Starts a thread that runs `entry`, which never returns, with all signals blocked. It has a near stack and
// storage of its own and lives as long as the process; a forked child is without it. Any context.
Status StartOwnThread(void (*entry)());

// One that there is at most once in a process, and that can be ended.
class OwnThread {
 public:
  // `entry` never returns; it calls EndIfAsked() where it holds nothing, each time that `wake` ends its
  // sleep.
  constexpr OwnThread(void (*entry)(), void (*wake)()) : entry_(entry), wake_(wake) {}
  // Unless it runs, or this is a vfork child: a thread started there would be the child's, and end with it.
  // If there can be none, that is tried again next time. Any context.
  void Start();
  // Ends it and waits until the kernel has forgotten it; false if it did not run. Between HoldOwnThreads()
  // and LetOwnThreadsStart(); on a near stack.
  bool Stop();
  // In a forked child: it does not run.
  void AfterFork();
  // By the thread itself.
  void EndIfAsked();
  const std::atomic<bool>& asked() const { return asked_; }

 private:
  void (*const entry_)();
  void (*const wake_)();
  std::atomic<bool> running_{false};
  std::atomic<bool> asked_{false};   // To end.
  std::atomic<uint32_t> thread_{0};  // Its id, until the kernel clears it. Futex.
  uint64_t stack_ = 0;               // Kept for the next one.
};

// In between no OwnThread is started. One caller at a time; with the program's signals blocked.
void HoldOwnThreads();
void LetOwnThreadsStart();

// In a forked child: there are none.
void OwnThreadsAfterFork();
// True if the calling thread, which is about to end, is the last of the program's.
bool OnlyOwnThreadsStay();

}  // namespace farpool
