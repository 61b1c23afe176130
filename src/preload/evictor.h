#pragma once
// The evictor: a thread that gives memory of this process to others of the run. Eviction for the process's
// own needs happens inside its faults; but a process that sits on more than its share, perhaps asleep, would
// leave the others with next to nothing.

namespace farpool {

// Starts it unless it runs. Once this process has used up the limit. Any context.
void StartEvictor();
// In a forked child: there is none.
void EvictorAfterFork();

}  // namespace farpool
