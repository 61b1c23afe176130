#pragma once
// The shared state of a run, filled with what the program's processes are to know from the start.

#include <string>

#include "base/fd.h"
#include "farpool/status.h"
#include "run/segment.h"
#include "supervisor/run.h"

namespace farpool {

// `library`: path of the runtime. The segment's file goes to `*fd`; it is mapped for good.
Result<RunSegment*> MakeSegment(const RunOptions& options, const std::string& library, Fd* fd);

}  // namespace farpool
