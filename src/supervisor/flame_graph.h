#pragma once
// Stacks drawn as a flame graph: one self-contained SVG.

#include <string>
#include <vector>

namespace farpool {

// Each stack from the outermost function to the innermost. A box is as wide as the share of stacks that go
// through it; its title tells its name, number and share. Callees stand on their callers.
std::string FlameGraphSvg(const std::string& title, const std::vector<std::vector<std::string>>& stacks);

}  // namespace farpool
