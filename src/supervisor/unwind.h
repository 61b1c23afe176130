#pragma once
// From what --trace sampled to names: stacks are unwound by the call frame information of the files that were
// mapped (libdwfl), at the end of the run, from the slices that were copied.

#include <string>
#include <vector>

#include "run/trace.h"

namespace farpool {

// For each sample its functions, outermost first; at least one each. Names come from the symbol tables, of
// functions without one from the file's name.
std::vector<std::vector<std::string>> UnwindSamples(const TraceRing& ring);

}  // namespace farpool
