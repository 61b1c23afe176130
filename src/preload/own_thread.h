#pragma once
// Threads of the runtime's own inside the program: the monitor, the evictor, the writer and the prefetcher.
// The program's libc does not know of them.

#include <atomic>

#include "farpool/status.h"

namespace farpool {

// Starts a thread that runs `entry`, which never returns, with all signals blocked. It has a near stack and
// storage of its own and lives as long as the process; a forked child is without it. Any context.
Status StartOwnThread(void (*entry)());
// One that there is at most once in a process. Any context.
class OwnThread {
 public:
  constexpr explicit OwnThread(void (*entry)()) : entry_(entry) {}
  // Unless it runs, or this is a vfork child: a thread started there would be the child's, and end with it.
  // If there can be none, that is tried again next time.
  void Start();
  // In a forked child: it does not run.
  void AfterFork() { running_.store(false); }

 private:
  void (*const entry_)();
  std::atomic<bool> running_{false};
};
// In a forked child: there are none.
void OwnThreadsAfterFork();
// True if the calling thread, which is about to end, is the last of the program's.
bool OnlyOwnThreadsStay();

}  // namespace farpool
