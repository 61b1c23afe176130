#include "bench/bench.h"

#include <fmt/format.h>

#include <cstdio>
#include <cstring>
#include <fstream>

#include "base/writable.h"
#include "bench/benches.h"
#include "bench/process.h"

namespace bench {

namespace {

std::string WriteFile(const std::string& path, const std::string& text) {
  std::ofstream file(path);
  file << text;
  file.close();
  return file.good() ? "" : path + " could not be written";
}

Status RunOne(const Options& options, Results* results) {
  if (results->name() == "apps") return RunApps(options, results);
  if (results->name() == "limits") return RunLimits(options, results);
  if (results->name() == "scale") return RunScale(options, results);
  if (results->name() == "swap") return RunSwap(options, results);
  return RunFaultsOrScan(options, results);
}

}  // namespace

const std::vector<Bench>& Benches() {
  static const std::vector<Bench> benches = {
      {"faults", "single random touches"},
      {"scan", "passes over an array"},
      {"apps", "whole programs at shares of their memory"},
      {"limits", "two donors of unequal bandwidth"},
      {"scale", "many donors, many programs"},
      {"swap", "swap devices, beside nbdkit and nvme-tcp"},
  };
  return benches;
}

std::string Run(const Options& options) {
  // Said now, not after hours of measuring.
  for (const std::string& path : {options.json_path, options.html_path})
    if (const int error = path.empty() ? 0 : farpool::WhyNotWritable(path.c_str()); error != 0)
      return path + " could not be written: " + std::strerror(error);
  const InterruptGuard guard;
  std::vector<Results> all;
  std::string failed;
  for (const std::string& name : options.names) {
    Results& results = all.emplace_back(name);
    // What was measured before stays.
    if (const Status s = RunOne(options, &results); !s.ok()) {
      failed = "bench " + name + ": " + s.text();
      results.Skip("the rest", s.text());
    }
    fmt::print("{}", results.Table());
    std::fflush(stdout);
    if (!failed.empty()) break;
  }
  if (!options.json_path.empty()) {
    std::string text = all.size() == 1 ? all[0].Json() : "[\n";
    if (all.size() > 1) {
      for (size_t i = 0; i < all.size(); ++i) text += (i == 0 ? "" : ",\n") + all[i].Json();
      text += "]\n";
    }
    if (std::string error = WriteFile(options.json_path, text); !error.empty()) return error;
  }
  if (!options.html_path.empty())
    if (std::string error = WriteFile(options.html_path, HtmlPage(all)); !error.empty()) return error;
  return failed;
}

}  // namespace bench
