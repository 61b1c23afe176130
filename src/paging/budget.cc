#include "paging/budget.h"

#include <linux/futex.h>
#include <sys/syscall.h>

#include <climits>

#include "base/sys.h"

namespace farpool {

uint32_t AwaitHunger(BudgetState* state, uint32_t seen, const std::atomic<bool>& enough) {
  state->listeners.fetch_add(1);
  while (state->hunger.load() == seen && !enough.load())
    sys::Call(SYS_futex, &state->hunger, FUTEX_WAIT, seen, nullptr);
  state->listeners.fetch_sub(1);
  return state->hunger.load();
}

void WakeListeners(BudgetState* state) {
  if (state->listeners.load() > 0) sys::Call(SYS_futex, &state->hunger, FUTEX_WAKE, INT_MAX);
}

void Budget::CallForShare() {
  state_->hunger.fetch_add(1);
  WakeListeners(state_);
}

}  // namespace farpool
