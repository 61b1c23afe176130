#pragma once
// The monitor hand-off: absent pages are announced as events of the userfaultfd, also those that only the
// kernel touches (KVM guests, drivers with nested pointers), and a thread of the runtime's own resolves them.
// Slower than the direct hand-off by two thread switches a fault, and the user needs the right to kernel
// faults.

#include "farpool/status.h"

namespace farpool {

// Starts the thread; the userfaultfd is in its place. It lives as long as the process. Again in a forked
// child.
Status StartMonitor();

}  // namespace farpool
