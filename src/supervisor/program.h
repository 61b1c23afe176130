#pragma once
// What is to be run: found as execvp would, and looked at before anything is started, so that what cannot be
// served is refused with one line instead of running without far memory.

#include <string>
#include <vector>

#include "farpool/status.h"

namespace farpool {

struct Program {
  std::string path;
  int exit_status = 0;  // With a failed lookup: 126 or 127, as env(1).
  Status status;
};

Program FindProgram(const std::string& name);

// Ok if the runtime can be preloaded into `path` (or the interpreter its #! line names).
Status CheckPreloadable(const std::string& path);

// Whether this process belongs to a run of farpool: it has the runtime in it. What it starts has it, too.
bool InsideRun();

// libfarpool-preload.so beside this binary: in the build tree or as installed.
Result<std::string> FindRuntimeLibrary();

}  // namespace farpool
