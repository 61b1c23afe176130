// ublk: the kernel hands requests over through io_uring commands on /dev/ublkcN, one queue for each thread,
// and copies pages to and from the buffer of the request's tag. When the server dies the kernel keeps the
// device, and sends what was under way to the next one.

#include <fcntl.h>
#include <liburing.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <bitset>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "base/assert.h"
#include "base/clock.h"
#include "blockdev/event_log.h"
#include "blockdev/front_end.h"
#include "blockdev/harden.h"
#include "blockdev/ublk/control.h"

namespace farpool {

using namespace ublk;

namespace {

constexpr unsigned kDepth = 32;
constexpr uint32_t kTransferMax = 128 * 1024;
constexpr uint64_t kRecoveryNs = 60'000'000'000;  // For the kernel to notice that the old server is gone.
constexpr auto kRetryPause = std::chrono::milliseconds(1);
constexpr auto kRecoveryPause = std::chrono::milliseconds(20);

// The kernel never sends a ublk request twice while its server lives.
struct AlwaysWanted final : StillWanted {
  bool Ask() override { return true; }
};

class Queue {
 public:
  Queue(BlockStore* store, unsigned index) : store_(store), index_(index) {}
  ~Queue() { Close(); }
  Queue(const Queue&) = delete;

  // `fd`: /dev/ublkcN, which can be opened only once; borrowed until Close().
  Status Open(int fd) {
    fd_ = fd;
    void* at = mmap(nullptr, kDescriptorBytes, PROT_READ, MAP_SHARED | MAP_POPULATE, fd_,
                    static_cast<off_t>(index_ * kMaxQueueDepth * sizeof(IoDescriptor)));
    if (at == MAP_FAILED) return Status::FromErrno("mapping ublk requests", errno);
    descriptors_ = static_cast<const IoDescriptor*>(at);
    // A standby that had it mapped would keep the device open after our death, and so from being taken over.
    madvise(at, kDescriptorBytes, MADV_DONTFORK);
    buffers_.reset(static_cast<std::byte*>(std::aligned_alloc(kPageBytes, size_t{kDepth} * kTransferMax)));
    if (buffers_ == nullptr) return Status::Exhausted("no memory for ublk buffers");
    if (const int error = -io_uring_queue_init(kDepth, &ring_, 0); error > 0)
      return Status::FromErrno("io_uring_setup", error);
    ring_ready_ = true;
    io_uring_ring_dontfork(&ring_);
    return Status::Ok();
  }

  void Start() {
    thread_ = std::thread([this] { Serve(); });
  }

  // Until the kernel has given up on every tag.
  void Close() {
    if (thread_.joinable()) thread_.join();
    if (descriptors_ != nullptr) munmap(const_cast<IoDescriptor*>(descriptors_), kDescriptorBytes);
    descriptors_ = nullptr;
    if (ring_ready_) io_uring_queue_exit(&ring_);
    ring_ready_ = false;
  }

 private:
  static constexpr size_t kDescriptorBytes =
      (kDepth * sizeof(IoDescriptor) + kPageBytes - 1) / kPageBytes * kPageBytes;
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };

  std::byte* BufferOf(unsigned tag) const { return buffers_.get() + size_t{tag} * kTransferMax; }

  void Prepare(uint32_t op, unsigned tag, int32_t result) {
    // The ring has an entry for each tag, and each tag is used once at a time.
    io_uring_sqe* const sqe = io_uring_get_sqe(&ring_);
    FARPOOL_ASSERT(sqe != nullptr);
    std::memset(sqe, 0, sizeof(*sqe));
    sqe->opcode = IORING_OP_URING_CMD;
    sqe->fd = fd_;
    sqe->cmd_op = op;
    sqe->user_data = tag;
    const IoCommand command = {static_cast<uint16_t>(index_), static_cast<uint16_t>(tag), result,
                               reinterpret_cast<uintptr_t>(BufferOf(tag))};
    std::memcpy(sqe->cmd, &command, sizeof(command));
  }

  static bool IsRead(const IoDescriptor& request) { return (request.op_flags & 0xff) == kRead; }

  // Bytes done, or -errno.
  int32_t Carry(const IoDescriptor& request, unsigned tag) {
    constexpr uint64_t kSectors = kPageBytes / kSectorBytes;
    const uint64_t page = request.start_sector / kSectors;
    const uint64_t count = request.sectors / kSectors;
    const auto bytes = static_cast<int32_t>(request.sectors * kSectorBytes);
    if (request.start_sector % kSectors != 0 || request.sectors % kSectors != 0 || page > store_->pages() ||
        count > store_->pages() - page)
      return -EINVAL;
    Status status;
    switch (request.op_flags & 0xff) {
      case kRead:
      case kWrite:
        if (count * kPageBytes > kTransferMax) return -EINVAL;
        status = IsRead(request) ? store_->Read(page, count, BufferOf(tag))
                                 : store_->Write(page, count, BufferOf(tag), &always_);
        break;
      case kDiscardPages:
      case kWriteZeroes:
        return store_->Discard(page, count, &always_).ok() ? 0 : -EIO;
      case kFlush:
        return 0;
      default:
        return -EOPNOTSUPP;
    }
    if (status.ok()) return bytes;
    return status.code() == Status::Code::kExhausted ? -ENOSPC : -EIO;
  }

  void Serve() {
    HardenThread();
    // From this thread: the kernel gives a queue's requests only to the task that fetched first.
    for (unsigned tag = 0; tag < kDepth; ++tag) Prepare(kFetch, tag, -1);
    std::bitset<kDepth> live;
    live.set();
    // Somebody waits for a read; writes are the kernel's own business.
    unsigned reads[kDepth], others[kDepth];
    while (live.any()) {
      // Whatever the kernel lacks for the moment: the requests in hand have nobody else.
      if (io_uring_submit_and_wait(&ring_, 1) < 0) std::this_thread::sleep_for(kRetryPause);
      // Told apart before any is answered: a tag that was may describe another request at once.
      unsigned read_count = 0;
      unsigned other_count = 0;
      io_uring_cqe* cqe = nullptr;
      while (io_uring_peek_cqe(&ring_, &cqe) == 0) {
        const auto tag = static_cast<unsigned>(cqe->user_data);
        if (cqe->res != 0) {
          live.reset(tag);
          // Otherwise the device stops.
          if (cqe->res != -ENODEV) LogEvent("the kernel refused an answer; a part of the device is dead");
        } else if (IsRead(descriptors_[tag])) {
          reads[read_count++] = tag;
        } else {
          others[other_count++] = tag;
        }
        io_uring_cqe_seen(&ring_, cqe);
      }
      for (unsigned i = 0; i < read_count; ++i) Answer(reads[i]);
      if (read_count > 0 && other_count > 0) io_uring_submit(&ring_);
      for (unsigned i = 0; i < other_count; ++i) Answer(others[i]);
    }
  }

  void Answer(unsigned tag) { Prepare(kCommitAndFetch, tag, Carry(descriptors_[tag], tag)); }

  BlockStore* store_;
  unsigned index_;
  AlwaysWanted always_;
  int fd_ = -1;
  const IoDescriptor* descriptors_ = nullptr;
  std::unique_ptr<std::byte, Free> buffers_;
  io_uring ring_ = {};
  bool ring_ready_ = false;
  std::thread thread_;
};

class UblkFrontEnd final : public FrontEnd {
 public:
  explicit UblkFrontEnd(const std::vector<BlockStore*>& stores) {
    for (BlockStore* store : stores)
      queues_.push_back(std::make_unique<Queue>(store, static_cast<unsigned>(queues_.size())));
  }

  Result<int> Create(uint64_t device_bytes) override {
    Result<std::unique_ptr<UblkControl>> control = UblkControl::Open();
    if (!control.ok()) return control.status();
    Result<int> device =
        control.value()->Add(static_cast<unsigned>(queues_.size()), kDepth, kTransferMax, device_bytes);
    if (!device.ok()) return device;
    device_ = device.value();
    Status s = OpenQueues();
    if (s.ok()) s = control.value()->Start(device_);
    if (s.ok()) return device;
    (void)control.value()->Stop(device_);
    CloseQueues();
    (void)control.value()->Delete(device_);
    return s;
  }

  Status TakeOver(int device) override {
    device_ = device;
    Result<std::unique_ptr<UblkControl>> control = UblkControl::Open();
    if (!control.ok()) return control.status();
    Status s = control.value()->StartRecovery(device);
    for (const uint64_t end = NowNs() + kRecoveryNs; s.error() == EBUSY && NowNs() < end;) {
      std::this_thread::sleep_for(kRecoveryPause);
      s = control.value()->StartRecovery(device);
    }
    if (!s.ok()) return s;
    if (s = OpenQueues(); !s.ok()) {
      CloseQueues();
      return s;
    }
    return control.value()->EndRecovery(device);
  }

  Status Delete() override {
    Result<std::unique_ptr<UblkControl>> control = UblkControl::Open();
    if (!control.ok()) return control.status();
    if (Status s = control.value()->Stop(device_); !s.ok()) return s;
    CloseQueues();
    return control.value()->Delete(device_);
  }

 private:
  void CloseQueues() {
    for (auto& queue : queues_) queue->Close();
    fd_.Reset();
  }
  Status OpenQueues() {
    const std::string path = "/dev/ublkc" + std::to_string(device_);
    fd_ = Fd(open(path.c_str(), O_RDWR | O_CLOEXEC));
    if (!fd_.valid()) return Status::FromErrno(("opening " + path).c_str(), errno);
    for (auto& queue : queues_)
      if (Status s = queue->Open(fd_.get()); !s.ok()) return s;
    for (auto& queue : queues_) queue->Start();
    return Status::Ok();
  }

  std::vector<std::unique_ptr<Queue>> queues_;
  int device_ = -1;
  Fd fd_;  // /dev/ublkcN.
};

}  // namespace

Status ProbeUblk() {
  if (access("/dev/ublk-control", F_OK) != 0) LoadModule("ublk_drv");
  return UblkControl::Open().status();
}

Status EndUblk(int device) {
  Result<std::unique_ptr<UblkControl>> control = UblkControl::Open();
  if (!control.ok()) return control.status();
  if (Status s = control.value()->Stop(device); !s.ok() && s.error() != ENODEV) return s;
  Status s = control.value()->Delete(device);
  return s.error() == ENODEV ? Status::Ok() : s;
}

std::unique_ptr<FrontEnd> NewUblkFrontEnd(const std::vector<BlockStore*>& stores) {
  return std::make_unique<UblkFrontEnd>(stores);
}

}  // namespace farpool
