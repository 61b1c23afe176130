#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <string>

#include "base/fd.h"

namespace farpool {

// Writes `text` by one call into a file that is there, as those of /proc and /sys want it. False if that
// failed, with errno set, or was not taken whole.
inline bool WriteFile(const std::string& path, const std::string& text) {
  const Fd fd(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  return fd.valid() && write(fd.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size());
}

}  // namespace farpool
