#include "transport/shm/shm_link.h"

#include "transport/local_op.h"

namespace farpool {

void ShmLink::Post(LinkOp* const* ops, unsigned count) {
  for (unsigned i = 0; i < count; ++i) {
    ops[i]->done = false;
    uint64_t bytes = 0;
    std::byte* slab = lookup_(context_, ops[i]->slab, &bytes);
    ExecuteOp(ops[i], slab, bytes);
  }
}

}  // namespace farpool
