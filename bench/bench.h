#pragma once
// `farpool bench`: runs programs under several kinds of far memory and compares them. Needs
// farpool-bench-worker and the programs of farpool-bench/ beside the farpool binary (../libexec), starts its
// own donors unless told a pool, and undoes what it set up (donors, swap, control groups, temporary files)
// also when it fails or is interrupted.

#include <string>
#include <vector>

namespace bench {

struct Options {
  std::vector<std::string> names;  // Of Benches(); at least one.
  std::string json_path;           // Empty: none.
  std::string html_path;           // Empty: none.
  std::string pool;                // Empty: donors of its own.
  bool quick = false;              // Smaller arrays, fewer cells, one run.
  bool smoke = false;              // Smaller still: everything is tried and verified, nothing measured.
  // For apps; empty: all.
  std::vector<std::string> apps;
  std::vector<std::string> configs;
  std::vector<unsigned> shares;  // Percent of the footprint.
};

struct Bench {
  std::string name;
  std::string what;
};
const std::vector<Bench>& Benches();
// What can stand in Options::apps and ::configs.
std::vector<std::string> AppNames();
std::vector<std::string> AppConfigs();

// Progress goes to stderr, tables to stdout. Returns an error message of one line, empty if all went well;
// what was measured before an error is printed and written all the same.
// Call from a process without other threads; SIGINT and SIGTERM end it in order.
std::string Run(const Options& options);

}  // namespace bench
