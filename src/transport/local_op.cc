#include "transport/local_op.h"

#include <cstring>

#include "base/copy_past_cache.h"
#include "wire/wire.h"

namespace farpool {

static_assert(kMaxLinkBytes == wire::kMaxTransferBytes);

Status::Code CheckOp(const LinkOp& op) {
  switch (op.kind) {
    case LinkOp::Kind::kRead:
    case LinkOp::Kind::kWrite:
      if (op.bytes == 0 || op.bytes > kMaxLinkBytes || op.local == nullptr)
        return Status::Code::kInvalidArgument;
      return Status::Code::kOk;
    case LinkOp::Kind::kCompareAndSwap:
    case LinkOp::Kind::kFetchAdd:
      if (op.bytes != sizeof(uint64_t) || op.offset % sizeof(uint64_t) != 0)
        return Status::Code::kInvalidArgument;
      return Status::Code::kOk;
  }
  return Status::Code::kInvalidArgument;
}

void ExecuteOp(LinkOp* op, std::byte* slab, uint64_t slab_bytes) {
  const Status::Code code = CheckOp(*op);
  if (code != Status::Code::kOk) return FinishOp(op, code);
  if (slab == nullptr) return FinishOp(op, Status::Code::kNotFound);
  if (!wire::RangeFits(op->offset, op->bytes, slab_bytes))
    return FinishOp(op, Status::Code::kInvalidArgument);
  std::byte* at = slab + op->offset;
  switch (op->kind) {
    case LinkOp::Kind::kRead:
      std::memcpy(op->local, at, op->bytes);
      break;
    case LinkOp::Kind::kWrite:
      CopyPastCache(at, op->local, op->bytes);
      break;
    case LinkOp::Kind::kCompareAndSwap: {
      uint64_t expected = op->compare;
      // On failure `expected` becomes what is there; on success it already is.
      std::atomic_ref<uint64_t>(*reinterpret_cast<uint64_t*>(at))
          .compare_exchange_strong(expected, op->operand);
      op->result = expected;
      break;
    }
    case LinkOp::Kind::kFetchAdd:
      op->result = std::atomic_ref<uint64_t>(*reinterpret_cast<uint64_t*>(at)).fetch_add(op->operand);
      break;
  }
  FinishOp(op, Status::Code::kOk);
}

}  // namespace farpool
