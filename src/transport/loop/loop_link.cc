#include "transport/loop/loop_link.h"

#include "base/assert.h"
#include "transport/local_op.h"

namespace farpool {

void LoopLink::Post(LinkOp* const* ops, unsigned count) {
  for (unsigned i = 0; i < count; ++i) {
    LinkOp* op = ops[i];
    op->done = false;
    op->next = nullptr;
    const Status::Code code = alive_ ? CheckOp(*op) : Status::Code::kUnavailable;
    if (code != Status::Code::kOk) {
      FinishOp(op, code);
      continue;
    }
    (head_ == nullptr ? head_ : tail_->next) = op;
    tail_ = op;
  }
}

void LoopLink::Poll() {
  while (head_ != nullptr) {
    LinkOp* op = head_;
    head_ = op->next;
    const auto slab = static_cast<uint64_t>(op->slab);
    ExecuteOp(op, slab < slabs_ ? memory_ + slab * slab_bytes_ : nullptr, slab_bytes_);
  }
}

void LoopLink::Wait(LinkOp* op) {
  Poll();
  FARPOOL_ASSERT(op->done);  // It was posted here, or the caller has a bug.
}

void LoopLink::Break() {
  alive_ = false;
  while (head_ != nullptr) {
    LinkOp* op = head_;
    head_ = op->next;
    FinishOp(op, Status::Code::kUnavailable);
  }
}

}  // namespace farpool
