// The sessions of one client with donors that are not as they should be.

#include "store/lease/donors.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <atomic>
#include <cstring>
#include <thread>

#include "slab_table_memory.h"
#include "wire/wire.h"

namespace farpool {
namespace {

constexpr uint64_t kSlab = 1u << 20;

// Speaks the control part of the protocol, one connection at a time.
class FakeDonor {
 public:
  FakeDonor() : listener_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t bytes = sizeof(address);
    EXPECT_EQ(bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), bytes), 0);
    EXPECT_EQ(listen(listener_.get(), 64), 0);
    getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address), &bytes);
    entry_.scheme = PoolEntry::Scheme::kTcp;
    entry_.host = "127.0.0.1";
    entry_.port = ntohs(address.sin_port);
    thread_ = std::thread([this] { Serve(); });
  }
  ~FakeDonor() {
    shutdown(listener_.get(), SHUT_RDWR);
    thread_.join();
  }
  const PoolEntry& entry() const { return entry_; }

  std::atomic<uint64_t> lease_bytes = kSlab;
  std::atomic<int> returned = 0;
  std::atomic<int> deaf = 0;  // So many requests end their connections.

 private:
  void Serve() {
    for (;;) {
      const Fd client(accept(listener_.get(), nullptr, nullptr));
      if (!client.valid()) return;
      while (ServeOne(client.get())) {
      }
    }
  }

  template <typename Payload>
  static bool Reply(int client, const wire::RequestHeader& request, const Payload* payload) {
    wire::ReplyHeader header;
    header.op = request.op;
    header.request_id = request.request_id;
    header.payload_bytes = payload != nullptr ? sizeof(Payload) : 0;
    std::byte bytes[sizeof(header) + sizeof(Payload)];
    wire::Encode(header, bytes);
    if (payload != nullptr) std::memcpy(bytes + sizeof(header), payload, sizeof(Payload));
    const size_t all = sizeof(header) + header.payload_bytes;
    return send(client, bytes, all, MSG_NOSIGNAL) == static_cast<ssize_t>(all);
  }

  bool ServeOne(int client) {
    std::byte bytes[sizeof(wire::RequestHeader)];
    wire::RequestHeader request;
    if (recv(client, bytes, sizeof(bytes), MSG_WAITALL) != sizeof(bytes)) return false;
    if (deaf > 0) {
      --deaf;
      return false;
    }
    EXPECT_EQ(wire::Decode(bytes, &request), wire::Fault::kNone);
    std::byte hello[sizeof(wire::HelloRequest)];
    wire::HelloReply greeting;
    wire::InfoReply info;
    wire::LeaseReply lease;
    switch (request.op) {
      case wire::Op::kHello:
        greeting.grace_ms = 1000;
        greeting.slab_bytes = kSlab;
        return recv(client, hello, sizeof(hello), MSG_WAITALL) == sizeof(hello) &&
               Reply(client, request, &greeting);
      case wire::Op::kInfo:
        info.memory_bytes = info.free_bytes = 8 * kSlab;
        info.slab_bytes = kSlab;
        return Reply(client, request, &info);
      case wire::Op::kLeaseSlab:
        lease.slab = 7;
        lease.bytes = lease_bytes;
        return Reply(client, request, &lease);
      case wire::Op::kReturnSlab:
        ++returned;
        [[fallthrough]];
      default:
        return Reply(client, request, static_cast<const wire::LeaseReply*>(nullptr));
    }
  }

  Fd listener_;
  PoolEntry entry_;
  std::thread thread_;
};

TEST(DonorsTest, ASlabOfAnotherSizeIsGivenBack) {
  FakeDonor fake;
  const auto table = NewSlabTable();
  Donors donors;
  ASSERT_TRUE(donors.Open({fake.entry()}, 1000, table.get()).ok());
  for (const uint64_t bytes : {2 * kSlab, kSlab / 2}) {
    fake.lease_bytes = bytes;
    fake.returned = 0;
    const Result<uint32_t> slab = donors.LeaseSlab();
    ASSERT_FALSE(slab.ok());
    EXPECT_EQ(slab.status().code(), Status::Code::kExhausted);
    EXPECT_NE(std::strstr(slab.status().text(), "of another size"), nullptr) << slab.status().text();
    EXPECT_EQ(fake.returned, 1);
    EXPECT_EQ(table->count, 1u);  // The first is nobody's.
  }
  fake.lease_bytes = kSlab;
  ASSERT_TRUE(donors.LeaseSlab().ok());
  EXPECT_EQ(table->count, 2u);
  donors.Close();
}

TEST(DonorsTest, ASilentDonorIsWaitedForAFifthOfTheGrace) {
  FakeDonor fake;
  const auto table = NewSlabTable();
  Donors donors;
  ASSERT_TRUE(donors.Open({fake.entry()}, 300'000, table.get()).ok());
  ASSERT_TRUE(donors.LeaseSlab().ok());
  uint64_t lost_bytes = 1;
  fake.deaf = 50;  // An attempt each 50 ms, the first of them on the connection that there was.
  const Status s = donors.Check(0, &lost_bytes);
  EXPECT_TRUE(s.ok()) << s.text();
  EXPECT_EQ(fake.deaf, 0);
  EXPECT_FALSE(donors.gone(0));
  EXPECT_EQ(lost_bytes, 0u);
  donors.Close();

  Donors hasty;
  const auto other_table = NewSlabTable();
  ASSERT_TRUE(hasty.Open({fake.entry()}, 2000, other_table.get()).ok());
  fake.deaf = 50;
  EXPECT_FALSE(hasty.Check(0, &lost_bytes).ok());
  EXPECT_TRUE(hasty.gone(0));
  fake.deaf = 0;
}

}  // namespace
}  // namespace farpool
