#pragma once
// What keeps a process that serves swap from waiting for memory that only its own service can free.

#include "farpool/status.h"

namespace farpool {

// For the whole process, with one thread and before anything large or sparse is mapped. Needs root. `queues`:
// how many threads will serve requests, each with buffers of its own.
Status HardenProcess(unsigned queues);
// For each thread that serves requests or keeps the service going, as its first act.
void HardenThread();

}  // namespace farpool
