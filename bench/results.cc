#include "bench/results.h"

#include <fmt/format.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

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
          {"memory_bytes",
           static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<uint64_t>(sysconf(_SC_PAGESIZE))}};
}

std::string Number(double value) {
  if (value >= 1e6) return fmt::format("{:.1f}M", value / 1e6);
  if (value >= 1e4) return fmt::format("{:.1f}k", value / 1e3);
  return value >= 100 ? fmt::format("{:.0f}", value) : fmt::format("{:.2f}", value);
}

std::string Escape(const std::string& text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '&':
        out += "&amp;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

// Values of `member` in order of first appearance.
std::vector<std::string> Distinct(const std::vector<Series>& series, std::string Series::*member) {
  std::vector<std::string> out;
  for (const Series& s : series)
    if (std::find(out.begin(), out.end(), s.*member) == out.end()) out.push_back(s.*member);
  return out;
}

}  // namespace

double Series::Median() const {
  std::vector<double> sorted = values;
  std::sort(sorted.begin(), sorted.end());
  const size_t n = sorted.size();
  return n % 2 == 1 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
}
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
  if (!skipped_.empty()) out["skipped"] = skipped_;
  return out.dump(2) + "\n";
}

std::string Results::Table() const {
  std::string out = name_ == "apps" ? AppTable() : PageTable();
  for (const std::string& ratio : Ratios()) out += ratio + "\n";
  for (const std::string& skipped : skipped_) out += "not measured: " + skipped + "\n";
  return out;
}

// One line a program and share: seconds, and how many times that of unlimited.
std::string Results::AppTable() const {
  const std::vector<std::string> configs = Distinct(series_, &Series::config);
  std::string out = fmt::format("{:<14}", "seconds");
  for (const std::string& config : configs) out += fmt::format("{:>20}", config);
  out += "\n";
  for (const std::string& what : Distinct(series_, &Series::what)) {
    const Series* const unlimited = Find("unlimited", what, "time");
    out += fmt::format("{:<14}", what);
    for (const std::string& config : configs) {
      const Series* const s = Find(config, what, "time");
      std::string cell = s == nullptr ? "-" : fmt::format("{}{:.2f}", s->at_least ? "> " : "", s->Median());
      if (s != nullptr && s != unlimited)
        cell += fmt::format(" ({:.2f}x)", s->Median() / unlimited->Median());
      out += fmt::format("{:>20}", cell);
    }
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
        out +=
            fmt::format("{:>26}", s == nullptr            ? "-"
                                  : s->values.size() == 1 ? Number(s->Median())
                                                          : fmt::format("{} ({}..{})", Number(s->Median()),
                                                                        Number(s->Min()), Number(s->Max())));
      }
      out += "\n";
    }
    out += "\n";
  }
  return out;
}

std::vector<std::string> Results::Ratios() const {
  std::vector<std::string> out;
  const auto add = [&out](const std::string& name, const Series* a, const Series* b) {
    if (a != nullptr && b != nullptr && b->Median() > 0)
      out.push_back(fmt::format("{:<52} {:.2f}", name, a->Median() / b->Median()));
  };
  for (const std::string& config : Distinct(series_, &Series::config))
    for (const std::string& what : Distinct(series_, &Series::what)) {
      if (config == "floor" || config == "raw-tcp") continue;
      const std::string of = config + " " + what;
      add(of + ": p50 / floor p50", Find(config, what, "p50"), Find("floor", "page", "p50"));
      add(of + ": p99 / p50", Find(config, what, "p99"), Find(config, what, "p50"));
      if (config.starts_with("farpool-tcp"))
        add(of + ": p50 / raw-tcp p50", Find(config, what, "p50"), Find("raw-tcp", "page", "p50"));
      if (config == "zram") continue;
      add(of + ": faults per second / zram", Find(config, what, "rate"), Find("zram", what, "rate"));
      add(of + ": throughput / zram", Find(config, what, "throughput"), Find("zram", what, "throughput"));
    }
  return out;
}

std::string Results::HtmlSection() const {
  std::string out = fmt::format("<h2>{}</h2>\n", Escape(name_));
  for (const std::string& what : Distinct(series_, &Series::what)) {
    std::vector<Series> of_case;
    for (const Series& s : series_)
      if (s.what == what) of_case.push_back(s);
    for (const std::string& metric : Distinct(of_case, &Series::metric)) {
      std::vector<Series> bars;
      double most = 0;
      for (const Series& s : of_case)
        if (s.metric == metric) {
          bars.push_back(s);
          most = std::max(most, s.Max());
        }
      out += fmt::format("<h3>{}, {} ({})</h3>\n<svg width=\"760\" height=\"{}\" role=\"img\">\n",
                         Escape(what), Escape(metric), Escape(bars[0].unit), bars.size() * 24 + 4);
      for (size_t i = 0; i < bars.size(); ++i) {
        const auto x = [most](double value) { return 120 + (most > 0 ? 460 * value / most : 0); };
        const size_t y = i * 24;
        // The bar is the median, the line the range from the least to the most.
        out += fmt::format(
            "<text x=\"112\" y=\"{0}\" text-anchor=\"end\">{1}</text>"
            "<rect x=\"120\" y=\"{2}\" width=\"{3:.1f}\" height=\"16\" class=\"{4}\"/>"
            "<line x1=\"{5:.1f}\" x2=\"{6:.1f}\" y1=\"{7}\" y2=\"{7}\"/>"
            "<text x=\"{8:.1f}\" y=\"{0}\">{9}</text>\n",
            y + 16, Escape(bars[i].config), y + 4, x(bars[i].Median()) - 120,
            bars[i].config.starts_with("farpool") ? "ours" : "other", x(bars[i].Min()), x(bars[i].Max()),
            y + 12, x(bars[i].Max()) + 8, Number(bars[i].Median()));
      }
      out += "</svg>\n";
    }
  }
  out += "<pre>" + Escape(Table()) + "</pre>\n";
  return out;
}

std::string HtmlPage(const std::vector<Results>& all) {
  std::string out =
      "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>farpool "
      "bench</title>\n<style>\n"
      "body { font: 15px/1.5 sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; }\n"
      "svg text { font: 13px sans-serif; }\nsvg line { stroke: #333; stroke-width: 2; }\n"
      ".ours { fill: #2a7f62; }\n.other { fill: #b9bfc6; }\npre { font-size: 12px; overflow-x: auto; }\n"
      "</style>\n</head>\n<body>\n<h1>farpool bench</h1>\n";
  const nlohmann::ordered_json machine = Machine();
  out += fmt::format(
      "<p>{}, {} CPUs, Linux {}. Bars are medians, lines reach from the least to the most run.</p>\n",
      Escape(machine["cpu"].get<std::string>()), machine["cpus"].get<long>(),
      Escape(machine["kernel"].get<std::string>()));
  for (const Results& results : all) out += results.HtmlSection();
  return out + "</body>\n</html>\n";
}

}  // namespace bench
