#include "bench/chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace bench {

namespace {

// Maps values to pixels, and says where to mark them.
class Scale {
 public:
  Scale(double low, double high, bool logarithmic, double from, double to)
      : logarithmic_(logarithmic), from_(from), to_(to) {
    if (logarithmic) {
      low_ = std::max(low, 1e-9);
      high_ = std::max(high, low_ * 1.5);
      MakeLogTicks();
    } else {
      low_ = low;
      high_ = high > low ? high : low + 1;
      MakeLinearTicks();
    }
  }
  double At(double value) const {
    const double share = logarithmic_ ? std::log(std::max(value, low_) / low_) / std::log(high_ / low_)
                                      : (value - low_) / (high_ - low_);
    return from_ + share * (to_ - from_);
  }
  const std::vector<double>& ticks() const { return ticks_; }

 private:
  void MakeLinearTicks() {
    constexpr double kTicksMax = 6;
    const double raw = (high_ - low_) / kTicksMax;
    double step = std::pow(10, std::floor(std::log10(raw)));
    for (const double factor : {2.0, 2.5, 2.0})
      if (step < raw) step *= factor;
    const auto first = static_cast<long>(std::ceil(low_ / step - 1e-9));
    const auto last = static_cast<long>(std::ceil(high_ / step - 1e-9));
    high_ = static_cast<double>(last) * step;
    for (long i = first; i <= last; ++i) ticks_.push_back(static_cast<double>(i) * step);
  }
  void MakeLogTicks() {
    const bool few = high_ / low_ > 300;  // Then only powers of ten.
    const bool many = high_ / low_ < 8;
    const int last = static_cast<int>(std::floor(std::log10(high_)));
    for (int decade = static_cast<int>(std::floor(std::log10(low_))); decade <= last; ++decade)
      for (const double factor : {1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0}) {
        const double tick = std::pow(10, decade) * factor;
        const bool wanted = many || factor == 1.0 || (!few && (factor == 2.0 || factor == 5.0));
        if (wanted && tick >= low_ * 0.999 && tick <= high_ * 1.001) ticks_.push_back(tick);
      }
  }

  bool logarithmic_;
  double low_, high_, from_, to_;
  std::vector<double> ticks_;
};

std::string TickText(double value) {
  if (value == 0) return "0";
  if (value >= 1e6) return fmt::format("{:g}M", value / 1e6);
  if (value >= 1e4) return fmt::format("{:g}k", value / 1e3);
  return fmt::format("{:g}", std::round(value * 1e6) / 1e6);
}

}  // namespace

std::string ShortNumber(double value) {
  if (value >= 1e6) return fmt::format("{:.1f}M", value / 1e6);
  if (value >= 1e4) return fmt::format("{:.1f}k", value / 1e3);
  return value >= 100 ? fmt::format("{:.0f}", value) : fmt::format("{:.2f}", value);
}

std::string EscapeHtml(const std::string& text) {
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
      case '"':
        out += "&quot;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string LineChart(const std::string& title, const Axis& x, const Axis& y, const std::vector<Line>& lines,
                      const std::vector<double>& x_ticks) {
  constexpr double kWidth = 420, kHeight = 290, kLeft = 52, kRight = 408, kTop = 30, kBottom = 246;
  double x_low = 1e300, x_high = -1e300, y_low = 1e300, y_high = -1e300;
  for (const Line& line : lines)
    for (const Point& p : line.points) {
      x_low = std::min(x_low, p.x);
      x_high = std::max(x_high, p.x);
      y_low = std::min(y_low, p.low);
      y_high = std::max(y_high, p.high);
    }
  if (x_low > x_high) return "";
  y_low = y.logarithmic ? std::min(y_low, 1.0) : 0;  // Logarithmic are ratios: 1 is their floor.
  // A little room, so that marks do not sit on the frame.
  const double room = x.logarithmic || x_ticks.empty() ? 0 : (x_high - x_low) / 20;
  const double factor = x.logarithmic && !x_ticks.empty() ? 1.12 : 1;
  const Scale across((x_low - room) / factor, (x_high + room) * factor, x.logarithmic, kLeft, kRight);
  const Scale up(y_low, y.logarithmic ? y_high * 1.1 : y_high, y.logarithmic, kBottom, kTop);
  std::string out = fmt::format("<svg viewBox=\"0 0 {} {}\" class=\"line\" role=\"img\" aria-label=\"{}\">\n",
                                kWidth, kHeight, EscapeHtml(title));
  out += fmt::format("<text x=\"{}\" y=\"16\" class=\"title\">{}</text>\n", kLeft, EscapeHtml(title));
  for (const double tick : up.ticks())
    out += fmt::format(
        "<line x1=\"{0}\" x2=\"{1}\" y1=\"{2:.1f}\" y2=\"{2:.1f}\" class=\"grid\"/>"
        "<text x=\"{3}\" y=\"{4:.1f}\" text-anchor=\"end\">{5}</text>\n",
        kLeft, kRight, up.At(tick), kLeft - 6, up.At(tick) + 4, TickText(tick));
  for (const double tick : x_ticks.empty() ? across.ticks() : x_ticks)
    out += fmt::format(
        "<line x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1}\" y2=\"{2}\" class=\"grid\"/>"
        "<text x=\"{0:.1f}\" y=\"{3}\" text-anchor=\"middle\">{4}</text>\n",
        across.At(tick), kTop, kBottom, kBottom + 16, TickText(tick));
  out += fmt::format("<path d=\"M{} {}V{}H{}\" class=\"axis\"/>\n", kLeft, kTop, kBottom, kRight);
  out += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n", (kLeft + kRight) / 2,
                     kBottom + 36, EscapeHtml(x.label));
  out += fmt::format("<text transform=\"translate(13 {}) rotate(-90)\" text-anchor=\"middle\">{}</text>\n",
                     (kTop + kBottom) / 2, EscapeHtml(y.label));
  for (const Line& line : lines) {
    std::string path;
    for (const Point& p : line.points)
      path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : "L", across.At(p.x), up.At(p.y));
    out += fmt::format("<g class=\"c-{}\"><title>{}</title><path d=\"{}\" class=\"curve\"/>", line.name,
                       EscapeHtml(line.name), path);
    for (const Point& p : line.points) {
      if (line.steps) break;
      const double px = across.At(p.x);
      const double py = up.At(p.y);
      if (p.low < p.high)
        out +=
            fmt::format("<line x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1:.1f}\" y2=\"{2:.1f}\" class=\"range\"/>",
                        px, up.At(p.low), up.At(p.high));
      if (p.at_least)
        out += fmt::format("<path d=\"M{:.1f} {:.1f}l-5 8h10z\" class=\"mark\"/>", px, py - 4);
      else
        out += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3.2\" class=\"mark\"/>", px, py);
    }
    out += "</g>\n";
  }
  return out + "</svg>\n";
}

std::string BarChart(const std::string& title, const Axis& x, const std::vector<Bar>& bars) {
  constexpr double kWidth = 420, kLeft = 104, kRight = 340, kTop = 28, kStep = 22;
  double high = 0, low = 1e300;
  for (const Bar& bar : bars) {
    high = std::max(high, bar.high);
    low = std::min(low, bar.low);
  }
  if (bars.empty()) return "";
  const double bottom = kTop + kStep * static_cast<double>(bars.size());
  const Scale across(x.logarithmic ? std::min(low, 1.0) : 0, high, x.logarithmic, kLeft, kRight);
  std::string out = fmt::format("<svg viewBox=\"0 0 {} {}\" class=\"bars\" role=\"img\" aria-label=\"{}\">\n",
                                kWidth, bottom + 40, EscapeHtml(title));
  out += fmt::format("<text x=\"{}\" y=\"16\" class=\"title\">{}</text>\n", kLeft, EscapeHtml(title));
  for (const double tick : across.ticks())
    out += fmt::format(
        "<line x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1}\" y2=\"{2}\" class=\"grid\"/>"
        "<text x=\"{0:.1f}\" y=\"{3}\" text-anchor=\"middle\">{4}</text>\n",
        across.At(tick), kTop, bottom, bottom + 15, TickText(tick));
  for (size_t i = 0; i < bars.size(); ++i) {
    const Bar& bar = bars[i];
    const double y = kTop + kStep * static_cast<double>(i);
    const double end = across.At(bar.value);
    out += fmt::format(
        "<text x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>"
        "<g class=\"c-{}\"><rect x=\"{}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{}\" class=\"bar\"/></g>",
        kLeft - 8, y + 15, EscapeHtml(bar.name), bar.color, kLeft, y + 4, std::max(end - kLeft, 1.0),
        kStep - 8);
    if (bar.low < bar.high)
      out +=
          fmt::format("<line x1=\"{0:.1f}\" x2=\"{1:.1f}\" y1=\"{2:.1f}\" y2=\"{2:.1f}\" class=\"spread\"/>",
                      across.At(bar.low), across.At(bar.high), y + kStep / 2);
    out += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" class=\"value\">{}</text>\n", across.At(bar.high) + 6,
                       y + 15, EscapeHtml((bar.at_least ? "> " : "") + bar.text));
  }
  out += fmt::format("<path d=\"M{} {}V{}\" class=\"axis\"/>\n", kLeft, kTop, bottom);
  out += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n", (kLeft + kRight) / 2,
                     bottom + 34, EscapeHtml(x.label));
  return out + "</svg>\n";
}

std::string Legend(const std::vector<std::string>& names) {
  std::string out = "<p class=\"legend\">";
  for (const std::string& name : names)
    out += fmt::format(
        "<span class=\"c-{0}\"><svg width=\"22\" height=\"10\"><rect y=\"2\" width=\"18\" height=\"6\" "
        "rx=\"2\" class=\"bar\"/></svg>{0}</span> ",
        EscapeHtml(name));
  return out + "</p>\n";
}

}  // namespace bench
