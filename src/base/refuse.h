#pragma once
// How farpool says that it cannot do what it was asked. For tools; the runtime has its own way.

#include <cstdio>
#include <cstdlib>
#include <string>

namespace farpool {

// "farpool: TEXT" on stderr, as one line whatever a file name or a library's message in it contained. Returns
// `exit_status`.
inline int Refuse(const std::string& text, int exit_status = EXIT_FAILURE) {
  std::string line = "farpool: " + text;
  for (char& c : line)
    if (c == '\n' || c == '\r') c = ' ';
  line += '\n';
  std::fwrite(line.data(), 1, line.size(), stderr);
  return exit_status;
}

}  // namespace farpool
