// cancelled [MiB]: a thread that was cancelled goes on until it reaches a point of its own where threads end.
// Until then it touches all of a region, and every word is right. Others are cancelled on their way into a
// call and out of it.

#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>

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

void* Read(void* argument) {
  const auto zeros = static_cast<int>(reinterpret_cast<intptr_t>(argument));
  char byte = 0;
  while (read(zeros, &byte, 1) == 1) {
  }
  return nullptr;
}

// Nobody knows where in read() a thread is: most of them soon leave it.
void CancelReaders() {
  const int zeros = open("/dev/zero", O_RDONLY);
  CHECK(zeros >= 0, "/dev/zero");
  for (unsigned round = 0; round < 2000; ++round) {
    pthread_t thread;
    CHECK(pthread_create(&thread, nullptr, Read, reinterpret_cast<void*>(intptr_t{zeros})) == 0, "thread");
    if (round % 3 != 0) usleep(round % 60);
    CHECK(pthread_cancel(thread) == 0, "pthread_cancel");
    void* result = nullptr;
    CHECK(pthread_join(thread, &result) == 0 && result == PTHREAD_CANCELED, "pthread_join");
  }
  close(zeros);
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
  CancelReaders();
  printf("cancelled: %zu words\n", count);
  return 0;
}
