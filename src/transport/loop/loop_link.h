#pragma once
// Link over a block of memory in this process, for tests: slab n (from 0) is the n-th `slab_bytes` of
// `memory`. Unlike shm, nothing is done before Poll() or Wait(), as over a network.

#include <cstddef>

#include "transport/link.h"

namespace farpool {

class LoopLink final : public Link {
 public:
  // Borrows `memory`, `slabs` * `slab_bytes` long and 8-byte aligned.
  LoopLink(std::byte* memory, uint64_t slab_bytes, unsigned slabs)
      : memory_(memory), slab_bytes_(slab_bytes), slabs_(slabs) {}
  void Post(LinkOp* const* ops, unsigned count) override;
  void Poll() override;
  void Wait(LinkOp* op) override;
  bool alive() const override { return alive_; }
  // Breaks the channel: what is outstanding and all that comes ends with kUnavailable.
  void Break();

 private:
  std::byte* memory_;
  uint64_t slab_bytes_;
  unsigned slabs_;
  bool alive_ = true;
  LinkOp* head_ = nullptr;  // Posted and not done, oldest first.
  LinkOp* tail_ = nullptr;
};

}  // namespace farpool
