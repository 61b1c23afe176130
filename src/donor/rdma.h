#pragma once
// The donor's side of RDMA: the device at its address, a protection domain per session, a registration per
// slab, a queue pair per data channel. The clients' requests are answered by the device alone.
//
// A key works only on queue pairs of its own domain, and only until its slab is returned or the session ends.
// Threads: any, unless said.

#include <memory>

#include "farpool/status.h"
#include "verbs/device.h"

namespace farpool {

// The device, while anything made of it lives.
class RdmaHost {
 public:
  // The device at the address `listener` is bound to; of `verbs`, or of libibverbs if that is null. Errors
  // are one line for the user.
  static Result<std::shared_ptr<RdmaHost>> Open(int listener, const Verbs* verbs);
  ~RdmaHost() { device_.Close(); }
  RdmaHost(const RdmaHost&) = delete;
  const RdmaDevice& device() const { return device_; }

 private:
  RdmaHost() = default;
  Verbs verbs_;
  RdmaDevice device_;
};

// Who may use which keys: one for each session.
class RdmaDomain {
 public:
  static Result<std::shared_ptr<RdmaDomain>> Create(std::shared_ptr<RdmaHost> host);
  ~RdmaDomain();
  RdmaDomain(const RdmaDomain&) = delete;
  const RdmaDevice& device() const { return host_->device(); }
  ibv_pd* get() const { return domain_; }

 private:
  RdmaDomain(std::shared_ptr<RdmaHost> host, ibv_pd* domain) : host_(std::move(host)), domain_(domain) {}
  const std::shared_ptr<RdmaHost> host_;
  ibv_pd* const domain_;
};

// Memory that the peers of a domain may read, write and change, while this lives. The device keeps it in RAM.
class RdmaRegion {
 public:
  // Takes 0.3 s a GiB.
  static Result<std::unique_ptr<RdmaRegion>> Create(std::shared_ptr<RdmaDomain> domain, void* base,
                                                    uint64_t bytes);
  ~RdmaRegion();
  RdmaRegion(const RdmaRegion&) = delete;
  uint32_t key() const { return region_->rkey; }

 private:
  RdmaRegion(std::shared_ptr<RdmaDomain> domain, ibv_mr* region)
      : domain_(std::move(domain)), region_(region) {}
  const std::shared_ptr<RdmaDomain> domain_;
  ibv_mr* const region_;
};

// The queue pair of one connection. Threads: one at a time.
class RdmaPeer {
 public:
  // Connects to `peer`; `*own` is what the peer must know.
  static Result<std::unique_ptr<RdmaPeer>> Connect(const std::shared_ptr<RdmaDomain>& domain,
                                                   const wire::RdmaEndpoint& peer, wire::RdmaEndpoint* own);
  ~RdmaPeer();
  RdmaPeer(const RdmaPeer&) = delete;

 private:
  explicit RdmaPeer(std::shared_ptr<RdmaDomain> domain) : domain_(std::move(domain)) {}
  const std::shared_ptr<RdmaDomain> domain_;
  ibv_cq* completions_ = nullptr;
  ibv_qp* queue_ = nullptr;
};

}  // namespace farpool
