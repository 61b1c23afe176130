#pragma once
// The prefetcher: a thread that brings in what the program said it will need (MADV_WILLNEED), while the
// program goes on.

namespace farpool {

// There is something to do; starts it unless it runs. Any context.
void CallPrefetcher();
// Ends it and waits for that; what it had still to do waits for the next call. With OwnThreadsHeld.
void StopPrefetcher();
// In a forked child: there is none.
void PrefetcherAfterFork();

}  // namespace farpool
