// One suite that every Link must pass: over memory in this process (loop), a donor's memory mapped here
// (shm), a socket to a donor (tcp, over TCP and over a unix socket) and a queue pair to it (rdma). The donor
// is a real one, in this process. RDMA is tested on a fake device, and on a true one if FARPOOL_TEST_RDMA is
// its address: tests/vm/rdma_test.sh makes one.

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <thread>
#include <vector>

#include "donor/server.h"
#include "fake_verbs.h"
#include "transport/loop/loop_link.h"
#include "transport/rdma/rdma_link.h"
#include "transport/session/donor_session.h"
#include "transport/shm/shm_link.h"
#include "transport/tcp/tcp_link.h"
#include "transport/wrap/delay_link.h"
#include "transport/wrap/fault_link.h"
#include "wire/wire.h"

namespace farpool {
namespace {

constexpr uint64_t kSlabBytes = 4u << 20;

LinkOp Op(LinkOp::Kind kind, SlabId slab, uint64_t offset, void* local, uint32_t bytes) {
  LinkOp op;
  op.kind = kind;
  op.slab = slab;
  op.offset = offset;
  op.local = local;
  op.bytes = bytes;
  return op;
}
LinkOp ReadOp(SlabId slab, uint64_t offset, void* local, uint32_t bytes) {
  return Op(LinkOp::Kind::kRead, slab, offset, local, bytes);
}
LinkOp WriteOp(SlabId slab, uint64_t offset, void* local, uint32_t bytes) {
  return Op(LinkOp::Kind::kWrite, slab, offset, local, bytes);
}
LinkOp CasOp(SlabId slab, uint64_t offset, uint64_t compare, uint64_t value) {
  LinkOp op = Op(LinkOp::Kind::kCompareAndSwap, slab, offset, nullptr, 8);
  op.compare = compare;
  op.operand = value;
  return op;
}
LinkOp AddOp(SlabId slab, uint64_t offset, uint64_t addend) {
  LinkOp op = Op(LinkOp::Kind::kFetchAdd, slab, offset, nullptr, 8);
  op.operand = addend;
  return op;
}

Status::Code RunOp(Link* link, LinkOp* op) {
  link->Post(&op, 1);
  link->Wait(op);
  EXPECT_TRUE(op->done);
  return op->code;
}

std::vector<std::byte> Pattern(size_t bytes, uint64_t seed) {
  std::vector<std::byte> out(bytes);
  for (auto& b : out) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    b = static_cast<std::byte>(seed >> 56);
  }
  return out;
}

// What a suite needs: a slab, and links to it. Links of one medium may be used from different threads.
class Medium {
 public:
  virtual ~Medium() = default;
  virtual Link* NewLink() = 0;
  SlabId slab{};
};

class LoopMedium final : public Medium {
 public:
  Link* NewLink() override { return &links_.emplace_back(memory_.data(), kSlabBytes, 1); }

 private:
  std::vector<std::byte> memory_ = std::vector<std::byte>(kSlabBytes);
  std::deque<LoopLink> links_;
};

std::string TestSocketPath() {
  static std::atomic<int> next{0};
  return "/tmp/farpool-link-test." + std::to_string(getpid()) + "." + std::to_string(next++);
}

// A donor of one process and a session with it.
class DonorMedium : public Medium {
 public:
  explicit DonorMedium(PoolEntry::Scheme scheme, const Verbs* verbs = nullptr) {
    DonorOptions options;
    entry.scheme = scheme;
    if (scheme == PoolEntry::Scheme::kTcp) {
      options.tcp_host = "127.0.0.1";
    } else if (scheme == PoolEntry::Scheme::kRdma) {
      options.rdma_host = verbs != nullptr ? "127.0.0.1" : RdmaAddress();
      options.verbs = verbs;
      options.allow_anyone = true;  // An address of this machine's own.
    } else {
      options.unix_path = TestSocketPath();
    }
    options.memory_bytes = 4 * kSlabBytes;
    options.slab_bytes = kSlabBytes;
    auto started = DonorServer::Start(options);
    EXPECT_TRUE(started.ok()) << started.status().text();
    donor = std::move(started).value();
    const bool rdma = scheme == PoolEntry::Scheme::kRdma;
    entry.host = rdma ? options.rdma_host : options.tcp_host;
    entry.port = rdma ? donor->rdma_port() : donor->tcp_port();
    entry.path = options.unix_path;
    auto opened = DonorSession::Open(entry, 1000);
    EXPECT_TRUE(opened.ok()) << opened.status().text();
    session = std::move(opened).value();
    auto leased = session->LeaseSlab();
    EXPECT_TRUE(leased.ok()) << leased.status().text();
    lease = std::move(leased).value();
    slab = lease.id;
  }
  static const char* RdmaAddress() { return getenv("FARPOOL_TEST_RDMA"); }
  std::unique_ptr<DonorServer> donor;
  PoolEntry entry;
  std::unique_ptr<DonorSession> session;
  SlabLease lease;
};

class ShmMedium final : public DonorMedium {
 public:
  ShmMedium() : DonorMedium(PoolEntry::Scheme::kUnix) {
    void* at = mmap(nullptr, kSlabBytes, PROT_READ | PROT_WRITE, MAP_SHARED, lease.memory.get(), 0);
    EXPECT_NE(at, MAP_FAILED);
    base_ = static_cast<std::byte*>(at);
  }
  ~ShmMedium() override { munmap(base_, kSlabBytes); }
  Link* NewLink() override { return &links_.emplace_back(&Lookup, this); }

 private:
  static std::byte* Lookup(void* context, SlabId slab, uint64_t* bytes) {
    auto* self = static_cast<ShmMedium*>(context);
    if (slab != self->slab) return nullptr;
    *bytes = kSlabBytes;
    return self->base_;
  }
  std::byte* base_ = nullptr;
  std::deque<ShmLink> links_;
};

class SocketMedium final : public DonorMedium {
 public:
  explicit SocketMedium(PoolEntry::Scheme scheme) : DonorMedium(scheme) {}
  Link* NewLink() override { return NewLinkWith({}); }
  // A generous deadline: these tests are about order and bounds, not about how busy the machine is.
  TcpLink* NewLinkWith(TcpLinkOptions options) {
    options.deadline_ns = 60'000'000'000;
    auto fd = session->OpenDataChannel();
    EXPECT_TRUE(fd.ok()) << fd.status().text();
    fds_.push_back(std::move(fd).value());
    return &links_.emplace_back(fds_.back().get(), options);
  }

 private:
  std::vector<Fd> fds_;
  std::deque<TcpLink> links_;
};

class RdmaMedium final : public DonorMedium {
 public:
  explicit RdmaMedium(std::unique_ptr<FakeVerbs> a_fake)
      : DonorMedium(PoolEntry::Scheme::kRdma, a_fake != nullptr ? a_fake->get() : nullptr),
        fake(std::move(a_fake)) {
    if (fake != nullptr) {
      verbs_ = *fake->get();
      return;
    }
    const Status status = OpenVerbs(VerbsPlace::kOrdinary, &verbs_);
    EXPECT_TRUE(status.ok()) << status.text();
  }
  ~RdmaMedium() override {
    for (RdmaLink& link : links_) link.Close();
    session.reset();
    donor.reset();
    if (fake != nullptr) {
      EXPECT_EQ(fake->objects, 0);  // Nothing is left of anybody's.
    }
  }
  Link* NewLink() override { return NewLinkWith(session.get(), {.deadline_ns = 60'000'000'000}); }
  RdmaLink* NewLinkWith(DonorSession* by, RdmaLinkOptions options) {
    auto fd = by->OpenDataChannel();
    EXPECT_TRUE(fd.ok()) << fd.status().text();
    fds_.push_back(std::move(fd).value());
    RdmaLink& link = links_.emplace_back();
    const Status status = link.Open(&verbs_, fds_.back().get(), options);
    EXPECT_TRUE(status.ok()) << status.text();
    return &link;
  }

  const std::unique_ptr<FakeVerbs> fake;  // Null: a true device.

 private:
  Verbs verbs_;
  std::vector<Fd> fds_;
  std::deque<RdmaLink> links_;
};

#define SKIP_WITHOUT_RDMA() \
  if (DonorMedium::RdmaAddress() == nullptr) GTEST_SKIP() << "FARPOOL_TEST_RDMA names no RDMA device"

std::unique_ptr<RdmaMedium> FakeRdma() { return std::make_unique<RdmaMedium>(std::make_unique<FakeVerbs>()); }

using NewMedium = std::function<std::unique_ptr<Medium>()>;
struct Param {
  const char* name;
  NewMedium make;
};

class LinkConformanceTest : public testing::TestWithParam<Param> {
 protected:
  void SetUp() override {
    if (std::strcmp(GetParam().name, "Rdma") == 0) SKIP_WITHOUT_RDMA();
    medium_ = GetParam().make();
    link_ = medium_->NewLink();
    slab_ = medium_->slab;
  }
  std::unique_ptr<Medium> medium_;
  Link* link_ = nullptr;
  SlabId slab_{};
};

TEST_P(LinkConformanceTest, ReadsBackWhatWasWrittenAtEverySize) {
  for (const uint32_t bytes :
       {1u, 7u, 8u, 63u, 4095u, 4096u, 4097u, 65536u, kMaxLinkBytes - 1, kMaxLinkBytes}) {
    const uint64_t offset = bytes % 2 == 1 ? 13 : kSlabBytes - bytes;
    auto data = Pattern(bytes, bytes);
    LinkOp write = WriteOp(slab_, offset, data.data(), bytes);
    ASSERT_EQ(RunOp(link_, &write), Status::Code::kOk) << bytes;
    // One byte on each side of the buffer shows a link that writes too much.
    std::vector<std::byte> back(bytes + 2, std::byte{0x5A});
    LinkOp read = ReadOp(slab_, offset, back.data() + 1, bytes);
    ASSERT_EQ(RunOp(link_, &read), Status::Code::kOk) << bytes;
    EXPECT_EQ(std::memcmp(back.data() + 1, data.data(), bytes), 0) << bytes;
    EXPECT_EQ(back.front(), std::byte{0x5A});
    EXPECT_EQ(back.back(), std::byte{0x5A});
  }
}

TEST_P(LinkConformanceTest, FreshMemoryIsZero) {
  std::vector<std::byte> back(kMaxLinkBytes, std::byte{1});
  LinkOp read = ReadOp(slab_, kSlabBytes - kMaxLinkBytes, back.data(), kMaxLinkBytes);
  ASSERT_EQ(RunOp(link_, &read), Status::Code::kOk);
  EXPECT_EQ(back, std::vector<std::byte>(kMaxLinkBytes));
}

// Method: more operations than one message of any transport carries, of all kinds and sizes mixed, waited for
// in the opposite order.
TEST_P(LinkConformanceTest, ManyOutstandingOperationsAllEnd) {
  constexpr unsigned kOps = 700;
  constexpr uint32_t kStride = 5000;
  std::vector<std::vector<std::byte>> data, back(kOps);
  std::vector<LinkOp> ops;
  std::vector<LinkOp*> pointers;
  for (unsigned i = 0; i < kOps; ++i) {
    data.push_back(Pattern(1 + (i * 37) % kStride, i));
    back[i].resize(data[i].size());
    ops.push_back(
        WriteOp(slab_, uint64_t{i} * kStride, data[i].data(), static_cast<uint32_t>(data[i].size())));
  }
  for (auto& op : ops) pointers.push_back(&op);
  link_->Post(pointers.data(), kOps);
  for (unsigned i = kOps; i-- > 0;) {
    link_->Wait(&ops[i]);
    ASSERT_EQ(ops[i].code, Status::Code::kOk) << i;
  }
  for (unsigned i = 0; i < kOps; ++i)
    ops[i] = i % 10 == 9 ? AddOp(slab_, uint64_t{kOps} * kStride + 8, 1)
                         : ReadOp(slab_, uint64_t{i} * kStride, back[i].data(),
                                  static_cast<uint32_t>(back[i].size()));
  link_->Post(pointers.data(), kOps);
  for (unsigned i = kOps; i-- > 0;) {
    link_->Wait(&ops[i]);
    ASSERT_EQ(ops[i].code, Status::Code::kOk) << i;
    if (i % 10 == 9) continue;
    ASSERT_EQ(back[i], data[i]) << i;
  }
  LinkOp sum = AddOp(slab_, uint64_t{kOps} * kStride + 8, 0);
  ASSERT_EQ(RunOp(link_, &sum), Status::Code::kOk);
  EXPECT_EQ(sum.result, kOps / 10);
}

// More than any link keeps outstanding, in one Post: it must make its own room.
TEST_P(LinkConformanceTest, PostTakesMoreThanTheLinkHolds) {
  constexpr unsigned kOps = 2 * TcpLink::kMaxOutstanding + 3;
  std::vector<LinkOp> ops(kOps, AddOp(slab_, 64, 1));
  std::vector<LinkOp*> pointers;
  for (auto& op : ops) pointers.push_back(&op);
  link_->Post(pointers.data(), kOps);
  for (unsigned i = 0; i < kOps; ++i) {
    link_->Wait(&ops[i]);
    ASSERT_EQ(ops[i].code, Status::Code::kOk);
    ASSERT_EQ(ops[i].result, i);
  }
}

// Method: batches of the largest size, larger than all socket buffers together, in both directions at once.
// Two sides that each wait for the other to read would hang here.
TEST_P(LinkConformanceTest, LargeBatchesBothWaysDoNotDeadlock) {
  constexpr unsigned kPairs = 64;
  auto data = Pattern(kMaxLinkBytes, 5);
  std::vector<std::vector<std::byte>> back(kPairs, std::vector<std::byte>(kMaxLinkBytes));
  std::vector<LinkOp> ops;
  std::vector<LinkOp*> pointers;
  for (unsigned i = 0; i < kPairs; ++i) {
    ops.push_back(ReadOp(slab_, 0, back[i].data(), kMaxLinkBytes));
    ops.push_back(WriteOp(slab_, 2 * kMaxLinkBytes, data.data(), kMaxLinkBytes));
  }
  for (auto& op : ops) pointers.push_back(&op);
  LinkOp first = WriteOp(slab_, 0, data.data(), kMaxLinkBytes);
  ASSERT_EQ(RunOp(link_, &first), Status::Code::kOk);
  link_->Post(pointers.data(), 2 * kPairs);
  for (auto& op : ops) {
    link_->Wait(&op);
    ASSERT_EQ(op.code, Status::Code::kOk);
  }
  for (auto& b : back) ASSERT_EQ(b, data);
}

// More bytes at once than any link has buffers for, all of them different.
TEST_P(LinkConformanceTest, LargeOperationsDoNotMix) {
  constexpr unsigned kParts = kSlabBytes / kMaxLinkBytes;
  std::vector<std::vector<std::byte>> data, back(kParts, std::vector<std::byte>(kMaxLinkBytes));
  std::vector<LinkOp> ops;
  std::vector<LinkOp*> pointers;
  for (unsigned i = 0; i < kParts; ++i) data.push_back(Pattern(kMaxLinkBytes, i));
  for (unsigned i = 0; i < kParts; ++i)
    ops.push_back(WriteOp(slab_, uint64_t{i} * kMaxLinkBytes, data[i].data(), kMaxLinkBytes));
  for (unsigned i = 0; i < kParts; ++i)
    ops.push_back(ReadOp(slab_, uint64_t{i} * kMaxLinkBytes, back[i].data(), kMaxLinkBytes));
  for (auto& op : ops) pointers.push_back(&op);
  link_->Post(pointers.data(), static_cast<unsigned>(pointers.size()));
  for (auto& op : ops) {
    link_->Wait(&op);
    ASSERT_EQ(op.code, Status::Code::kOk);
  }
  for (unsigned i = 0; i < kParts; ++i) EXPECT_TRUE(back[i] == data[i]) << i;
}

// What is posted first happens first: a page written back and fetched again through one link is the new one,
// and a read before a write of the same bytes is the old one.
void KeepOrder(Link* link, SlabId slab) {
  constexpr unsigned kRounds = 50;
  std::vector<std::vector<std::byte>> data, before(kRounds, std::vector<std::byte>(4096));
  std::vector<LinkOp> ops;
  std::vector<LinkOp*> pointers;
  for (unsigned i = 0; i < kRounds; ++i) data.push_back(Pattern(4096, i + 1));
  for (unsigned i = 0; i < kRounds; ++i) {
    ops.push_back(ReadOp(slab, 8192, before[i].data(), 4096));
    ops.push_back(WriteOp(slab, 8192, data[i].data(), 4096));
  }
  for (auto& op : ops) pointers.push_back(&op);
  link->Post(pointers.data(), 2 * kRounds);
  for (auto& op : ops) {
    link->Wait(&op);
    ASSERT_EQ(op.code, Status::Code::kOk);
  }
  EXPECT_EQ(before[0], std::vector<std::byte>(4096));
  for (unsigned i = 1; i < kRounds; ++i) EXPECT_EQ(before[i], data[i - 1]) << i;
}

TEST_P(LinkConformanceTest, OperationsOnOneLinkKeepTheirOrder) { KeepOrder(link_, slab_); }

TEST_P(LinkConformanceTest, InvalidOperationsAreRefusedAndTheLinkGoesOn) {
  std::vector<std::byte> buffer(kMaxLinkBytes + 1);
  const SlabId unknown{987654321};
  struct Case {
    LinkOp op;
    Status::Code code;
  };
  const Status::Code invalid = Status::Code::kInvalidArgument;
  std::vector<Case> cases = {
      {ReadOp(slab_, kSlabBytes, buffer.data(), 1), invalid},
      {ReadOp(slab_, kSlabBytes - 1, buffer.data(), 2), invalid},
      {ReadOp(slab_, UINT64_MAX, buffer.data(), 4096), invalid},
      {ReadOp(slab_, UINT64_MAX - 4095, buffer.data(), 4096), invalid},
      {WriteOp(slab_, kSlabBytes - 4095, buffer.data(), 4096), invalid},
      {WriteOp(slab_, UINT64_MAX - 7, buffer.data(), kMaxLinkBytes), invalid},
      {ReadOp(slab_, 0, buffer.data(), 0), invalid},
      {WriteOp(slab_, 0, buffer.data(), 0), invalid},
      {ReadOp(slab_, 0, buffer.data(), kMaxLinkBytes + 1), invalid},
      {WriteOp(slab_, 0, buffer.data(), kMaxLinkBytes + 1), invalid},
      {ReadOp(slab_, 0, nullptr, 8), invalid},
      {CasOp(slab_, 4, 0, 1), invalid},
      {AddOp(slab_, 1, 1), invalid},
      {AddOp(slab_, kSlabBytes, 1), invalid},
      {Op(LinkOp::Kind::kFetchAdd, slab_, 0, nullptr, 4), invalid},
      {ReadOp(unknown, 0, buffer.data(), 4096), Status::Code::kNotFound},
      {WriteOp(unknown, 0, buffer.data(), 4096), Status::Code::kNotFound},
      {CasOp(unknown, 0, 0, 1), Status::Code::kNotFound},
  };
  // All at once with good ones between them, so that a refusal that loses count of bytes shows.
  std::vector<LinkOp> good(cases.size(), AddOp(slab_, 0, 1));
  std::vector<LinkOp*> pointers;
  for (size_t i = 0; i < cases.size(); ++i) {
    pointers.push_back(&cases[i].op);
    pointers.push_back(&good[i]);
  }
  link_->Post(pointers.data(), static_cast<unsigned>(pointers.size()));
  for (size_t i = 0; i < cases.size(); ++i) {
    link_->Wait(&cases[i].op);
    EXPECT_EQ(cases[i].op.code, cases[i].code) << i;
    link_->Wait(&good[i]);
    EXPECT_EQ(good[i].code, Status::Code::kOk) << i;
    EXPECT_EQ(good[i].result, i);
  }
  EXPECT_TRUE(link_->alive());
}

TEST_P(LinkConformanceTest, CompareAndSwapChangesOnlyWhatItExpects) {
  LinkOp op = CasOp(slab_, 16, 0, 77);
  ASSERT_EQ(RunOp(link_, &op), Status::Code::kOk);
  EXPECT_EQ(op.result, 0u);
  op = CasOp(slab_, 16, 5, 99);
  ASSERT_EQ(RunOp(link_, &op), Status::Code::kOk);
  EXPECT_EQ(op.result, 77u);
  op = AddOp(slab_, 16, ~uint64_t{0});  // Minus one: wraps.
  ASSERT_EQ(RunOp(link_, &op), Status::Code::kOk);
  EXPECT_EQ(op.result, 77u);
  uint64_t word = 0;
  op = ReadOp(slab_, 16, &word, 8);
  ASSERT_EQ(RunOp(link_, &op), Status::Code::kOk);
  EXPECT_EQ(word, 76u);
}

// Two links, two threads, one word: no addition is lost, whether by fetch-add or by a CAS loop.
TEST_P(LinkConformanceTest, AtomicsFromTwoLinksDoNotLoseUpdates) {
  constexpr unsigned kEach = 2000;
  Link* links[2] = {link_, medium_->NewLink()};
  std::vector<std::thread> threads;
  for (Link* link : links)
    threads.emplace_back([this, link] {
      for (unsigned i = 0; i < kEach; ++i) {
        LinkOp add = AddOp(slab_, 128, 1);
        EXPECT_EQ(RunOp(link, &add), Status::Code::kOk);
        uint64_t seen = 0;
        for (;;) {
          LinkOp cas = CasOp(slab_, 136, seen, seen + 1);
          EXPECT_EQ(RunOp(link, &cas), Status::Code::kOk);
          if (cas.code != Status::Code::kOk || cas.result == seen) break;
          seen = cas.result;
        }
      }
    });
  for (auto& t : threads) t.join();
  for (const uint64_t offset : {128u, 136u}) {
    LinkOp sum = AddOp(slab_, offset, 0);
    ASSERT_EQ(RunOp(link_, &sum), Status::Code::kOk);
    EXPECT_EQ(sum.result, 2 * kEach) << offset;
  }
}

INSTANTIATE_TEST_SUITE_P(
    AllLinks, LinkConformanceTest,
    testing::Values(Param{"Loop", [] { return std::make_unique<LoopMedium>(); }},
                    Param{"Shm", [] { return std::make_unique<ShmMedium>(); }},
                    Param{"Rdma", [] { return std::make_unique<RdmaMedium>(nullptr); }},
                    Param{"RdmaFake", [] { return FakeRdma(); }},
                    Param{"Tcp", [] { return std::make_unique<SocketMedium>(PoolEntry::Scheme::kTcp); }},
                    Param{"UnixStream",
                          [] { return std::make_unique<SocketMedium>(PoolEntry::Scheme::kUnix); }}),
    [](const testing::TestParamInfo<Param>& tested) { return tested.param.name; });

// --- What only some links can do: break.

// Method: the donor goes while operations are under way. Each ends by its deadline, and with kUnavailable
// because a closed socket is seen at once.
TEST(TcpLinkTest, DonorGoneEndsEverythingWithUnavailable) {
  SocketMedium medium(PoolEntry::Scheme::kTcp);
  TcpLink* link = medium.NewLinkWith({});
  auto data = Pattern(kMaxLinkBytes, 1);
  std::vector<LinkOp> ops(200, WriteOp(medium.slab, 0, data.data(), kMaxLinkBytes));
  std::vector<LinkOp*> pointers;
  for (auto& op : ops) pointers.push_back(&op);
  link->Post(pointers.data(), static_cast<unsigned>(pointers.size()));
  std::thread stop([&] { medium.donor.reset(); });
  for (auto& op : ops) {
    link->Wait(&op);
    EXPECT_TRUE(op.code == Status::Code::kOk || op.code == Status::Code::kUnavailable);
  }
  stop.join();
  LinkOp late = ReadOp(medium.slab, 0, data.data(), 64);
  EXPECT_EQ(RunOp(link, &late), Status::Code::kUnavailable);
  EXPECT_FALSE(link->alive());
  EXPECT_EQ(RunOp(link, &late), Status::Code::kUnavailable);
}

// Each thread writes and reads back words of its own and adds to one of all, on one link.
void ShareALink(Link* link, SlabId slab) {
  constexpr unsigned kThreads = 4;
  constexpr uint64_t kRounds = 1500;
  std::atomic<uint64_t> wrong{0};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < kThreads; ++t)
    threads.emplace_back([&, t] {
      for (uint64_t i = 0; i < kRounds; ++i) {
        uint64_t mine = t * kRounds + i, back = 0;
        LinkOp write = WriteOp(slab, 8 + t * 8, &mine, 8);
        LinkOp read = ReadOp(slab, 8 + t * 8, &back, 8);
        LinkOp add = AddOp(slab, 0, 1);
        LinkOp* ops[] = {&write, &read, &add};
        link->Post(ops, 3);
        for (LinkOp* op : {&add, &write, &read}) {
          link->Wait(op);
          wrong += op->code != Status::Code::kOk;
        }
        wrong += back != mine;
      }
    });
  for (auto& t : threads) t.join();
  EXPECT_EQ(wrong, 0u);
  LinkOp total = AddOp(slab, 0, 0);
  EXPECT_EQ(RunOp(link, &total), Status::Code::kOk);
  EXPECT_EQ(total.result, kThreads * kRounds);
}

// Without spinning all but one sleep, and somebody else's look at the socket ends what they wait for.
TEST(TcpLinkTest, ThreadsShareALink) {
  for (const uint64_t spin_ns : {uint64_t{0}, TcpLinkOptions().spin_ns}) {
    SocketMedium medium(PoolEntry::Scheme::kTcp);
    ShareALink(medium.NewLinkWith({.spin_ns = spin_ns}), medium.slab);
  }
}

class RdmaLinkTest : public testing::TestWithParam<bool> {};  // On the fake device?
INSTANTIATE_TEST_SUITE_P(Devices, RdmaLinkTest, testing::Bool(),
                         [](const auto& tested) { return tested.param ? "Fake" : "True"; });

// Method: the donor goes in the middle of many large writes. The connection beside the queue pair says so.
TEST_P(RdmaLinkTest, DonorGoneEndsEverythingWithUnavailable) {
  if (!GetParam()) SKIP_WITHOUT_RDMA();
  RdmaMedium medium(GetParam() ? std::make_unique<FakeVerbs>() : nullptr);
  RdmaLink* link = medium.NewLinkWith(medium.session.get(), {});
  auto data = Pattern(kMaxLinkBytes, 1);
  std::vector<LinkOp> ops(200, WriteOp(medium.slab, 0, data.data(), kMaxLinkBytes));
  std::vector<LinkOp*> pointers;
  for (auto& op : ops) pointers.push_back(&op);
  std::thread stop([&] { medium.donor.reset(); });
  link->Post(pointers.data(), static_cast<unsigned>(pointers.size()));
  for (auto& op : ops) {
    link->Wait(&op);
    EXPECT_TRUE(op.code == Status::Code::kOk || op.code == Status::Code::kUnavailable ||
                op.code == Status::Code::kNotFound)
        << static_cast<int>(op.code);
  }
  stop.join();
  LinkOp late = ReadOp(medium.slab, 0, data.data(), 64);
  EXPECT_NE(RunOp(link, &late), Status::Code::kOk);
  EXPECT_FALSE(link->alive());
  EXPECT_EQ(RunOp(link, &late), Status::Code::kUnavailable);
}

// Method: a link is given a key that is right for somebody else, or was right for itself. The device refuses
// it, and memory is as before.
TEST_P(RdmaLinkTest, KeysOfOthersAndOfThePastAreRefused) {
  if (!GetParam()) SKIP_WITHOUT_RDMA();
  RdmaMedium medium(GetParam() ? std::make_unique<FakeVerbs>() : nullptr);
  auto data = Pattern(4096, 1);
  RdmaLink* owner = medium.NewLinkWith(medium.session.get(), {});
  LinkOp write = WriteOp(medium.slab, 0, data.data(), 4096);
  ASSERT_EQ(RunOp(owner, &write), Status::Code::kOk);
  const RdmaLink::Key* key = nullptr;
  ASSERT_EQ(owner->FindKey(medium.slab, &key), Status::Code::kOk);
  const RdmaLink::Key stolen = *key;

  auto other = DonorSession::Open(medium.entry, 1000);
  ASSERT_TRUE(other.ok()) << other.status().text();
  std::vector<std::byte> buffer(4096, std::byte{0x5A});
  RdmaLink* thief = medium.NewLinkWith(other.value().get(), {});
  LinkOp read = ReadOp(medium.slab, 0, buffer.data(), 4096);
  EXPECT_EQ(RunOp(thief, &read), Status::Code::kNotFound);  // The donor gives it no key.
  EXPECT_TRUE(thief->alive());
  thief->Learn(stolen);
  EXPECT_EQ(RunOp(thief, &read), Status::Code::kNotFound);  // The device refuses the one it has.
  EXPECT_FALSE(thief->alive());
  EXPECT_EQ(buffer, std::vector<std::byte>(4096, std::byte{0x5A}));
  thief = medium.NewLinkWith(other.value().get(), {});
  thief->Learn(stolen);
  LinkOp overwrite = WriteOp(medium.slab, 0, buffer.data(), 4096);
  EXPECT_EQ(RunOp(thief, &overwrite), Status::Code::kNotFound);
  read = ReadOp(medium.slab, 0, buffer.data(), 4096);
  ASSERT_EQ(RunOp(owner, &read), Status::Code::kOk);
  EXPECT_EQ(buffer, data);

  // The owner's own, once the slab is returned.
  ASSERT_TRUE(medium.session->ReturnSlab(medium.slab).ok());
  EXPECT_EQ(RunOp(owner, &read), Status::Code::kNotFound);
  EXPECT_FALSE(owner->alive());

  // A departed client's: by its own link, if that is still there, and by those of others.
  auto departing = DonorSession::Open(medium.entry, 1000);
  ASSERT_TRUE(departing.ok()) << departing.status().text();
  auto lease = departing.value()->LeaseSlab();
  ASSERT_TRUE(lease.ok()) << lease.status().text();
  RdmaLink* late = medium.NewLinkWith(departing.value().get(), {});
  write = WriteOp(lease.value().id, 0, data.data(), 4096);
  ASSERT_EQ(RunOp(late, &write), Status::Code::kOk);
  ASSERT_EQ(late->FindKey(lease.value().id, &key), Status::Code::kOk);
  const RdmaLink::Key departed = *key;
  ASSERT_TRUE(departing.value()->Close().ok());
  std::fill(buffer.begin(), buffer.end(), std::byte{0x5A});
  read = ReadOp(lease.value().id, 0, buffer.data(), 4096);
  EXPECT_NE(RunOp(late, &read), Status::Code::kOk);
  thief = medium.NewLinkWith(other.value().get(), {});
  thief->Learn(departed);
  EXPECT_EQ(RunOp(thief, &read), Status::Code::kNotFound);
  EXPECT_EQ(buffer, std::vector<std::byte>(4096, std::byte{0x5A}));
}

TEST_P(RdmaLinkTest, ThreadsShareALink) {
  if (!GetParam()) SKIP_WITHOUT_RDMA();
  for (const uint64_t spin_ns : {uint64_t{0}, RdmaLinkOptions().spin_ns}) {
    RdmaMedium medium(GetParam() ? std::make_unique<FakeVerbs>() : nullptr);
    ShareALink(medium.NewLinkWith(medium.session.get(), {.deadline_ns = 60'000'000'000, .spin_ns = spin_ns}),
               medium.slab);
  }
}

// Method: a device that does nothing, one that takes nothing.
TEST(RdmaFakeTest, ASilentDeviceMeansTimeoutAndADeadLink) {
  auto medium = FakeRdma();
  RdmaLink* link = medium->NewLinkWith(medium->session.get(), {.deadline_ns = 1'000'000, .spin_ns = 0});
  medium->fake->silent = true;
  uint64_t word = 0;
  LinkOp read = ReadOp(medium->slab, 0, &word, 8);
  EXPECT_EQ(RunOp(link, &read), Status::Code::kTimeout);
  EXPECT_FALSE(link->alive());
  EXPECT_EQ(RunOp(link, &read), Status::Code::kUnavailable);
  medium->fake->silent = false;
  link = medium->NewLinkWith(medium->session.get(), {});
  medium->fake->refuses = true;
  EXPECT_EQ(RunOp(link, &read), Status::Code::kUnavailable);
  EXPECT_FALSE(link->alive());
}

// Method: a device that waits for a peer for ever. The connection beside it tells.
TEST(RdmaFakeTest, ADonorThatIsGoneIsNoticedWithoutTheDevice) {
  auto medium = FakeRdma();
  Link* link = medium->NewLink();
  uint64_t word = 0;
  LinkOp read = ReadOp(medium->slab, 0, &word, 8);
  ASSERT_EQ(RunOp(link, &read), Status::Code::kOk);
  medium->fake->silent = true;
  LinkOp* op = &read;
  link->Post(&op, 1);
  medium->donor.reset();
  link->Wait(&read);
  EXPECT_EQ(read.code, Status::Code::kUnavailable);
}

// Its slot may hold another page by then. Method: a device that wakes up when the link has given up.
TEST(RdmaFakeTest, WhatTimedOutDoesNotHappenLater) {
  auto medium = FakeRdma();
  RdmaLink* link = medium->NewLinkWith(medium->session.get(), {.deadline_ns = 1'000'000, .spin_ns = 0});
  RdmaLink* other = medium->NewLinkWith(medium->session.get(), {});
  uint64_t word = 7, back = 0;
  LinkOp write = WriteOp(medium->slab, 0, &word, 8), read = ReadOp(medium->slab, 0, &back, 8);
  ASSERT_EQ(RunOp(link, &write), Status::Code::kOk);
  word = 8;
  medium->fake->silent = true;
  EXPECT_EQ(RunOp(link, &write), Status::Code::kTimeout);
  EXPECT_EQ(medium->fake->stopped, 1);  // The donor may be slow to let go of its end.
  medium->fake->silent = false;
  for (int i = 0; i < 2; ++i) {
    ASSERT_EQ(RunOp(other, &read), Status::Code::kOk);
    EXPECT_EQ(back, 7u);
  }
}

TEST(RdmaFakeTest, ABatchOfWritesIsOneDoorbellAndOneCompletion) {
  auto medium = FakeRdma();
  Link* link = medium->NewLink();
  auto data = Pattern(4096, 1);
  std::vector<LinkOp> ops(20, WriteOp(medium->slab, 0, data.data(), 4096));
  std::vector<LinkOp*> pointers;
  for (auto& op : ops) pointers.push_back(&op);
  link->Post(pointers.data(), 20);
  for (auto& op : ops) link->Wait(&op);
  EXPECT_EQ(medium->fake->doorbells, 1u);
  EXPECT_EQ(medium->fake->completions, 1u);
}

TEST(RdmaFakeTest, ADeviceWithoutAtomicsRefusesThemAlone) {
  auto medium = FakeRdma();
  medium->fake->atomics = IBV_ATOMIC_NONE;
  Link* link = medium->NewLink();
  LinkOp add = AddOp(medium->slab, 0, 1);
  EXPECT_EQ(RunOp(link, &add), Status::Code::kUnsupported);
  uint64_t word = 1;
  LinkOp read = ReadOp(medium->slab, 0, &word, 8);
  EXPECT_EQ(RunOp(link, &read), Status::Code::kOk);
  EXPECT_EQ(word, 0u);
}

// Soft-RoCE's fences hang. Method: the fake device answers reads last, but for fences, and is given none.
TEST(RdmaFakeTest, WithoutFencesOperationsKeepTheirOrderToo) {
  for (const uint32_t vendor : {1u, 0xffffffu}) {
    auto fake = std::make_unique<FakeVerbs>();
    fake->vendor = vendor;
    RdmaMedium medium(std::move(fake));
    Link* link = medium.NewLink();
    KeepOrder(link, medium.slab);
    ShareALink(link, medium.slab);
    EXPECT_EQ(medium.fake->fences == 0, vendor == 0xffffff);
  }
}

TEST(RdmaFakeTest, ADeviceTooSmallIsRefusedAndNothingIsLeft) {
  auto medium = FakeRdma();
  // The donor registers a slab beside its work; what is read has been.
  uint64_t word = 0;
  LinkOp read = ReadOp(medium->slab, 0, &word, 8);
  ASSERT_EQ(RunOp(medium->NewLink(), &read), Status::Code::kOk);
  auto fd = medium->session->OpenDataChannel();
  ASSERT_TRUE(fd.ok());
  const int before = medium->fake->objects;
  medium->fake->queue_max = 8;
  RdmaLink link;
  EXPECT_EQ(link.Open(medium->fake->get(), fd.value().get()).code(), Status::Code::kExhausted);
  EXPECT_EQ(medium->fake->objects, before);
  EXPECT_FALSE(link.alive());
}

TEST(ShmLinkTest, MemoryOutlivesTheDonor) {
  ShmMedium medium;
  Link* link = medium.NewLink();
  auto data = Pattern(4096, 1);
  LinkOp write = WriteOp(medium.slab, 0, data.data(), 4096);
  ASSERT_EQ(RunOp(link, &write), Status::Code::kOk);
  medium.donor.reset();
  std::vector<std::byte> back(4096);
  LinkOp read = ReadOp(medium.slab, 0, back.data(), 4096);
  EXPECT_EQ(RunOp(link, &read), Status::Code::kOk);
  EXPECT_EQ(back, data);
}

// A socket pair with the test in the donor's place.
struct ScriptedPeer {
  ScriptedPeer() { EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0); }
  ~ScriptedPeer() {
    close(fds[0]);
    close(fds[1]);
  }
  wire::RequestHeader Request() {
    std::byte bytes[sizeof(wire::RequestHeader)];
    EXPECT_EQ(recv(fds[1], bytes, sizeof(bytes), MSG_WAITALL), static_cast<ssize_t>(sizeof(bytes)));
    wire::RequestHeader h;
    EXPECT_EQ(wire::Decode(bytes, &h), wire::Fault::kNone);
    return h;
  }
  void Send(const void* bytes, size_t count) {
    EXPECT_EQ(send(fds[1], bytes, count, MSG_NOSIGNAL), static_cast<ssize_t>(count));
  }
  void Send(const wire::ReplyHeader& header) {
    std::byte bytes[sizeof(header)];
    wire::Encode(header, bytes);
    Send(bytes, sizeof(bytes));
  }
  int fds[2];
};

wire::ReplyHeader GoodReply(const wire::RequestHeader& request) {
  wire::ReplyHeader reply;
  reply.op = request.op;
  reply.request_id = request.request_id;
  reply.payload_bytes = request.read_bytes;
  return reply;
}

TEST(TcpLinkTest, NonsenseFromThePeerIsCorruptAndEndsTheLink) {
  const std::vector<std::function<void(wire::ReplyHeader*)>> breakers = {
      [](auto* h) { h->magic ^= 1; },          [](auto* h) { h->version = 2; },
      [](auto* h) { h->request_id += 1; },     [](auto* h) { h->op = wire::Op::kWrite; },
      [](auto* h) { h->payload_bytes += 1; },  [](auto* h) { h->payload_bytes = 0; },
      [](auto* h) { h->payload_bytes = ~0u; }, [](auto* h) { h->code = static_cast<wire::ReplyCode>(200); },
  };
  for (size_t i = 0; i < breakers.size(); ++i) {
    ScriptedPeer peer;
    TcpLink link(peer.fds[0]);
    char buffer[4096];
    LinkOp first = ReadOp(SlabId{1}, 0, buffer, sizeof(buffer)), second = first;
    LinkOp* both[2] = {&first, &second};
    link.Post(both, 2);
    wire::ReplyHeader reply = GoodReply(peer.Request());
    breakers[i](&reply);
    peer.Send(reply);  // And no payload: it must not wait for one.
    link.Wait(&first);
    EXPECT_EQ(first.code, Status::Code::kCorrupt) << i;
    EXPECT_TRUE(second.done);
    EXPECT_FALSE(link.alive());
    EXPECT_EQ(RunOp(&link, &first), Status::Code::kUnavailable);
  }
}

TEST(TcpLinkTest, ADamagedHeaderIsCorrupt) {
  for (size_t at = 0; at < sizeof(wire::ReplyHeader); ++at) {
    ScriptedPeer peer;
    TcpLink link(peer.fds[0]);
    uint64_t word = 0;
    LinkOp read = ReadOp(SlabId{1}, 0, &word, 8);
    LinkOp* op = &read;
    link.Post(&op, 1);
    std::byte bytes[sizeof(wire::ReplyHeader)];
    wire::Encode(GoodReply(peer.Request()), bytes);
    bytes[at] ^= std::byte{0x10};
    peer.Send(bytes, sizeof(bytes));
    link.Wait(&read);
    EXPECT_EQ(read.code, Status::Code::kCorrupt) << at;
  }
}

// Method: a peer that delivers its replies one byte at a time, with the link polled after each, so that it
// has to continue in the middle of every header and payload.
TEST(TcpLinkTest, RepliesMayArriveInAnyPieces) {
  ScriptedPeer peer;
  TcpLink link(peer.fds[0], {.deadline_ns = 60'000'000'000});
  auto data = Pattern(100, 3);
  std::vector<std::byte> back[3] = {std::vector<std::byte>(100), std::vector<std::byte>(100),
                                    std::vector<std::byte>(100)};
  LinkOp ops[4] = {ReadOp(SlabId{1}, 0, back[0].data(), 100), AddOp(SlabId{1}, 0, 1),
                   ReadOp(SlabId{1}, 0, back[1].data(), 100), ReadOp(SlabId{1}, 0, back[2].data(), 100)};
  LinkOp* pointers[4] = {&ops[0], &ops[1], &ops[2], &ops[3]};
  link.Post(pointers, 4);
  std::vector<std::byte> stream;
  for (int i = 0; i < 4; ++i) {
    wire::ReplyHeader reply = GoodReply(peer.Request());
    reply.value = 42;
    const size_t at = stream.size();
    stream.resize(at + sizeof(reply));
    wire::Encode(reply, stream.data() + at);
    if (reply.payload_bytes != 0) stream.insert(stream.end(), data.begin(), data.end());
  }
  for (const std::byte b : stream) {
    EXPECT_FALSE(ops[3].done);
    peer.Send(&b, 1);
    link.Poll();
  }
  for (auto& op : ops) {
    EXPECT_TRUE(op.done);
    EXPECT_EQ(op.code, Status::Code::kOk);
  }
  for (auto& b : back) EXPECT_EQ(b, data);
  EXPECT_EQ(ops[1].result, 42u);
}

TEST(TcpLinkTest, ASilentPeerMeansTimeoutAndADeadLink) {
  ScriptedPeer peer;
  TcpLink link(peer.fds[0], {.deadline_ns = 1'000'000, .spin_ns = 0});
  uint64_t word = 0;
  LinkOp read = ReadOp(SlabId{1}, 0, &word, 8);
  EXPECT_EQ(RunOp(&link, &read), Status::Code::kTimeout);
  EXPECT_FALSE(link.alive());
  // The reply comes after all: nobody may touch the caller's memory any more.
  link.Poll();
  EXPECT_EQ(word, 0u);
  // Its donor sees the end of the stream behind the request.
  peer.Request();
  char byte;
  EXPECT_EQ(recv(peer.fds[1], &byte, 1, 0), 0);
}

// A peer that takes nothing in: the operation that could not be sent ends too.
TEST(TcpLinkTest, APeerThatDoesNotReadMeansTimeout) {
  ScriptedPeer peer;
  TcpLink link(peer.fds[0], {.deadline_ns = 20'000'000, .spin_ns = 0});
  auto data = Pattern(kMaxLinkBytes, 1);
  std::vector<LinkOp> ops(64, WriteOp(SlabId{1}, 0, data.data(), kMaxLinkBytes));
  std::vector<LinkOp*> pointers;
  for (auto& op : ops) pointers.push_back(&op);
  link.Post(pointers.data(), 64);
  for (auto& op : ops) {
    link.Wait(&op);
    EXPECT_EQ(op.code, Status::Code::kTimeout);
  }
}

// Method: a silent peer. As many operations as the link holds are posted without waiting; one more has to
// wait for room, which comes only with the deadline.
TEST(TcpLinkTest, PostBeyondTheBoundWaitsForRoom) {
  ScriptedPeer peer;
  TcpLink link(peer.fds[0], {.deadline_ns = 1'000'000, .spin_ns = 0});
  std::vector<LinkOp> ops(TcpLink::kMaxOutstanding + 1, AddOp(SlabId{1}, 0, 1));
  std::vector<LinkOp*> pointers;
  for (auto& op : ops) pointers.push_back(&op);
  link.Post(pointers.data(), TcpLink::kMaxOutstanding);
  for (unsigned i = 0; i < TcpLink::kMaxOutstanding; ++i) ASSERT_FALSE(ops[i].done);
  link.Post(&pointers.back(), 1);
  EXPECT_TRUE(ops.front().done);
  EXPECT_EQ(ops.front().code, Status::Code::kTimeout);
  EXPECT_EQ(ops.back().code, Status::Code::kUnavailable);
}

TEST(TcpLinkTest, WithoutASocketEverythingIsUnavailable) {
  TcpLink link;
  EXPECT_FALSE(link.alive());
  uint64_t word = 0;
  LinkOp read = ReadOp(SlabId{1}, 0, &word, 8);
  EXPECT_EQ(RunOp(&link, &read), Status::Code::kUnavailable);
}

TEST(LoopLinkTest, BreakEndsWhatIsOutstanding) {
  alignas(8) std::byte memory[4096] = {};
  LoopLink link(memory, 4096, 1);
  LinkOp add = AddOp(SlabId{0}, 0, 1);
  LinkOp* op = &add;
  link.Post(&op, 1);
  EXPECT_FALSE(add.done);
  link.Break();
  EXPECT_TRUE(add.done);
  EXPECT_EQ(add.code, Status::Code::kUnavailable);
  EXPECT_EQ(RunOp(&link, &add), Status::Code::kUnavailable);
  EXPECT_EQ(memory[0], std::byte{0});
}

// --- Wrappers.

struct FaultLinkTest : testing::Test {
  alignas(8) std::byte memory[4096] = {};
  LoopLink loop{memory, 4096, 1};
  FaultLink link{&loop};
  uint64_t Word() {
    uint64_t word;
    std::memcpy(&word, memory, 8);
    return word;
  }
};

TEST_F(FaultLinkTest, FailsTheChosenOperationOnly) {
  ASSERT_TRUE(link.AddRule({.code = Status::Code::kTimeout,
                            .first = 2,
                            .count = 1,
                            .kinds = 1u << static_cast<unsigned>(LinkOp::Kind::kFetchAdd)}));
  uint64_t word = 0;
  for (int i = 0; i < 4; ++i) {
    LinkOp read = ReadOp(SlabId{0}, 0, &word, 8);
    EXPECT_EQ(RunOp(&link, &read), Status::Code::kOk);
    LinkOp add = AddOp(SlabId{0}, 0, 1);
    EXPECT_EQ(RunOp(&link, &add), i == 2 ? Status::Code::kTimeout : Status::Code::kOk);
  }
  EXPECT_EQ(Word(), 3u);
  EXPECT_TRUE(link.alive());
}

TEST_F(FaultLinkTest, LosesTheReplyOfWhatHappened) {
  ASSERT_TRUE(link.AddRule({.action = FaultRule::Action::kLoseReply}));
  LinkOp add = AddOp(SlabId{0}, 0, 1);
  EXPECT_EQ(RunOp(&link, &add), Status::Code::kUnavailable);
  EXPECT_EQ(Word(), 1u);
}

TEST_F(FaultLinkTest, HoldsUntilReleased) {
  ASSERT_TRUE(link.AddRule({.action = FaultRule::Action::kHold}));
  LinkOp add = AddOp(SlabId{0}, 0, 1);
  LinkOp* op = &add;
  link.Post(&op, 1);
  link.Poll();
  EXPECT_FALSE(add.done);
  EXPECT_EQ(link.held(), 1u);
  link.Release();
  link.Wait(&add);
  EXPECT_EQ(add.code, Status::Code::kOk);
  // Held and waited for: as a link whose donor never answers.
  link.Post(&op, 1);
  link.Wait(&add);
  EXPECT_EQ(add.code, Status::Code::kTimeout);
  EXPECT_FALSE(link.alive());
  EXPECT_EQ(RunOp(&link, &add), Status::Code::kUnavailable);
}

TEST_F(FaultLinkTest, RulesAreBounded) {
  for (unsigned i = 0; i < FaultLink::kMaxRules; ++i) EXPECT_TRUE(link.AddRule({.count = 0}));
  EXPECT_FALSE(link.AddRule({.count = 0}));
  link.ClearRules();
  EXPECT_TRUE(link.AddRule({.count = 0}));
}

uint64_t manual_now = 0;
TEST(DelayLinkTest, NothingArrivesBeforeItsTime) {
  alignas(8) std::byte memory[4096] = {};
  LoopLink loop(memory, 4096, 1);
  DelayLink link(&loop, 100, [] { return manual_now; });
  manual_now = 1000;
  LinkOp add = AddOp(SlabId{0}, 0, 1);
  LinkOp* op = &add;
  link.Post(&op, 1);
  manual_now = 1099;
  link.Poll();
  EXPECT_FALSE(add.done);
  manual_now = 1100;
  link.Poll();
  EXPECT_TRUE(add.done);
  EXPECT_EQ(memory[0], std::byte{1});
}

}  // namespace
}  // namespace farpool
