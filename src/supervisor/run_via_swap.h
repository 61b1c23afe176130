#pragma once
// `farpool run --via swap`: for programs that nothing can be preloaded into, such as static ones. The command
// runs in a memory control group that may hold --local, above a swap device of the pool's memory; both go
// when it has ended.

#include "supervisor/run.h"

namespace farpool {

// As RunProgram(). Needs root.
int RunViaSwap(const RunOptions& options);

}  // namespace farpool
