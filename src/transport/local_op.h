#pragma once
// What all links share: the rules for an operation, and carrying one out on memory that is mapped here.

#include <atomic>
#include <cstddef>

#include "transport/link.h"

namespace farpool {

// kOk, or kInvalidArgument for an operation that no donor could carry out (size, alignment, no buffer).
Status::Code CheckOp(const LinkOp& op);

// Ends `op`. `done` is stored last and with release order, so that a thread that polls it sees the rest.
// After this the operation is the caller's again: read op->next before.
inline void FinishOp(LinkOp* op, Status::Code code) {
  op->code = code;
  std::atomic_ref<bool>(op->done).store(true, std::memory_order_release);
}

// Whether another thread may have ended `op`; if so, all of its result can be read.
inline bool IsDone(const LinkOp& op) {
  return std::atomic_ref<bool>(const_cast<bool&>(op.done)).load(std::memory_order_acquire);
}

// Carries `op` out on `slab` (its base, nullptr if unknown) of `slab_bytes` and ends it.
void ExecuteOp(LinkOp* op, std::byte* slab, uint64_t slab_bytes);

}  // namespace farpool
