#pragma once
// An RDMA device found by an address of this machine, and the states of a queue pair on it. RoCE v2: devices
// whose ports have IP addresses. Any context after OpenVerbs(); threads: one at a time per object.

#include "verbs/verbs.h"
#include "wire/wire.h"

namespace farpool {

class RdmaDevice {
 public:
  RdmaDevice() = default;
  RdmaDevice(const RdmaDevice&) = delete;
  RdmaDevice& operator=(const RdmaDevice&) = delete;

  // Opens the device that has the address of this end of `socket`, until Close().
  Status Open(const Verbs* verbs, int socket);
  void Close();
  // Forgets it: in a forked child it is the parent's. Its descriptor stays open.
  void Abandon() { context_ = nullptr; }

  bool open() const { return context_ != nullptr; }
  const Verbs& verbs() const { return *verbs_; }
  ibv_context* context() const { return context_; }
  const ibv_device_attr& limits() const { return limits_; }
  // Whether IBV_SEND_FENCE can be used.
  bool can_fence() const;

  // What the other side must know of `qp`.
  wire::RdmaEndpoint EndpointOf(const ibv_qp& qp, uint32_t first_packet) const;
  // A new reliable queue pair: no one may use it yet / this side answers requests of `peer` / and sends its
  // own.
  Status Init(ibv_qp* qp, int peer_access) const;
  Status ReadyToReceive(ibv_qp* qp, const wire::RdmaEndpoint& peer) const;
  Status ReadyToSend(ibv_qp* qp, uint32_t first_packet, const wire::RdmaEndpoint& peer) const;

 private:
  bool HasAddress(const ibv_gid& address);

  const Verbs* verbs_ = nullptr;
  ibv_context* context_ = nullptr;
  ibv_device_attr limits_ = {};
  ibv_gid gid_ = {};
  uint8_t port_ = 0;
  uint8_t gid_index_ = 0;
  ibv_mtu mtu_ = IBV_MTU_256;
};

// For people: the RoCE v2 addresses of `device`, and whether a port of it is up.
struct RdmaPorts {
  static constexpr unsigned kAddressesMax = 8;
  bool up = false;
  ibv_gid addresses[kAddressesMax];
  unsigned address_count = 0;
  ibv_device_attr limits = {};
};
Status QueryPorts(const Verbs& verbs, ibv_device* device, RdmaPorts* out);

}  // namespace farpool
