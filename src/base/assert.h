#pragma once
// Checks for our own bugs; they stay on in release builds. Prints one line to stderr and ends the process.

namespace farpool {
[[noreturn]] void AssertFailed(const char* condition, const char* file, int line);
}

#define FARPOOL_ASSERT(condition) \
  ((condition) ? static_cast<void>(0) : ::farpool::AssertFailed(#condition, __FILE__, __LINE__))
