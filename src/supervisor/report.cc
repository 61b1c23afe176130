#include "supervisor/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/size_text.h"
#include "farpool/types.h"

namespace farpool {

namespace {

double Share(uint64_t part, uint64_t whole) {
  return whole == 0 ? 0.0 : static_cast<double>(part) / static_cast<double>(whole);
}

// Everything the report says beyond what was counted. All shares are 0..1, and 0 where nothing was counted.
struct Derived {
  uint64_t faults = 0;
  double fetch_share = 0, second_chance_share = 0, first_touch_share = 0;  // Of all faults.
  double mean_fault_us = 0;
  uint64_t evictions = 0;
  double clean_share = 0;        // Evictions that needed no write, zero pages included.
  double prefetch_accuracy = 0;  // Of pages prefetched, those that were then used.
  double stall_share = 0;        // Of wall time; more than 1 when several threads waited at once.
};

// What a larger limit would have cost, as far as this run tells: a page that came back after others had left
// would still have been here with room for those. What a smaller one would cost it does not tell.
struct AtLimit {
  double times;
  uint64_t bytes;
  uint64_t fetches;
  double wall_s;
};

std::vector<AtLimit> AtLargerLimits(const RunReport& r) {
  std::vector<AtLimit> limits;
  // Threads that wait at once do not add up.
  const double overlap = r.stall_s > r.wall_s ? r.wall_s / r.stall_s : 1;
  for (const double times : {1.25, 1.5, 2.0, 3.0}) {
    uint64_t saved = 0;
    for (unsigned i = 0; i < (times - 1) * PagingStats::kDistancesPerLimit; ++i) saved += r.distances[i];
    saved = std::min(saved, r.fetch.count);
    limits.push_back({times, static_cast<uint64_t>(static_cast<double>(r.local_limit_bytes) * times),
                      r.fetch.count - saved,
                      r.wall_s - static_cast<double>(saved) * r.fetch.mean_us / 1e6 * overlap});
  }
  return limits;
}

Derived Derive(const RunReport& r) {
  Derived d;
  d.faults = r.fetch.count + r.second_chance.count + r.first_touch.count;
  d.fetch_share = Share(r.fetch.count, d.faults);
  d.second_chance_share = Share(r.second_chance.count, d.faults);
  d.first_touch_share = Share(r.first_touch.count, d.faults);
  if (d.faults != 0) {
    const auto sum_us = [](const LatencyReport& l) { return l.mean_us * static_cast<double>(l.count); };
    d.mean_fault_us =
        (sum_us(r.fetch) + sum_us(r.second_chance) + sum_us(r.first_touch)) / static_cast<double>(d.faults);
  }
  d.evictions = r.pages_out + r.pages_clean + r.pages_zero;
  d.clean_share = Share(r.pages_clean + r.pages_zero, d.evictions);
  d.prefetch_accuracy = Share(r.prefetch_hits, r.pages_prefetched);
  d.stall_share = r.wall_s > 0 ? r.stall_s / r.wall_s : 0;
  return d;
}

// Worth a word: the run cannot become much smaller here, whatever --local says.
bool MostlyNear(const RunReport& r) {
  constexpr uint64_t kNearMin = uint64_t{64} << 20;
  return r.near_peak_bytes >= kNearMin && r.near_peak_bytes > r.peak_far_bytes;
}

std::string Percent(double share) { return fmt::format("{:.1f} %", share * 100); }

// "farpool: label       text".
void Line(std::string* out, const char* label, const std::string& text) {
  *out += fmt::format("farpool: {:<15} {}\n", label, text);
}

void FaultLine(std::string* out, const char* label, const LatencyReport& l, double share) {
  *out += fmt::format("farpool:   {:<13} {:>12} {:>8} {:>9.1f} {:>9.1f} {:>9.1f} {:>9.1f} {:>10.1f}\n", label,
                      l.count, Percent(share), l.mean_us, l.p50_us, l.p90_us, l.p99_us, l.max_us);
}

nlohmann::ordered_json ToJson(const LatencyReport& l) {
  return {{"count", l.count},   {"p50_us", l.p50_us}, {"p90_us", l.p90_us},
          {"p99_us", l.p99_us}, {"max_us", l.max_us}, {"mean_us", l.mean_us}};
}

}  // namespace

std::string ReportText(const RunReport& r) {
  const Derived d = Derive(r);
  // A command may hold a line break; each line of the report begins with "farpool: ".
  std::string command = r.command;
  for (char& c : command)
    if (static_cast<unsigned char>(c) < 0x20) c = ' ';
  std::string out;
  Line(&out, "command", fmt::format("{} (exit status {})", command, r.exit_status));
  Line(&out, "time",
       fmt::format("{:.2f} s, {} {} with far memory", r.wall_s, r.processes,
                   r.processes == 1 ? "process" : "processes"));
  if (r.processes != 0)
    Line(&out, "how",
         fmt::format("hand-off {}, pages placed by {}, evicted by {}", r.handoff, r.fill, r.evict));
  Line(&out, "pool", r.pool);
  Line(&out, "resident",
       fmt::format("peak {} of {} allowed", FormatSize(r.peak_resident_bytes),
                   FormatSize(r.local_limit_bytes)));
  Line(&out, "far memory",
       fmt::format("peak {}, {} held by donors at the end, {} metadata", FormatSize(r.peak_far_bytes),
                   FormatSize(r.stored_bytes), FormatSize(r.metadata_bytes)));
  Line(&out, "near memory",
       fmt::format("peak {}, sampled at most each second", FormatSize(r.near_peak_bytes)));
  if (MostlyNear(r))
    Line(&out, "hint", "most memory stayed near; farpool-run(1), NEAR MEMORY, says what and why");
  Line(&out, "moved",
       fmt::format("in {} ({} pages), out {} ({} pages)", FormatSize(r.bytes_in), r.pages_in,
                   FormatSize(r.bytes_out), r.pages_out));
  if (r.packed_in_pages + r.packed_out_pages != 0)
    Line(&out, "compressed",
         fmt::format("in {} to {}, out {} to {}", FormatSize(r.packed_in_pages * kPageBytes),
                     FormatSize(r.packed_in_bytes), FormatSize(r.packed_out_pages * kPageBytes),
                     FormatSize(r.packed_out_bytes)));
  Line(&out, "stalled",
       fmt::format("{:.2f} s in faults over all threads, {} of the run time", r.stall_s,
                   Percent(d.stall_share)));
  Line(&out, "faults", fmt::format("{}, mean {:.1f} us", d.faults, d.mean_fault_us));
  if (d.faults != 0) {
    out += fmt::format("farpool:   {:<13} {:>12} {:>8} {:>9} {:>9} {:>9} {:>9} {:>10}\n", "", "count",
                       "share", "mean us", "p50 us", "p90 us", "p99 us", "max us");
    FaultLine(&out, "from donor", r.fetch, d.fetch_share);
    FaultLine(&out, "second chance", r.second_chance, d.second_chance_share);
    FaultLine(&out, "first touch", r.first_touch, d.first_touch_share);
  }
  if (r.fetch.count != 0) {
    std::string text;
    for (const AtLimit& at : AtLargerLimits(r))
      text += fmt::format("{} {:.1f} s at {}", text.empty() ? "about" : ",", at.wall_s, FormatSize(at.bytes));
    Line(&out, "more local", text);
  }
  Line(&out, "evictions",
       fmt::format("{}, {} without a write ({} clean, {} zero), {} beside faults", d.evictions,
                   Percent(d.clean_share), r.pages_clean, r.pages_zero,
                   Percent(Share(r.evicted_beside, d.evictions))));
  Line(&out, "prefetch", fmt::format("{} pages, {} used", r.pages_prefetched, Percent(d.prefetch_accuracy)));
  if (r.hinted_in + r.hinted_out != 0)
    Line(&out, "advice",
         fmt::format("{} pages brought in ahead, {} put out, as the program asked", r.hinted_in,
                     r.hinted_out));
  Line(&out, "system calls",
       fmt::format("{} prepared, {} trapped, {} failed on far memory", r.syscalls_prepared,
                   r.syscalls_trapped, r.efault_uncured));
  return out;
}

std::string ReportJson(const RunReport& r) {
  const Derived d = Derive(r);
  auto limits = nlohmann::ordered_json::array();
  for (const AtLimit& at : AtLargerLimits(r))
    limits.push_back({{"times", at.times},
                      {"local_limit_bytes", at.bytes},
                      {"fetches", at.fetches},
                      {"wall_s", at.wall_s}});
  const nlohmann::ordered_json out = {
      {"command", r.command},
      {"exit_status", r.exit_status},
      {"wall_s", r.wall_s},
      {"handoff", r.handoff},
      {"fill", r.fill},
      {"evict", r.evict},
      {"pool", r.pool},
      {"local_limit_bytes", r.local_limit_bytes},
      {"peak_resident_bytes", r.peak_resident_bytes},
      {"peak_far_bytes", r.peak_far_bytes},
      {"near_peak_bytes", r.near_peak_bytes},
      {"stored_bytes", r.stored_bytes},
      {"metadata_bytes", r.metadata_bytes},
      {"processes", r.processes},
      {"fetch", ToJson(r.fetch)},
      {"second_chance", ToJson(r.second_chance)},
      {"first_touch", ToJson(r.first_touch)},
      {"pages_in", r.pages_in},
      {"pages_out", r.pages_out},
      {"pages_clean", r.pages_clean},
      {"pages_zero", r.pages_zero},
      {"evicted_beside", r.evicted_beside},
      {"pages_prefetched", r.pages_prefetched},
      {"prefetch_hits", r.prefetch_hits},
      {"hinted_in", r.hinted_in},
      {"hinted_out", r.hinted_out},
      {"bytes_in", r.bytes_in},
      {"bytes_out", r.bytes_out},
      {"packed_in_pages", r.packed_in_pages},
      {"packed_in_bytes", r.packed_in_bytes},
      {"packed_out_pages", r.packed_out_pages},
      {"packed_out_bytes", r.packed_out_bytes},
      {"syscalls_prepared", r.syscalls_prepared},
      {"syscalls_trapped", r.syscalls_trapped},
      {"efault_uncured", r.efault_uncured},
      {"stall_s", r.stall_s},
      {"faults", d.faults},
      {"fetch_share", d.fetch_share},
      {"second_chance_share", d.second_chance_share},
      {"first_touch_share", d.first_touch_share},
      {"mean_fault_us", d.mean_fault_us},
      {"evictions", d.evictions},
      {"clean_share", d.clean_share},
      {"prefetch_accuracy", d.prefetch_accuracy},
      {"stall_share", d.stall_share},
      {"at_larger_limits", limits},
  };
  // An argument of the command need not be UTF-8.
  return out.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace farpool
