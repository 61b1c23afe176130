#include "blockdev/nbd/serve.h"

#include <endian.h>
#include <linux/nbd.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace farpool {

namespace {

class Connection final : public StillWanted {
 public:
  Connection(int socket, BlockStore* store, std::byte* buffer)
      : socket_(socket), store_(store), buffer_(buffer) {}

  // A request that was not answered in time is sent again by another connection, and this one is shut down
  // before. What is still in its queue must not happen then: newer writes may have.
  bool Ask() override {
    pollfd p = {.fd = socket_, .events = POLLRDHUP, .revents = 0};
    return poll(&p, 1, 0) == 0;
  }

  bool ServeOne();

 private:
  bool Receive(void* into, size_t bytes);
  bool Reply(const nbd_request& request, int error, size_t payload_bytes);
  bool Write(const nbd_request& request, uint64_t from, uint32_t bytes, int error);

  int socket_;
  BlockStore* store_;
  std::byte* buffer_;
};

// As NBD numbers them, which is as Linux does.
int ErrorOf(const Status& status) {
  if (status.ok()) return 0;
  return status.code() == Status::Code::kExhausted ? ENOSPC : EIO;
}

bool Connection::Receive(void* into, size_t bytes) {
  auto* at = static_cast<std::byte*>(into);
  while (bytes > 0) {
    const ssize_t got = recv(socket_, at, bytes, MSG_WAITALL);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    at += got;
    bytes -= static_cast<size_t>(got);
  }
  return true;
}

bool Connection::Reply(const nbd_request& request, int error, size_t payload_bytes) {
  nbd_reply reply;
  reply.magic = htobe32(NBD_REPLY_MAGIC);
  reply.error = htobe32(static_cast<uint32_t>(error));
  std::memcpy(reply.handle, request.handle, sizeof(reply.handle));
  iovec iov[2] = {{&reply, sizeof(reply)}, {buffer_, error == 0 ? payload_bytes : 0}};
  size_t at = 0;
  while (at < 2) {
    msghdr message = {};
    message.msg_iov = iov + at;
    message.msg_iovlen = 2 - at;
    const ssize_t sent = sendmsg(socket_, &message, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) return false;
    auto left = static_cast<size_t>(sent);
    while (at < 2 && left >= iov[at].iov_len) left -= iov[at++].iov_len;
    if (at < 2) {
      iov[at].iov_base = static_cast<std::byte*>(iov[at].iov_base) + left;
      iov[at].iov_len -= left;
    }
  }
  return true;
}

// In pieces of the buffer's size; what follows an error is taken off the stream all the same.
bool Connection::Write(const nbd_request& request, uint64_t from, uint32_t bytes, int error) {
  while (bytes > 0) {
    const uint32_t now = std::min(bytes, kNbdTransferMax);
    if (!Receive(buffer_, now)) return false;
    if (error == 0) error = ErrorOf(store_->Write(from / kPageBytes, now / kPageBytes, buffer_, this));
    from += now;
    bytes -= now;
  }
  return Reply(request, error, 0);
}

bool Connection::ServeOne() {
  nbd_request request;
  if (!Receive(&request, sizeof(request)) || be32toh(request.magic) != NBD_REQUEST_MAGIC) return false;
  const uint64_t from = be64toh(request.from);
  const uint32_t bytes = be32toh(request.len);
  const uint64_t device_bytes = store_->pages() * kPageBytes;
  const bool whole = from % kPageBytes == 0 && bytes % kPageBytes == 0;
  const int error = whole && from <= device_bytes && bytes <= device_bytes - from ? 0 : EINVAL;
  switch (be32toh(request.type) & 0xffff) {
    case NBD_CMD_READ: {
      if (error != 0 || bytes > kNbdTransferMax) return Reply(request, EINVAL, 0);
      const Status s = store_->Read(from / kPageBytes, bytes / kPageBytes, buffer_);
      return Reply(request, ErrorOf(s), bytes);
    }
    case NBD_CMD_WRITE:
      return Write(request, from, bytes, error);
    case NBD_CMD_TRIM:
      if (error != 0) return Reply(request, error, 0);
      return Reply(request, ErrorOf(store_->Discard(from / kPageBytes, bytes / kPageBytes, this)), 0);
    case NBD_CMD_FLUSH:
      return Reply(request, 0, 0);
    case NBD_CMD_DISC:
      return false;
    default:
      return Reply(request, EINVAL, 0);
  }
}

}  // namespace

void ServeNbd(int socket, BlockStore* store, std::byte* buffer) {
  Connection connection(socket, store, buffer);
  while (connection.ServeOne()) {
  }
}

}  // namespace farpool
