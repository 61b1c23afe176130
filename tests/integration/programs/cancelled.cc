// cancelled [MiB]: a thread that was cancelled goes on until it reaches a point of its own where threads end.
// Until then it touches all of a region, and every word is right.

#include <pthread.h>
#include <sys/mman.h>

#include <atomic>

#include "check.h"

namespace {

uint64_t* words;
size_t count;
std::atomic<bool> cancelled{false};
std::atomic<size_t> verified{0};

void* Touch(void*) {
  while (!cancelled) {
  }
  for (size_t i = 0; i < count; ++i) {
    CHECK(words[i] == Mix(i), "word %zu", i);
    words[i] = Mix(i + 1);
  }
  verified = count;
  pthread_testcancel();
  return nullptr;
}

}  // namespace

int main(int argc, char** argv) {
  const size_t bytes = Argument(argc, argv, 1, 64) << 20;
  count = bytes / sizeof(uint64_t);
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(at != MAP_FAILED, "mmap");
  words = static_cast<uint64_t*>(at);
  for (size_t i = 0; i < count; ++i) words[i] = Mix(i);
  pthread_t thread;
  CHECK(pthread_create(&thread, nullptr, Touch, nullptr) == 0, "pthread_create");
  CHECK(pthread_cancel(thread) == 0, "pthread_cancel");
  cancelled = true;
  void* result = nullptr;
  CHECK(pthread_join(thread, &result) == 0 && result == PTHREAD_CANCELED, "pthread_join");
  CHECK(verified == count, "it ended after %zu words", verified.load());
  for (size_t i = 0; i < count; ++i) CHECK(words[i] == Mix(i + 1), "word %zu", i);
  printf("cancelled: %zu words\n", count);
  return 0;
}
