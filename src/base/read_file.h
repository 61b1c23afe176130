#pragma once
// Small files that users name. For tools; the runtime reads none.

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "base/fd.h"
#include "farpool/status.h"

namespace farpool {

inline constexpr size_t kSmallFileBytesMax = 1u << 20;

// The whole file; else why not, in words that go on after its name. What is no regular file might never end,
// or never begin.
inline Result<std::string> ReadSmallFile(const std::string& path) {
  const auto failed = [](int error) {
    return Status::InvalidArgument((std::string("cannot be read: ") + strerror(error)).c_str());
  };
  const Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat info;
  if (!fd.valid() || fstat(fd.get(), &info) != 0) return failed(errno);
  if (S_ISDIR(info.st_mode)) return failed(EISDIR);
  if (!S_ISREG(info.st_mode)) return Status::InvalidArgument("cannot be read: it is no regular file");
  std::string text;
  char block[4096];
  for (;;) {
    const ssize_t n = read(fd.get(), block, sizeof(block));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return failed(errno);
    if (n == 0) return text;
    text.append(block, static_cast<size_t>(n));
    if (text.size() > kSmallFileBytesMax) return Status::InvalidArgument("is over 1 MiB");
  }
}

}  // namespace farpool
