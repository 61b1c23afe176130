// early [times]: a program of which a library started threads before main (early_lib.cc) does its work, and
// so do `times` runs of itself.

#include <spawn.h>
#include <sys/wait.h>

#include <vector>

#include "check.h"

void StopEarlyThreads();
extern char** environ;

int main(int argc, char** argv) {
  const uint64_t times = Argument(argc, argv, 1, 0);
  std::vector<uint64_t> words(times == 0 ? 1 << 17 : 1 << 23);
  for (size_t i = 0; i < words.size(); ++i) words[i] = Mix(i);
  for (uint64_t n = 0; n < times; ++n) {
    char* const arguments[] = {argv[0], nullptr};
    pid_t child;
    int status;
    CHECK(posix_spawn(&child, argv[0], nullptr, nullptr, arguments, environ) == 0, "posix_spawn");
    CHECK(waitpid(child, &status, 0) == child && status == 0, "run %llu: status %x",
          static_cast<unsigned long long>(n), static_cast<unsigned>(status));
  }
  for (size_t i = 0; i < words.size(); ++i) CHECK(words[i] == Mix(i), "word %zu", i);
  StopEarlyThreads();
  if (times > 0) puts("early: every run ended well");
  return 0;
}
