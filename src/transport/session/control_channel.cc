#include "transport/session/control_channel.h"

#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

#include "base/clock.h"
#include "transport/session/connect.h"

namespace farpool {

Result<ControlChannel> ControlChannel::Connect(const PoolEntry& entry, const wire::HelloRequest& hello,
                                               uint64_t deadline_ns, uint64_t holder) {
  auto fd = ConnectTo(entry, deadline_ns);
  if (!fd.ok()) return fd.status();
  ControlChannel channel;
  channel.fd_ = std::move(fd).value();
  wire::RequestHeader request;
  request.op = wire::Op::kHello;
  request.operand = holder;
  request.payload_bytes = sizeof(hello);
  std::byte bytes[sizeof(wire::HelloReply)];
  const Status status = channel.Call(request, &hello, bytes, sizeof(bytes), nullptr, deadline_ns);
  if (!status.ok()) return AtEntry(entry, status);
  wire::HelloReply reply;
  if (wire::Decode(bytes, &reply) != wire::Fault::kNone || (reply.features & ~hello.features) != 0)
    return AtEntry(entry, Status::Corrupt("the donor's greeting makes no sense"));
  return channel;
}

Status ControlChannel::Call(wire::RequestHeader request, const void* payload, void* reply, size_t reply_bytes,
                            Fd* passed, uint64_t deadline_ns) {
  if (!open()) return Status::Unavailable("the connection to the donor is broken");
  request.request_id = next_id_++;
  std::byte message[sizeof(request) + sizeof(wire::HelloRequest)];
  wire::Encode(request, message);
  if (request.payload_bytes != 0) std::memcpy(message + sizeof(request), payload, request.payload_bytes);
  Status status = Send(message, sizeof(request) + request.payload_bytes, deadline_ns);
  if (!status.ok()) return Broken(status);

  std::byte bytes[sizeof(wire::ReplyHeader)];
  status = Receive(bytes, sizeof(bytes), passed, deadline_ns);
  if (!status.ok()) return Broken(status);
  wire::ReplyHeader header;
  const wire::Fault fault = wire::Decode(bytes, &header);
  if (fault == wire::Fault::kVersion)
    return Broken(
        Status::Unsupported("the donor speaks another protocol version; use the same farpool on both"));
  if (fault != wire::Fault::kNone) return Broken(Status::Corrupt(wire::FaultText(fault)));
  if (header.op != request.op || header.request_id != request.request_id)
    return Broken(Status::Corrupt("the donor answered something else"));
  if (header.code != wire::ReplyCode::kOk) {
    char reason[wire::kMaxTextBytes + 1] = {};
    status = Receive(reason, header.payload_bytes, nullptr, deadline_ns);
    if (!status.ok()) return Broken(status);
    for (char& c : reason)
      if (c != 0 && (c < ' ' || c > '~')) c = '?';  // It goes to a terminal.
    return Status(wire::FromWire(header.code), reason);
  }
  // Decode has checked the length against the op.
  status = Receive(reply, reply_bytes, nullptr, deadline_ns);
  return status.ok() ? status : Broken(status);
}

Status ControlChannel::Await(short events, uint64_t deadline_ns) {
  const uint64_t now = NowNs();
  if (now >= deadline_ns) return Status::Timeout("the donor does not answer");
  pollfd wait = {.fd = fd_.get(), .events = events, .revents = 0};
  poll(&wait, 1, static_cast<int>((deadline_ns - now) / 1'000'000 + 1));
  return Status::Ok();  // Whatever it was, the next call finds out.
}

Status ControlChannel::Send(const void* bytes, size_t count, uint64_t deadline_ns) {
  const auto* from = static_cast<const std::byte*>(bytes);
  while (count > 0) {
    const ssize_t n = send(fd_.get(), from, count, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n > 0) {
      from += n;
      count -= static_cast<size_t>(n);
    } else if (errno == EAGAIN) {
      if (const Status status = Await(POLLOUT, deadline_ns); !status.ok()) return status;
    } else if (errno != EINTR) {
      return Status::Unavailable("the donor closed the connection");
    }
  }
  return Status::Ok();
}

Status ControlChannel::Receive(void* bytes, size_t count, Fd* passed, uint64_t deadline_ns) {
  auto* into = static_cast<std::byte*>(bytes);
  while (count > 0) {
    iovec iov = {into, count};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
    msghdr message = {};
    message.msg_iov = &iov;
    message.msg_iovlen = 1;
    if (passed != nullptr) {
      message.msg_control = control;
      message.msg_controllen = sizeof(control);
    }
    const ssize_t n = recvmsg(fd_.get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n == 0) return Status::Unavailable("the donor closed the connection");
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) {
      if (const Status status = Await(POLLIN, deadline_ns); !status.ok()) return status;
      continue;
    }
    if (n < 0) return Status::Unavailable("the donor closed the connection");
    if (passed != nullptr)
      for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS &&
            c->cmsg_len == CMSG_LEN(sizeof(int))) {
          int fd;
          std::memcpy(&fd, CMSG_DATA(c), sizeof(fd));
          *passed = Fd(fd);
        }
    into += n;
    count -= static_cast<size_t>(n);
  }
  return Status::Ok();
}

}  // namespace farpool
