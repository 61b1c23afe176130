#include "blockdev/ublk/control.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/assert.h"
#include "farpool/types.h"

namespace farpool {

using namespace ublk;

namespace {
constexpr uint32_t kDiscardMaxBytes = 1u << 30;
}

Result<std::unique_ptr<UblkControl>> UblkControl::Open() {
  std::unique_ptr<UblkControl> control(new UblkControl);
  control->fd_ = Fd(open("/dev/ublk-control", O_RDWR | O_CLOEXEC));
  if (!control->fd_.valid()) {
    if (errno == ENOENT || errno == ENODEV || errno == ENXIO)
      return Status::Unsupported("this kernel has no ublk_drv module");
    return Status::FromErrno("opening /dev/ublk-control", errno);
  }
  // Commands are longer than an ordinary entry has room for.
  if (const int error = -io_uring_queue_init(4, &control->ring_, IORING_SETUP_SQE128); error > 0)
    return Status::FromErrno("io_uring_setup", error);
  control->ring_ready_ = true;
  io_uring_ring_dontfork(&control->ring_);
  uint64_t features = 0;
  const Status s =
      control->Command("asking ublk what it can", kGetFeatures, -1, &features, sizeof(features), 0);
  constexpr uint64_t kNeeded = kUserRecovery | kUserRecoveryReissue | kIoctlEncode;
  if (!s.ok() || (features & kNeeded) != kNeeded)
    return Status::Unsupported("this kernel's ublk is too old: Linux 6.5 is needed");
  return control;
}

UblkControl::~UblkControl() {
  if (ring_ready_) io_uring_queue_exit(&ring_);
}

Status UblkControl::Command(const char* what, uint32_t op, int device, void* payload, uint16_t payload_bytes,
                            uint64_t data) {
  io_uring_sqe* const sqe = io_uring_get_sqe(&ring_);
  FARPOOL_ASSERT(sqe != nullptr);  // Commands are given one at a time.
  std::memset(static_cast<void*>(sqe), 0, 2 * sizeof(*sqe));
  sqe->opcode = IORING_OP_URING_CMD;
  sqe->fd = fd_.get();
  sqe->cmd_op = op;
  ControlCommand command = {};
  command.dev_id = static_cast<uint32_t>(device);
  command.queue_id = 0xffff;
  command.addr = reinterpret_cast<uintptr_t>(payload);
  command.len = payload_bytes;
  command.data = data;
  std::memcpy(sqe->cmd, &command, sizeof(command));
  io_uring_cqe* cqe = nullptr;
  int error = 0;
  do {
    error = -io_uring_submit_and_wait(&ring_, 1);
  } while (error == EINTR);
  if (error > 0) return Status::FromErrno(what, error);
  if (error = -io_uring_wait_cqe(&ring_, &cqe); error > 0) return Status::FromErrno(what, error);
  const int result = cqe->res;
  io_uring_cqe_seen(&ring_, cqe);
  if (result == -EBUSY) return Status(Status::Code::kExhausted, "the ublk device is busy", EBUSY);
  return result < 0 ? Status::FromErrno(what, -result) : Status::Ok();
}

Result<int> UblkControl::Add(unsigned queues, unsigned depth, uint32_t transfer_max, uint64_t device_bytes) {
  DeviceInfo info = {};
  info.queues = static_cast<uint16_t>(queues);
  info.queue_depth = static_cast<uint16_t>(depth);
  info.max_io_buf_bytes = transfer_max;
  info.dev_id = ~0U;
  info.server_pid = -1;
  info.flags = kUserRecovery | kUserRecoveryReissue | kIoctlEncode;
  if (Status s = Command("adding a ublk device", kAddDevice, -1, &info, sizeof(info), 0); !s.ok()) return s;
  const int device = static_cast<int>(info.dev_id);
  Params params = {};
  params.len = sizeof(params) - sizeof(params.padding);
  params.types = kBasic | kDiscard;
  // Whole pages only: nothing ever has to be read to be written in part. No volatile cache: an answered write
  // is at its donor.
  params.logical_bs_shift = params.physical_bs_shift = params.io_opt_shift = params.io_min_shift = kPageShift;
  params.max_sectors = transfer_max / kSectorBytes;
  params.dev_sectors = device_bytes / kSectorBytes;
  params.discard_granularity = kPageBytes;
  params.max_discard_sectors = params.max_write_zeroes_sectors = kDiscardMaxBytes / kSectorBytes;
  params.max_discard_segments = 1;
  if (Status s = Command("setting up a ublk device", kSetParams, device, &params, sizeof(params), 0);
      !s.ok()) {
    (void)Delete(device);
    return s;
  }
  return device;
}

Status UblkControl::Start(int device) {
  return Command("starting the ublk device", kStartDevice, device, nullptr, 0,
                 static_cast<uint64_t>(getpid()));
}
Status UblkControl::StartRecovery(int device) {
  return Command("taking over the ublk device", kStartRecovery, device, nullptr, 0, 0);
}
Status UblkControl::EndRecovery(int device) {
  return Command("taking over the ublk device", kEndRecovery, device, nullptr, 0,
                 static_cast<uint64_t>(getpid()));
}
Status UblkControl::Stop(int device) {
  return Command("stopping the ublk device", kStopDevice, device, nullptr, 0, 0);
}
Status UblkControl::Delete(int device) {
  return Command("deleting the ublk device", kDeleteDevice, device, nullptr, 0, 0);
}

}  // namespace farpool
