#pragma once
// What a bench measured, and its three forms: JSON, a table for a terminal, a page for a browser. No I/O.

#include <string>
#include <vector>

namespace bench {

struct Series {
  std::string config;  // floor, raw-tcp, farpool-shm, ...
  std::string what;    // The case: random-read, update, ...
  std::string metric;  // p50, rate, throughput, ...
  std::string unit;
  std::vector<double> values;  // One per run.
  bool at_least = false;       // Ended at a bound: the value would have been more.

  double Median() const;
  double Min() const;
  double Max() const;
};

// How a measured quantity is distributed: quantile (0..1) and value.
struct Curve {
  std::string config;
  std::string what;
  std::string unit;
  std::vector<std::pair<double, std::vector<double>>> quantiles;  // Values of the runs.
};

class Results {
 public:
  explicit Results(std::string name) : name_(std::move(name)) {}
  void Add(const std::string& config, const std::string& what, const std::string& metric,
           const std::string& unit, double value);
  // The same, of a run that was ended when it had come to `value`.
  void AddAtLeast(const std::string& config, const std::string& what, const std::string& metric,
                  const std::string& unit, double value);
  void AddQuantile(const std::string& config, const std::string& what, const std::string& unit,
                   double quantile, double value);
  // A config that could not be measured here, and why.
  void Skip(const std::string& config, const std::string& reason);
  // nullptr if there is none.
  const Series* Find(const std::string& config, const std::string& what, const std::string& metric) const;

  const std::string& name() const { return name_; }
  const std::vector<Series>& series() const { return series_; }
  const std::vector<Curve>& curves() const { return curves_; }
  const std::vector<std::string>& skipped() const { return skipped_; }
  // What a time is compared with: the unlimited one of its case. nullptr: nothing.
  const Series* Base(const Series& s) const;
  // In order of first appearance.
  std::vector<std::string> Configs() const;
  std::vector<std::string> Cases() const;

  std::string Json() const;  // One object, the shape that docs/operations.md states.
  std::string Table() const;
  // The ratios that matter, one a line.
  std::vector<std::string> Ratios() const;

 private:
  Series& Of(const std::string& config, const std::string& what, const std::string& metric,
             const std::string& unit);
  std::string PageTable() const;
  std::string MetricTable(const std::string& metric) const;

  std::string name_;
  std::vector<Series> series_;
  std::vector<Curve> curves_;
  std::vector<std::string> skipped_;
};

// Median and range: "1.25 (1.20..1.31)".
std::string Spread(const Series& s);
double MedianOf(std::vector<double> values);
// The machine, in a line.
std::string MachineText();
// One self-contained page (html.cc).
std::string HtmlPage(const std::vector<Results>& all);

}  // namespace bench
