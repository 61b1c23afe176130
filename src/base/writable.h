#pragma once
// Whether a file can be written, asked before work whose results are to go there. For tools; the runtime
// writes none.

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>

namespace farpool {

// 0, or the errno with which opening `path` for writing would fail as things are now. Makes and opens
// nothing.
inline int WhyNotWritable(const char* path) {
  struct stat info;
  if (stat(path, &info) == 0) {
    if (S_ISDIR(info.st_mode)) return EISDIR;
    return access(path, W_OK) == 0 ? 0 : errno;
  }
  if (errno != ENOENT) return errno;
  // It would be made: the folder counts.
  char folder[4096] = ".";
  if (const char* slash = strrchr(path, '/'); slash != nullptr) {
    const size_t bytes = static_cast<size_t>(slash - path) + 1;
    if (bytes >= sizeof(folder)) return ENAMETOOLONG;
    memcpy(folder, path, bytes);
    folder[bytes] = 0;
  }
  return access(folder, W_OK | X_OK) == 0 ? 0 : errno;
}

}  // namespace farpool
