#pragma once
// The writer: a thread that hashes and stores what the program's faults evict (paging/writer.h), so that they
// need not where a processor is idle.

namespace farpool {

// Starts it unless it runs. Once this process has used up the limit. Any context.
void StartWriter();
// In a forked child: there is none.
void WriterAfterFork();

}  // namespace farpool
