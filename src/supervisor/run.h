#pragma once
// `farpool run`: resolves the pool, opens the sessions with the donors, starts the program with the runtime
// preloaded, stays beside it as supervisor (signals, budget, slabs, loss of donors) and reports at the end.

#include <cstdint>
#include <string>
#include <vector>

#include "registry/pool_spec.h"
#include "store/lease/donors.h"

namespace farpool {

struct RunOptions {
  std::vector<PoolEntry> pool;       // Empty: a private donor on this host for this run.
  uint64_t private_donor_bytes = 0;  // With an empty pool; 0: three quarters of this host's memory.
  uint64_t local_bytes = 0;          // Resident far memory allowed; 0: use local_percent.
  unsigned local_percent = 50;       // Of the far footprint's peak so far, at least 16 MiB.
  uint64_t threshold_bytes = 0;      // Mappings smaller than this stay near; 0: the default (64 KiB).
  std::string near_programs;         // Programs whose memory stays near: comma list of names with * and ?.
  std::string handoff = "auto";      // auto, direct, monitor.
  Placement placement = Placement::kSlabs;
  SlabTable::Compress compress = SlabTable::kWhatIsSooner;
  bool via_swap = false;             // --via swap: no preloading.
  std::string report_path;           // Text report: a file, "-" for stderr, empty for none.
  std::string report_json_path;      // JSON report: a file, "-" for stdout, empty for none.
  std::string trace_path;            // Flame graph of far faults; empty for none.
  std::vector<std::string> command;  // Program and arguments, at least one.
};

inline constexpr int kExitDataLost = 74;
inline constexpr int kExitFarpoolFailed = 125;
inline constexpr int kExitCannotExecute = 126;
inline constexpr int kExitNotFound = 127;

// Runs to the end and returns the exit status for `farpool run`: the program's own, 128+n for a signal, or
// one of the above after one line on stderr. Call from the main thread of a process with no other threads.
int RunProgram(const RunOptions& options);

}  // namespace farpool
