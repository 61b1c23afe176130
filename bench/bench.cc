#include "bench/bench.h"

#include <fmt/format.h>

#include <algorithm>
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

// An object, or an array of them.
std::string JsonText(const std::vector<Results>& all, bool array) {
  std::string text;
  for (const Results& results : all) text += (text.empty() ? "" : ",\n") + results.Json();
  return array ? "[\n" + text + "]\n" : text;
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
  std::string error;
  for (const std::string& name : options.names) {
    Results& results = all.emplace_back(name);
    Status s = RunOne(options, &results);
    if (s.ok() && InterruptGuard::interrupted()) s = Status::Unavailable("interrupted");
    if (!s.ok()) {
      error = "bench " + name + ": " + s.text();
      results.Skip("the rest", s.text());
    }
    fmt::print("{}", results.Table());
    std::fflush(stdout);
    if (!s.ok()) break;
  }
  // What was measured before a failure is not lost; where that is nothing, files stay as they are.
  const auto empty = [](const Results& results) { return results.series().empty(); };
  if (!error.empty() && std::all_of(all.begin(), all.end(), empty)) return error;
  const auto write = [&error](const std::string& path, const std::string& text) {
    const std::string failed = path.empty() ? "" : WriteFile(path, text);
    error += (error.empty() || failed.empty() ? "" : "; ") + failed;
  };
  write(options.json_path, JsonText(all, options.names.size() > 1));
  write(options.html_path, HtmlPage(all));
  return error;
}

}  // namespace bench
