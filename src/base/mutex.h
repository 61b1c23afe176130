#pragma once
// A futex mutex that works in signal handlers and, placed in shared memory, between processes: no owner, no
// allocation, no libc state. Hold it for short, bounded work, with signals blocked wherever a handler could
// take the same one. Spins a little first, because holders are usually done within a microsecond. (U.
// Drepper, "Futexes Are Tricky", mutex 2.)

#include <atomic>
#include <cstdint>

namespace farpool {

#if defined(__clang__)
#define FARPOOL_CAPABILITY __attribute__((capability("mutex")))
#define GUARDED_BY(x) __attribute__((guarded_by(x)))
#define REQUIRES(x) __attribute__((requires_capability(x)))
#define ACQUIRE() __attribute__((acquire_capability()))
#define RELEASE() __attribute__((release_capability()))
#define SCOPED_CAPABILITY __attribute__((scoped_lockable))
#define ACQUIRES(x) __attribute__((acquire_capability(x)))
#else
#define FARPOOL_CAPABILITY
#define GUARDED_BY(x)
#define REQUIRES(x)
#define ACQUIRE()
#define RELEASE()
#define SCOPED_CAPABILITY
#define ACQUIRES(x)
#endif

class FARPOOL_CAPABILITY Mutex {
 public:
  void Lock() ACQUIRE();
  void Unlock() RELEASE();
  // For a forked child whose copy was locked by a thread that does not exist there.
  void Reset() { word_.store(0, std::memory_order_relaxed); }

 private:
  std::atomic<uint32_t> word_{0};  // 0 free, 1 held, 2 held and somebody sleeps.
};

class SCOPED_CAPABILITY MutexLock {
 public:
  explicit MutexLock(Mutex* mutex) ACQUIRES(mutex) : mutex_(mutex) { mutex_->Lock(); }
  ~MutexLock() RELEASE() { mutex_->Unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex* mutex_;
};

}  // namespace farpool
