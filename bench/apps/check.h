#pragma once
// Shared by the test programs. They are plain programs that know nothing of farpool: what they verify must
// hold for any process on any kernel.

#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

// Also safe in a forked child and in a signal handler: no stdio buffers, no exit handlers.
#define CHECK(condition, ...)                                                                           \
  do {                                                                                                  \
    if (!(condition)) {                                                                                 \
      char check_text[400];                                                                             \
      int check_bytes =                                                                                 \
          snprintf(check_text, sizeof(check_text), "%s:%d: %s: ", __FILE__, __LINE__, #condition);      \
      if (check_bytes > static_cast<int>(sizeof(check_text))) check_bytes = sizeof(check_text);         \
      if (write(2, check_text, static_cast<size_t>(check_bytes)) < 0) _exit(3);                         \
      check_bytes = snprintf(check_text, sizeof(check_text) - 1, __VA_ARGS__);                          \
      if (check_bytes > static_cast<int>(sizeof(check_text)) - 2) check_bytes = sizeof(check_text) - 2; \
      check_text[check_bytes++] = '\n';                                                                 \
      if (write(2, check_text, static_cast<size_t>(check_bytes)) < 0) _exit(3);                         \
      _exit(1);                                                                                         \
    }                                                                                                   \
  } while (false)

// splitmix64's finaliser: every input bit reaches every output bit.
inline uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

class Random {
 public:
  explicit Random(uint64_t seed) : state_(Mix(seed)) {}
  uint64_t Next() { return Mix(state_ += 0x9e3779b97f4a7c15u); }
  // 0..bound-1; bound > 0.
  uint64_t Below(uint64_t bound) { return Next() % bound; }

 private:
  uint64_t state_;
};

inline uint64_t Argument(int argc, char** argv, int index, uint64_t otherwise) {
  return argc > index ? strtoull(argv[index], nullptr, 0) : otherwise;
}
