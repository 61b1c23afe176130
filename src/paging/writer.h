#pragma once
// Whose business it is to make frames free for the next faults of a stream: a thread's of the runtime's which
// hashes and stores staged pages beside the program's threads, the writer, or the faults' themselves. Faults
// call it when few are left, and do without it when there is none, when it does not come in time, and for a
// while after it came in vain (all that is staged shares its slots with a forked process, or the pool is
// full). Caller serialises.

#include <cstdint>

namespace farpool {

class Writer {
 public:
  // Faults that it is not called for once it came in vain.
  static constexpr uint32_t kRest = 256;

  // From the writer: it has done what it could, and waits to be called.
  void Waits(bool in_vain) {
    state_ = State::kWaits;
    if (in_vain) rest_ = kRest;
  }
  // In a forked child: there is none.
  void Gone() { *this = Writer(); }

  // From a fault, each of which asks this once: frames are the writer's business.
  bool Serves() {
    if (rest_ > 0) --rest_;
    return state_ != State::kNone && rest_ == 0;
  }
  // It is not at work, or about to be.
  bool waits() const { return state_ == State::kWaits; }
  void Call() { state_ = State::kCalled; }

 private:
  enum class State : uint8_t { kNone, kWaits, kCalled };
  State state_ = State::kNone;
  uint32_t rest_ = 0;
};

}  // namespace farpool
