#pragma once
// Link over an RDMA queue pair: one-sided reads, writes and atomics, the donor's CPU is not asked. Beside it
// stays the connection to the donor that the queue pair was agreed on: it gives out the slabs' keys, and its
// end says that the donor is gone. Data passes through a registered buffer of the link's own: pages of the
// program are never registered, since the kernel moves no registered page.
//
// Operations take effect in the order they were posted. Completions are asked for where somebody may wait:
// for every read and atomic, and for the last of a batch of writes. No allocation after Open(), but by
// libibverbs itself in Open() and Close(): see OpenVerbs().
//
// Threads: any, each with operations of its own. Whoever waits takes in what has come, for all.

#include <atomic>

#include "base/mutex.h"
#include "base/spin.h"
#include "transport/link.h"
#include "verbs/device.h"

namespace farpool {

struct RdmaLinkOptions {
  uint64_t deadline_ns = 2'000'000'000;  // Every operation ends by then.
  uint64_t spin_ns = 40'000;             // At most, before sleeping between looks.
};

class RdmaLink final : public Link {
 public:
  // Operations that may be outstanding; less where the device takes less.
  static constexpr unsigned kMaxOutstanding = 256;
  // The registered buffer: four times the largest operation.
  static constexpr uint64_t kBufferBytes = 4 * uint64_t{kMaxLinkBytes};

  RdmaLink() = default;
  RdmaLink(const RdmaLink&) = delete;
  RdmaLink& operator=(const RdmaLink&) = delete;

  // Agrees on a queue pair with the donor over `fd`, a channel from DonorSession::OpenDataChannel(), which is
  // borrowed until Close(). After a failure the link is as before Open().
  Status Open(const Verbs* verbs, int fd, RdmaLinkOptions options = {});
  // Gives everything back, when nothing is outstanding. Nobody else does: a link may be part of an object
  // that is never destroyed.
  void Close();
  // The same in a forked child, where all of it is the parent's.
  void Abandon();

  // The device's descriptor, for owners that keep theirs in certain places.
  int device_fd() const { return device_.context()->cmd_fd; }
  void SetDeviceFd(int fd) {
    MutexLock hold(&lock_);
    device_.context()->cmd_fd = fd;
  }

  void Post(LinkOp* const* ops, unsigned count) override;
  void Poll() override;
  void Wait(LinkOp* op) override;
  bool alive() const override { return alive_; }

  // How the memory of a slab is reached. The link asks the donor at a slab's first use.
  struct Key {
    uint64_t slab = 0;  // 0: none.
    uint64_t address = 0;
    uint64_t bytes = 0;
    uint32_t key = 0;
  };
  Status::Code FindKey(SlabId slab, const Key** out);
  // For tests: a key from elsewhere.
  void Learn(const Key& key);

 private:
  struct State;

  // All of these under lock_.
  void CloseLocked();
  void AbandonLocked();
  Status OpenQueue(RdmaLinkOptions options);
  Status Ask(wire::Op op, SlabId slab, const void* payload, uint32_t payload_bytes, void* reply,
             uint32_t reply_bytes);
  Status AwaitChannel(short events, uint64_t deadline_ns) const;
  Status SendAll(const void* bytes, size_t count, uint64_t deadline_ns);
  Status ReceiveAll(void* bytes, size_t count, uint64_t deadline_ns);
  void WaitForRoom();
  bool NeedsFence(const LinkOp& op) const;
  bool TakeRoom(const LinkOp& op, uint64_t* at);
  void Prepare(LinkOp* op, const Key& key, uint64_t buffer_at);
  void Flush();
  bool Progress();
  void Complete(Status::Code code);
  uint64_t deadline_ns() const;
  void CheckPeer();
  void Die(Status::Code code);

  Mutex lock_;
  std::atomic<bool> alive_{false};
  int fd_ = -1;
  RdmaLinkOptions options_;
  SpinHistory spin_history_;
  RdmaDevice device_;
  ibv_pd* domain_ = nullptr;
  ibv_mr* region_ = nullptr;
  ibv_cq* completions_ = nullptr;
  ibv_qp* queue_ = nullptr;
  State* state_ = nullptr;
  std::byte* buffer_ = nullptr;
  unsigned depth_ = 0;
  uint64_t next_id_ = 1;  // Of requests on fd_.
  // Operations by number: [done_, posted_) are with the device, [posted_, prepared_) wait for Flush().
  uint64_t done_ = 0;
  uint64_t posted_ = 0;
  uint64_t prepared_ = 0;
  unsigned reads_ = 0;        // Of [done_, prepared_).
  unsigned atomics_ = 0;      // Of the same.
  unsigned unsignalled_ = 0;  // Since the last one that tells of its completion.
  // Of the buffer, as a ring; both count on without wrapping.
  uint64_t buffer_begin_ = 0;
  uint64_t buffer_end_ = 0;
};

}  // namespace farpool
