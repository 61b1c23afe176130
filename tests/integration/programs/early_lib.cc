// A library of `early` whose constructor starts threads that are busy inside libc from then on, as those of
// numerical libraries are.

#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <csignal>

#include "check.h"

namespace {

constexpr int kThreads = 4;
pthread_t g_threads[kThreads];
std::atomic<bool> g_stop{false};
std::atomic<int> g_busy{0};

void* StayBusy(void*) {
  for (uint64_t round = 0; !g_stop.load(); ++round) {
    char byte;
    sigset_t set;
    struct stat info;
    CHECK(read(-1, &byte, 1) == -1 && write(-1, &byte, 1) == -1, "there is no descriptor -1");
    CHECK(open("/nonexistent", O_RDONLY) == -1 && stat("/", &info) == 0, "files");
    CHECK(pthread_sigmask(SIG_BLOCK, nullptr, &set) == 0, "pthread_sigmask");
    free(malloc(round % 200'000));
    if (round == 0) ++g_busy;
  }
  return nullptr;
}

__attribute__((constructor)) void Start() {
  for (pthread_t& thread : g_threads)
    CHECK(pthread_create(&thread, nullptr, StayBusy, nullptr) == 0, "pthread_create");
  while (g_busy.load() < kThreads) sched_yield();
}

}  // namespace

void StopEarlyThreads() {
  g_stop = true;
  for (pthread_t thread : g_threads) pthread_join(thread, nullptr);
}
