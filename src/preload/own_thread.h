#pragma once
// Threads of the runtime's own inside the program: the monitor, the evictor and the prefetcher. The program's
// libc does not know of them.

#include "farpool/status.h"

namespace farpool {

// Starts a thread that runs `entry`, which never returns, with all signals blocked. It has a near stack and
// storage of its own and lives as long as the process; a forked child is without it. Any context.
Status StartOwnThread(void (*entry)());
// In a forked child: there are none.
void OwnThreadsAfterFork();
// True if the calling thread, which is about to end, is the last of the program's.
bool OnlyOwnThreadsStay();

}  // namespace farpool
