#pragma once
// A client's session with one donor: the right to lease slabs there. Used by the supervisor and by tools, not
// by the preloaded runtime (this allocates). Threads: one at a time per session.

#include <memory>

#include "base/fd.h"
#include "farpool/status.h"
#include "farpool/types.h"
#include "registry/pool_spec.h"

namespace farpool {

struct DonorInfo {
  uint64_t memory_bytes = 0;  // Lent at most.
  uint64_t free_bytes = 0;    // Not leased now.
  uint64_t slab_bytes = 0;
  std::string rack;
};

struct SlabLease {
  SlabId id{};
  uint64_t bytes = 0;
  Fd memory;  // Sealed memfd over a unix socket; else invalid.
};

class DonorSession {
 public:
  // Connects (2 s bound), agrees on the version, starts a new session with a fresh random token.
  // Errors name the entry: "tcp://h:1: connection refused".
  static Result<std::unique_ptr<DonorSession>> Open(const PoolEntry& entry, uint64_t grace_ms);
  virtual ~DonorSession() = default;

  // Every call ends within 2 s. kExhausted: donor or quota full. kUnavailable: connection broken.
  virtual Result<SlabLease> LeaseSlab() = 0;
  virtual Status ReturnSlab(SlabId id) = 0;
  virtual Result<DonorInfo> Info() = 0;
  // A second connection under the same session, for TcpLink or RdmaLink; to be handed to a runtime. `holder`
  // is any number: whose channel it is.
  virtual Result<Fd> OpenDataChannel(uint64_t holder = 0) = 0;
  // Ends the channels of `holder`, not 0: what was sent by them has happened when this returns, or never
  // will.
  virtual Status EndDataChannels(uint64_t holder) = 0;
  // Once the control connection broke: connects again and resumes the session with its token.
  // kNotFound: the donor does not know the session any more (restarted or grace over): its data is lost.
  virtual Status Resume() = 0;
  // Closes this process's end of the control connection without a word to the donor; for a process forked off
  // the session's owner. Resume() connects again.
  virtual void Detach() = 0;
  // Frees everything at once. Also done by the donor when the grace is over.
  virtual Status Close() = 0;

  virtual int control_fd() const = 0;      // Readable or HUP: the donor went away (it never speaks unasked).
  virtual bool shared_memory() const = 0;  // Leases carry a memfd.
  virtual bool rdma() const = 0;           // Data channels are for RdmaLink.
  virtual const PoolEntry& entry() const = 0;
};

}  // namespace farpool
