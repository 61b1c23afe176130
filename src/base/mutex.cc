#include "base/mutex.h"

#include <linux/futex.h>
#include <sys/syscall.h>

#include "base/clock.h"
#include "base/sys.h"

namespace farpool {

namespace {
constexpr int kSpins = 200;  // About 10 us with pause; longer than most critical sections.
}

void Mutex::Lock() {
  uint32_t expected = 0;
  if (word_.compare_exchange_strong(expected, 1, std::memory_order_acquire)) return;
  for (int i = 0; i < kSpins; ++i) {
    SpinPause();
    expected = 0;
    if (word_.load(std::memory_order_relaxed) == 0 &&
        word_.compare_exchange_weak(expected, 1, std::memory_order_acquire))
      return;
  }
  while (word_.exchange(2, std::memory_order_acquire) != 0)
    sys::Call(SYS_futex, &word_, FUTEX_WAIT, 2, nullptr);
}

void Mutex::Unlock() {
  if (word_.exchange(0, std::memory_order_release) == 2) sys::Call(SYS_futex, &word_, FUTEX_WAKE, 1);
}

}  // namespace farpool
