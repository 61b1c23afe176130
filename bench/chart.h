#pragma once
// Charts as inline SVG, for a page that needs nothing from anywhere else. Colours are CSS classes "c-NAME",
// so that one config looks the same in every chart and the page decides about light and dark. No I/O.

#include <string>
#include <vector>

namespace bench {

struct Axis {
  std::string label;  // With its unit.
  bool logarithmic = false;
};

struct Point {
  double x = 0;
  double y = 0;
  double low = 0, high = 0;  // Range of the runs; equal to y: none is drawn.
  bool at_least = false;     // The true y is higher: drawn as an arrow.
};

struct Line {
  std::string name;  // Also of its colour.
  std::vector<Point> points;
  bool steps = false;  // No marks at the points.
};

struct Bar {
  std::string name;   // Written beside it.
  std::string color;  // Name of its colour.
  double value = 0;
  double low = 0, high = 0;
  std::string text;  // Written at its end.
  bool at_least = false;
};

// `x_ticks`: where to mark the x axis; empty: chosen. Both charts are empty strings if there is nothing to
// draw.
std::string LineChart(const std::string& title, const Axis& x, const Axis& y, const std::vector<Line>& lines,
                      const std::vector<double>& x_ticks = {});
std::string BarChart(const std::string& title, const Axis& x, const std::vector<Bar>& bars);
// Names with their colours.
std::string Legend(const std::vector<std::string>& names);

std::string EscapeHtml(const std::string& text);
// With the digits that matter: 12.3k, 123, 4.56.
std::string ShortNumber(double value);

}  // namespace bench
