// The donor as clients meet it: sessions, leases, limits, and peers that misbehave.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "donor/server.h"
#include "donor/slab.h"
#include "transport/session/connect.h"
#include "transport/session/control_channel.h"
#include "transport/session/donor_session.h"
#include "transport/tcp/tcp_link.h"
#include "wire/wire.h"

#include "base/clock.h"

#include "huge_pages.h"

namespace farpool {
namespace {

constexpr uint64_t kSlab = 1u << 20;
constexpr uint64_t kLongGrace = 300'000;

struct DonorTest : testing::Test {
  DonorTest() {
    static std::atomic<int> next{0};
    options.tcp_host = "127.0.0.1";
    options.unix_path = "/tmp/farpool-donor-test." + std::to_string(getpid()) + "." + std::to_string(next++);
    options.memory_bytes = 4 * kSlab;
    options.slab_bytes = kSlab;
    options.rack = "r7";
  }
  void Start() {
    auto started = DonorServer::Start(options);
    ASSERT_TRUE(started.ok()) << started.status().text();
    donor = std::move(started).value();
    tcp.scheme = PoolEntry::Scheme::kTcp;
    tcp.host = options.tcp_host;
    tcp.port = donor->tcp_port();
    unix_entry.scheme = PoolEntry::Scheme::kUnix;
    unix_entry.path = options.unix_path;
  }
  std::unique_ptr<DonorSession> Open(const PoolEntry& entry, uint64_t grace_ms = kLongGrace) {
    auto opened = DonorSession::Open(entry, grace_ms);
    EXPECT_TRUE(opened.ok()) << opened.status().text();
    return opened.ok() ? std::move(opened).value() : nullptr;
  }
  // The donor notices a closed connection on a thread of its own: yields until `reached`. A minute is
  // beyond any machine.
  template <typename Condition>
  void Until(Condition reached) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (!reached(donor->GetStats())) {
      const auto stats = donor->GetStats();
      ASSERT_LT(std::chrono::steady_clock::now(), end)
          << stats.connections << " connections, " << stats.sessions << " sessions, " << stats.leased_bytes
          << " bytes leased";
      std::this_thread::yield();
    }
  }
  Status::Code Do(DonorSession* session, LinkOp::Kind kind, SlabId slab, uint64_t offset, void* local,
                  uint32_t bytes) {
    auto fd = session->OpenDataChannel();
    if (!fd.ok()) return fd.status().code();
    TcpLink link(fd.value().get(), {.deadline_ns = 60'000'000'000});
    LinkOp op;
    op.kind = kind;
    op.slab = slab;
    op.offset = offset;
    op.local = local;
    op.bytes = bytes;
    LinkOp* p = &op;
    link.Post(&p, 1);
    link.Wait(&op);
    return op.code;
  }
  Status::Code Read(DonorSession* s, SlabId slab, void* to, uint32_t bytes) {
    return Do(s, LinkOp::Kind::kRead, slab, 0, to, bytes);
  }
  Status::Code Write(DonorSession* s, SlabId slab, const void* from, uint32_t bytes) {
    return Do(s, LinkOp::Kind::kWrite, slab, 0, const_cast<void*>(from), bytes);
  }
  // A connected socket to the donor that has said nothing.
  Fd Raw() {
    auto fd = ConnectTo(tcp, NowNs() + 60'000'000'000);
    EXPECT_TRUE(fd.ok()) << fd.status().text();
    fcntl(fd.value().get(), F_SETFL, 0);
    return std::move(fd).value();
  }
  static wire::HelloRequest HelloOf(wire::HelloMode mode, uint64_t token, uint64_t grace_ms = kLongGrace) {
    wire::HelloRequest hello;
    hello.mode = mode;
    hello.token_high = token;
    if (mode == wire::HelloMode::kNewSession) hello.grace_ms = grace_ms;
    return hello;
  }
  Result<ControlChannel> Hello(const wire::HelloRequest& hello) {
    return ControlChannel::Connect(tcp, hello, NowNs() + 60'000'000'000);
  }

  DonorOptions options;
  std::unique_ptr<DonorServer> donor;
  PoolEntry tcp, unix_entry;
};

TEST_F(DonorTest, TellsWhatItHas) {
  Start();
  auto session = Open(tcp);
  auto info = session->Info();
  ASSERT_TRUE(info.ok()) << info.status().text();
  EXPECT_EQ(info.value().memory_bytes, 4 * kSlab);
  EXPECT_EQ(info.value().free_bytes, 4 * kSlab);
  EXPECT_EQ(info.value().slab_bytes, kSlab);
  EXPECT_EQ(info.value().rack, "r7");
  ASSERT_TRUE(session->LeaseSlab().ok());
  EXPECT_EQ(session->Info().value().free_bytes, 3 * kSlab);
}

TEST_F(DonorTest, LendsNoMoreThanItHas) {
  Start();
  auto session = Open(tcp);
  std::vector<SlabId> slabs;
  for (int i = 0; i < 4; ++i) {
    auto lease = session->LeaseSlab();
    ASSERT_TRUE(lease.ok()) << lease.status().text();
    slabs.push_back(lease.value().id);
  }
  EXPECT_EQ(session->LeaseSlab().status().code(), Status::Code::kExhausted);
  EXPECT_TRUE(session->ReturnSlab(slabs[1]).ok());
  EXPECT_TRUE(session->LeaseSlab().ok());
  EXPECT_EQ(session->ReturnSlab(slabs[1]).code(), Status::Code::kNotFound);
}

TEST_F(DonorTest, QuotaHoldsPerSession) {
  options.quota_bytes = 2 * kSlab;
  Start();
  auto one = Open(tcp), two = Open(unix_entry);
  auto first = one->LeaseSlab();
  ASSERT_TRUE(first.ok());
  ASSERT_TRUE(one->LeaseSlab().ok());
  const Status refused = one->LeaseSlab().status();
  EXPECT_EQ(refused.code(), Status::Code::kExhausted);
  EXPECT_NE(std::string(refused.text()).find("quota"), std::string::npos) << refused.text();
  EXPECT_TRUE(two->LeaseSlab().ok());
  // What is given back counts no more.
  EXPECT_TRUE(one->ReturnSlab(first.value().id).ok());
  EXPECT_TRUE(one->LeaseSlab().ok());
}

TEST_F(DonorTest, LeasedMemoryIsZeroEvenWhenAllOfItWasUsedBefore) {
  Start();
  auto session = Open(tcp);
  std::vector<char> secret(65536, 's'), seen(65536);
  for (int round = 0; round < 3; ++round) {
    std::vector<SlabId> slabs;
    for (int i = 0; i < 4; ++i) {
      auto lease = session->LeaseSlab();
      ASSERT_TRUE(lease.ok());
      slabs.push_back(lease.value().id);
      ASSERT_EQ(Read(session.get(), slabs.back(), seen.data(), 65536), Status::Code::kOk);
      EXPECT_EQ(seen, std::vector<char>(65536));
      ASSERT_EQ(Write(session.get(), slabs.back(), secret.data(), 65536), Status::Code::kOk);
    }
    for (const SlabId id : slabs) ASSERT_TRUE(session->ReturnSlab(id).ok());
    EXPECT_EQ(donor->GetStats().leased_bytes, 0u);
  }
}

// A connection may hold a slab for a moment after its client returned it and asks for the next.
TEST(SlabTest, DiscardedMemoryIsFreeWhileAConnectionHoldsTheSlab) {
  std::atomic<uint64_t> used = 0;
  auto held = Slab::Create(SlabId{1}, kSlab, &used, kSlab);
  ASSERT_TRUE(held.ok());
  EXPECT_FALSE(Slab::Create(SlabId{2}, kSlab, &used, kSlab).ok());
  held.value()->Discard();
  EXPECT_EQ(held.value()->AllocateFrom(0), kSlab);  // Nothing any more.
  struct stat file;
  ASSERT_EQ(fstat(held.value()->memfd(), &file), 0);
  EXPECT_EQ(file.st_blocks, 0);
  auto next = Slab::Create(SlabId{2}, kSlab, &used, kSlab);
  ASSERT_TRUE(next.ok());
  held.value().reset();
  EXPECT_EQ(used, kSlab);
  next.value().reset();
  EXPECT_EQ(used, 0u);
}

// Returned memory is freed even if the client keeps its descriptor, and it cannot be resized under the donor.
TEST_F(DonorTest, MemfdIsSealedAndEmptiedOnReturn) {
  Start();
  auto session = Open(unix_entry);
  EXPECT_TRUE(session->shared_memory());
  auto lease = session->LeaseSlab();
  ASSERT_TRUE(lease.ok()) << lease.status().text();
  const int fd = lease.value().memory.get();
  const int seals = fcntl(fd, F_GET_SEALS);
  EXPECT_EQ(seals & (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL), F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
  EXPECT_EQ(ftruncate(fd, 0), -1);
  EXPECT_EQ(ftruncate(fd, 2 * kSlab), -1);
  ASSERT_EQ(pwrite(fd, "hello", 5, 0), 5);
  char seen[5];
  ASSERT_EQ(Read(session.get(), lease.value().id, seen, 5), Status::Code::kOk);
  EXPECT_EQ(std::memcmp(seen, "hello", 5), 0);
  ASSERT_TRUE(session->ReturnSlab(lease.value().id).ok());
  struct stat file;
  ASSERT_EQ(fstat(fd, &file), 0);
  EXPECT_EQ(file.st_blocks, 0);
}

// Memory that is there already costs the client's first write half as much.
TEST_F(DonorTest, LeasedMemoryIsAllocatedAheadOfItsUse) {
  Start();
  auto session = Open(unix_entry);
  auto lease = session->LeaseSlab();
  ASSERT_TRUE(lease.ok()) << lease.status().text();
  struct stat file = {};
  for (const uint64_t end = NowNs() + 10'000'000'000;
       static_cast<uint64_t>(file.st_blocks) * 512 < kSlab && NowNs() < end;)
    ASSERT_EQ(fstat(lease.value().memory.get(), &file), 0);
  EXPECT_EQ(static_cast<uint64_t>(file.st_blocks) * 512, kSlab);
}

// By the time the client knows of it: afterwards pages would go from under its mapping.
TEST_F(DonorTest, LeasedMemoryIsAHugePageWhereTheKernelHasOne) {
  SKIP_WITHOUT_HUGE_PAGES();
  options.slab_bytes = kHuge;
  options.memory_bytes = 4 * kHuge;
  Start();
  auto session = Open(unix_entry);
  auto lease = session->LeaseSlab();
  ASSERT_TRUE(lease.ok()) << lease.status().text();
  std::byte* const at = MapAligned(lease.value().memory.get(), kHuge);
  EXPECT_EQ(*at, std::byte{0});
  if (HugeBytesAt(at) == 0) SKIP_WITHOUT_HUGE_PAGES();
  EXPECT_EQ(HugeBytesAt(at), kHuge);
}

TEST_F(DonorTest, OverTcpNoMemoryIsPassed) {
  Start();
  auto session = Open(tcp);
  EXPECT_FALSE(session->shared_memory());
  auto lease = session->LeaseSlab();
  ASSERT_TRUE(lease.ok());
  EXPECT_FALSE(lease.value().memory.valid());
}

TEST_F(DonorTest, AnotherSessionCannotTouchASlab) {
  Start();
  auto owner = Open(tcp), other = Open(tcp);
  auto lease = owner->LeaseSlab();
  ASSERT_TRUE(lease.ok());
  ASSERT_EQ(Write(owner.get(), lease.value().id, "secret", 6), Status::Code::kOk);
  char seen[6] = {1, 1, 1, 1, 1, 1};
  EXPECT_EQ(Read(other.get(), lease.value().id, seen, 6), Status::Code::kNotFound);
  EXPECT_NE(std::memcmp(seen, "secret", 6), 0);
  EXPECT_EQ(Write(other.get(), lease.value().id, "broken", 6), Status::Code::kNotFound);
  EXPECT_EQ(other->ReturnSlab(lease.value().id).code(), Status::Code::kNotFound);
  ASSERT_EQ(Read(owner.get(), lease.value().id, seen, 6), Status::Code::kOk);
  EXPECT_EQ(std::memcmp(seen, "secret", 6), 0);
}

TEST_F(DonorTest, ResumedSessionFindsItsData) {
  Start();
  auto session = Open(tcp);
  auto lease = session->LeaseSlab();
  ASSERT_TRUE(lease.ok());
  ASSERT_EQ(Write(session.get(), lease.value().id, "kept", 4), Status::Code::kOk);
  shutdown(session->control_fd(), SHUT_RDWR);
  EXPECT_EQ(session->Info().status().code(), Status::Code::kUnavailable);
  Until([](const auto& stats) { return stats.connections == 0; });
  EXPECT_EQ(donor->GetStats().leased_bytes, kSlab);
  ASSERT_TRUE(session->Resume().ok());
  char seen[4];
  ASSERT_EQ(Read(session.get(), lease.value().id, seen, 4), Status::Code::kOk);
  EXPECT_EQ(std::memcmp(seen, "kept", 4), 0);
}

TEST_F(DonorTest, SessionEndsWithItsGrace) {
  Start();
  auto session = Open(tcp, /*grace_ms=*/1);
  ASSERT_TRUE(session->LeaseSlab().ok());
  shutdown(session->control_fd(), SHUT_RDWR);
  Until([](const auto& stats) { return stats.sessions == 0 && stats.leased_bytes == 0; });
  EXPECT_EQ(session->Resume().code(), Status::Code::kNotFound);
}

// The session of a client whose control connection is gone lives on while a program still uses a data
// channel.
TEST_F(DonorTest, DataChannelKeepsASessionAlive) {
  Start();
  auto session = Open(tcp, /*grace_ms=*/0);
  auto lease = session->LeaseSlab();
  ASSERT_TRUE(lease.ok());
  auto channel = session->OpenDataChannel();
  ASSERT_TRUE(channel.ok());
  shutdown(session->control_fd(), SHUT_RDWR);
  Until([](const auto& stats) { return stats.connections == 1; });
  EXPECT_EQ(donor->GetStats().sessions, 1u);
  EXPECT_TRUE(session->Resume().ok());
  shutdown(session->control_fd(), SHUT_RDWR);
  channel.value().Reset();
  Until([](const auto& stats) { return stats.sessions == 0; });
}

TEST_F(DonorTest, GraceIsCutToTheDonorsLimit) {
  options.grace_ms_max = 1;
  Start();
  auto session = Open(tcp, UINT64_MAX);
  shutdown(session->control_fd(), SHUT_RDWR);
  Until([](const auto& stats) { return stats.sessions == 0; });
}

TEST_F(DonorTest, CloseFreesEverythingAtOnce) {
  Start();
  auto session = Open(tcp);
  ASSERT_TRUE(session->LeaseSlab().ok());
  ASSERT_TRUE(session->LeaseSlab().ok());
  auto channel = session->OpenDataChannel();
  ASSERT_TRUE(channel.ok());
  ASSERT_TRUE(session->Close().ok());
  EXPECT_EQ(donor->GetStats().leased_bytes, 0u);
  EXPECT_EQ(donor->GetStats().sessions, 0u);
  // The data channel ends too.
  fcntl(channel.value().get(), F_SETFL, 0);
  char byte;
  EXPECT_EQ(recv(channel.value().get(), &byte, 1, 0), 0);
  EXPECT_EQ(session->Resume().code(), Status::Code::kNotFound);
  EXPECT_EQ(session->LeaseSlab().status().code(), Status::Code::kUnavailable);
}

TEST_F(DonorTest, UnknownAndTakenTokensAreRefused) {
  Start();
  EXPECT_EQ(Hello(HelloOf(wire::HelloMode::kResume, 99)).status().code(), Status::Code::kNotFound);
  EXPECT_EQ(Hello(HelloOf(wire::HelloMode::kDataChannel, 99)).status().code(), Status::Code::kNotFound);
  auto first = Hello(HelloOf(wire::HelloMode::kNewSession, 99));
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(Hello(HelloOf(wire::HelloMode::kNewSession, 99)).status().code(), Status::Code::kPermission);
}

// What was sent by a channel and not carried out when it is ended never is.
TEST_F(DonorTest, NothingHappensAfterAChannelHasEnded) {
  Start();
  auto session = Open(tcp);
  auto lease = session->LeaseSlab();
  ASSERT_TRUE(lease.ok());
  const SlabId slab = lease.value().id;
  auto other = session->OpenDataChannel(8);
  ASSERT_TRUE(other.ok());
  std::vector<std::byte> old_bytes(sizeof(wire::RequestHeader) + wire::kMaxTransferBytes, std::byte{1});
  wire::RequestHeader request;
  request.op = wire::Op::kWrite;
  request.slab = static_cast<uint64_t>(slab);
  request.payload_bytes = wire::kMaxTransferBytes;
  wire::Encode(request, old_bytes.data());
  const std::vector<std::byte> new_bytes(wire::kMaxTransferBytes, std::byte{2});
  for (int round = 0; round < 50; ++round) {
    auto channel = session->OpenDataChannel(7);
    ASSERT_TRUE(channel.ok()) << channel.status().text();
    // As much as there is room for on the way, the last one mostly in part.
    while (send(channel.value().get(), old_bytes.data(), old_bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL) ==
           static_cast<ssize_t>(old_bytes.size())) {
    }
    ASSERT_TRUE(session->EndDataChannels(7).ok());
    ASSERT_EQ(Write(session.get(), slab, new_bytes.data(), wire::kMaxTransferBytes), Status::Code::kOk);
    channel.value().Reset();
    Until([](const auto& stats) { return stats.connections == 2; });
    std::vector<std::byte> now(wire::kMaxTransferBytes);
    ASSERT_EQ(Read(session.get(), slab, now.data(), wire::kMaxTransferBytes), Status::Code::kOk);
    ASSERT_EQ(now, new_bytes) << round;
  }
  EXPECT_TRUE(session->EndDataChannels(7).ok());  // There is none.
  // Others' go on.
  TcpLink link(other.value().get(), {.deadline_ns = 60'000'000'000});
  std::byte byte;
  LinkOp op;
  op.kind = LinkOp::Kind::kRead;
  op.slab = slab;
  op.local = &byte;
  op.bytes = 1;
  LinkOp* p = &op;
  link.Post(&p, 1);
  link.Wait(&op);
  EXPECT_EQ(op.code, Status::Code::kOk);
}

TEST_F(DonorTest, OnlyAControlConnectionEndsChannelsAndOnlyDataChannelsHaveAHolder) {
  Start();
  auto control = Hello(HelloOf(wire::HelloMode::kNewSession, 5));
  auto data =
      ControlChannel::Connect(tcp, HelloOf(wire::HelloMode::kDataChannel, 5), NowNs() + 60'000'000'000, 3);
  ASSERT_TRUE(control.ok() && data.ok());
  wire::RequestHeader request;
  request.op = wire::Op::kEndChannels;
  request.operand = 3;
  const uint64_t deadline = NowNs() + 60'000'000'000;
  EXPECT_EQ(data.value().Call(request, nullptr, nullptr, 0, nullptr, deadline).code(),
            Status::Code::kPermission);
  request.operand = 0;  // Would be everybody's who gave none.
  EXPECT_EQ(control.value().Call(request, nullptr, nullptr, 0, nullptr, deadline).code(),
            Status::Code::kUnavailable);
  auto resumed = ControlChannel::Connect(tcp, HelloOf(wire::HelloMode::kResume, 5), deadline, 3);
  EXPECT_EQ(resumed.status().code(), Status::Code::kUnavailable);
}

TEST_F(DonorTest, DataChannelCannotLease) {
  Start();
  auto control = Hello(HelloOf(wire::HelloMode::kNewSession, 5));
  auto data = Hello(HelloOf(wire::HelloMode::kDataChannel, 5));
  ASSERT_TRUE(control.ok() && data.ok());
  wire::RequestHeader request;
  request.op = wire::Op::kLeaseSlab;
  std::byte reply[sizeof(wire::LeaseReply)];
  const uint64_t deadline = NowNs() + 60'000'000'000;
  EXPECT_EQ(data.value().Call(request, nullptr, reply, sizeof(reply), nullptr, deadline).code(),
            Status::Code::kPermission);
  EXPECT_TRUE(control.value().Call(request, nullptr, reply, sizeof(reply), nullptr, deadline).ok());
}

// The rules for reads and writes hold at the donor, whatever a client checks itself. Method: requests that no
// TcpLink would send.
TEST_F(DonorTest, RefusesUnalignedAtomicsAndKeepsTheConnection) {
  Start();
  auto channel = Hello(HelloOf(wire::HelloMode::kNewSession, 5));
  ASSERT_TRUE(channel.ok());
  const uint64_t deadline = NowNs() + 60'000'000'000;
  wire::RequestHeader request;
  request.op = wire::Op::kLeaseSlab;
  wire::LeaseReply lease;
  ASSERT_TRUE(channel.value().Call(request, nullptr, &lease, sizeof(lease), nullptr, deadline).ok());
  request.op = wire::Op::kFetchAdd;
  request.slab = lease.slab;
  request.operand = 1;
  for (const uint64_t offset : {uint64_t{1}, uint64_t{4}, kSlab - 4, kSlab, ~uint64_t{7}}) {
    request.offset = offset;
    EXPECT_EQ(channel.value().Call(request, nullptr, nullptr, 0, nullptr, deadline).code(),
              Status::Code::kInvalidArgument)
        << offset;
  }
  request.offset = kSlab - 8;
  EXPECT_TRUE(channel.value().Call(request, nullptr, nullptr, 0, nullptr, deadline).ok());
}

// Method: random bytes, and good messages with random damage, each on a connection of its own and sent in
// full unless the donor hangs up before. The donor closes every one of them and serves others as before.
TEST_F(DonorTest, GarbageClosesOnlyItsOwnConnection) {
  Start();
  auto session = Open(tcp);
  auto lease = session->LeaseSlab();
  ASSERT_TRUE(lease.ok());
  std::mt19937_64 random(7);
  for (int round = 0; round < 100; ++round) {
    std::vector<std::byte> bytes(1 + random() % 3000);
    for (auto& b : bytes) b = static_cast<std::byte>(random());
    if (round % 2 == 0) {
      wire::RequestHeader header;
      header.op = wire::Op::kHello;
      header.payload_bytes = sizeof(wire::HelloRequest);
      const wire::HelloRequest hello = HelloOf(wire::HelloMode::kNewSession, random(), 0);
      bytes.resize(1000);
      wire::Encode(header, bytes.data());
      std::memcpy(bytes.data() + sizeof(header), &hello, sizeof(hello));
      if (round % 4 == 0) bytes[random() % 64] ^= std::byte{4};
    }
    Fd fd = Raw();
    send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    shutdown(fd.get(), SHUT_WR);
    char answer[4096];
    while (recv(fd.get(), answer, sizeof(answer), 0) > 0) {
    }
  }
  Until([](const auto& stats) { return stats.connections == 1 && stats.sessions == 1; });
  EXPECT_EQ(Write(session.get(), lease.value().id, "fine", 4), Status::Code::kOk);
}

TEST_F(DonorTest, AnotherVersionIsToldSo) {
  Start();
  Fd fd = Raw();
  wire::RequestHeader header;
  header.version = wire::kWireVersion + 1;
  header.op = wire::Op::kHello;
  header.payload_bytes = sizeof(wire::HelloRequest);
  std::byte bytes[sizeof(header)];
  wire::Encode(header, bytes);
  ASSERT_EQ(send(fd.get(), bytes, sizeof(bytes), MSG_NOSIGNAL), static_cast<ssize_t>(sizeof(bytes)));
  std::byte answer[sizeof(wire::ReplyHeader)];
  ASSERT_EQ(recv(fd.get(), answer, sizeof(answer), MSG_WAITALL), static_cast<ssize_t>(sizeof(answer)));
  wire::ReplyHeader reply;
  ASSERT_EQ(wire::Decode(answer, &reply), wire::Fault::kNone);
  EXPECT_EQ(reply.code, wire::ReplyCode::kUnsupported);
}

// Peers that die in the middle of a header, of a payload, and of a large reply.
TEST_F(DonorTest, PeersThatDieMidMessageLeaveNothingBehind) {
  Start();
  auto session = Open(tcp);
  auto lease = session->LeaseSlab();
  ASSERT_TRUE(lease.ok());
  wire::RequestHeader write;
  write.op = wire::Op::kWrite;
  write.slab = static_cast<uint64_t>(lease.value().id);
  write.payload_bytes = 262144;
  std::byte bytes[sizeof(write)];
  wire::Encode(write, bytes);
  for (const size_t cut : {size_t{1}, size_t{63}, size_t{64}}) {
    auto channel = session->OpenDataChannel();
    ASSERT_TRUE(channel.ok());
    ASSERT_EQ(send(channel.value().get(), bytes, cut, MSG_NOSIGNAL), static_cast<ssize_t>(cut));
  }
  auto channel = session->OpenDataChannel();
  ASSERT_TRUE(channel.ok());
  wire::RequestHeader read;
  read.op = wire::Op::kRead;
  read.slab = write.slab;
  read.read_bytes = 262144;
  wire::Encode(read, bytes);
  for (int i = 0; i < 64; ++i) send(channel.value().get(), bytes, sizeof(bytes), MSG_NOSIGNAL);
  channel.value().Reset();
  Until([](const auto& stats) { return stats.connections == 1; });
  EXPECT_EQ(Write(session.get(), lease.value().id, "fine", 4), Status::Code::kOk);
}

TEST_F(DonorTest, ConnectionsBeyondTheLimitAreToldSo) {
  Start();
  auto session = Open(tcp);
  std::vector<Fd> channels;
  Status refused;
  while (refused.ok() && channels.size() < 600) {
    auto channel = session->OpenDataChannel();
    if (channel.ok()) {
      channels.push_back(std::move(channel).value());
    } else {
      refused = channel.status();
    }
  }
  EXPECT_EQ(refused.code(), Status::Code::kExhausted) << refused.text();
  EXPECT_EQ(channels.size(), 511u);  // And the control connection.
  channels.clear();
  Until([](const auto& stats) { return stats.connections == 1; });
  EXPECT_TRUE(session->OpenDataChannel().ok());
}

// With clients connected that neither speak nor read, and one in the middle of a payload.
TEST_F(DonorTest, StopsWhileClientsAreConnected) {
  Start();
  auto session = Open(tcp);
  auto over_unix = Open(unix_entry);
  Fd silent = Raw();
  auto lease = session->LeaseSlab();
  ASSERT_TRUE(lease.ok());
  auto channel = session->OpenDataChannel();
  ASSERT_TRUE(channel.ok());
  std::byte bytes[sizeof(wire::RequestHeader)];
  wire::RequestHeader read;
  read.op = wire::Op::kRead;
  read.slab = static_cast<uint64_t>(lease.value().id);
  read.read_bytes = 262144;
  wire::Encode(read, bytes);
  for (int i = 0; i < 200; ++i) send(channel.value().get(), bytes, sizeof(bytes), MSG_NOSIGNAL);
  donor.reset();
  EXPECT_EQ(access(options.unix_path.c_str(), F_OK), -1);
  EXPECT_EQ(session->Info().status().code(), Status::Code::kUnavailable);
  const Status gone = session->Resume();
  EXPECT_EQ(gone.code(), Status::Code::kUnavailable);
  EXPECT_NE(std::string(gone.text()).find("tcp://127.0.0.1:"), std::string::npos) << gone.text();
}

TEST_F(DonorTest, RefusesAddressesThatOthersReach) {
  options.unix_path.clear();
  for (const char* host : {"0.0.0.0", "::"}) {
    options.tcp_host = host;
    auto started = DonorServer::Start(options);
    EXPECT_FALSE(started.ok());
    EXPECT_NE(std::string(started.status().text()).find("--allow-anyone"), std::string::npos)
        << started.status().text();
  }
  options.tcp_host = "0.0.0.0";
  options.allow_anyone = true;
  EXPECT_TRUE(DonorServer::Start(options).ok());
}

TEST_F(DonorTest, ServesIpv6) {
  options.tcp_host = "::1";
  auto started = DonorServer::Start(options);
  if (!started.ok()) GTEST_SKIP() << "no IPv6 loopback: " << started.status().text();
  donor = std::move(started).value();
  PoolEntry entry = {.scheme = PoolEntry::Scheme::kTcp, .host = "::1", .port = donor->tcp_port()};
  EXPECT_TRUE(Open(entry)->LeaseSlab().ok());
}

TEST_F(DonorTest, BadOptionsAreRefused) {
  const auto refused = [this](auto change) {
    DonorOptions changed = options;
    change(&changed);
    return DonorServer::Start(changed).status().code() == Status::Code::kInvalidArgument;
  };
  EXPECT_TRUE(refused([](auto* o) { o->slab_bytes = 3 << 20; }));
  EXPECT_TRUE(refused([](auto* o) { o->slab_bytes = 1 << 19; }));
  EXPECT_TRUE(refused([](auto* o) { o->memory_bytes = kSlab - 1; }));
  EXPECT_TRUE(refused([](auto* o) { o->quota_bytes = 1; }));
  EXPECT_TRUE(refused([](auto* o) { o->rack = std::string(65, 'x'); }));
  EXPECT_TRUE(refused([](auto* o) { o->tcp_host = o->unix_path = ""; }));
  EXPECT_TRUE(refused([](auto* o) { o->unix_path = std::string(200, 'x'); }));
}

TEST_F(DonorTest, SocketPathOfALiveDonorIsRefusedOfADeadOneReplaced) {
  Start();
  DonorOptions second = options;
  second.tcp_host.clear();
  auto refused = DonorServer::Start(second);
  EXPECT_EQ(refused.status().code(), Status::Code::kInvalidArgument) << refused.status().text();
  EXPECT_TRUE(Open(unix_entry) != nullptr);
  donor.reset();
  // A donor killed by a signal leaves its path behind: a bound socket that nobody listens on.
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::strcpy(address.sun_path, options.unix_path.c_str());
  Fd dead(socket(AF_UNIX, SOCK_STREAM, 0));
  ASSERT_EQ(bind(dead.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  dead.Reset();
  auto replaced = DonorServer::Start(second);
  EXPECT_TRUE(replaced.ok()) << replaced.status().text();
}

TEST_F(DonorTest, SocketPathIsForThisUserAndGroupOnly) {
  Start();
  struct stat file;
  ASSERT_EQ(stat(options.unix_path.c_str(), &file), 0);
  EXPECT_EQ(file.st_mode & 0777, 0660u);
}

TEST_F(DonorTest, AFileThatIsNoSocketIsLeftAlone) {
  Fd file(open(options.unix_path.c_str(), O_CREAT | O_WRONLY, 0600));
  ASSERT_TRUE(file.valid());
  EXPECT_EQ(DonorServer::Start(options).status().code(), Status::Code::kInvalidArgument);
  EXPECT_EQ(access(options.unix_path.c_str(), F_OK), 0);
  unlink(options.unix_path.c_str());
}

TEST_F(DonorTest, UnreachableDonorsAreNamed) {
  const PoolEntry nobody = {.scheme = PoolEntry::Scheme::kUnix, .path = "/tmp/farpool-nobody-is-here"};
  auto opened = DonorSession::Open(nobody, 0);
  EXPECT_EQ(opened.status().code(), Status::Code::kUnavailable);
  EXPECT_STREQ(opened.status().text(), "unix:///tmp/farpool-nobody-is-here: No such file or directory");
  const PoolEntry registry = {.scheme = PoolEntry::Scheme::kRegistry, .host = "h", .port = 1};
  EXPECT_EQ(DonorSession::Open(registry, 0).status().code(), Status::Code::kUnsupported);
}

TEST_F(DonorTest, CountsWhatItServes) {
  Start();
  auto session = Open(tcp);
  auto lease = session->LeaseSlab();
  char page[4096] = {};
  ASSERT_EQ(Write(session.get(), lease.value().id, page, 4096), Status::Code::kOk);
  ASSERT_EQ(Read(session.get(), lease.value().id, page, 1000), Status::Code::kOk);
  const auto stats = donor->GetStats();
  EXPECT_EQ(stats.writes, 1u);
  EXPECT_EQ(stats.reads, 1u);
  EXPECT_EQ(stats.bytes_in, 4096u);
  EXPECT_EQ(stats.bytes_out, 1000u);
  EXPECT_EQ(stats.leased_bytes, kSlab);
  EXPECT_EQ(stats.memory_bytes, 4 * kSlab);
}

}  // namespace
}  // namespace farpool
