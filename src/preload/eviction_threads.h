#pragma once
// Two threads that evict beside the program's own, whose faults evict what they need themselves.
//
// The evictor gives memory of this process to others of the run: a process that sits on more than its share,
// perhaps asleep, would leave the others with next to nothing. The writer hashes and stores what streams
// evict (paging/writer.h), where a processor is free for that. Without them others get less, and streams take
// longer; nothing is wrong for that.

namespace farpool {

// Starts those that do not run. Once this process has used up the limit. Any context.
void StartEvictionThreads();
// Ends them (OwnThread::Stop); true if there was one.
bool StopEvictionThreads();
// In a forked child: there are none.
void EvictionThreadsAfterFork();

}  // namespace farpool
