#include "supervisor/flame_graph.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

namespace farpool {

namespace {

constexpr double kWidth = 1200;
constexpr int kBoxHeight = 18;
constexpr int kTop = 40;
constexpr double kLetterWidth = 6.6;  // Of the font below, about.
constexpr double kBoxWidthMin = 0.3;  // Narrower ones are not drawn.

struct Box {
  size_t samples = 0;
  std::map<std::string, Box> callees;
};

std::string Escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else if (c == '&')
      out += "&amp;";
    else if (static_cast<unsigned char>(c) >= 0x20)
      out += c;
  }
  return out;
}

size_t Depth(const Box& box) {
  size_t depth = 0;
  for (const auto& [name, callee] : box.callees) depth = std::max(depth, Depth(callee) + 1);
  return depth;
}

// A warm colour that is the same wherever the function appears.
std::string Colour(const std::string& name) {
  const size_t hash = std::hash<std::string>()(name);
  return fmt::format("rgb({},{},{})", 205 + hash % 50, 90 + hash / 50 % 120, 40 + hash / 6000 % 40);
}

void Draw(const Box& box, double x, double width, int y, size_t all, std::string* out) {
  const double unit = width / static_cast<double>(box.samples);
  for (const auto& [name, callee] : box.callees) {
    const double wide = unit * static_cast<double>(callee.samples);
    if (wide >= kBoxWidthMin) {
      const auto letters = static_cast<size_t>((wide - 6) / kLetterWidth);
      std::string label = wide < 6 ? "" : name;
      if (label.size() > letters) label = letters < 3 ? "" : label.substr(0, letters - 2) + "..";
      *out += fmt::format(
          "<g><title>{}: {} samples, {:.1f} %</title><rect x=\"{:.1f}\" y=\"{}\" width=\"{:.1f}\" "
          "height=\"{}\" "
          "fill=\"{}\" rx=\"1\"/><text x=\"{:.1f}\" y=\"{}\">{}</text></g>\n",
          Escaped(name), callee.samples,
          100.0 * static_cast<double>(callee.samples) / static_cast<double>(all), x, y,
          std::max(wide - 0.5, kBoxWidthMin), kBoxHeight - 1, Colour(name), x + 3, y + 13, Escaped(label));
      Draw(callee, x, wide, y - kBoxHeight, all, out);
    }
    x += wide;
  }
}

}  // namespace

std::string FlameGraphSvg(const std::string& title, const std::vector<std::vector<std::string>>& stacks) {
  Box all;
  for (const std::vector<std::string>& stack : stacks) {
    Box* at = &all;
    ++at->samples;
    for (const std::string& name : stack) {
      at = &at->callees[name];
      ++at->samples;
    }
  }
  const int height = kTop + static_cast<int>(Depth(all) + 1) * kBoxHeight;
  std::string out = fmt::format(
      "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} {1}\" "
      "font-family=\"monospace\" font-size=\"11\">\n"
      "<rect width=\"100%\" height=\"100%\" fill=\"#fffdf5\"/>\n"
      "<text x=\"6\" y=\"20\" font-size=\"14\">{2}</text>\n",
      kWidth, height, Escaped(title));
  if (!stacks.empty()) Draw(all, 0, kWidth, height - kBoxHeight, stacks.size(), &out);
  return out + "</svg>\n";
}

}  // namespace farpool
