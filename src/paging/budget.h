#pragma once
// How much far memory may be resident, staging included, over all processes of a run. The counters lie in
// memory shared by those processes. Pages are counted per process mapping: a page shared after fork counts
// twice.

#include <atomic>
#include <cstdint>

namespace farpool {

struct BudgetState {
  std::atomic<uint64_t> limit;  // Pages.
  std::atomic<uint64_t> used;   // Pages, all processes.
  std::atomic<uint64_t> used_peak;
  std::atomic<uint64_t> far;  // Pages with contents, resident or not, all processes.
  std::atomic<uint64_t> far_peak;
  std::atomic<uint64_t> percent;  // 0: limit is fixed; else limit = percent of far_peak, at least limit_min.
  std::atomic<uint64_t> limit_min;
  std::atomic<uint32_t> processes;  // That have far memory now.
  std::atomic<uint32_t> hunger;     // Futex: counts the calls of processes with too little for more.
  std::atomic<uint32_t> listeners;  // Evictors that wait for it.
};

// Waits until some process has called for memory since `seen` calls, or until `enough`, which whoever sets it
// makes known by WakeListeners(); how many calls there were.
uint32_t AwaitHunger(BudgetState* state, uint32_t seen, const std::atomic<bool>& enough);
// Has all of the run that wait look again.
void WakeListeners(BudgetState* state);

class Budget {
 public:
  // A process that comes when everything is taken may go this many pages over, so that it can work at all;
  // small enough that a dozen such processes stay within a few percent of the limit.
  static constexpr uint64_t kGuaranteedPagesMin = 48;
  static constexpr uint64_t kGuaranteedPagesMax = 192;

  Budget() = default;
  Budget(BudgetState* state, std::atomic<uint64_t>* mine) : state_(state), mine_(mine) {}

  uint64_t limit() const { return state_->limit.load(std::memory_order_relaxed); }
  uint64_t mine() const { return mine_->load(std::memory_order_relaxed); }
  uint64_t guaranteed() const {
    const uint64_t share = limit() / 256;
    return share < kGuaranteedPagesMin   ? kGuaranteedPagesMin
           : share > kGuaranteedPagesMax ? kGuaranteedPagesMax
                                         : share;
  }
  uint64_t used() const { return state_->used.load(std::memory_order_relaxed); }

  // What a process is entitled to when all want more.
  uint64_t share() const {
    const uint32_t processes = state_->processes.load(std::memory_order_relaxed);
    return processes > 1 ? limit() / processes : limit();
  }
  // This process has to evict for want of budget: if it holds far less than its share, those that hold more
  // are called to give some back.
  void AtLimit() {
    if (mine() < share() / 4 * 3) CallForShare();
  }

  // Takes `pages` if they fit under the limit, or if this process holds less than its guarantee.
  bool TryTake(uint64_t pages) {
    uint64_t used = state_->used.load(std::memory_order_relaxed);
    do {
      if (used + pages > limit() && mine() + pages > guaranteed()) return false;
    } while (!state_->used.compare_exchange_weak(used, used + pages, std::memory_order_relaxed));
    Took(used + pages, pages);
    return true;
  }
  // Takes them whatever the limit says (a forked child's copy of the resident set; everything is pinned).
  void Take(uint64_t pages) { Took(state_->used.fetch_add(pages, std::memory_order_relaxed) + pages, pages); }
  void Give(uint64_t pages) {
    // In this order: a process that is killed in between leaks a little instead of giving it back twice.
    mine_->fetch_sub(pages, std::memory_order_relaxed);
    state_->used.fetch_sub(pages, std::memory_order_relaxed);
  }
  // Hands pages over without their being anybody's for a moment.
  void TransferTo(Budget* heir, uint64_t pages) {
    heir->mine_->fetch_add(pages, std::memory_order_relaxed);
    mine_->fetch_sub(pages, std::memory_order_relaxed);
  }

  void AddFar(uint64_t pages) {
    const uint64_t far = state_->far.fetch_add(pages, std::memory_order_relaxed) + pages;
    uint64_t peak = state_->far_peak.load(std::memory_order_relaxed);
    if (far <= peak) return;
    while (far > peak && !state_->far_peak.compare_exchange_weak(peak, far, std::memory_order_relaxed)) {
    }
    const uint64_t percent = state_->percent.load(std::memory_order_relaxed);
    if (percent == 0) return;
    const uint64_t wanted = far * percent / 100;
    if (wanted > state_->limit_min.load(std::memory_order_relaxed) && wanted > limit())
      state_->limit.store(wanted, std::memory_order_relaxed);
  }
  void SubFar(uint64_t pages) { state_->far.fetch_sub(pages, std::memory_order_relaxed); }

 private:
  void CallForShare();
  void Took(uint64_t used, uint64_t pages) {
    mine_->fetch_add(pages, std::memory_order_relaxed);
    uint64_t peak = state_->used_peak.load(std::memory_order_relaxed);
    while (used > peak && !state_->used_peak.compare_exchange_weak(peak, used, std::memory_order_relaxed)) {
    }
  }

  BudgetState* state_ = nullptr;
  std::atomic<uint64_t>* mine_ = nullptr;
};

}  // namespace farpool
