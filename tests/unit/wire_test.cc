// The wire format: golden bytes that docs/protocol.md shows and the code must make and take, and refusal of
// everything else.

#include "wire/wire.h"

#include <gtest/gtest.h>

#include <cctype>
#include <cstring>
#include <fstream>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace farpool::wire {
namespace {

using Bytes = std::vector<std::byte>;

template <typename Message>
Bytes Encoded(const Message& message) {
  Bytes out(sizeof(message));
  if constexpr (std::is_same_v<Message, RequestHeader> || std::is_same_v<Message, ReplyHeader>) {
    Encode(message, out.data());
  } else {
    std::memcpy(out.data(), &message, sizeof(message));
  }
  return out;
}

std::string Hex(const Bytes& bytes) {
  std::string out;
  for (size_t i = 0; i < bytes.size(); ++i) {
    char text[4];
    std::snprintf(text, sizeof(text), "%02x%s", static_cast<unsigned>(bytes[i]),
                  i % 16 == 15 || i + 1 == bytes.size() ? "\n" : " ");
    out += text;
  }
  return out;
}

// Blocks of docs/protocol.md that start with "```hex NAME".
std::map<std::string, Bytes> DocumentedBytes() {
  std::ifstream file(FARPOOL_PROTOCOL_DOC);
  EXPECT_TRUE(file.is_open()) << FARPOOL_PROTOCOL_DOC;
  std::map<std::string, Bytes> out;
  std::string line;
  Bytes* block = nullptr;
  while (std::getline(file, line)) {
    if (line.rfind("```hex ", 0) == 0) {
      block = &out[line.substr(7)];
    } else if (line.rfind("```", 0) == 0) {
      block = nullptr;
    } else if (block != nullptr) {
      for (size_t i = 0; i + 1 < line.size(); ++i)
        if (std::isxdigit(line[i]) && std::isxdigit(line[i + 1]))
          block->push_back(static_cast<std::byte>(std::stoi(line.substr(i++, 2), nullptr, 16)));
    }
  }
  return out;
}

RequestHeader Request(Op op) {
  RequestHeader h;
  h.op = op;
  h.request_id = 0x0102030405060708;
  switch (op) {
    case Op::kHello:
      h.payload_bytes = sizeof(HelloRequest);
      break;
    case Op::kEndChannels:
      h.operand = 0xCCDD;
      break;
    case Op::kReturnSlab:
    case Op::kSlabKey:
      h.slab = 0x11;
      break;
    case Op::kRdmaConnect:
      h.payload_bytes = sizeof(RdmaEndpoint);
      break;
    case Op::kRead:
    case Op::kWrite:
      h.slab = 0x11;
      h.offset = 0x2233000;
      (op == Op::kRead ? h.read_bytes : h.payload_bytes) = 4096;
      break;
    case Op::kCompareAndSwap:
      h.compare = 0xAABB;
      [[fallthrough]];
    case Op::kFetchAdd:
      h.slab = 0x11;
      h.offset = 0x40;
      h.operand = 0xCCDD;
      break;
    default:
      break;
  }
  return h;
}

ReplyHeader Answer(Op op) {
  ReplyHeader h;
  h.op = op;
  h.request_id = 0x0102030405060708;
  switch (op) {
    case Op::kHello:
      h.payload_bytes = sizeof(HelloReply);
      break;
    case Op::kInfo:
      h.payload_bytes = sizeof(InfoReply);
      break;
    case Op::kLeaseSlab:
      h.payload_bytes = sizeof(LeaseReply);
      break;
    case Op::kRdmaConnect:
      h.payload_bytes = sizeof(RdmaEndpoint);
      break;
    case Op::kSlabKey:
      h.payload_bytes = sizeof(SlabKeyReply);
      break;
    case Op::kRead:
      h.payload_bytes = 4096;
      break;
    case Op::kCompareAndSwap:
    case Op::kFetchAdd:
      h.value = 0xAABB;
      break;
    default:
      break;
  }
  return h;
}

constexpr Op kAllOps[] = {Op::kHello,        Op::kInfo,        Op::kLeaseSlab,      Op::kReturnSlab,
                          Op::kCloseSession, Op::kRdmaConnect, Op::kSlabKey,        Op::kEndChannels,
                          Op::kRead,         Op::kWrite,       Op::kCompareAndSwap, Op::kFetchAdd};

HelloRequest SomeHello() {
  HelloRequest hello;
  hello.mode = HelloMode::kNewSession;
  hello.token_high = 0x0123456789abcdef;
  hello.token_low = 0xfedcba9876543210;
  hello.grace_ms = 10'000;
  return hello;
}

RdmaEndpoint SomeEndpoint() {
  RdmaEndpoint endpoint = {
      .queue_pair = 0x112233, .first_packet = 0x445566, .mtu_bytes = 1024, .reads_max = 16};
  const uint8_t address[16] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 2};
  std::memcpy(endpoint.address, address, sizeof(address));
  return endpoint;
}

std::map<std::string, Bytes> GoldenMessages() {
  ReplyHeader refused = Answer(Op::kWrite);
  refused.code = ReplyCode::kNotFound;
  InfoReply info = {
      .memory_bytes = 1u << 30, .free_bytes = 1u << 29, .slab_bytes = 64u << 20, .rack_bytes = 2};
  std::memcpy(info.rack, "r1", 2);
  return {
      {"hello-request", Encoded(Request(Op::kHello))},
      {"hello-request-payload", Encoded(SomeHello())},
      {"hello-reply-payload", Encoded(HelloReply{.grace_ms = 10'000, .slab_bytes = 64u << 20})},
      {"read-request", Encoded(Request(Op::kRead))},
      {"read-reply", Encoded(Answer(Op::kRead))},
      {"write-request", Encoded(Request(Op::kWrite))},
      {"write-reply-not-found", Encoded(refused)},
      {"compare-and-swap-request", Encoded(Request(Op::kCompareAndSwap))},
      {"compare-and-swap-reply", Encoded(Answer(Op::kCompareAndSwap))},
      {"info-reply-payload", Encoded(info)},
      {"lease-reply-payload", Encoded(LeaseReply{.slab = 0x11, .bytes = 64u << 20})},
      {"rdma-connect-request", Encoded(Request(Op::kRdmaConnect))},
      {"rdma-connect-payload", Encoded(SomeEndpoint())},
      {"end-channels-request", Encoded(Request(Op::kEndChannels))},
      {"slab-key-request", Encoded(Request(Op::kSlabKey))},
      {"slab-key-reply-payload",
       Encoded(SlabKeyReply{.address = 0x7f0000000000, .bytes = 64u << 20, .key = 0x1234})},
  };
}

// The specification and the code show the same bytes, for the same set of messages.
TEST(WireTest, DocumentShowsWhatTheCodeMakes) {
  const auto documented = DocumentedBytes();
  const auto golden = GoldenMessages();
  for (const auto& [name, bytes] : golden) {
    const auto it = documented.find(name);
    if (it == documented.end()) {
      ADD_FAILURE() << "docs/protocol.md lacks\n```hex " << name << "\n" << Hex(bytes) << "```";
      continue;
    }
    EXPECT_EQ(Hex(it->second), Hex(bytes)) << name;
  }
  EXPECT_EQ(documented.size(), golden.size());
}

// Written down here a second time, so that a change of both code and document is noticed too.
TEST(WireTest, ReadRequestIsTheseBytes) {
  const unsigned char expected[60] = {
      0x46, 0x52, 0x50, 0x51, 0x01, 0x00, 0x10, 0x00,  // magic, version, op, flags
      0x08, 0x07, 0x06, 0x05, 0x04, 0x03, 0x02, 0x01,  // request_id
      0x11, 0,    0,    0,    0,    0,    0,    0,     // slab
      0x00, 0x30, 0x23, 0x02, 0,    0,    0,    0,     // offset
      0,    0,    0,    0,    0,    0,    0,    0,     // compare
      0,    0,    0,    0,    0,    0,    0,    0,     // operand
      0,    0,    0,    0,    0x00, 0x10, 0,    0,     // payload_bytes, read_bytes
      0,    0,    0,    0,                             // reserved
  };
  EXPECT_EQ(std::memcmp(Encoded(Request(Op::kRead)).data(), expected, sizeof(expected)), 0);
}

TEST(WireTest, EveryMessageDecodesToWhatWasEncoded) {
  for (const Op op : kAllOps) {
    RequestHeader request;
    ASSERT_EQ(Decode(Encoded(Request(op)), &request), Fault::kNone) << static_cast<int>(op);
    EXPECT_EQ(Encoded(request), Encoded(Request(op)));
    ReplyHeader reply;
    ASSERT_EQ(Decode(Encoded(Answer(op)), &reply), Fault::kNone) << static_cast<int>(op);
    EXPECT_EQ(Encoded(reply), Encoded(Answer(op)));
  }
  HelloRequest hello;
  ASSERT_EQ(Decode(Encoded(SomeHello()), &hello), Fault::kNone);
  EXPECT_EQ(hello.token_low, SomeHello().token_low);
}

TEST(WireTest, AnyDamagedByteOfAHeaderIsNoticed) {
  const Bytes request = Encoded(Request(Op::kWrite));
  const Bytes reply = Encoded(Answer(Op::kRead));
  RequestHeader request_out;
  ReplyHeader reply_out;
  for (size_t at = 0; at < request.size(); ++at)
    for (int bit = 0; bit < 8; ++bit) {
      Bytes damaged = request;
      damaged[at] ^= static_cast<std::byte>(1 << bit);
      EXPECT_NE(Decode(damaged, &request_out), Fault::kNone) << at;
      if (at >= reply.size()) continue;
      damaged = reply;
      damaged[at] ^= static_cast<std::byte>(1 << bit);
      EXPECT_NE(Decode(damaged, &reply_out), Fault::kNone) << at;
    }
}

TEST(WireTest, ShortInputIsShortAndNotRead) {
  const Bytes request = Encoded(Request(Op::kRead));
  RequestHeader out;
  for (size_t bytes = 0; bytes < request.size(); ++bytes)
    EXPECT_EQ(Decode(Bytes(request.begin(), request.begin() + static_cast<long>(bytes)), &out),
              Fault::kShort);
}

// Method: headers with a right check and a wrong field, so that the rule itself must refuse them.
TEST(WireTest, FieldsOutOfBoundsAreRefused) {
  struct Case {
    Op op;
    std::function<void(RequestHeader*)> change;
    Fault fault;
  };
  const std::vector<Case> cases = {
      {Op::kRead, [](auto* h) { h->read_bytes = 0; }, Fault::kLength},
      {Op::kRead, [](auto* h) { h->read_bytes = kMaxTransferBytes + 1; }, Fault::kLength},
      {Op::kRead, [](auto* h) { h->payload_bytes = 1; }, Fault::kLength},
      {Op::kWrite, [](auto* h) { h->payload_bytes = 0; }, Fault::kLength},
      {Op::kWrite, [](auto* h) { h->payload_bytes = kMaxTransferBytes + 1; }, Fault::kLength},
      {Op::kWrite, [](auto* h) { h->payload_bytes = ~0u; }, Fault::kLength},
      {Op::kWrite, [](auto* h) { h->read_bytes = 1; }, Fault::kLength},
      {Op::kHello, [](auto* h) { h->payload_bytes = 63; }, Fault::kLength},
      {Op::kInfo, [](auto* h) { h->payload_bytes = 1; }, Fault::kLength},
      {Op::kLeaseSlab, [](auto* h) { h->read_bytes = 1; }, Fault::kLength},
      {Op::kReturnSlab, [](auto* h) { h->payload_bytes = 1; }, Fault::kLength},
      {Op::kCompareAndSwap, [](auto* h) { h->payload_bytes = 16; }, Fault::kLength},
      {Op::kFetchAdd, [](auto* h) { h->read_bytes = 8; }, Fault::kLength},
      {Op::kRead, [](auto* h) { h->flags = 1; }, Fault::kReserved},
      {Op::kRead, [](auto* h) { h->reserved = 1; }, Fault::kReserved},
      {Op::kRead, [](auto* h) { h->operand = 1; }, Fault::kReserved},
      {Op::kFetchAdd, [](auto* h) { h->compare = 1; }, Fault::kReserved},
      {Op::kReturnSlab, [](auto* h) { h->offset = 1; }, Fault::kReserved},
      {Op::kSlabKey, [](auto* h) { h->offset = 1; }, Fault::kReserved},
      {Op::kSlabKey, [](auto* h) { h->payload_bytes = 1; }, Fault::kLength},
      {Op::kRdmaConnect, [](auto* h) { h->payload_bytes = 31; }, Fault::kLength},
      {Op::kRdmaConnect, [](auto* h) { h->slab = 1; }, Fault::kReserved},
      {Op::kInfo, [](auto* h) { h->slab = 1; }, Fault::kReserved},
      {Op::kInfo, [](auto* h) { h->operand = 1; }, Fault::kReserved},
      {Op::kEndChannels, [](auto* h) { h->slab = 1; }, Fault::kReserved},
      {Op::kEndChannels, [](auto* h) { h->payload_bytes = 1; }, Fault::kLength},
      {Op::kRead, [](auto* h) { h->op = static_cast<Op>(0); }, Fault::kOp},
      {Op::kRead, [](auto* h) { h->op = static_cast<Op>(15); }, Fault::kOp},
      {Op::kRead, [](auto* h) { h->version = 2; }, Fault::kVersion},
      {Op::kRead, [](auto* h) { h->magic = kReplyMagic; }, Fault::kMagic},
  };
  for (size_t i = 0; i < cases.size(); ++i) {
    RequestHeader h = Request(cases[i].op), out;
    cases[i].change(&h);
    EXPECT_EQ(Decode(Encoded(h), &out), cases[i].fault) << i;
  }
  // The edges themselves are allowed.
  RequestHeader h = Request(Op::kRead), out;
  h.read_bytes = kMaxTransferBytes;
  EXPECT_EQ(Decode(Encoded(h), &out), Fault::kNone);
}

TEST(WireTest, ReplyFieldsOutOfBoundsAreRefused) {
  ReplyHeader out;
  ReplyHeader h = Answer(Op::kRead);
  h.payload_bytes = kMaxTransferBytes + 1;
  EXPECT_EQ(Decode(Encoded(h), &out), Fault::kLength);
  h = Answer(Op::kWrite);
  h.payload_bytes = 1;
  EXPECT_EQ(Decode(Encoded(h), &out), Fault::kLength);
  h = Answer(Op::kInfo);
  h.payload_bytes -= 1;
  EXPECT_EQ(Decode(Encoded(h), &out), Fault::kLength);
  h.code = ReplyCode::kExhausted;
  h.payload_bytes = kMaxTextBytes;
  EXPECT_EQ(Decode(Encoded(h), &out), Fault::kNone);
  h.payload_bytes = kMaxTextBytes + 1;
  EXPECT_EQ(Decode(Encoded(h), &out), Fault::kLength);
  h.payload_bytes = 0;
  h.code = static_cast<ReplyCode>(10);
  EXPECT_EQ(Decode(Encoded(h), &out), Fault::kCode);
}

TEST(WireTest, PayloadsOutOfBoundsAreRefused) {
  HelloRequest hello = SomeHello(), hello_out;
  hello.mode = static_cast<HelloMode>(4);
  EXPECT_EQ(Decode(Encoded(hello), &hello_out), Fault::kReserved);
  hello = SomeHello();
  hello.token_high = hello.token_low = 0;
  EXPECT_EQ(Decode(Encoded(hello), &hello_out), Fault::kReserved);
  hello = SomeHello();
  hello.nonce[31] = 1;
  EXPECT_EQ(Decode(Encoded(hello), &hello_out), Fault::kReserved);
  InfoReply info = {.rack_bytes = kMaxRackBytes + 1}, info_out;
  EXPECT_EQ(Decode(Encoded(info), &info_out), Fault::kLength);
  Bytes long_lease = Encoded(LeaseReply{1, 1});
  long_lease.push_back(std::byte{0});
  LeaseReply lease_out;
  EXPECT_EQ(Decode(long_lease, &lease_out), Fault::kLength);
  const std::vector<std::function<void(RdmaEndpoint*)>> bad_endpoints = {
      [](auto* e) { e->queue_pair = 1u << 24; }, [](auto* e) { e->first_packet = 1u << 24; },
      [](auto* e) { e->mtu_bytes = 128; },       [](auto* e) { e->mtu_bytes = 1500; },
      [](auto* e) { e->mtu_bytes = 8192; },      [](auto* e) { e->reads_max = 0; },
      [](auto* e) { e->reads_max = 256; }};
  RdmaEndpoint endpoint_out;
  EXPECT_EQ(Decode(Encoded(SomeEndpoint()), &endpoint_out), Fault::kNone);
  for (const auto& spoil : bad_endpoints) {
    RdmaEndpoint endpoint = SomeEndpoint();
    spoil(&endpoint);
    EXPECT_EQ(Decode(Encoded(endpoint), &endpoint_out), Fault::kReserved);
  }
  SlabKeyReply key_out;
  EXPECT_EQ(Decode(Encoded(SlabKeyReply{.bytes = 0}), &key_out), Fault::kReserved);
  EXPECT_EQ(Decode(Encoded(SlabKeyReply{.bytes = 1, .reserved = 1}), &key_out), Fault::kReserved);
}

TEST(WireTest, RangesThatWouldOverflowDoNotFit) {
  EXPECT_TRUE(RangeFits(0, 8, 8));
  EXPECT_TRUE(RangeFits(8, 0, 8));
  EXPECT_FALSE(RangeFits(1, 8, 8));
  EXPECT_FALSE(RangeFits(0, 9, 8));
  EXPECT_FALSE(RangeFits(UINT64_MAX, 2, 8));
  EXPECT_FALSE(RangeFits(UINT64_MAX - 1, UINT64_MAX, UINT64_MAX));
}

TEST(WireTest, EveryStatusCodeSurvivesTheWire) {
  for (int code = 0; code <= static_cast<int>(Status::Code::kInternal); ++code)
    EXPECT_EQ(FromWire(ToWire(static_cast<Status::Code>(code))), static_cast<Status::Code>(code));
}

}  // namespace
}  // namespace farpool::wire
