#include "wire/wire.h"

#include <cstring>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace farpool::wire {

namespace {

// A check against lost framing and broken peers, not against forgery; XXH3 costs a few nanoseconds here.
template <typename Header>
uint32_t CheckOf(const Header& header) {
  return static_cast<uint32_t>(XXH3_64bits(&header, offsetof(Header, check)));
}

template <typename Header>
void EncodeHeader(Header header, std::byte* out) {
  header.check = CheckOf(header);
  std::memcpy(out, &header, sizeof(header));
}

// Magic and version come first, so that a peer of another version is told from garbage.
template <typename Header>
Fault DecodeHeader(std::span<const std::byte> bytes, uint32_t magic, Header* out) {
  if (bytes.size() < sizeof(Header)) return Fault::kShort;
  Header header;
  std::memcpy(&header, bytes.data(), sizeof(header));
  if (header.magic != magic) return Fault::kMagic;
  *out = header;
  if (header.version != kWireVersion) return Fault::kVersion;
  if (header.check != CheckOf(header)) return Fault::kCheck;
  return Fault::kNone;
}

template <typename Payload>
bool CopyExact(std::span<const std::byte> bytes, Payload* out) {
  if (bytes.size() != sizeof(Payload)) return false;
  std::memcpy(out, bytes.data(), sizeof(Payload));
  return true;
}

bool AllZero(const uint8_t* bytes, size_t count) {
  uint8_t any = 0;
  for (size_t i = 0; i < count; ++i) any |= bytes[i];
  return any == 0;
}

bool IsTransferSize(uint32_t bytes) { return bytes >= 1 && bytes <= kMaxTransferBytes; }

}  // namespace

const char* FaultText(Fault fault) {
  switch (fault) {
    case Fault::kNone:
      return "no fault";
    case Fault::kShort:
      return "message cut short";
    case Fault::kMagic:
      return "not a farpool message";
    case Fault::kVersion:
      return "another protocol version";
    case Fault::kCheck:
      return "header check is wrong";
    case Fault::kOp:
      return "unknown operation";
    case Fault::kCode:
      return "unknown status code";
    case Fault::kLength:
      return "length out of bounds";
    case Fault::kReserved:
      return "a reserved field is not zero";
  }
  return "unknown fault";
}

void Encode(RequestHeader header, std::byte* out) { EncodeHeader(header, out); }
void Encode(ReplyHeader header, std::byte* out) { EncodeHeader(header, out); }

Fault Decode(std::span<const std::byte> bytes, RequestHeader* out) {
  const Fault fault = DecodeHeader(bytes, kRequestMagic, out);
  if (fault != Fault::kNone) return fault;
  const RequestHeader& h = *out;
  bool length_ok = false;
  bool uses_slab = false, uses_range = false, uses_compare = false, uses_operand = false;
  switch (h.op) {
    case Op::kHello:
      length_ok = h.payload_bytes == sizeof(HelloRequest) && h.read_bytes == 0;
      uses_operand = true;
      break;
    case Op::kInfo:
    case Op::kLeaseSlab:
    case Op::kCloseSession:
      length_ok = h.payload_bytes == 0 && h.read_bytes == 0;
      break;
    case Op::kEndChannels:
      length_ok = h.payload_bytes == 0 && h.read_bytes == 0;
      uses_operand = true;
      break;
    case Op::kReturnSlab:
    case Op::kSlabKey:
      length_ok = h.payload_bytes == 0 && h.read_bytes == 0;
      uses_slab = true;
      break;
    case Op::kRdmaConnect:
      length_ok = h.payload_bytes == sizeof(RdmaEndpoint) && h.read_bytes == 0;
      break;
    case Op::kRead:
      length_ok = h.payload_bytes == 0 && IsTransferSize(h.read_bytes);
      uses_slab = uses_range = true;
      break;
    case Op::kWrite:
      length_ok = IsTransferSize(h.payload_bytes) && h.read_bytes == 0;
      uses_slab = uses_range = true;
      break;
    case Op::kCompareAndSwap:
      length_ok = h.payload_bytes == 0 && h.read_bytes == 0;
      uses_slab = uses_range = uses_compare = uses_operand = true;
      break;
    case Op::kFetchAdd:
      length_ok = h.payload_bytes == 0 && h.read_bytes == 0;
      uses_slab = uses_range = uses_operand = true;
      break;
    default:
      return Fault::kOp;
  }
  if (!length_ok) return Fault::kLength;
  if (h.flags != 0 || h.reserved != 0) return Fault::kReserved;
  if ((h.slab != 0 && !uses_slab) || (h.offset != 0 && !uses_range) || (h.compare != 0 && !uses_compare) ||
      (h.operand != 0 && !uses_operand))
    return Fault::kReserved;
  return Fault::kNone;
}

Fault Decode(std::span<const std::byte> bytes, ReplyHeader* out) {
  const Fault fault = DecodeHeader(bytes, kReplyMagic, out);
  if (fault != Fault::kNone) return fault;
  if (out->code > ReplyCode::kInternal) return Fault::kCode;
  const bool ok = out->code == ReplyCode::kOk;
  bool length_ok = false;
  switch (out->op) {
    case Op::kHello:
      length_ok = out->payload_bytes == sizeof(HelloReply);
      break;
    case Op::kInfo:
      length_ok = out->payload_bytes == sizeof(InfoReply);
      break;
    case Op::kLeaseSlab:
      length_ok = out->payload_bytes == sizeof(LeaseReply);
      break;
    case Op::kReturnSlab:
    case Op::kCloseSession:
    case Op::kEndChannels:
      length_ok = out->payload_bytes == 0;
      break;
    case Op::kRdmaConnect:
      length_ok = out->payload_bytes == sizeof(RdmaEndpoint);
      break;
    case Op::kSlabKey:
      length_ok = out->payload_bytes == sizeof(SlabKeyReply);
      break;
    case Op::kRead:
      return IsTransferSize(out->payload_bytes) ? Fault::kNone : Fault::kLength;
    case Op::kWrite:
    case Op::kCompareAndSwap:
    case Op::kFetchAdd:
      return out->payload_bytes == 0 ? Fault::kNone : Fault::kLength;
    default:
      return Fault::kOp;
  }
  // A refused control request carries its reason instead of its answer.
  if (!ok) length_ok = out->payload_bytes <= kMaxTextBytes;
  return length_ok ? Fault::kNone : Fault::kLength;
}

Fault Decode(std::span<const std::byte> bytes, HelloRequest* out) {
  if (!CopyExact(bytes, out)) return Fault::kLength;
  const auto mode = static_cast<uint32_t>(out->mode);
  if (mode < 1 || mode > 3) return Fault::kReserved;
  if (out->token_high == 0 && out->token_low == 0) return Fault::kReserved;
  return AllZero(out->nonce, sizeof(out->nonce)) ? Fault::kNone : Fault::kReserved;
}

Fault Decode(std::span<const std::byte> bytes, HelloReply* out) {
  if (!CopyExact(bytes, out)) return Fault::kLength;
  return out->reserved == 0 && AllZero(out->nonce, sizeof(out->nonce)) ? Fault::kNone : Fault::kReserved;
}

Fault Decode(std::span<const std::byte> bytes, InfoReply* out) {
  if (!CopyExact(bytes, out)) return Fault::kLength;
  if (out->rack_bytes > kMaxRackBytes) return Fault::kLength;
  return out->reserved == 0 ? Fault::kNone : Fault::kReserved;
}

Fault Decode(std::span<const std::byte> bytes, LeaseReply* out) {
  if (!CopyExact(bytes, out)) return Fault::kLength;
  return out->slab != 0 && out->bytes != 0 ? Fault::kNone : Fault::kReserved;
}

Fault Decode(std::span<const std::byte> bytes, RdmaEndpoint* out) {
  if (!CopyExact(bytes, out)) return Fault::kLength;
  constexpr uint32_t kNumberMax = (1u << 24) - 1;
  if (out->queue_pair > kNumberMax || out->first_packet > kNumberMax) return Fault::kReserved;
  if (out->mtu_bytes < 256 || out->mtu_bytes > 4096 || !std::has_single_bit(out->mtu_bytes))
    return Fault::kReserved;
  return out->reads_max >= 1 && out->reads_max <= 255 ? Fault::kNone : Fault::kReserved;
}

Fault Decode(std::span<const std::byte> bytes, SlabKeyReply* out) {
  if (!CopyExact(bytes, out)) return Fault::kLength;
  return out->bytes != 0 && out->reserved == 0 ? Fault::kNone : Fault::kReserved;
}

ReplyCode ToWire(Status::Code code) {
  switch (code) {
    case Status::Code::kOk:
      return ReplyCode::kOk;
    case Status::Code::kInvalidArgument:
      return ReplyCode::kInvalidArgument;
    case Status::Code::kNotFound:
      return ReplyCode::kNotFound;
    case Status::Code::kUnavailable:
      return ReplyCode::kUnavailable;
    case Status::Code::kTimeout:
      return ReplyCode::kTimeout;
    case Status::Code::kExhausted:
      return ReplyCode::kExhausted;
    case Status::Code::kPermission:
      return ReplyCode::kPermission;
    case Status::Code::kUnsupported:
      return ReplyCode::kUnsupported;
    case Status::Code::kCorrupt:
      return ReplyCode::kCorrupt;
    case Status::Code::kInternal:
      return ReplyCode::kInternal;
  }
  return ReplyCode::kInternal;
}

Status::Code FromWire(ReplyCode code) {
  switch (code) {
    case ReplyCode::kOk:
      return Status::Code::kOk;
    case ReplyCode::kInvalidArgument:
      return Status::Code::kInvalidArgument;
    case ReplyCode::kNotFound:
      return Status::Code::kNotFound;
    case ReplyCode::kUnavailable:
      return Status::Code::kUnavailable;
    case ReplyCode::kTimeout:
      return Status::Code::kTimeout;
    case ReplyCode::kExhausted:
      return Status::Code::kExhausted;
    case ReplyCode::kPermission:
      return Status::Code::kPermission;
    case ReplyCode::kUnsupported:
      return Status::Code::kUnsupported;
    case ReplyCode::kCorrupt:
      return Status::Code::kCorrupt;
    case ReplyCode::kInternal:
      return Status::Code::kInternal;
  }
  return Status::Code::kInternal;
}

}  // namespace farpool::wire
