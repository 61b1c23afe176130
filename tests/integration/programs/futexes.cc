// futexes [MiB]: who waits in the kernel on a word in far memory must wake although the page went meanwhile.

#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/syscall.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <ctime>
#include <thread>
#include <vector>

#include "far.h"

namespace {

long Futex(void* word, int operation, uint32_t value, const void* timeout = nullptr, void* second = nullptr,
           uint32_t third = 0) {
  return syscall(SYS_futex, word, operation, value, timeout, second, third);
}

// Until `count` threads of ours sleep: a word they wait for is enough in most cases, but here it must be the
// kernel.
template <typename Wake>
void UntilWoken(std::atomic<int>* woken, int count, Wake wake) {
  while (*woken < count) {
    wake();
    std::this_thread::yield();
  }
}

void Words() {
  for (const int flag : {FUTEX_PRIVATE_FLAG, 0}) {
    auto* word = Far(uint32_t{7});
    auto* second = Far(uint32_t{8});
    std::atomic<int> woken{0};
    std::vector<std::thread> threads;
    // More sleepers than anything could keep pinned.
    for (int i = 0; i < 30; ++i)
      threads.emplace_back([&] {
        CHECK(Futex(word, FUTEX_WAIT | flag, 7) == 0 || errno == EAGAIN, "FUTEX_WAIT: %s", strerror(errno));
        ++woken;
      });
    Stir();
    UntilWoken(&woken, 5,
               [&] { CHECK(Futex(word, FUTEX_WAKE | flag, 5) >= 0, "FUTEX_WAKE: %s", strerror(errno)); });
    Stir();
    CHECK(Futex(word, FUTEX_CMP_REQUEUE | flag, 1, reinterpret_cast<void*>(1000), second, 7) >= 0,
          "FUTEX_CMP_REQUEUE: %s", strerror(errno));
    Stir();
    UntilWoken(&woken, 30, [&] {
      CHECK(Futex(second, FUTEX_WAKE | flag, 1000) >= 0, "FUTEX_WAKE: %s", strerror(errno));
      CHECK(Futex(word, FUTEX_WAKE_OP | flag, 1000, reinterpret_cast<void*>(1000), second,
                  FUTEX_OP(FUTEX_OP_ADD, 1, FUTEX_OP_CMP_GE, 0)) >= 0,
            "FUTEX_WAKE_OP: %s", strerror(errno));
    });
    for (std::thread& thread : threads) thread.join();
    struct Waiter {
      uint64_t value, address;
      uint32_t flags, reserved;
    };
    auto* waiters = FarArray<Waiter>(2);
    const uint32_t flags = 2 | static_cast<uint32_t>(flag);  // A word of 32 bits.
    waiters[0] = {7, reinterpret_cast<uint64_t>(word), flags, 0};
    waiters[1] = {8, reinterpret_cast<uint64_t>(second), flags, 0};
    Stir();
    CHECK(syscall(456, waiters, 0, 1, 1) == 0 || errno == ENOSYS, "futex_requeue: %s", strerror(errno));
    auto* limit = Far(timespec{0, 1000000});
    Stir();
    errno = 0;
    CHECK(Futex(word, FUTEX_WAIT | flag, 7, limit) == -1 && errno == ETIMEDOUT, "FUTEX_WAIT: %s",
          strerror(errno));
  }
  printf("futexes: wait, wake, requeue\n");
}

// Sleepers do not keep their pages here: there are more words, far apart, than memory.
void Apart() {
  constexpr size_t kApart = 256 << 10;
  constexpr int kThreads = 120;
  char* room = static_cast<char*>(FarRoom(kThreads * kApart));
  std::atomic<int> woken{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i)
    threads.emplace_back([&, i] {
      auto* word = reinterpret_cast<uint32_t*>(room + static_cast<size_t>(i) * kApart);
      CHECK(Futex(word, FUTEX_WAIT_PRIVATE, 0x01010101) == 0 || errno == EAGAIN, "FUTEX_WAIT: %s",
            strerror(errno));
      ++woken;
    });
  Stir();
  UntilWoken(&woken, kThreads, [&] {
    for (int i = 0; i < kThreads; ++i) {
      auto* word = reinterpret_cast<uint32_t*>(room + static_cast<size_t>(i) * kApart);
      CHECK(Futex(word, FUTEX_WAKE_PRIVATE, 1) >= 0, "FUTEX_WAKE: %s", strerror(errno));
    }
  });
  for (std::thread& thread : threads) thread.join();
  printf("futexes: words far apart\n");
}

// A word whose page leaves in this moment is there to the program: never EFAULT.
void Leaving() {
  constexpr size_t kPages = 2048;
  constexpr size_t kWordsPerPage = 4096 / sizeof(uint32_t);
  auto* words = static_cast<uint32_t*>(malloc(kPages * 4096));
  for (size_t i = 0; i < kPages; ++i) words[i * kWordsPerPage] = 1;
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t)
    threads.emplace_back([&, t] {
      const timespec patience = {0, 1000};
      for (size_t i = static_cast<size_t>(t) * 700; !stop; ++i) {
        uint32_t* word = &words[i % kPages * kWordsPerPage];
        CHECK(Futex(word, FUTEX_WAIT_PRIVATE, 2, &patience) == -1 && errno == EAGAIN, "FUTEX_WAIT: %s",
              strerror(errno));
        CHECK(Futex(word, FUTEX_WAKE_OP_PRIVATE, 0, nullptr, word,
                    FUTEX_OP(FUTEX_OP_ADD, 0, FUTEX_OP_CMP_EQ, 0)) == 0,
              "FUTEX_WAKE_OP: %s", strerror(errno));
        CHECK(syscall(SYS_rt_sigprocmask, SIG_BLOCK, word + 2, nullptr, 8) == 0, "rt_sigprocmask: %s",
              strerror(errno));
      }
    });
  for (int i = 0; i < 30; ++i) Stir();
  stop = true;
  for (std::thread& thread : threads) thread.join();
  free(words);
  printf("futexes: words that leave\n");
}

// Threads that end with mutexes locked. Whoever locks them next is told, also who waits already.
void Robust(int protocol, bool shared) {
  constexpr int kMutexes = 20;
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  pthread_mutexattr_setprotocol(&attributes, protocol);
  if (shared) pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
  pthread_mutex_t* mutexes[kMutexes];
  for (auto& mutex : mutexes) {
    mutex = FarArray<pthread_mutex_t>(1);
    CHECK(pthread_mutex_init(mutex, &attributes) == 0, "pthread_mutex_init");
  }
  std::atomic<int> locked{0}, told{0};
  std::thread owner([&] {
    for (auto* mutex : mutexes) CHECK(pthread_mutex_lock(mutex) == 0, "pthread_mutex_lock");
    locked = 1;
    while (locked != 2) std::this_thread::yield();
  });
  while (locked != 1) std::this_thread::yield();
  std::vector<std::thread> waiters;
  for (int i = 0; i < 3; ++i)
    waiters.emplace_back([&, i] {
      CHECK(pthread_mutex_lock(mutexes[i]) == EOWNERDEAD, "a waiter for a robust mutex");
      pthread_mutex_consistent(mutexes[i]);
      pthread_mutex_unlock(mutexes[i]);
      ++told;
    });
  Stir();
  locked = 2;
  owner.join();
  for (std::thread& waiter : waiters) waiter.join();
  Stir();
  for (int i = 3; i < kMutexes; ++i)
    CHECK(pthread_mutex_trylock(mutexes[i]) == EOWNERDEAD, "robust mutex %d", i);
  for (int i = 3; i < kMutexes; ++i) {
    pthread_mutex_consistent(mutexes[i]);
    pthread_mutex_unlock(mutexes[i]);
  }
}

// More of them than stay here while the list is gone through, as another thread walks through much memory.
void ManyRobust() {
  constexpr int kMutexes = 1200;
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  static pthread_mutex_t* mutexes[kMutexes];
  for (auto& mutex : mutexes) {
    mutex = FarArray<pthread_mutex_t>(1);
    CHECK(pthread_mutex_init(mutex, &attributes) == 0, "pthread_mutex_init");
  }
  for (int round = 0; round < 3; ++round) {
    std::atomic<bool> ended{false}, stirred{false};
    std::thread stirring([&] {
      while (!ended) {
        Stir();
        stirred = true;
      }
    });
    std::thread owner([&] {
      for (auto* mutex : mutexes) CHECK(pthread_mutex_lock(mutex) == 0, "pthread_mutex_lock");
      while (!stirred) std::this_thread::yield();
    });
    owner.join();
    ended = true;
    stirring.join();
    for (int i = 0; i < kMutexes; ++i) {
      CHECK(pthread_mutex_trylock(mutexes[i]) == EOWNERDEAD, "robust mutex %d of many", i);
      pthread_mutex_consistent(mutexes[i]);
      pthread_mutex_unlock(mutexes[i]);
    }
  }
}

void Inheriting() {
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT);
  auto* mutex = FarArray<pthread_mutex_t>(1);
  CHECK(pthread_mutex_init(mutex, &attributes) == 0, "pthread_mutex_init");
  auto* total = Far(0);
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i)
    threads.emplace_back([&] {
      for (int j = 0; j < 4; ++j) {
        CHECK(pthread_mutex_lock(mutex) == 0, "pthread_mutex_lock");
        const int before = *total;
        Stir();
        *total = before + 1;
        CHECK(pthread_mutex_unlock(mutex) == 0, "pthread_mutex_unlock");
      }
    });
  for (std::thread& thread : threads) thread.join();
  CHECK(*total == 12, "total %d", *total);
  printf("futexes: priority inheritance\n");
}

void Meetings() {
  for (const bool shared : {false, true}) {
    auto* barrier = FarArray<pthread_barrier_t>(1);
    auto* semaphore = FarArray<sem_t>(1);
    pthread_barrierattr_t attributes;
    pthread_barrierattr_init(&attributes);
    pthread_barrierattr_setpshared(&attributes, shared ? PTHREAD_PROCESS_SHARED : PTHREAD_PROCESS_PRIVATE);
    CHECK(pthread_barrier_init(barrier, &attributes, 4) == 0, "pthread_barrier_init");
    CHECK(sem_init(semaphore, shared ? 1 : 0, 0) == 0, "sem_init");
    std::vector<std::thread> threads;
    for (int i = 0; i < 3; ++i)
      threads.emplace_back([&] {
        for (int j = 0; j < 2; ++j) {
          const int r = pthread_barrier_wait(barrier);
          CHECK(r == 0 || r == PTHREAD_BARRIER_SERIAL_THREAD, "pthread_barrier_wait");
          CHECK(sem_wait(semaphore) == 0, "sem_wait");
        }
      });
    for (int j = 0; j < 2; ++j) {
      Stir();
      pthread_barrier_wait(barrier);
      Stir();
      for (int i = 0; i < 3; ++i) CHECK(sem_post(semaphore) == 0, "sem_post");
    }
    for (std::thread& thread : threads) thread.join();
  }
  printf("futexes: barriers and semaphores\n");
}

}  // namespace

int main(int argc, char** argv) {
  setvbuf(stdout, nullptr, _IOLBF, 0);
  StirInit(Argument(argc, argv, 1, 40));
  Words();
  Apart();
  Leaving();
  Robust(PTHREAD_PRIO_NONE, false);
  Robust(PTHREAD_PRIO_NONE, true);
  Robust(PTHREAD_PRIO_INHERIT, false);
  ManyRobust();
  printf("futexes: robust mutexes\n");
  Inheriting();
  Meetings();
  printf("futexes: all verified\n");
  return 0;
}
