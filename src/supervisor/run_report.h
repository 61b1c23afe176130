#pragma once
// Fills a run's report from its shared counters and writes what was asked for: report, JSON, flame graph.

#include <string>

#include "farpool/status.h"
#include "run/segment.h"
#include "supervisor/report.h"
#include "supervisor/run.h"

namespace farpool {

// What the segment tells; `pool` names the donors.
RunReport MakeReport(const RunOptions& options, const RunSegment& segment, const std::string& pool);

// Whether all that is to be written can be. Before the program starts, where that can be told; what fails at
// the end is said then.
Status CheckReportPaths(const RunOptions& options);

// Where something cannot be written the program's own result still counts: one line on stderr.
void WriteReports(const RunOptions& options, const RunReport& report, const RunSegment& segment);

}  // namespace farpool
