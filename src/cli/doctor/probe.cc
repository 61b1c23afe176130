// Measures a donor through the same links that a program's runtime uses.

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <vector>

#include "base/clock.h"
#include "cli/doctor/check.h"
#include "transport/rdma/rdma_link.h"
#include "transport/session/donor_session.h"
#include "transport/shm/shm_link.h"
#include "transport/tcp/tcp_link.h"

namespace farpool {

namespace {

constexpr unsigned kRoundTrips = 2000;
constexpr unsigned kDepth = 8;
constexpr uint64_t kRegionBytesMax = 16u << 20;  // Of the slab; larger than most caches' share.
constexpr uint64_t kPhaseNsMax = 1'000'000'000;  // Each phase stops here on a slow network.
constexpr uint64_t kBandwidthNs = 300'000'000;

struct Slab {
  SlabId id;
  std::byte* base;  // Mapped here, or nullptr over TCP.
  uint64_t bytes;
};

// One read or write of `bytes` at `offset`, waited for.
Status Do(Link& link, const Slab& slab, LinkOp::Kind kind, uint64_t offset, uint32_t bytes, void* local) {
  LinkOp op;
  op.kind = kind;
  op.slab = slab.id;
  op.offset = offset;
  op.bytes = bytes;
  op.local = local;
  LinkOp* const ops[] = {&op};
  link.Post(ops, 1);
  link.Wait(&op);
  return op.code == Status::Code::kOk ? Status::Ok() : Status(op.code, "the donor broke off while measuring");
}

Status Measure(Link& link, const Slab& slab, DonorProbe* out) {
  const uint64_t region = std::min(slab.bytes, kRegionBytesMax) / kMaxLinkBytes * kMaxLinkBytes;
  if (region == 0) return Status::Corrupt("the donor leased a slab of no use");
  const auto buffer = std::make_unique<std::byte[]>(size_t{kDepth} * kMaxLinkBytes);

  // Touch the memory first: the donor allocates it at the first use, which is not what is measured. What a
  // slow network does not reach in time reads as zeros, and as fast.
  const uint64_t fill_start = NowNs();
  for (uint64_t at = 0; at < region && NowNs() - fill_start < kPhaseNsMax; at += kMaxLinkBytes) {
    const Status status = Do(link, slab, LinkOp::Kind::kWrite, at, kMaxLinkBytes, buffer.get());
    if (!status.ok()) return status;
  }

  std::vector<uint64_t> times;
  const uint64_t start = NowNs();
  uint64_t page = 0;
  for (unsigned i = 0; i < kRoundTrips && NowNs() - start < kPhaseNsMax; ++i) {
    page = (page + 1021) % (region / kPageBytes);  // A prime stride: not what a prefetcher expects.
    const uint64_t before = NowNs();
    const Status status = Do(link, slab, LinkOp::Kind::kRead, page * kPageBytes, kPageBytes, buffer.get());
    if (!status.ok()) return status;
    times.push_back(NowNs() - before);
  }
  std::nth_element(times.begin(), times.begin() + static_cast<long>(times.size() / 2), times.end());
  out->round_trip_p50_us = static_cast<double>(times[times.size() / 2]) / 1000;

  LinkOp ops[kDepth];
  LinkOp* posted[kDepth];
  uint64_t bytes = 0, offset = 0;
  const uint64_t read_start = NowNs();
  uint64_t now = read_start;
  while (now - read_start < kBandwidthNs) {
    for (unsigned i = 0; i < kDepth; ++i) {
      ops[i] = LinkOp();
      ops[i].slab = slab.id;
      ops[i].offset = offset;
      ops[i].bytes = kMaxLinkBytes;
      ops[i].local = buffer.get() + size_t{i} * kMaxLinkBytes;
      posted[i] = &ops[i];
      offset = (offset + kMaxLinkBytes) % region;
    }
    link.Post(posted, kDepth);
    // All of them, even after an error: they point into this frame.
    for (LinkOp& op : ops) link.Wait(&op);
    for (const LinkOp& op : ops)
      if (op.code != Status::Code::kOk) return {op.code, "the donor broke off while measuring"};
    bytes += size_t{kDepth} * kMaxLinkBytes;
    now = NowNs();
  }
  out->read_gb_per_s = static_cast<double>(bytes) / static_cast<double>(now - read_start);
  return Status::Ok();
}

std::byte* LookupSlab(void* context, SlabId id, uint64_t* bytes) {
  const Slab* slab = static_cast<const Slab*>(context);
  if (id != slab->id) return nullptr;
  *bytes = slab->bytes;
  return slab->base;
}

Status MeasureLease(DonorSession& session, const SlabLease& lease, DonorProbe* out) {
  Slab slab = {lease.id, nullptr, lease.bytes};
  if (session.shared_memory()) {
    out->transport = "shm";
    void* base = mmap(nullptr, lease.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, lease.memory.get(), 0);
    if (base == MAP_FAILED) return Status::FromErrno("mapping the slab", errno);
    slab.base = static_cast<std::byte*>(base);
    ShmLink link(LookupSlab, &slab);
    const Status status = Measure(link, slab, out);
    munmap(base, lease.bytes);
    return status;
  }
  Result<Fd> channel = session.OpenDataChannel();
  if (!channel.ok()) return channel.status();
  if (!session.rdma()) {
    TcpLink link(channel.value().get());
    return Measure(link, slab, out);
  }
  out->transport = "rdma";
  Verbs verbs;
  if (const Status s = OpenVerbs(VerbsPlace::kOrdinary, &verbs); !s.ok()) return s;
  RdmaLink link;
  if (const Status s = link.Open(&verbs, channel.value().get()); !s.ok()) return s;
  const Status status = Measure(link, slab, out);
  link.Close();
  return status;
}

}  // namespace

Result<DonorProbe> ProbeDonor(const PoolEntry& entry) {
  Result<std::unique_ptr<DonorSession>> opened = DonorSession::Open(entry, /*grace_ms=*/0);
  if (!opened.ok()) return opened.status();
  DonorSession& session = *opened.value();
  DonorProbe probe;
  const Result<SlabLease> lease = session.LeaseSlab();
  Status status = lease.status();
  if (lease.ok()) {
    status = MeasureLease(session, lease.value(), &probe);
    const Status returned = session.ReturnSlab(lease.value().id);
    if (status.ok()) status = returned;
  }
  const Status closed = session.Close();
  if (status.ok()) status = closed;
  if (!status.ok()) return status;
  return probe;
}

}  // namespace farpool
