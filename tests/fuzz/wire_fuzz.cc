// Every decoder on arbitrary bytes: none reads past them, and what is accepted keeps the promises of wire.h
// and is encoded to the same bytes again. The header check is made right first on half of the inputs, because
// a fuzzer cannot guess it.

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "wire/wire.h"

namespace {

using namespace farpool::wire;

void Require(bool condition) {
  if (!condition) std::abort();
}

template <typename Header>
bool TryHeader(std::span<const std::byte> bytes, Header* header) {
  if (Decode(bytes, header) != Fault::kNone) return false;
  std::byte again[sizeof(Header)];
  Encode(*header, again);
  Require(std::memcmp(again, bytes.data(), sizeof(again)) == 0);
  Require(header->payload_bytes <= kMaxTransferBytes);
  return true;
}

template <typename Header>
void FuzzHeader(std::vector<std::byte> bytes, bool repair) {
  if (repair && bytes.size() >= sizeof(Header)) {
    Header header;
    std::memcpy(&header, bytes.data(), sizeof(header));
    header.magic = Header().magic;
    header.version = kWireVersion;
    Encode(header, bytes.data());
  }
  Header header;
  if (!TryHeader(bytes, &header)) return;
  if constexpr (sizeof(Header) == sizeof(RequestHeader)) {
    Require(header.read_bytes <= kMaxTransferBytes);
    Require(header.op != Op::kRead || header.read_bytes != 0);
  } else {
    farpool::Status::Code code = FromWire(header.code);
    Require(ToWire(code) == header.code);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const bool repair = (data[0] & 1) != 0;
  std::vector<std::byte> bytes(size - 1);  // Of its own, so that a read past the end is seen.
  if (size > 1) std::memcpy(bytes.data(), data + 1, size - 1);
  FuzzHeader<RequestHeader>(bytes, repair);
  FuzzHeader<ReplyHeader>(bytes, repair);
  HelloRequest hello_request;
  if (Decode(bytes, &hello_request) == Fault::kNone)
    Require(hello_request.token_high != 0 || hello_request.token_low != 0);
  HelloReply hello_reply;
  (void)Decode(bytes, &hello_reply);
  InfoReply info;
  if (Decode(bytes, &info) == Fault::kNone) Require(info.rack_bytes <= kMaxRackBytes);
  LeaseReply lease;
  if (Decode(bytes, &lease) == Fault::kNone) Require(lease.slab != 0 && lease.bytes != 0);
  RdmaEndpoint endpoint;
  if (Decode(bytes, &endpoint) == Fault::kNone)
    Require(endpoint.queue_pair < 1u << 24 && endpoint.reads_max >= 1 && endpoint.reads_max <= 255);
  SlabKeyReply key;
  if (Decode(bytes, &key) == Fault::kNone) Require(key.bytes != 0);
  return 0;
}
