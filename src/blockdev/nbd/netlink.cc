#include "blockdev/nbd/netlink.h"

#include <linux/genetlink.h>
#include <linux/nbd-netlink.h>
#include <linux/nbd.h>
#include <linux/netlink.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

#include "base/assert.h"
#include "farpool/types.h"

namespace farpool {

namespace {

// The kernel marks a device as ours with this, and only who knows it may reconnect it.
constexpr char kBackend[] = "farpool";
// A request that was not answered for so long goes to another connection. Also how long requests wait that
// were under way when the daemon died: the kernel sends them again only then. Longer than a donor's bounds,
// each 2 s, add up to.
constexpr uint64_t kTimeoutSeconds = 15;
// How long requests wait for a connection when there is none: as long as donors keep a swap device's leases.
constexpr uint64_t kDeadSeconds = 300;

}  // namespace

// A netlink message being built, or received.
struct NbdControl::Message {
  static constexpr size_t kBytes = 4096;
  alignas(nlmsghdr) std::byte bytes[kBytes];

  nlmsghdr* header() { return reinterpret_cast<nlmsghdr*>(bytes); }
  Message(uint16_t type, uint8_t command, uint32_t sequence) {
    std::memset(bytes, 0, NLMSG_LENGTH(GENL_HDRLEN));
    header()->nlmsg_len = NLMSG_LENGTH(GENL_HDRLEN);
    header()->nlmsg_type = type;
    header()->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
    header()->nlmsg_seq = sequence;
    auto* genl = static_cast<genlmsghdr*>(NLMSG_DATA(header()));
    genl->cmd = command;
    genl->version = 1;
  }
  nlattr* Add(uint16_t type, const void* data, size_t data_bytes) {
    FARPOOL_ASSERT(header()->nlmsg_len + NLA_HDRLEN + NLA_ALIGN(data_bytes) <= kBytes);
    auto* attribute = reinterpret_cast<nlattr*>(bytes + header()->nlmsg_len);
    attribute->nla_type = type;
    attribute->nla_len = static_cast<uint16_t>(NLA_HDRLEN + data_bytes);
    if (data_bytes > 0) std::memcpy(attribute + 1, data, data_bytes);
    header()->nlmsg_len += NLA_HDRLEN + NLA_ALIGN(data_bytes);
    return attribute;
  }
  void AddU32(uint16_t type, uint32_t value) { Add(type, &value, sizeof(value)); }
  void AddU64(uint16_t type, uint64_t value) { Add(type, &value, sizeof(value)); }
  // What is added between Begin and End lies inside.
  nlattr* Begin(uint16_t type) { return Add(static_cast<uint16_t>(type | NLA_F_NESTED), nullptr, 0); }
  void End(nlattr* nest) {
    nest->nla_len = static_cast<uint16_t>(bytes + header()->nlmsg_len - reinterpret_cast<std::byte*>(nest));
  }
  void AddSockets(const int* sockets, unsigned count) {
    nlattr* list = Begin(NBD_ATTR_SOCKETS);
    for (unsigned i = 0; i < count; ++i) {
      nlattr* item = Begin(NBD_SOCK_ITEM);
      AddU32(NBD_SOCK_FD, static_cast<uint32_t>(sockets[i]));
      End(item);
    }
    End(list);
  }
};

Result<NbdControl> NbdControl::Open() {
  NbdControl control;
  control.socket_ = Fd(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC));
  if (!control.socket_.valid()) return Status::FromErrno("socket(NETLINK_GENERIC)", errno);
  Message ask(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, ++control.sequence_);
  ask.Add(CTRL_ATTR_FAMILY_NAME, NBD_GENL_FAMILY_NAME, sizeof(NBD_GENL_FAMILY_NAME));
  int id = -1;
  const Status status = control.Exchange(&ask, &id);
  if (status.code() == Status::Code::kNotFound) return Status::Unsupported("this kernel has no nbd module");
  if (!status.ok()) return status;
  control.family_ = static_cast<uint16_t>(id);
  return control;
}

// Sends `message` and takes the answers up to its acknowledgement. `*index`: the family's id or the device's
// number, whichever the answer has.
Status NbdControl::Exchange(Message* message, int* index) {
  const bool family = message->header()->nlmsg_type == GENL_ID_CTRL;
  const uint32_t sequence = message->header()->nlmsg_seq;
  if (send(socket_.get(), message->bytes, message->header()->nlmsg_len, 0) < 0)
    return Status::FromErrno("asking the kernel's nbd", errno);
  for (;;) {
    const ssize_t got = recv(socket_.get(), message->bytes, Message::kBytes, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return Status::FromErrno("hearing the kernel's nbd", errno);
    int left = static_cast<int>(got);
    for (nlmsghdr* h = message->header(); NLMSG_OK(h, left); h = NLMSG_NEXT(h, left)) {
      if (h->nlmsg_seq != sequence) continue;
      if (h->nlmsg_type == NLMSG_ERROR) {
        const int error = -static_cast<nlmsgerr*>(NLMSG_DATA(h))->error;
        if (error == 0) return Status::Ok();
        if (error == ENOENT) return Status(Status::Code::kNotFound, "the kernel does not know it", error);
        return Status::FromErrno("the kernel's nbd", error);
      }
      auto* at = static_cast<std::byte*>(NLMSG_DATA(h)) + GENL_HDRLEN;
      int rest = static_cast<int>(h->nlmsg_len) - NLMSG_LENGTH(GENL_HDRLEN);
      while (rest >= static_cast<int>(NLA_HDRLEN)) {
        nlattr attribute;
        std::memcpy(&attribute, at, sizeof(attribute));
        if (attribute.nla_len < NLA_HDRLEN || attribute.nla_len > rest) break;
        uint16_t id = 0;
        uint32_t number = 0;
        if (family && attribute.nla_type == CTRL_ATTR_FAMILY_ID) {
          std::memcpy(&id, at + NLA_HDRLEN, sizeof(id));
          *index = id;
        } else if (!family && attribute.nla_type == NBD_ATTR_INDEX) {
          std::memcpy(&number, at + NLA_HDRLEN, sizeof(number));
          *index = static_cast<int>(number);
        }
        at += NLA_ALIGN(attribute.nla_len);
        rest -= static_cast<int>(NLA_ALIGN(attribute.nla_len));
      }
    }
  }
}

Result<int> NbdControl::Connect(uint64_t bytes, const int* sockets, unsigned count) {
  Message m(family_, NBD_CMD_CONNECT, ++sequence_);
  m.AddU64(NBD_ATTR_SIZE_BYTES, bytes);
  // Whole pages only: nothing ever has to be read to be written in part.
  m.AddU64(NBD_ATTR_BLOCK_SIZE_BYTES, kPageBytes);
  m.AddU64(NBD_ATTR_TIMEOUT, kTimeoutSeconds);
  m.AddU64(NBD_ATTR_DEAD_CONN_TIMEOUT, kDeadSeconds);
  // No flush: nothing is kept back here, an answered write is at its donor.
  m.AddU64(NBD_ATTR_SERVER_FLAGS, NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_TRIM | NBD_FLAG_CAN_MULTI_CONN);
  m.Add(NBD_ATTR_BACKEND_IDENTIFIER, kBackend, sizeof(kBackend));
  m.AddSockets(sockets, count);
  int index = -1;
  if (Status s = Exchange(&m, &index); !s.ok()) return s;
  if (index < 0) return Status::Corrupt("the kernel's nbd did not say which device it made");
  return index;
}

Status NbdControl::Reconnect(int device, int socket) {
  Message m(family_, NBD_CMD_RECONFIGURE, ++sequence_);
  m.AddU32(NBD_ATTR_INDEX, static_cast<uint32_t>(device));
  m.Add(NBD_ATTR_BACKEND_IDENTIFIER, kBackend, sizeof(kBackend));
  m.AddSockets(&socket, 1);
  int index = -1;
  return Exchange(&m, &index);
}

Status NbdControl::Disconnect(int device) {
  Message m(family_, NBD_CMD_DISCONNECT, ++sequence_);
  m.AddU32(NBD_ATTR_INDEX, static_cast<uint32_t>(device));
  int index = -1;
  return Exchange(&m, &index);
}

}  // namespace farpool
