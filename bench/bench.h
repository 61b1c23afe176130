#pragma once
// `farpool bench`: runs farpool-bench-worker under several kinds of far memory and compares them. Needs the
// worker beside the farpool binary (../libexec), starts its own donors unless told a pool, and undoes what it
// set up (donors, zram device, control group, temporary files) also when it fails or is interrupted.

#include <string>
#include <vector>

namespace bench {

struct Options {
  std::vector<std::string> names;  // Of faults, scan; at least one.
  std::string json_path;           // Empty: none.
  std::string html_path;           // Empty: none.
  std::string pool;                // Empty: donors of its own.
  bool quick = false;              // Smaller arrays, one run.
};

// True for what can stand in Options::names.
bool IsBench(const std::string& name);

// Progress goes to stderr, tables to stdout. Returns an error message of one line, empty if all went well.
// Call from a process without other threads; SIGINT and SIGTERM end it in order.
std::string Run(const Options& options);

}  // namespace bench
