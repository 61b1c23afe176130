#pragma once
// The runtime inside a program: its one instance, how it starts and how it ends in trouble. Starts in two
// steps: the constructor installs handlers and patches libc; the rest (registration with the supervisor,
// arena, engine) waits until the program first needs far memory, so that small programs pay nothing.

#include <atomic>
#include <cstdint>

#include "farpool/status.h"
#include "paging/engine.h"
#include "run/control.h"
#include "run/layout.h"
#include "run/segment.h"
#include "store/remote_store.h"

namespace farpool {

// Slabs and channels by way of the supervisor.
class SupervisorClient final : public SlabProvider {
 public:
  void Init(RunSegment* segment) { segment_ = segment; }
  // Registers this process; the page table's descriptor in `*table_fd`, the process index as value.
  Result<uint32_t> Register(int* table_fd);
  // Prepares a child: its process index, page table and channel.
  Result<uint32_t> PrepareFork(int* table_fd, int* channel_fd);
  void ForkFailed(uint32_t child);
  // In the child: `channel_fd` becomes this process's channel.
  void BecomeChild(uint32_t process, int channel_fd);
  // Tells the supervisor to end the run with `status`; never returns.
  [[noreturn]] void Fatal(int status, const char* text);

  Result<uint32_t> LeaseSlab() override;
  Result<std::byte*> MapSlab(uint32_t index) override;
  Result<int> Connect(uint32_t donor) override;
  void Disconnect(int fd) override;
  Status LinkBroke(uint32_t donor) override;
  bool shared_memory(uint32_t donor) const override { return segment_->donors[donor].shared_memory; }
  const Verbs* verbs(uint32_t donor) const override {
    return segment_->donors[donor].rdma ? &verbs_ : nullptr;
  }
  int KeepDevice(uint32_t donor, int fd) override;
  void DropDevice(uint32_t donor) override;
  // Where a donor needs it. Not in a signal handler.
  Status LoadVerbs();

 private:
  Result<uint64_t> Ask(ControlOp op, uint64_t arg, int* fds, int fd_max, int* fd_count);
  int Channel() const { return segment_->fd_base + kFdChannel; }

  RunSegment* segment_ = nullptr;
  uint32_t process_ = 0;
  Verbs verbs_;
};

struct Runtime {
  RunSegment* segment = nullptr;  // Null: not under farpool run; the runtime does nothing.
  // It gets no far memory: --near names this program, or the run was over when it first wanted any.
  std::atomic<bool> near{false};
  std::atomic<bool> started{false};
  Mutex start_lock;
  SupervisorClient supervisor;
  std::atomic<bool> has_device{false};  // Mapped one: see Engine::DevicesMayPin().
  uint64_t register_mode = 0;           // With which the arena is registered (UFFDIO_REGISTER_MODE_*).
  // Only once it has started: megabytes that small programs never have.
  RemoteStore* store = nullptr;
  Engine* engine = nullptr;

  bool has_started() const { return started.load(std::memory_order_acquire); }

  // How absent pages are announced: as events to a thread of the runtime, or as signals to whoever touches
  // them.
  bool monitor() const { return (segment->flags & RunSegment::kMonitor) != 0; }
};

extern Runtime g_runtime;

// Starts the second step unless done. Call with all signals blocked. False: the run is over, since it waits
// only for processes with far memory; what this one wants stays near. On failure the run ends.
bool EnsureStarted();

// Ends the run because of `status`: one line from the supervisor, exit status 74 where data was lost.
[[noreturn]] void Fatal(const Status& status);

// Opens a userfaultfd of this process in the runtime's place and registers the arena. `move`: this kernel has
// UFFDIO_MOVE.
Status OpenUserfault(int* uffd, bool* move);
// Maps this process's page table from `fd`, which is closed. A child does not inherit it.
Status MapTable(int fd);
// madvise of all of the arena that is not a file of the program's.
void AdviseArena(int advice);

// For the runtime's own shared mappings, which are sparse and huge: they do not belong into the program's
// core.
void KeepOutOfCore(uintptr_t address, size_t bytes);

// Moves `fd` to one of the runtime's own descriptors (RuntimeFd), close-on-exec.
int PlaceFd(int fd, int which);
// Fills the unused ones of the runtime's descriptors with copies of the segment's, so that the kernel does
// not give them to the program, which could then not close them.
void ReserveFds();

// Lifts `ulimit -n` to the hard limit for its lifetime: the program may have used up its descriptors, and
// ours lie above what it may have. Existing descriptors are not affected by the limit.
class DescriptorRoom {
 public:
  DescriptorRoom();
  ~DescriptorRoom();
  DescriptorRoom(const DescriptorRoom&) = delete;
  DescriptorRoom& operator=(const DescriptorRoom&) = delete;

 private:
  uint64_t old_[2];
};

// Blocks every signal for its lifetime, or those of a mask: the engine's lock is taken by the fault handler
// too.
class SignalsBlocked {
 public:
  explicit SignalsBlocked(uint64_t mask = ~uint64_t{0});
  ~SignalsBlocked();
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  uint64_t old_;
};

inline constexpr uint64_t SignalBit(int signal) { return uint64_t{1} << (signal - 1); }
// Signals the program can never block: a fault or a trap while they are blocked would end it.
inline constexpr uint64_t kOurSignals = SignalBit(7 /*SIGBUS*/) | SignalBit(31 /*SIGSYS*/);

}  // namespace farpool
