#pragma once

#include <sys/resource.h>

namespace farpool {

// Lifts a limit of this process (RLIMIT_NOFILE, ...) as far as it may go by itself; where that fails it stays
// as it is.
inline void RaiseLimit(__rlimit_resource resource) {
  rlimit limit;
  if (getrlimit(resource, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(resource, &limit);
}

}  // namespace farpool
