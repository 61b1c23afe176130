#pragma once
// What processes of a run ask their supervisor, over SOCK_SEQPACKET sockets of the same host: plain structs
// of one build on both sides (the segment's magic guards against mixing builds).
//
// Every process shares one inherited socket; it is used only to register, with a channel end attached. All
// later requests of that process go over its own channel, one at a time, under the engine's lock.

#include <cstdint>

#include "farpool/status.h"

namespace farpool {

enum class ControlOp : uint32_t {
  kRegister = 1,  // fds: channel end. Answer on the channel: value0 = process index, fd = page table.
  kLease,         // Answer: value0 = index of a new slab.
  kMapSlab,       // arg = slab index. Answer: fd = its memory.
  kConnect,       // arg = donor. Answer: fd = data channel.
  kLinkBroke,     // arg = donor. Answer: ok = try again; else lost.
  kFork,          // Answer: value0 = the child's process index, fd = its page table, fd = its channel.
  kForkFailed,    // arg = that process index. No answer.
  kFatal,         // text = one line. No answer: the supervisor ends the run with status `arg`.
};

struct ControlRequest {
  ControlOp op;
  uint32_t process;
  uint64_t arg;
  char text[240];
};

struct ControlReply {
  Status::Code code;
  uint64_t value;
  char text[184];
};

// Longest time a process waits for an answer. The supervisor itself is bounded by its donors' deadlines: up
// to eight seconds for each that is silent, one after the other.
inline constexpr int kControlTimeoutMs = 60'000;
inline constexpr int kControlFdsMax = 2;

// Sends one packet, with descriptors attached. Raw system calls only; 0 or -errno.
long SendPacket(int socket, const void* data, unsigned bytes, const int* fds, int fd_count);
// Receives one packet (bounded wait). Returns bytes, 0 at end of stream, -errno; descriptors are CLOEXEC.
long ReceivePacket(int socket, void* data, unsigned bytes, int* fds, int fd_max, int* fd_count,
                   int timeout_ms);

}  // namespace farpool
