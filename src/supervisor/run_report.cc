#include "supervisor/run_report.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <vector>

#include "base/writable.h"
#include "supervisor/flame_graph.h"
#include "supervisor/unwind.h"

namespace farpool {

namespace {

LatencyReport Latencies(const Histogram& histogram) {
  LatencyReport r;
  r.count = histogram.count();
  if (r.count == 0) return r;
  r.p50_us = static_cast<double>(histogram.PercentileNs(0.50)) / 1e3;
  r.p90_us = static_cast<double>(histogram.PercentileNs(0.90)) / 1e3;
  r.p99_us = static_cast<double>(histogram.PercentileNs(0.99)) / 1e3;
  r.max_us = static_cast<double>(histogram.max_ns()) / 1e3;
  r.mean_us = static_cast<double>(histogram.sum_ns()) / 1e3 / static_cast<double>(r.count);
  return r;
}

std::string Quoted(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) {
    if (!text.empty()) text += ' ';
    if (!word.empty() &&
        word.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                               "%+,-./:=@_") == std::string::npos) {
      text += word;
      continue;
    }
    text += '\'';
    for (char c : word) text += c == '\'' ? "'\\''" : std::string(1, c);
    text += '\'';
  }
  return text;
}

void WriteReport(const std::string& path, const std::string& text, FILE* dash) {
  if (path.empty()) return;
  if (path == "-") {
    fputs(text.c_str(), dash);
    fflush(dash);
    return;
  }
  std::ofstream file(path);
  file << text;
  if (!file.flush()) fprintf(stderr, "farpool: cannot write to '%s': %s\n", path.c_str(), strerror(errno));
}

Status CheckReportPath(const char* flag, const std::string& path) {
  if (path.empty() || path == "-") return Status::Ok();
  if (const int error = WhyNotWritable(path.c_str()); error != 0)
    return Status::InvalidArgument(
        (std::string(flag) + ": cannot write to '" + path + "': " + strerror(error)).c_str());
  return Status::Ok();
}

}  // namespace

RunReport MakeReport(const RunOptions& options, const RunSegment& segment, const std::string& pool) {
  RunReport r;
  r.command = Quoted(options.command);
  r.handoff = (segment.flags & RunSegment::kMonitor) != 0 ? "monitor" : "direct";
  r.fill = segment.copies.load() ? "copy" : "move";
  const bool pages = segment.devices.load() || (segment.flags & RunSegment::kNoRemap) != 0;
  r.evict = segment.copies.load() ? "copy" : pages ? "move" : "mremap";
  r.pool = pool;
  r.local_limit_bytes = segment.budget.limit.load() * kPageBytes;
  r.peak_resident_bytes = segment.budget.used_peak.load() * kPageBytes;
  r.peak_far_bytes = segment.budget.far_peak.load() * kPageBytes;
  r.processes = segment.processes_started.load();
  const PagingStats& s = segment.stats;
  r.fetch = Latencies(s.fetch);
  r.second_chance = Latencies(s.second_chance);
  r.first_touch = Latencies(s.first_touch);
  r.pages_in = s.pages_in.load();
  r.pages_out = s.pages_out.load();
  r.pages_clean = s.pages_clean.load();
  r.evicted_beside = s.evicted_beside.load();
  r.pages_zero = s.pages_zero.load();
  r.pages_prefetched = s.pages_prefetched.load();
  r.hinted_in = s.hinted_in.load();
  r.hinted_out = s.hinted_out.load();
  r.prefetch_hits = s.prefetch_hits.load();
  for (size_t i = 0; i < r.distances.size(); ++i) r.distances[i] = s.distances[i].load();
  r.bytes_in = r.pages_in * kPageBytes;
  r.bytes_out = r.pages_out * kPageBytes;
  const SlabTable& slabs = segment.slabs;
  r.packed_in_pages = slabs.packed_in_pages.load();
  r.packed_in_bytes = slabs.packed_in_bytes.load();
  r.packed_out_pages = slabs.packed_out_pages.load();
  r.packed_out_bytes = slabs.packed_out_bytes.load();
  r.syscalls_prepared = s.syscalls_prepared.sum();
  r.syscalls_trapped = s.syscalls_trapped.load();
  r.efault_uncured = s.efault_uncured.load();
  r.stall_s = static_cast<double>(s.fetch.sum_ns() + s.second_chance.sum_ns() + s.first_touch.sum_ns()) / 1e9;
  return r;
}

Status CheckReportPaths(const RunOptions& options) {
  for (const auto& [flag, path] :
       {std::pair("--report", &options.report_path), std::pair("--report-json", &options.report_json_path),
        std::pair("--trace", &options.trace_path)})
    if (Status s = CheckReportPath(flag, *path); !s.ok()) return s;
  return Status::Ok();
}

void WriteReports(const RunOptions& options, const RunReport& report, const RunSegment& segment) {
  if (!options.trace_path.empty()) {
    const std::vector<std::vector<std::string>> stacks = UnwindSamples(segment.trace);
    WriteReport(options.trace_path,
                FlameGraphSvg("Far faults of " + report.command + ": " + std::to_string(stacks.size()) +
                                  " samples of " + std::to_string(segment.trace.faults.load()),
                              stacks),
                stdout);
  }
  WriteReport(options.report_path, options.report_path.empty() ? "" : ReportText(report), stderr);
  WriteReport(options.report_json_path, options.report_json_path.empty() ? "" : ReportJson(report), stdout);
}

}  // namespace farpool
