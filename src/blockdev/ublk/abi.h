#pragma once
// What we use of the kernel's ublk interface, as of Linux 6.5; Debian 12's headers describe an older one.

#include <linux/ioctl.h>

#include <cstdint>

namespace farpool::ublk {

struct ControlCommand {
  uint32_t dev_id;
  uint16_t queue_id;  // 0xffff: not for a queue.
  uint16_t len;       // Of what is at `addr`.
  uint64_t addr;
  uint64_t data;
  uint16_t dev_path_len;
  uint16_t pad;
  uint32_t reserved;
};
static_assert(sizeof(ControlCommand) == 32);

struct DeviceInfo {
  uint16_t queues;
  uint16_t queue_depth;
  uint16_t state;
  uint16_t pad0;
  uint32_t max_io_buf_bytes;
  uint32_t dev_id;
  int32_t server_pid;
  uint32_t pad1;
  uint64_t flags;
  uint64_t server_flags;
  uint32_t owner_uid;
  uint32_t owner_gid;
  uint64_t reserved1;
  uint64_t reserved2;
};
static_assert(sizeof(DeviceInfo) == 64);

inline constexpr uint64_t kUserRecovery = 1 << 3;         // The device outlives its server.
inline constexpr uint64_t kUserRecoveryReissue = 1 << 4;  // What the dead one had in hand is sent again.
inline constexpr uint64_t kIoctlEncode = 1 << 6;

struct Params {
  uint32_t len;
  uint32_t types;
  // kBasic
  uint32_t attrs;
  uint8_t logical_bs_shift;
  uint8_t physical_bs_shift;
  uint8_t io_opt_shift;
  uint8_t io_min_shift;
  uint32_t max_sectors;
  uint32_t chunk_sectors;
  uint64_t dev_sectors;
  uint64_t virt_boundary_mask;
  // kDiscard
  uint32_t discard_alignment;
  uint32_t discard_granularity;
  uint32_t max_discard_sectors;
  uint32_t max_write_zeroes_sectors;
  uint16_t max_discard_segments;
  uint16_t reserved0;
  uint32_t padding;
};
static_assert(sizeof(Params) == 64);
inline constexpr uint32_t kBasic = 1;
inline constexpr uint32_t kDiscard = 2;

// One request, in memory that the kernel shares with us.
struct IoDescriptor {
  uint32_t op_flags;  // Low byte: the operation.
  uint32_t sectors;
  uint64_t start_sector;
  uint64_t addr;
};
static_assert(sizeof(IoDescriptor) == 24);
enum Operation : uint8_t { kRead = 0, kWrite = 1, kFlush = 2, kDiscardPages = 3, kWriteZeroes = 5 };

struct IoCommand {
  uint16_t queue;
  uint16_t tag;
  int32_t result;  // Bytes done, or -errno.
  uint64_t addr;   // Of the tag's buffer.
};
static_assert(sizeof(IoCommand) == 16);

inline constexpr unsigned kMaxQueueDepth = 4096;  // Descriptors of queue q lie q times so many further on.
inline constexpr unsigned kSectorBytes = 512;

inline constexpr uint32_t kAddDevice = _IOWR('u', 0x04, ControlCommand);
inline constexpr uint32_t kDeleteDevice = _IOWR('u', 0x05, ControlCommand);
inline constexpr uint32_t kStartDevice = _IOWR('u', 0x06, ControlCommand);
inline constexpr uint32_t kStopDevice = _IOWR('u', 0x07, ControlCommand);
inline constexpr uint32_t kSetParams = _IOWR('u', 0x08, ControlCommand);
inline constexpr uint32_t kStartRecovery = _IOWR('u', 0x10, ControlCommand);
inline constexpr uint32_t kEndRecovery = _IOWR('u', 0x11, ControlCommand);
inline constexpr uint32_t kGetFeatures = _IOR('u', 0x13, ControlCommand);
inline constexpr uint32_t kFetch = _IOWR('u', 0x20, IoCommand);
inline constexpr uint32_t kCommitAndFetch = _IOWR('u', 0x21, IoCommand);

}  // namespace farpool::ublk
