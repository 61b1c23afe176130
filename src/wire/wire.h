#pragma once
// What client and donor say to each other. docs/protocol.md is the specification; tests/unit/wire_test.cc
// holds both to the same bytes. Little-endian structs without padding, copied in and out of byte buffers.
// Nothing here allocates or keeps state: any thread, any context.
//
// Every length a peer sends is checked by Decode before anybody uses it: a decoded header is safe to act on.

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include "farpool/status.h"
#include "farpool/types.h"

namespace farpool::wire {

static_assert(std::endian::native == std::endian::little, "structs are copied to the wire as they are");

inline constexpr uint16_t kWireVersion = 1;
inline constexpr uint32_t kRequestMagic = 0x51505246;      // "FRPQ"
inline constexpr uint32_t kReplyMagic = 0x52505246;        // "FRPR"
inline constexpr uint32_t kMaxTransferBytes = 256 * 1024;  // Of one read or write; kMaxLinkBytes.
inline constexpr uint32_t kMaxTextBytes = 160;             // Of the reason in a refused control request.
inline constexpr uint32_t kMaxRackBytes = 64;

// One byte. Append values, never renumber. Data operations start at 16.
enum class Op : uint8_t {
  kHello = 1,         // First on every connection; payload HelloRequest, answer HelloReply.
  kInfo = 2,          // Answer InfoReply.
  kLeaseSlab = 3,     // Answer LeaseReply, over a unix socket with the slab's memfd beside it.
  kReturnSlab = 4,    // `slab`; its memory is gone when the answer comes.
  kCloseSession = 5,  // Frees all of the session.
  kRdmaConnect = 6,   // Payload and answer RdmaEndpoint: a queue pair beside this connection.
  kSlabKey = 7,       // `slab`; answer SlabKeyReply: how its memory is reached by RDMA.
  kEndChannels = 8,   // `operand`: of which holder; nothing sent by them happens after the answer.
  kRead = 16,
  kWrite = 17,
  kCompareAndSwap = 18,
  kFetchAdd = 19,
};

struct RequestHeader {
  uint32_t magic = kRequestMagic;
  uint16_t version = kWireVersion;
  Op op{};
  uint8_t flags = 0;        // Zero; receivers reject anything else.
  uint64_t request_id = 0;  // Echoed in the reply; unique among the outstanding ones of a connection.
  uint64_t slab = 0;        // Zero where the op has none.
  uint64_t offset = 0;      // Bytes into the slab.
  uint64_t compare = 0;     // kCompareAndSwap only.
  uint64_t operand = 0;  // Atomics: new value or addend. kHello of a data channel, kEndChannels: its holder.
  uint32_t payload_bytes = 0;  // That follow this header.
  uint32_t read_bytes = 0;     // kRead only: asked for.
  uint32_t reserved = 0;       // Zero.
  uint32_t check = 0;          // Low half of XXH3_64bits of the 60 bytes before it.
};
static_assert(sizeof(RequestHeader) == 64);  // A cache line; a batch of 64 read requests is one page.
static_assert(std::has_unique_object_representations_v<RequestHeader>);

// Status::Code by its wire value. Append, never renumber.
enum class ReplyCode : uint8_t {
  kOk = 0,
  kInvalidArgument = 1,
  kNotFound = 2,
  kUnavailable = 3,
  kTimeout = 4,
  kExhausted = 5,
  kPermission = 6,
  kUnsupported = 7,
  kCorrupt = 8,
  kInternal = 9,
};

struct ReplyHeader {
  uint32_t magic = kReplyMagic;
  uint16_t version = kWireVersion;
  Op op{};  // Of the request.
  ReplyCode code{};
  uint64_t request_id = 0;
  uint64_t value = 0;          // Atomics: what was there before.
  uint32_t payload_bytes = 0;  // That follow. kRead: always what was asked for, zeros if refused.
  uint32_t check = 0;          // Low half of XXH3_64bits of the 28 bytes before it.
};
static_assert(sizeof(ReplyHeader) == 32);
static_assert(std::has_unique_object_representations_v<ReplyHeader>);

enum class HelloMode : uint32_t {
  kNewSession = 1,   // Control connection of a session that starts here.
  kResume = 2,       // Control connection of a session that exists.
  kDataChannel = 3,  // Data operations of a session that exists.
};

struct HelloRequest {
  HelloMode mode{};
  uint32_t features = 0;    // Asked for; none exist yet (authentication and TLS will be bits here).
  uint64_t token_high = 0;  // 128 random bits, never all zero.
  uint64_t token_low = 0;
  uint64_t grace_ms = 0;   // kNewSession: how long it outlives its last connection.
  uint8_t nonce[32] = {};  // Zero until a feature uses it.
};
static_assert(sizeof(HelloRequest) == 64);
static_assert(std::has_unique_object_representations_v<HelloRequest>);

struct HelloReply {
  uint32_t features = 0;  // Granted, a subset of those asked for.
  uint32_t reserved = 0;
  uint64_t grace_ms = 0;  // Granted.
  uint64_t slab_bytes = 0;
  uint8_t nonce[32] = {};  // Zero until a feature uses it.
};
static_assert(sizeof(HelloReply) == 56);
static_assert(std::has_unique_object_representations_v<HelloReply>);

struct InfoReply {
  uint64_t memory_bytes = 0;
  uint64_t free_bytes = 0;
  uint64_t slab_bytes = 0;
  uint32_t rack_bytes = 0;  // Of `rack` in use; at most kMaxRackBytes.
  uint32_t reserved = 0;
  char rack[kMaxRackBytes] = {};
};
static_assert(sizeof(InfoReply) == 96);
static_assert(std::has_unique_object_representations_v<InfoReply>);

struct LeaseReply {
  uint64_t slab = 0;
  uint64_t bytes = 0;
};
static_assert(sizeof(LeaseReply) == 16);
static_assert(std::has_unique_object_representations_v<LeaseReply>);

// One end of a reliable queue pair.
struct RdmaEndpoint {
  uint32_t queue_pair = 0;    // Its number, 24 bits.
  uint32_t first_packet = 0;  // Number of the first packet it sends, 24 bits.
  uint8_t address[16] = {};   // RoCE v2: an IPv6 address, or an IPv4 one in ::ffff:0:0/96.
  uint32_t mtu_bytes = 0;     // Of its port: 256..4096, a power of two.
  uint32_t reads_max = 0;     // Reads and atomics that it answers at once, 1..255.
};
static_assert(sizeof(RdmaEndpoint) == 32);
static_assert(std::has_unique_object_representations_v<RdmaEndpoint>);

struct SlabKeyReply {
  uint64_t address = 0;  // Of the slab's first byte, as RDMA requests name it.
  uint64_t bytes = 0;
  uint32_t key = 0;  // Remote key; dies with the lease.
  uint32_t reserved = 0;
};
static_assert(sizeof(SlabKeyReply) == 24);
static_assert(std::has_unique_object_representations_v<SlabKeyReply>);

// Why bytes are not a message. Only kShort can be cured by more bytes.
enum class Fault : uint8_t {
  kNone,
  kShort,
  kMagic,
  kVersion,  // Magic is right: `version` and `request_id` of the output are readable.
  kCheck,
  kOp,
  kCode,
  kLength,
  kReserved,  // A field that this op does not use is not zero, or an enum is out of range.
};
const char* FaultText(Fault fault);

// Fills in `check` and writes the header to `out`.
void Encode(RequestHeader header, std::byte* out);
void Encode(ReplyHeader header, std::byte* out);

// Reads a header from the front of `bytes` and checks every field against its op. `out` is written unless
// kShort or kMagic, and may only be acted upon after kNone.
Fault Decode(std::span<const std::byte> bytes, RequestHeader* out);
Fault Decode(std::span<const std::byte> bytes, ReplyHeader* out);

// Payloads; `bytes` must be exactly one of them.
Fault Decode(std::span<const std::byte> bytes, HelloRequest* out);
Fault Decode(std::span<const std::byte> bytes, HelloReply* out);
Fault Decode(std::span<const std::byte> bytes, InfoReply* out);
Fault Decode(std::span<const std::byte> bytes, LeaseReply* out);
Fault Decode(std::span<const std::byte> bytes, RdmaEndpoint* out);
Fault Decode(std::span<const std::byte> bytes, SlabKeyReply* out);

ReplyCode ToWire(Status::Code code);
Status::Code FromWire(ReplyCode code);

// True if [offset, offset + bytes) lies inside [0, size); no sum can overflow.
constexpr bool RangeFits(uint64_t offset, uint64_t bytes, uint64_t size) {
  return bytes <= size && offset <= size - bytes;
}

}  // namespace farpool::wire
