#include "transport/wrap/delay_link.h"

namespace farpool {

void DelayLink::Post(LinkOp* const* ops, unsigned count) {
  const uint64_t due = clock_() + delay_ns_;
  for (unsigned i = 0; i < count; ++i) {
    LinkOp* op = ops[i];
    op->done = false;
    op->id = due;
    op->next = nullptr;
    (head_ == nullptr ? head_ : tail_->next) = op;
    tail_ = op;
  }
}

void DelayLink::PassOnDue() {
  if (head_ == nullptr) return;
  const uint64_t now = clock_();
  while (head_ != nullptr && head_->id <= now) {
    LinkOp* op = head_;
    head_ = op->next;
    next_->Post(&op, 1);
  }
}

void DelayLink::Poll() {
  PassOnDue();
  next_->Poll();
}

void DelayLink::Wait(LinkOp* op) {
  for (;;) {
    bool here = false;
    for (LinkOp* waiting = head_; waiting != nullptr; waiting = waiting->next) here |= waiting == op;
    if (!here) break;
    SpinPause();
    Poll();
  }
  if (!op->done) next_->Wait(op);
}

}  // namespace farpool
