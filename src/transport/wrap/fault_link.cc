#include "transport/wrap/fault_link.h"

#include "transport/local_op.h"

namespace farpool {

bool FaultLink::AddRule(const FaultRule& rule) {
  if (rules_ == kMaxRules) return false;
  slots_[rules_++] = {rule, 0};
  return true;
}

void FaultLink::Post(LinkOp* const* ops, unsigned count) {
  for (unsigned i = 0; i < count; ++i) {
    LinkOp* op = ops[i];
    op->done = false;
    if (!alive_) {
      FinishOp(op, Status::Code::kUnavailable);
      continue;
    }
    const FaultRule* decided = nullptr;
    for (unsigned r = 0; r < rules_; ++r) {
      Slot& slot = slots_[r];
      if ((slot.rule.kinds & (1u << static_cast<unsigned>(op->kind))) == 0) continue;
      const uint64_t n = slot.seen++;
      if (decided == nullptr && n >= slot.rule.first && n - slot.rule.first < slot.rule.count)
        decided = &slot.rule;
    }
    if (decided == nullptr) {
      next_->Post(&op, 1);
      continue;
    }
    switch (decided->action) {
      case FaultRule::Action::kFail:
        FinishOp(op, decided->code);
        break;
      case FaultRule::Action::kLoseReply:
        next_->Post(&op, 1);
        next_->Wait(op);
        FinishOp(op, decided->code);
        break;
      case FaultRule::Action::kHold:
        op->next = nullptr;
        (held_head_ == nullptr ? held_head_ : held_tail_->next) = op;
        held_tail_ = op;
        ++held_;
        break;
    }
  }
}

void FaultLink::Release() {
  while (held_head_ != nullptr) {
    LinkOp* op = held_head_;
    held_head_ = op->next;
    --held_;
    next_->Post(&op, 1);
  }
}

void FaultLink::Break() {
  alive_ = false;
  EndHeld(Status::Code::kUnavailable);
}

void FaultLink::EndHeld(Status::Code code) {
  while (held_head_ != nullptr) {
    LinkOp* op = held_head_;
    held_head_ = op->next;
    --held_;
    FinishOp(op, code);
  }
}

void FaultLink::Wait(LinkOp* op) {
  for (LinkOp* held = held_head_; held != nullptr; held = held->next) {
    if (held != op) continue;
    alive_ = false;
    EndHeld(Status::Code::kTimeout);
    return;
  }
  if (!op->done) next_->Wait(op);
}

}  // namespace farpool
