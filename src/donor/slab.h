#pragma once
// One slab: a memfd of its own, sealed so that neither side can change its size under the other. A slab
// serves one lease and is never handed out again, so a new lease always starts with zeros and nobody can read
// what another client left. Any thread may call any of it.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>

#include "base/fd.h"
#include "base/mutex.h"
#include "donor/rdma.h"
#include "farpool/status.h"
#include "farpool/types.h"

namespace farpool {

class Slab {
 public:
  // Adds `bytes` to `*used_bytes`, which must not exceed `limit_bytes` (kExhausted) and must outlive the
  // slab; they are taken off again when it is discarded, or else dies.
  static Result<std::shared_ptr<Slab>> Create(SlabId id, uint64_t bytes, std::atomic<uint64_t>* used_bytes,
                                              uint64_t limit_bytes);
  ~Slab();
  Slab(const Slab&) = delete;

  SlabId id() const { return id_; }
  uint64_t bytes() const { return bytes_; }
  int memfd() const { return memfd_.get(); }
  // Mapped at first use: over a unix socket the client maps it and we need not. nullptr if that fails.
  std::byte* base();
  // Takes huge pages for it while the host has some; after 20 ms none is begun any more. What it gets none
  // for is left to AllocateFrom(). (By MADV_COLLAPSE, Linux 6.1, for which transparent_hugepage/shmem_enabled
  // may be `never`.) That is a tenth of the time that small ones take, and random reads find their pages
  // sooner. Not once a client maps it: pages would go from under its mapping, locked or not.
  void AllocateHuge();
  // Has the host allocate the part of it at `offset` before a client gets there, which costs the client half
  // as much then. Returns where the next part begins; bytes() when all is done, or the host has no more.
  uint64_t AllocateFrom(uint64_t offset);
  // The key under which peers of `domain`, the session's, reach it by RDMA. Registers it at the first call.
  // kNotFound once it is discarded.
  Result<uint32_t> Key(const std::shared_ptr<RdmaDomain>& domain);
  // Gives the memory back to the host now, whoever still maps it: a client that keeps its descriptor would
  // otherwise keep memory that we lend to the next one. Mappings read zeros from then on, keys are refused.
  // What a connection is just receiving into it, one transfer, goes when the slab dies.
  void Discard();

 private:
  Slab(SlabId id, uint64_t bytes, std::atomic<uint64_t>* used_bytes)
      : id_(id), bytes_(bytes), used_bytes_(used_bytes) {}

  const SlabId id_;
  const uint64_t bytes_;
  std::atomic<uint64_t>* const used_bytes_;
  Fd memfd_;
  std::once_flag mapped_;
  std::byte* base_ = nullptr;
  Mutex mutex_;
  std::unique_ptr<RdmaRegion> region_ GUARDED_BY(mutex_);
  bool discarded_ GUARDED_BY(mutex_) = false;
};

}  // namespace farpool
