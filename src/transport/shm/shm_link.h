#pragma once
// Link over the donor's memory mapped here: operations are loads, stores and CPU atomics, done when Post
// returns. After the donor's death the mapping stays readable and writable.

#include "transport/link.h"

namespace farpool {

class ShmLink final : public Link {
 public:
  // Returns where `slab` is mapped and its size through `bytes`, or nullptr if it is not known.
  using Lookup = std::byte* (*)(void* context, SlabId slab, uint64_t* bytes);
  ShmLink(Lookup lookup, void* context) : lookup_(lookup), context_(context) {}
  void Post(LinkOp* const* ops, unsigned count) override;
  void Poll() override {}
  void Wait(LinkOp*) override {}
  bool alive() const override { return true; }

 private:
  Lookup lookup_;
  void* context_;
};

}  // namespace farpool
