// What the writer does, and when it is called: staged pages are stored by a thread that has time, beside the
// faults of others.

#include <linux/futex.h>
#include <sys/syscall.h>

#include "base/sys.h"
#include "paging/engine.h"

namespace farpool {

namespace {
// Streams take many frames at once: so many are kept free, at most this part of staging.
constexpr uint64_t kFreeMax = 512;
constexpr uint64_t kFreeShare = 4;
// Evictions at most for one fault.
constexpr unsigned kEvictionsMax = 8;
}  // namespace

uint64_t Engine::FramesWanted() const {
  const uint64_t share = PassingTarget() / kFreeShare;
  return share > kFreeMax ? kFreeMax : share;
}

bool Engine::LeftToWriter(unsigned count, Departure* departure, Status* status) {
  if (!writer_.Serves() || staging_.free_frames() < count) return false;
  if (!writer_.waits() || staging_.free_frames() >= FramesWanted() / 2) return true;
  config_.budget.AtLimit();
  // What it is going to store, by few calls that empty the TLB.
  *status = FillStaging(StagingTarget() + EvictBatch() / 2, kGroupPages, kEvictionsMax);
  writer_.Call();
  writer_calls_.fetch_add(1, std::memory_order_relaxed);
  departure->call_writer = true;
  return true;
}

Status Engine::WriteBack(bool* more) {
  MutexLock hold(&lock_);
  calls_heard_ = writer_calls_.load(std::memory_order_relaxed);
  const bool wanted = exclusive_waiters_ == 0 && staging_.free_frames() < FramesWanted();
  Departure departure;
  *more = wanted && Depart(kGroupPages, &departure);
  if (*more) return SeeOff(&departure);
  writer_.Waits(wanted && staging_.staged() > 0);
  return Status::Ok();
}

// Lets go of the lock meanwhile.
Status Engine::SeeOff(Departure* departure) {
  writing_ = true;
  lock_.Unlock();
  const Status s = Store(departure);
  lock_.Lock();
  writing_ = false;
  if (s.ok()) {
    Left(*departure);
    Count(config_.stats->evicted_beside, departure->count);
  }
  WakeLandingWaiters();
  return s;
}

void Engine::WakeWriter() {
  writer_calls_.fetch_add(1);
  sys::Call(SYS_futex, &writer_calls_, FUTEX_WAKE_PRIVATE, 1);
}

void Engine::AwaitCall() { sys::Call(SYS_futex, &writer_calls_, FUTEX_WAIT_PRIVATE, calls_heard_, nullptr); }

}  // namespace farpool
