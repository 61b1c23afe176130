#pragma once
// The prefetcher: a thread that brings in what the program said it will need (MADV_WILLNEED), while the
// program goes on.

namespace farpool {

// There is something to do; starts it unless it runs. Any context.
void CallPrefetcher();
// Ends it (OwnThread::Stop), until the next call; true if there was one.
bool StopPrefetcher();
// In a forked child: there is none.
void PrefetcherAfterFork();

}  // namespace farpool
