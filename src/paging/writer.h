#pragma once
// Whose business it is to make frames free for the next faults of a stream: a thread's of the runtime's which
// hashes and stores staged pages beside the program's threads, the writer, or the faults' themselves. Faults
// call it when few are left, and do without it when there is none, when it does not come in time, and for a
// while after it came in vain (all that is staged shares its slots with a forked process, or the pool is
// full). Where it takes a processor from the program, or from a donor on the same host, it is no help: so how
// long faults of streams take with it and without it is measured by turns. Caller serialises.

#include <cstdint>

#include "base/frugal_median.h"

namespace farpool {

class Writer {
 public:
  // Faults that it is not called for once it came in vain.
  static constexpr uint32_t kRest = 256;
  // Faults of one turn; of every so many turns one goes to the slower way. The first faults of a turn still
  // find what the other way left.
  static constexpr unsigned kTurn = 32;
  static constexpr unsigned kTurnSettles = 8;
  static constexpr unsigned kTryEvery = 16;
  // A turn changes what is known by this part; ways that differ by less are as good as each other.
  static constexpr uint64_t kStep = 4;

  // From the writer: it has done what it could, and waits to be called.
  void Waits(bool in_vain) {
    state_ = State::kWaits;
    if (in_vain) rest_ = kRest;
  }
  // In a forked child: there is none.
  void Gone() { *this = Writer(); }

  // From a fault of a stream, each of which asks this once: frames are the writer's business.
  bool Serves() {
    if (rest_ > 0) --rest_;
    return state_ != State::kNone && rest_ == 0 && with_it_;
  }
  // It is not at work, or about to be.
  bool waits() const { return state_ == State::kWaits; }
  void Call() { state_ = State::kCalled; }
  // A fault of a stream took `ns` for `pages`.
  void Took(uint64_t ns, unsigned pages) {
    if (state_ == State::kNone || rest_ > 0 || ++faults_ <= kTurnSettles) return;
    ns_ += ns;
    pages_ += pages;
    if (faults_ < kTurn) return;
    (with_it_ ? with_ : without_).Add(ns_ / pages_ + 1, kStep);
    faults_ = 0;
    ns_ = pages_ = 0;
    const bool helps = without_.value() != 0 && with_.value() <= without_.value();
    with_it_ = ++turns_ % kTryEvery == 0 ? !helps : helps;
  }

 private:
  enum class State : uint8_t { kNone, kWaits, kCalled };
  State state_ = State::kNone;
  bool with_it_ = true;
  uint32_t rest_ = 0;
  unsigned faults_ = 0;  // Of this turn.
  uint64_t ns_ = 0;
  uint64_t pages_ = 0;
  uint32_t turns_ = 0;
  FrugalMedian with_;  // ns a page, by turns.
  FrugalMedian without_;
};

}  // namespace farpool
