// The page of `farpool bench --html`: what there is to see in each bench's results.

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

#include "bench/chart.h"
#include "bench/results.h"

namespace bench {

namespace {

// Light and dark; each config has its colour everywhere.
constexpr const char kStyle[] = R"(<style>
:root { color-scheme: light dark; --back: #fcfcfb; --text: #24292e; --dim: #69727b; --grid: #e3e6e8; --line: #9aa2a9; }
@media (prefers-color-scheme: dark) { :root { --back: #1b1e21; --text: #dde1e4; --dim: #99a2aa; --grid: #31363b; --line: #6b747c; } }
body { background: var(--back); color: var(--text); font: 15px/1.5 system-ui, sans-serif; max-width: 1320px; margin: 2em auto; padding: 0 1.2em; }
h1 { font-size: 1.5em; margin-bottom: 0; } h2 { font-size: 1.2em; margin: 2em 0 .2em; } p { margin: .3em 0; } .dim { color: var(--dim); }
.charts { display: flex; flex-wrap: wrap; gap: 18px 20px; margin: .6em 0; } .charts svg { width: 420px; height: auto; flex: none; max-width: 100%; align-self: flex-start; }
svg text { font: 11px system-ui, sans-serif; fill: var(--dim); } svg .title { font-size: 13px; font-weight: 600; fill: var(--text); } svg .value { fill: var(--text); }
.grid { stroke: var(--grid); } .axis { stroke: var(--line); fill: none; } .spread { stroke: var(--text); stroke-width: 1.4; }
.curve { fill: none; stroke: var(--c); stroke-width: 1.8; } .mark, .bar { fill: var(--c); } .range { stroke: var(--c); stroke-width: 1.4; }
.legend span { margin-right: 1.1em; white-space: nowrap; font-size: 13px; }
table { border-collapse: collapse; font-size: 13px; margin: .8em 0; } td, th { padding: .2em .8em; text-align: right; border-bottom: 1px solid var(--grid); font-variant-numeric: tabular-nums; }
th { font-weight: 600; } td:first-child, th:first-child { text-align: left; } .wide { overflow-x: auto; }
* { --c: #7b858e; }
.c-farpool-shm, .c-farpool-shm * { --c: #16876a; } .c-farpool-tcp, .c-farpool-tcp * { --c: #2f74d0; } .c-farpool-tcp-2, .c-farpool-tcp-2 * { --c: #8660cf; }
.c-weighted, .c-weighted * { --c: #16876a; } .c-even, .c-even * { --c: #2f74d0; }
.c-raw-tcp, .c-raw-tcp * { --c: #b39a5b; } .c-slabs, .c-slabs * { --c: #d5832a; }
.c-zram, .c-zram * { --c: #d5832a; } .c-disk, .c-disk * { --c: #c2483f; } .c-farpool-pool, .c-farpool-pool * { --c: #16876a; }
</style>
)";

std::string Cell(const Results& results, const Series* s) {
  if (s == nullptr) return "&ndash;";
  const Series* const base = results.Base(*s);
  const std::string times =
      base == nullptr ? "" : fmt::format(" <b>{:.2f}x</b>", s->Median() / base->Median());
  return EscapeHtml(Spread(*s)) + times;
}

// Rows are cases, columns configs, of one metric.
std::string Table(const Results& results, const std::string& metric) {
  std::vector<std::string> configs;
  std::string unit;
  for (const Series& s : results.series())
    if (s.metric == metric) {
      unit = s.unit;
      if (std::find(configs.begin(), configs.end(), s.config) == configs.end()) configs.push_back(s.config);
    }
  std::string out =
      fmt::format("<div class=\"wide\"><table><tr><th>{} ({})</th>", EscapeHtml(metric), EscapeHtml(unit));
  for (const std::string& config : configs) out += "<th>" + EscapeHtml(config) + "</th>";
  out += "</tr>\n";
  for (const std::string& what : results.Cases()) {
    std::string row;
    bool any = false;
    for (const std::string& config : configs) {
      const Series* const s = results.Find(config, what, metric);
      any |= s != nullptr;
      row += "<td>" + Cell(results, s) + "</td>";
    }
    if (any) out += "<tr><td>" + EscapeHtml(what) + "</td>" + row + "</tr>\n";
  }
  return out + "</table></div>\n";
}

std::vector<std::string> Metrics(const Results& results) {
  std::vector<std::string> out;
  for (const Series& s : results.series())
    if (std::find(out.begin(), out.end(), s.metric) == out.end()) out.push_back(s.metric);
  return out;
}

// A bar for each config.
std::string Bars(const Results& results, const std::string& what, const std::string& metric) {
  std::vector<Bar> bars;
  std::string unit;
  for (const Series& s : results.series())
    if (s.what == what && s.metric == metric) {
      unit = s.unit;
      bars.push_back({s.config, s.config, s.Median(), s.Min(), s.Max(), ShortNumber(s.Median()), s.at_least});
    }
  return BarChart(what + ", " + metric, {metric + ", " + unit}, bars);
}

std::string Cdf(const Results& results, const std::string& what) {
  std::vector<Line> lines;
  for (const Curve& curve : results.curves())
    if (curve.what == what || curve.what == "page") {
      Line line = {curve.config, {}, true};
      for (const auto& [quantile, values] : curve.quantiles) {
        const double x = MedianOf(values);
        line.points.push_back({x, 100 * quantile, 100 * quantile, 100 * quantile});
      }
      lines.push_back(std::move(line));
    }
  return LineChart(what + ": share of the faults answered in time", {"latency, us", true}, {"share, %"},
                   lines);
}

std::string PagesSection(const Results& results) {
  std::string out = "<div class=\"charts\">\n";
  if (!results.curves().empty())
    for (const std::string& what : results.Cases())
      if (what != "page") out += Cdf(results, what);
  for (const std::string& what : results.Cases())
    for (const char* const metric : {"p50", "rate", "throughput"})
      if (what != "page") out += Bars(results, what, metric);
  return out + "</div>\n";
}

struct Share {
  std::string program;
  double percent = 0;
};
Share ShareOf(const std::string& what) {
  const size_t at = what.find('@');
  return {what.substr(0, at), at == std::string::npos ? 0 : atof(what.c_str() + at + 1)};
}

// Run time against local share, a chart for each program; bars where there is one share only.
std::string AppsSection(const Results& results) {
  std::vector<std::string> programs;
  std::vector<double> shares;
  for (const std::string& what : results.Cases()) {
    const Share share = ShareOf(what);
    if (std::find(programs.begin(), programs.end(), share.program) == programs.end())
      programs.push_back(share.program);
    if (std::find(shares.begin(), shares.end(), share.percent) == shares.end())
      shares.push_back(share.percent);
  }
  std::string out =
      "<p class=\"dim\">Run time as a multiple of the one with all the memory the program wants.</p>\n";
  out += "<div class=\"charts\">\n";
  for (const std::string& program : programs) {
    std::vector<Line> lines;
    std::vector<Bar> bars;
    for (const std::string& config : results.Configs()) {
      Line line = {config, {}, false};
      for (const double percent : shares) {
        const std::string what = fmt::format("{}@{:g}", program, percent);
        const Series* const s = results.Find(config, what, "time");
        const Series* const unlimited = results.Find("unlimited", what, "time");
        if (s == nullptr || unlimited == nullptr || s == unlimited) continue;
        const double one = unlimited->Median();
        line.points.push_back({percent, s->Median() / one, s->Min() / one, s->Max() / one, s->at_least});
        bars.push_back({config, config, s->Median() / one, s->Min() / one, s->Max() / one,
                        ShortNumber(s->Median() / one), s->at_least});
      }
      if (!line.points.empty()) lines.push_back(std::move(line));
    }
    const Series* const footprint =
        results.Find("unlimited", fmt::format("{}@{:g}", program, shares[0]), "footprint");
    const std::string title =
        program + (footprint == nullptr ? "" : fmt::format(", {:.0f} MiB", footprint->Median()));
    if (shares.size() > 1)
      out += LineChart(title, {"memory kept here, % of what it uses"}, {"run time, x unlimited", true}, lines,
                       shares);
    else
      out += BarChart(fmt::format("{}, {:g} % of them here", title, shares[0]),
                      {"run time, x unlimited", true}, bars);
  }
  return out + "</div>\n";
}

// Against the number of donors or programs, which stands behind the "@" of a case.
std::string ScaleSection(const Results& results) {
  std::string out = "<div class=\"charts\">\n";
  for (const std::string& metric : Metrics(results))
    for (const std::string axis : {"donors", "clients"}) {
      std::vector<Line> lines;
      std::vector<double> counts;
      std::string unit;
      for (const Series& s : results.series()) {
        const Share at = ShareOf(s.what);
        if (s.metric != metric || at.program != axis) continue;
        unit = s.unit;
        auto line =
            std::find_if(lines.begin(), lines.end(), [&](const Line& l) { return l.name == s.config; });
        if (line == lines.end()) line = lines.insert(line, {s.config, {}, false});
        line->points.push_back({at.percent, s.Median(), s.Min(), s.Max()});
        if (std::find(counts.begin(), counts.end(), at.percent) == counts.end()) counts.push_back(at.percent);
      }
      if (metric.starts_with("moved")) continue;
      const bool donors = axis == "donors";
      out += LineChart(metric + (donors ? ", one program" : ", one donor, all programs together"),
                       {donors ? "donors" : "programs at once", true}, {metric + ", " + unit}, lines, counts);
    }
  return out + "</div>\n";
}

std::string LimitsSection(const Results& results) {
  std::string out =
      "<p class=\"dim\">Two donors, one behind 2 Gbit/s and one behind 1. slabs: slab by slab; even: each "
      "batch of pages "
      "in equal shares; weighted: by measured bandwidth. sort@50: one donor behind 100 Mbit/s, pages as they "
      "are (off), packed (on), or as is sooner (auto).</p>\n<div class=\"charts\">\n";
  for (const std::string& what : results.Cases()) out += Bars(results, what, "time");
  return out + "</div>\n";
}

std::string Charts(const Results& results) {
  if (results.name() == "apps") return AppsSection(results);
  if (results.name() == "scale") return ScaleSection(results);
  if (results.name() == "limits") return LimitsSection(results);
  return PagesSection(results);
}

std::string Section(const Results& results) {
  std::string out = fmt::format("<h2>{}</h2>\n", EscapeHtml(results.name()));
  std::vector<std::string> configs = results.Configs();
  if (results.name() == "apps")
    configs.erase(std::remove(configs.begin(), configs.end(), "unlimited"), configs.end());
  out += Legend(configs);
  out += Charts(results);
  for (const std::string& skipped : results.skipped())
    out += "<p>Not measured: " + EscapeHtml(skipped) + "</p>\n";
  out += "<div class=\"charts\">\n";
  for (const std::string& metric : Metrics(results))
    if (metric != "footprint") out += Table(results, metric);
  return out + "</div>\n";
}

}  // namespace

std::string HtmlPage(const std::vector<Results>& all) {
  std::string out =
      "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width\">\n<title>farpool bench</title>\n";
  out += kStyle;
  out += "</head>\n<body>\n<h1>farpool bench</h1>\n<p class=\"dim\">" + EscapeHtml(MachineText()) +
         ". Medians; ranges reach from the least to the most run; &gt; and a triangle: ended at the "
         "bound.</p>\n";
  for (const Results& results : all) out += Section(results);
  return out + "</body>\n</html>\n";
}

}  // namespace bench
