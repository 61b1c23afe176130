#pragma once
// The contract of a data channel between one client and one donor. Every transport implements it and passes
// tests/unit/link_conformance_test.cc.
//
// An operation names (slab, offset) at the donor. The caller owns LinkOp objects and the memory they point to
// from Post() until `done` is true; nothing is allocated here, so a link can be driven from a signal handler.
// Completions may come in any order. Every posted operation ends, with success or failure, within the link's
// deadline. After kUnavailable or kTimeout a write or atomic may or may not have happened.
//
// Threads: one at a time per link unless it says otherwise; those to donors over a network take any, each
// with operations of its own.

#include <cstdint>

#include "farpool/status.h"
#include "farpool/types.h"

namespace farpool {

struct LinkOp {
  enum class Kind : uint8_t { kRead, kWrite, kCompareAndSwap, kFetchAdd };
  Kind kind = Kind::kRead;
  bool done = false;                      // Set by the link, last.
  Status::Code code = Status::Code::kOk;  // Valid once done. kCorrupt: the peer broke the protocol.
  SlabId slab{};
  uint64_t offset = 0;     // Bytes into the slab; atomics need 8-byte alignment.
  uint32_t bytes = 0;      // 1..kMaxLinkBytes for read and write; 8 for atomics.
  void* local = nullptr;   // Read: filled. Write: source, not changed.
  uint64_t compare = 0;    // CAS: expected value.
  uint64_t operand = 0;    // CAS: new value. Fetch-add: addend.
  uint64_t result = 0;     // Atomics: value before the operation.
  uint64_t id = 0;         // The link's own, while posted.
  LinkOp* next = nullptr;  // The link's own, while posted.
};

// The most bytes one operation may carry (one wire frame, one bound for every buffer).
inline constexpr uint32_t kMaxLinkBytes = 256 * 1024;

class Link {
 public:
  // Starts `count` operations in order of `ops`. An operation that is invalid (range, alignment, size) or
  // that meets a broken link is done at once with its code; the others go on.
  virtual void Post(LinkOp* const* ops, unsigned count) = 0;
  // Makes progress without waiting.
  virtual void Poll() = 0;
  // Makes progress until `op` is done.
  virtual void Wait(LinkOp* op) = 0;
  // False once the channel is broken for good; all later operations fail with kUnavailable.
  virtual bool alive() const = 0;

 protected:
  ~Link() = default;  // Links live in their owner's storage; nobody deletes through this type.
};

}  // namespace farpool
