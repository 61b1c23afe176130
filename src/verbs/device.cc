#include "verbs/device.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cstring>

#include "base/sys.h"

namespace farpool {

namespace {

constexpr size_t kGidsMax = 256;  // Of one device: what the tables of known ones hold.
constexpr uint8_t kHopsMax = 64;
constexpr uint32_t kSoftRoceVendor = 0xffffff;
// 4.096 us << 15 is 134 ms for each of 7 tries, up to four times that on some devices: a peer that is gone
// without a word is noticed within a link's deadline, a slow one is not taken for gone.
constexpr uint8_t kAckTimeout = 15;
constexpr uint8_t kRetries = 7;

// The address of this end of `socket` as devices name it: IPv4 in IPv6's ::ffff:0:0/96.
Status OwnAddress(int socket, ibv_gid* out) {
  sockaddr_storage address = {};
  socklen_t bytes = sizeof(address);
  const long r = sys::Call(SYS_getsockname, socket, &address, &bytes);
  if (r != 0) return Status::FromErrno("getsockname", static_cast<int>(-r));
  *out = {};
  if (address.ss_family == AF_INET) {
    out->raw[10] = out->raw[11] = 0xff;
    std::memcpy(out->raw + 12, &reinterpret_cast<sockaddr_in*>(&address)->sin_addr, 4);
  } else if (address.ss_family == AF_INET6) {
    std::memcpy(out->raw, &reinterpret_cast<sockaddr_in6*>(&address)->sin6_addr, 16);
  } else {
    return Status::Unsupported("RDMA needs an IP connection");
  }
  return Status::Ok();
}

uint32_t MtuBytes(ibv_mtu mtu) { return 128u << mtu; }

ibv_mtu MtuFor(uint32_t bytes) {
  ibv_mtu mtu = IBV_MTU_256;
  while (mtu < IBV_MTU_4096 && MtuBytes(static_cast<ibv_mtu>(mtu + 1)) <= bytes)
    mtu = static_cast<ibv_mtu>(mtu + 1);
  return mtu;
}

Status QpError(const char* call, int error) { return Status::FromErrno(call, error); }

}  // namespace

Status RdmaDevice::Open(const Verbs* verbs, int socket) {
  Close();
  verbs_ = verbs;
  ibv_gid address;
  if (Status s = OwnAddress(socket, &address); !s.ok()) return s;
  bool refused = false;
  for (int i = 0; i < verbs->device_count; ++i) {
    context_ = verbs->open_device(verbs->devices[i]);
    if (context_ == nullptr) {
      refused = true;
      continue;
    }
    // Its events say nothing that completions do not, and descriptors are scarce in other people's programs.
    sys::Call(SYS_close, context_->async_fd);
    context_->async_fd = -1;
    if (HasAddress(address)) return Status::Ok();
    Close();
  }
  if (refused)
    return Status(Status::Code::kPermission,
                  "an RDMA device of this machine cannot be opened; see farpool doctor");
  return Status::Unsupported(verbs->device_count == 0
                                 ? "this machine has no RDMA device (see farpool doctor); use tcp://"
                                 : "no RDMA device of this machine has the address that leads there (see "
                                   "farpool doctor); use tcp://");
}

bool RdmaDevice::HasAddress(const ibv_gid& address) {
  ibv_gid_entry entries[kGidsMax];
  const ssize_t count = verbs_->query_gid_table(context_, entries, kGidsMax, 0, sizeof(entries[0]));
  for (ssize_t i = 0; i < count; ++i) {
    const ibv_gid_entry& entry = entries[i];
    if (entry.gid_type != IBV_GID_TYPE_ROCE_V2 || entry.gid_index > UINT8_MAX ||
        std::memcmp(entry.gid.raw, address.raw, sizeof(address.raw)) != 0)
      continue;
    ibv_port_attr port = {};
    if (verbs_->query_port(context_, static_cast<uint8_t>(entry.port_num), &port) != 0 ||
        port.state != IBV_PORT_ACTIVE || verbs_->query_device(context_, &limits_) != 0)
      continue;
    gid_ = entry.gid;
    gid_index_ = static_cast<uint8_t>(entry.gid_index);
    port_ = static_cast<uint8_t>(entry.port_num);
    mtu_ = port.active_mtu;
    return true;
  }
  return false;
}

void RdmaDevice::Close() {
  if (context_ != nullptr) verbs_->close_device(context_);
  context_ = nullptr;
}

// Not on Soft-RoCE (seen on Linux 6.12): a fenced request that it sends again, because an answer took longer
// than kAckTimeout, waits for all reads and atomics under way, itself among them: for ever, without an error.
bool RdmaDevice::can_fence() const { return limits_.vendor_id != kSoftRoceVendor; }

wire::RdmaEndpoint RdmaDevice::EndpointOf(const ibv_qp& qp, uint32_t first_packet) const {
  wire::RdmaEndpoint endpoint;
  endpoint.queue_pair = qp.qp_num;
  endpoint.first_packet = first_packet;
  std::memcpy(endpoint.address, gid_.raw, sizeof(endpoint.address));
  endpoint.mtu_bytes = MtuBytes(mtu_);
  endpoint.reads_max = static_cast<uint32_t>(std::clamp(limits_.max_qp_rd_atom, 1, 255));
  return endpoint;
}

Status RdmaDevice::Init(ibv_qp* qp, int peer_access) const {
  ibv_qp_attr attr = {};
  attr.qp_state = IBV_QPS_INIT;
  attr.port_num = port_;
  attr.qp_access_flags = static_cast<unsigned>(peer_access);
  const int error =
      verbs_->modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);
  return error == 0 ? Status::Ok() : QpError("preparing a queue pair", error);
}

Status RdmaDevice::ReadyToReceive(ibv_qp* qp, const wire::RdmaEndpoint& peer) const {
  ibv_qp_attr attr = {};
  attr.qp_state = IBV_QPS_RTR;
  attr.path_mtu = std::min(mtu_, MtuFor(peer.mtu_bytes));
  attr.dest_qp_num = peer.queue_pair;
  attr.rq_psn = peer.first_packet;
  attr.max_dest_rd_atomic = static_cast<uint8_t>(std::clamp(limits_.max_qp_rd_atom, 1, 255));
  attr.min_rnr_timer = 12;  // Unused: nobody sends what must be received.
  attr.ah_attr.is_global = 1;
  std::memcpy(attr.ah_attr.grh.dgid.raw, peer.address, sizeof(peer.address));
  attr.ah_attr.grh.sgid_index = gid_index_;
  attr.ah_attr.grh.hop_limit = kHopsMax;
  attr.ah_attr.port_num = port_;
  const int error = verbs_->modify_qp(qp, &attr,
                                      IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN |
                                          IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER);
  return error == 0 ? Status::Ok() : QpError("connecting a queue pair", error);
}

Status RdmaDevice::ReadyToSend(ibv_qp* qp, uint32_t first_packet, const wire::RdmaEndpoint& peer) const {
  ibv_qp_attr attr = {};
  attr.qp_state = IBV_QPS_RTS;
  attr.timeout = kAckTimeout;
  attr.retry_cnt = kRetries;
  attr.rnr_retry = kRetries;
  attr.sq_psn = first_packet;
  attr.max_rd_atomic = static_cast<uint8_t>(std::clamp<int>(
      limits_.max_qp_init_rd_atom, 1, static_cast<int>(std::clamp(peer.reads_max, 1u, 255u))));
  const int error = verbs_->modify_qp(qp, &attr,
                                      IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
                                          IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC);
  return error == 0 ? Status::Ok() : QpError("starting a queue pair", error);
}

Status QueryPorts(const Verbs& verbs, ibv_device* device, RdmaPorts* out) {
  ibv_context* context = verbs.open_device(device);
  if (context == nullptr) return Status(Status::Code::kPermission, "cannot be opened");
  *out = RdmaPorts{};
  verbs.query_device(context, &out->limits);
  ibv_gid_entry entries[kGidsMax];
  const ssize_t count = verbs.query_gid_table(context, entries, kGidsMax, 0, sizeof(entries[0]));
  for (ssize_t i = 0; i < count && out->address_count < RdmaPorts::kAddressesMax; ++i)
    if (entries[i].gid_type == IBV_GID_TYPE_ROCE_V2) out->addresses[out->address_count++] = entries[i].gid;
  for (uint8_t number = 1; number <= out->limits.phys_port_cnt && !out->up; ++number) {
    ibv_port_attr port = {};
    out->up = verbs.query_port(context, number, &port) == 0 && port.state == IBV_PORT_ACTIVE;
  }
  verbs.close_device(context);
  return Status::Ok();
}

}  // namespace farpool
