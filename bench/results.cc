#include "bench/results.h"

#include <fmt/format.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/physical_memory.h"
#include "bench/chart.h"

namespace bench {

namespace {

std::string CpuModel() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("model name") && line.find(": ") != std::string::npos)
      return line.substr(line.find(": ") + 2);
  return "unknown";
}

nlohmann::ordered_json Machine() {
  utsname names = {};
  uname(&names);
  return {{"cpu", CpuModel()},
          {"cpus", sysconf(_SC_NPROCESSORS_ONLN)},
          {"kernel", names.release},
          {"memory_bytes", farpool::PhysicalMemory()}};
}

// Values of `member` in order of first appearance.
std::vector<std::string> Distinct(const std::vector<Series>& series, std::string Series::*member) {
  std::vector<std::string> out;
  for (const Series& s : series)
    if (std::find(out.begin(), out.end(), s.*member) == out.end()) out.push_back(s.*member);
  return out;
}

}  // namespace

double MedianOf(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

double Series::Median() const { return MedianOf(values); }
double Series::Min() const { return *std::min_element(values.begin(), values.end()); }
double Series::Max() const { return *std::max_element(values.begin(), values.end()); }

Series& Results::Of(const std::string& config, const std::string& what, const std::string& metric,
                    const std::string& unit) {
  for (Series& s : series_)
    if (s.config == config && s.what == what && s.metric == metric) return s;
  return series_.emplace_back(Series{config, what, metric, unit, {}});
}

void Results::Add(const std::string& config, const std::string& what, const std::string& metric,
                  const std::string& unit, double value) {
  Of(config, what, metric, unit).values.push_back(value);
}

void Results::AddAtLeast(const std::string& config, const std::string& what, const std::string& metric,
                         const std::string& unit, double value) {
  Series& series = Of(config, what, metric, unit);
  series.values.push_back(value);
  series.at_least = true;
}

void Results::AddQuantile(const std::string& config, const std::string& what, const std::string& unit,
                          double quantile, double value) {
  for (Curve& curve : curves_)
    if (curve.config == config && curve.what == what) {
      for (auto& [at, values] : curve.quantiles)
        if (at == quantile) return values.push_back(value);
      return curve.quantiles.push_back({quantile, {value}});
    }
  curves_.push_back({config, what, unit, {{quantile, {value}}}});
}

void Results::Skip(const std::string& config, const std::string& reason) {
  skipped_.push_back(config + ": " + reason);
}

const Series* Results::Find(const std::string& config, const std::string& what,
                            const std::string& metric) const {
  for (const Series& s : series_)
    if (s.config == config && s.what == what && s.metric == metric) return &s;
  return nullptr;
}

std::string Results::Json() const {
  nlohmann::ordered_json out = {{"bench", name_}, {"machine", Machine()}};
  out["results"] = nlohmann::ordered_json::array();
  for (const Series& s : series_) {
    nlohmann::ordered_json line = {{"config", s.config}, {"case", s.what},         {"metric", s.metric},
                                   {"unit", s.unit},     {"median", s.Median()},   {"min", s.Min()},
                                   {"max", s.Max()},     {"runs", s.values.size()}};
    if (s.at_least) line["at_least"] = true;
    out["results"].push_back(std::move(line));
  }
  for (const Curve& curve : curves_) {
    nlohmann::ordered_json points = nlohmann::ordered_json::array();
    for (const auto& [quantile, values] : curve.quantiles) points.push_back({quantile, MedianOf(values)});
    out["quantiles"].push_back({{"config", curve.config},
                                {"case", curve.what},
                                {"unit", curve.unit},
                                {"points", std::move(points)}});
  }
  if (!skipped_.empty()) out["skipped"] = skipped_;
  return out.dump(2) + "\n";
}

std::string Results::Table() const {
  std::string out;
  if (name_ == "faults" || name_ == "scan") {
    out = PageTable();
  } else {
    for (const std::string& metric : Distinct(series_, &Series::metric))
      if (!metric.starts_with("moved") && metric != "footprint") out += MetricTable(metric);
  }
  for (const std::string& ratio : Ratios()) out += ratio + "\n";
  for (const std::string& skipped : skipped_) out += "not measured: " + skipped + "\n";
  return out;
}

std::string Spread(const Series& s) {
  const std::string median = (s.at_least ? "> " : "") + ShortNumber(s.Median());
  return s.Min() == s.Max() ? median
                            : fmt::format("{} ({}..{})", median, ShortNumber(s.Min()), ShortNumber(s.Max()));
}

const Series* Results::Base(const Series& s) const {
  const Series* const base = s.metric == "time" ? Find("unlimited", s.what, "time") : nullptr;
  return base != nullptr && s.config != "unlimited" ? base : nullptr;
}

// One line a case, one column a config.
std::string Results::MetricTable(const std::string& metric) const {
  std::vector<Series> of_metric;
  for (const Series& s : series_)
    if (s.metric == metric) of_metric.push_back(s);
  std::vector<std::vector<std::string>> rows(1);
  rows[0] = {fmt::format("{}, {} ({})", name_, metric, of_metric[0].unit)};
  const std::vector<std::string> configs = Distinct(of_metric, &Series::config);
  rows[0].insert(rows[0].end(), configs.begin(), configs.end());
  for (const std::string& what : Distinct(of_metric, &Series::what)) {
    rows.push_back({what});
    for (const std::string& config : configs) {
      const Series* const s = Find(config, what, metric);
      const Series* const base = s == nullptr ? nullptr : Base(*s);
      rows.back().push_back(s == nullptr ? "-"
                            : base == nullptr
                                ? Spread(*s)
                                : fmt::format("{} {:.2f}x", Spread(*s), s->Median() / base->Median()));
    }
  }
  std::string out;
  std::vector<size_t> width(rows[0].size());
  for (const auto& row : rows)
    for (size_t i = 0; i < row.size(); ++i) width[i] = std::max(width[i], row[i].size());
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i)
      out += i == 0 ? fmt::format("{:<{}}", row[i], width[i]) : fmt::format("  {:>{}}", row[i], width[i]);
    out += "\n";
  }
  return out + "\n";
}

std::string Results::PageTable() const {
  std::string out;
  for (const std::string& what : Distinct(series_, &Series::what)) {
    std::vector<Series> rows;
    for (const Series& s : series_)
      if (s.what == what) rows.push_back(s);
    const std::vector<std::string> metrics = Distinct(rows, &Series::metric);
    out += fmt::format("{:<16}", name_ + " " + what);
    for (const std::string& metric : metrics) {
      const auto unit =
          std::find_if(rows.begin(), rows.end(), [&](const Series& s) { return s.metric == metric; });
      out += fmt::format("{:>26}", metric + " (" + unit->unit + ")");
    }
    out += "\n";
    for (const std::string& config : Distinct(rows, &Series::config)) {
      out += fmt::format("  {:<14}", config);
      for (const std::string& metric : metrics) {
        const Series* const s = Find(config, what, metric);
        out += fmt::format("{:>26}", s == nullptr ? "-" : Spread(*s));
      }
      out += "\n";
    }
    out += "\n";
  }
  return out;
}

std::vector<std::string> Results::Ratios() const {
  std::vector<std::string> out;
  if (name_ != "faults" && name_ != "scan" && name_ != "limits") return out;
  const auto add = [&out](const std::string& name, const Series* a, const Series* b) {
    if (a != nullptr && b != nullptr && b->Median() > 0)
      out.push_back(fmt::format("{:<52} {:.2f}", name, a->Median() / b->Median()));
  };
  for (const std::string& config : Distinct(series_, &Series::config))
    for (const std::string& what : Distinct(series_, &Series::what)) {
      if (config == "floor" || config == "raw-tcp") continue;
      const std::string of = config + " " + what;
      if (config != "even") add(of + ": time / even", Find(config, what, "time"), Find("even", what, "time"));
      add(of + ": p50 / floor p50", Find(config, what, "p50"), Find("floor", "page", "p50"));
      add(of + ": p99 / p50", Find(config, what, "p99"), Find(config, what, "p50"));
      if (config.starts_with("farpool-tcp"))
        add(of + ": p50 / raw-tcp p50", Find(config, what, "p50"), Find("raw-tcp", "page", "p50"));
      if (what == "random-read-2")
        add(of + ": faults per second / one thread's", Find(config, what, "rate"),
            Find(config, "random-read", "rate"));
      if (config == "zram") continue;
      add(of + ": faults per second / zram", Find(config, what, "rate"), Find("zram", what, "rate"));
      add(of + ": touches per second / zram", Find(config, what, "touches"), Find("zram", what, "touches"));
      add(of + ": throughput / zram", Find(config, what, "throughput"), Find("zram", what, "throughput"));
    }
  return out;
}

std::vector<std::string> Results::Configs() const { return Distinct(series_, &Series::config); }
std::vector<std::string> Results::Cases() const { return Distinct(series_, &Series::what); }

std::string MachineText() {
  const nlohmann::ordered_json machine = Machine();
  return fmt::format("{}, {} CPUs, {:.0f} GiB, Linux {}", machine["cpu"].get<std::string>(),
                     machine["cpus"].get<long>(), machine["memory_bytes"].get<double>() / (1 << 30),
                     machine["kernel"].get<std::string>());
}

}  // namespace bench
