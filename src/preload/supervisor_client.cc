#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <cerrno>
#include <cstring>

#include "base/sys.h"
#include "preload/runtime.h"
#include "run/layout.h"

namespace farpool {

namespace {
void CopyText(char* to, size_t bytes, const char* from) {
  size_t i = 0;
  for (; from[i] != 0 && i + 1 < bytes; ++i) to[i] = from[i];
  to[i] = 0;
}
}  // namespace

Result<uint64_t> SupervisorClient::Ask(ControlOp op, uint64_t arg, int* fds, int fd_max, int* fd_count) {
  DescriptorRoom room;
  ControlRequest request = {.op = op, .process = process_, .arg = arg, .text = {}};
  if (long r = SendPacket(Channel(), &request, sizeof(request), nullptr, 0); r != 0)
    return Status::Unavailable("the supervisor (farpool run) is gone");
  ControlReply reply;
  int count = 0;
  const long r = ReceivePacket(Channel(), &reply, sizeof(reply), fds, fd_max, &count, kControlTimeoutMs);
  if (fd_count != nullptr) *fd_count = count;
  if (r != static_cast<long>(sizeof(reply)))
    return Status::Unavailable("the supervisor (farpool run) does not answer");
  if (reply.code != Status::Code::kOk) return Status(reply.code, reply.text);
  return reply.value;
}

Result<uint32_t> SupervisorClient::Register(int* table_fd) {
  DescriptorRoom room;
  int ends[2];
  if (long r = sys::Call(SYS_socketpair, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends); r != 0)
    return Status::FromErrno("socketpair", static_cast<int>(-r));
  ControlRequest request = {.op = ControlOp::kRegister, .process = 0, .arg = 0, .text = {}};
  const long sent = SendPacket(segment_->fd_base + kFdControl, &request, sizeof(request), &ends[1], 1);
  sys::Call(SYS_close, ends[1]);
  const int channel = PlaceFd(ends[0], kFdChannel);
  // A broken pipe is kUnavailable: the supervisor is gone.
  if (sent != 0) return Status::FromErrno("registering with farpool run", static_cast<int>(-sent));
  if (channel < 0) return Status::FromErrno("placing a descriptor", -channel);
  ControlReply reply;
  int count = 0;
  const long r = ReceivePacket(channel, &reply, sizeof(reply), table_fd, 1, &count, kControlTimeoutMs);
  if (r == 0) return Status::Unavailable("the supervisor (farpool run) is gone");
  if (r < 0) return Status::FromErrno("waiting for farpool run", static_cast<int>(-r));
  if (r != static_cast<long>(sizeof(reply)))
    return Status(Status::Code::kInternal, "a reply of a wrong size");
  if (reply.code != Status::Code::kOk) return Status(reply.code, reply.text);
  if (count != 1) return Status(Status::Code::kInternal, "registration without a page table");
  process_ = static_cast<uint32_t>(reply.value);
  return process_;
}

Result<uint32_t> SupervisorClient::PrepareFork(int* table_fd, int* channel_fd) {
  int fds[2];
  int count = 0;
  Result<uint64_t> r = Ask(ControlOp::kFork, 0, fds, 2, &count);
  if (!r.ok()) return r.status();
  if (count != 2) {  // No descriptors left: fork fails as it would for the kernel's reasons.
    for (int i = 0; i < count; ++i) sys::Call(SYS_close, fds[i]);
    ForkFailed(static_cast<uint32_t>(r.value()));
    return Status::Exhausted("no descriptors left");
  }
  *table_fd = fds[0];
  *channel_fd = fds[1];
  return static_cast<uint32_t>(r.value());
}

void SupervisorClient::ForkFailed(uint32_t child) {
  ControlRequest request = {.op = ControlOp::kForkFailed, .process = process_, .arg = child, .text = {}};
  (void)SendPacket(Channel(), &request, sizeof(request), nullptr, 0);
}

void SupervisorClient::BecomeChild(uint32_t process, int channel_fd) {
  process_ = process;
  PlaceFd(channel_fd, kFdChannel);
}

void SupervisorClient::Fatal(int status, const char* text) {
  ControlRequest request = {
      .op = ControlOp::kFatal, .process = process_, .arg = static_cast<uint64_t>(status), .text = {}};
  CopyText(request.text, sizeof(request.text), text);
  // Before registration there is only the shared socket.
  if (SendPacket(Channel(), &request, sizeof(request), nullptr, 0) != 0)
    (void)SendPacket(segment_->fd_base + kFdControl, &request, sizeof(request), nullptr, 0);
  // The supervisor kills us within milliseconds; without one nobody is left to speak for us.
  timespec wait = {5, 0};
  while (sys::Call(SYS_nanosleep, &wait, &wait) == -EINTR) {
  }
  for (;;) sys::Call(SYS_exit_group, status);
}

Result<uint32_t> SupervisorClient::LeaseSlab() {
  Result<uint64_t> r = Ask(ControlOp::kLease, 0, nullptr, 0, nullptr);
  if (!r.ok()) return r.status();
  return static_cast<uint32_t>(r.value());
}

Result<std::byte*> SupervisorClient::MapSlab(uint32_t index) {
  int fd = -1;
  int count = 0;
  Result<uint64_t> r = Ask(ControlOp::kMapSlab, index, &fd, 1, &count);
  if (!r.ok()) return r.status();
  if (count != 1) return Status(Status::Code::kInternal, "a slab without memory");
  const uintptr_t at = kSlabWindow + index * kSlabStride;
  const size_t bytes = static_cast<size_t>(segment_->slabs.slabs[index].slots) * kPageBytes;
  const long map =
      sys::Call(SYS_mmap, at, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0);
  sys::Call(SYS_close, fd);
  if (sys::Failed(map)) return Status::FromErrno("mmap of a slab", static_cast<int>(-map));
  KeepOutOfCore(at, bytes);
  return reinterpret_cast<std::byte*>(map);
}

Result<int> SupervisorClient::Connect(uint32_t donor) {
  int fd = -1;
  int count = 0;
  Result<uint64_t> r = Ask(ControlOp::kConnect, donor, &fd, 1, &count);
  if (!r.ok()) return r.status();
  if (count != 1) return Status(Status::Code::kInternal, "a connection without a socket");
  return PlaceFd(fd, kFdChannels + static_cast<int>(donor));
}

void SupervisorClient::Disconnect(int fd) { sys::Call(SYS_dup3, segment_->fd_base + kFdSegment, fd, 0); }

Status SupervisorClient::LoadVerbs() {
  for (uint32_t i = 0; i < segment_->donor_count; ++i)
    if (segment_->donors[i].rdma) return OpenVerbs(VerbsPlace::kOwnNamespace, &verbs_);
  return Status::Ok();
}

int SupervisorClient::KeepDevice(uint32_t donor, int fd) {
  return PlaceFd(fd, kFdDevices + static_cast<int>(donor));
}

void SupervisorClient::DropDevice(uint32_t donor) {
  Disconnect(segment_->fd_base + kFdDevices + static_cast<int>(donor));
}

Status SupervisorClient::LinkBroke(uint32_t donor) {
  Result<uint64_t> r = Ask(ControlOp::kLinkBroke, donor, nullptr, 0, nullptr);
  return r.ok() ? Status::Ok() : r.status();
}

}  // namespace farpool
