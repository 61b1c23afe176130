#include "store/lease/bandwidth.h"

#include <algorithm>
#include <memory>

#include "base/clock.h"
#include "transport/tcp/tcp_link.h"

namespace farpool {

namespace {

constexpr uint32_t kSharedMemory = 10'000;
constexpr unsigned kDepth = 8;
constexpr uint32_t kBytes = 64 << 10;
// What comes first may still be what a limited link had saved up.
constexpr uint64_t kWarmUpNs = 10'000'000;
constexpr uint64_t kMeasureNs = 40'000'000;

Result<uint32_t> Measure(Link& link, const SlabLease& lease) {
  const auto buffer = std::make_unique<std::byte[]>(size_t{kDepth} * kBytes);
  const uint64_t began = NowNs();
  uint64_t counted_from = 0;
  uint64_t bytes = 0;
  for (uint64_t now = began; counted_from == 0 || now - counted_from < kMeasureNs; now = NowNs()) {
    if (counted_from == 0 && now - began >= kWarmUpNs) counted_from = now;
    LinkOp ops[kDepth];
    LinkOp* posted[kDepth];
    for (unsigned i = 0; i < kDepth; ++i) {
      ops[i].slab = lease.id;
      ops[i].offset = i * kBytes % lease.bytes;
      ops[i].bytes = static_cast<uint32_t>(std::min<uint64_t>(kBytes, lease.bytes));
      ops[i].local = buffer.get() + size_t{i} * kBytes;
      posted[i] = &ops[i];
    }
    link.Post(posted, kDepth);
    // All of them, even after an error: they point into this frame.
    for (LinkOp& op : ops) link.Wait(&op);
    for (const LinkOp& op : ops) {
      if (op.code != Status::Code::kOk)
        return Status(op.code, "a donor broke off while its bandwidth was measured");
      if (counted_from != 0) bytes += op.bytes;
    }
  }
  const uint64_t mb_per_s = bytes * 1000 / (NowNs() - counted_from);
  return static_cast<uint32_t>(std::clamp<uint64_t>(mb_per_s, 1, kSharedMemory));
}

}  // namespace

Result<uint32_t> MeasureBandwidth(DonorSession& session) {
  if (session.shared_memory()) return kSharedMemory;
  const Result<SlabLease> lease = session.LeaseSlab();
  // A full donor gets no pages anyway.
  if (!lease.ok())
    return lease.status().code() == Status::Code::kExhausted ? Result<uint32_t>(1) : lease.status();
  const Result<Fd> channel = session.OpenDataChannel();
  Result<uint32_t> bandwidth = channel.status();
  if (channel.ok()) {
    TcpLink link(channel.value().get());
    bandwidth = Measure(link, lease.value());
  }
  if (const Status s = session.ReturnSlab(lease.value().id); bandwidth.ok() && !s.ok()) return s;
  return bandwidth;
}

}  // namespace farpool
