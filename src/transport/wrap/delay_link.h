#pragma once
// Link that is slower than the next one: an operation reaches it no sooner than `delay_ns` after Post().
// Makes a fast medium behave like a far one. The order of operations is kept.

#include "base/clock.h"
#include "transport/link.h"

namespace farpool {

class DelayLink final : public Link {
 public:
  using Clock = uint64_t (*)();  // Nanoseconds; tests put their own.
  DelayLink(Link* next, uint64_t delay_ns, Clock clock = &NowNs)
      : next_(next), delay_ns_(delay_ns), clock_(clock) {}

  void Post(LinkOp* const* ops, unsigned count) override;
  void Poll() override;
  void Wait(LinkOp* op) override;  // Spins through what is left of the delay.
  bool alive() const override { return next_->alive(); }

 private:
  void PassOnDue();

  Link* next_;
  uint64_t delay_ns_;
  Clock clock_;
  LinkOp* head_ = nullptr;  // Waiting out their delay, oldest first; op->id is when it is over.
  LinkOp* tail_ = nullptr;
};

}  // namespace farpool
