#include "donor/rdma.h"

#include <cerrno>

#include "base/clock.h"

namespace farpool {

namespace {
constexpr int kPeerAccess = IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_ATOMIC;
}  // namespace

Result<std::shared_ptr<RdmaHost>> RdmaHost::Open(int listener, const Verbs* verbs) {
  std::shared_ptr<RdmaHost> host(new RdmaHost);
  if (verbs == nullptr) {
    if (Status s = OpenVerbs(VerbsPlace::kOrdinary, &host->verbs_); !s.ok()) return s;
    verbs = &host->verbs_;
  }
  if (Status s = host->device_.Open(verbs, listener); !s.ok()) return s;
  return host;
}

Result<std::shared_ptr<RdmaDomain>> RdmaDomain::Create(std::shared_ptr<RdmaHost> host) {
  ibv_pd* domain = host->device().verbs().alloc_pd(host->device().context());
  if (domain == nullptr) return Status::Exhausted("the donor's RDMA device has no protection domain left");
  return std::shared_ptr<RdmaDomain>(new RdmaDomain(std::move(host), domain));
}

RdmaDomain::~RdmaDomain() { device().verbs().dealloc_pd(domain_); }

Result<std::unique_ptr<RdmaRegion>> RdmaRegion::Create(std::shared_ptr<RdmaDomain> domain, void* base,
                                                       uint64_t bytes) {
  ibv_mr* region =
      domain->device().verbs().reg_mr(domain->get(), base, bytes, IBV_ACCESS_LOCAL_WRITE | kPeerAccess);
  if (region == nullptr)
    return Status::Exhausted(errno == ENOMEM
                                 ? "the donor cannot register memory: raise its `ulimit -l` (LimitMEMLOCK)"
                                 : "the donor's RDMA device registers no more memory");
  return std::unique_ptr<RdmaRegion>(new RdmaRegion(std::move(domain), region));
}

RdmaRegion::~RdmaRegion() { domain_->device().verbs().dereg_mr(region_); }

Result<std::unique_ptr<RdmaPeer>> RdmaPeer::Connect(const std::shared_ptr<RdmaDomain>& domain,
                                                    const wire::RdmaEndpoint& peer, wire::RdmaEndpoint* own) {
  const RdmaDevice& device = domain->device();
  std::unique_ptr<RdmaPeer> made(new RdmaPeer(domain));
  made->completions_ = device.verbs().create_cq(device.context(), 1, nullptr, nullptr, 0);
  if (made->completions_ == nullptr) return Status::Exhausted("the donor's RDMA device has no queue left");
  ibv_qp_init_attr init = {};
  init.send_cq = init.recv_cq = made->completions_;
  init.cap.max_send_wr = init.cap.max_recv_wr = 1;
  init.cap.max_send_sge = init.cap.max_recv_sge = 1;
  init.qp_type = IBV_QPT_RC;
  made->queue_ = device.verbs().create_qp(domain->get(), &init);
  if (made->queue_ == nullptr) return Status::Exhausted("the donor's RDMA device has no queue pair left");
  if (Status s = device.Init(made->queue_, kPeerAccess); !s.ok()) return s;
  if (Status s = device.ReadyToReceive(made->queue_, peer); !s.ok()) return s;
  // It only ever answers, which this state does; no packet of its own has a number.
  *own = device.EndpointOf(*made->queue_, static_cast<uint32_t>(NowNs() >> 8) & 0xffffff);
  return made;
}

RdmaPeer::~RdmaPeer() {
  const Verbs& verbs = domain_->device().verbs();
  if (queue_ != nullptr) verbs.destroy_qp(queue_);
  if (completions_ != nullptr) verbs.destroy_cq(completions_);
}

}  // namespace farpool
