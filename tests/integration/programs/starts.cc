// starts [MiB]: processes that first need much memory when it is awkward: with no file descriptor left, and
// while another thread forks.

#include <fcntl.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <atomic>
#include <cerrno>

#include "check.h"

namespace {

size_t g_bytes;

void Use(uint64_t seed) {
  auto* words = static_cast<uint64_t*>(malloc(g_bytes));
  CHECK(words != nullptr, "malloc");
  for (size_t i = 0; i < g_bytes / 8; i += 64) words[i] = Mix(i + seed);
  for (size_t i = 0; i < g_bytes / 8; i += 64) CHECK(words[i] == Mix(i + seed), "word %zu", i);
  free(words);
}

void Await(pid_t child) {
  int status;
  CHECK(waitpid(child, &status, 0) == child && status == 0, "child: %x", static_cast<unsigned>(status));
}

template <typename Body>
void InChild(Body&& body) {
  const pid_t child = fork();
  CHECK(child >= 0, "fork: %d", errno);
  if (child == 0) {
    body();
    _exit(0);
  }
  Await(child);
}

void WithoutDescriptors() {
  rlimit few;
  CHECK(getrlimit(RLIMIT_NOFILE, &few) == 0, "getrlimit");
  few.rlim_cur = 40;
  CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0, "setrlimit");
  while (open("/dev/null", O_RDONLY) >= 0) {
  }
  CHECK(errno == EMFILE, "open: %d", errno);
  Use(1);
  InChild([] { Use(2); });
}

std::atomic<bool> go{false};
void* Starter(void*) {
  while (!go) asm volatile("");
  Use(3);
  return nullptr;
}

void WhileForking(int delay) {
  pthread_t thread;
  CHECK(pthread_create(&thread, nullptr, Starter, nullptr) == 0, "pthread_create");
  go = true;
  for (int i = 0; i < delay; ++i) asm volatile("");
  for (int i = 0; i < 3; ++i) InChild([] { Use(4); });
  CHECK(pthread_join(thread, nullptr) == 0, "pthread_join");
}

}  // namespace

int main(int argc, char** argv) {
  g_bytes = Argument(argc, argv, 1, 48) << 20;
  setvbuf(stdout, nullptr, _IONBF, 0);
  InChild(WithoutDescriptors);
  printf("starts: without descriptors\n");
  for (int i = 0; i < 24; ++i) InChild([&] { WhileForking(i * 4000); });
  printf("starts: while another thread forks\n");
  return 0;
}
