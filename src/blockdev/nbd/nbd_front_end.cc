// NBD: the kernel's client at one end of socket pairs, we at the other. Works on every kernel that has the
// module. When a connection ends without being asked to (we were killed, or a request took too long) the
// kernel keeps its requests until another connection is offered; each thread offers one in place of its own.

#include <poll.h>
#include <sys/socket.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <thread>

#include "blockdev/front_end.h"
#include "blockdev/harden.h"
#include "blockdev/nbd/netlink.h"
#include "blockdev/nbd/serve.h"

namespace farpool {

namespace {

constexpr auto kReconnectPause = std::chrono::milliseconds(20);
constexpr int kSocketBytes = 2 * kNbdTransferMax;

struct Pair {
  Fd ours, kernels;
  static Result<Pair> Make() {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
      return Status::FromErrno("socketpair", errno);
    Pair pair = {Fd(ends[0]), Fd(ends[1])};
    // A whole request fits: neither end waits for the other in the middle of one.
    for (const int fd : ends) setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &kSocketBytes, sizeof(kSocketBytes));
    return pair;
  }
};

class NbdFrontEnd final : public FrontEnd {
 public:
  explicit NbdFrontEnd(const std::vector<BlockStore*>& stores) {
    for (BlockStore* store : stores) {
      workers_.push_back(std::make_unique<Worker>());
      workers_.back()->store = store;
      workers_.back()->buffer.reset(static_cast<std::byte*>(std::aligned_alloc(kPageBytes, kNbdTransferMax)));
    }
  }
  ~NbdFrontEnd() override { Join(); }

  Result<int> Create(uint64_t device_bytes) override {
    if (Status s = Open(); !s.ok()) return s;
    std::vector<Pair> pairs;
    std::vector<int> kernels;
    for (size_t i = 0; i < workers_.size(); ++i) {
      Result<Pair> pair = Pair::Make();
      if (!pair.ok()) return pair.status();
      kernels.push_back(pair.value().kernels.get());
      pairs.push_back(std::move(pair).value());
    }
    // Served before it exists: the kernel reads a partition table at once.
    for (size_t i = 0; i < workers_.size(); ++i) workers_[i]->socket = std::move(pairs[i].ours);
    Start();
    Result<int> device =
        workers_[0]->control.Connect(device_bytes, kernels.data(), static_cast<unsigned>(kernels.size()));
    if (!device.ok()) {
      stopping_.store(true);
      pairs.clear();  // The threads see the end of the stream.
      Join();
      return device;
    }
    device_.store(device.value());
    const std::string queue = "/sys/block/nbd" + std::to_string(device.value()) + "/queue/";
    Set(queue + "max_sectors_kb", std::to_string(kNbdTransferMax / 1024));
    Set(queue + "scheduler", "none");  // Memory has no order to prefer.
    return device;
  }

  Status TakeOver(int device) override {
    if (Status s = Open(); !s.ok()) return s;
    device_.store(device);
    Start();
    return Status::Ok();
  }

  Status Delete() override {
    stopping_.store(true);
    // Whatever the kernel says, no thread may go on waiting for it.
    Result<NbdControl> control = NbdControl::Open();
    const Status s = control.ok() ? control.value().Disconnect(device_.load()) : control.status();
    if (!s.ok() && s.code() != Status::Code::kNotFound) {
      stopping_.store(false);
      return s;
    }
    Join();
    return Status::Ok();
  }

 private:
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };
  struct Worker {
    BlockStore* store;
    std::unique_ptr<std::byte, Free> buffer;
    NbdControl control;
    Fd socket;
    std::thread thread;
  };

  static void Set(const std::string& file, const std::string& value) { std::ofstream(file) << value; }

  Status Open() {
    for (auto& worker : workers_) {
      Result<NbdControl> control = NbdControl::Open();
      if (!control.ok()) return control.status();
      worker->control = std::move(control).value();
    }
    return Status::Ok();
  }

  void Start() {
    for (auto& worker : workers_) worker->thread = std::thread([this, w = worker.get()] { Serve(w); });
  }
  void Join() {
    for (auto& worker : workers_)
      if (worker->thread.joinable()) worker->thread.join();
  }

  void Serve(Worker* worker) {
    HardenThread();
    while (!stopping_.load()) {
      if (worker->socket.valid()) ServeNbd(worker->socket.get(), worker->store, worker->buffer.get());
      worker->socket.Reset();
      if (!stopping_.load() && !Reconnect(worker)) std::this_thread::sleep_for(kReconnectPause);
    }
  }

  // True if the kernel had a dead connection to replace.
  bool Reconnect(Worker* worker) {
    if (device_.load() < 0) return false;
    Result<Pair> pair = Pair::Make();
    if (!pair.ok()) return false;
    if (!worker->control.Reconnect(device_.load(), pair.value().kernels.get()).ok()) return false;
    pair.value().kernels.Reset();
    pollfd ours = {.fd = pair.value().ours.get(), .events = POLLRDHUP, .revents = 0};
    if (poll(&ours, 1, 0) != 0 && (ours.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0) return false;
    worker->socket = std::move(pair.value().ours);
    return true;
  }

  std::vector<std::unique_ptr<Worker>> workers_;
  std::atomic<int> device_{-1};
  std::atomic<bool> stopping_{false};
};

}  // namespace

Status ProbeNbd() {
  Result<NbdControl> control = NbdControl::Open();
  if (control.ok()) return Status::Ok();
  if (control.status().code() != Status::Code::kUnsupported) return control.status();
  LoadModule("nbd");
  return NbdControl::Open().status();
}

Status EndNbd(int device) {
  Result<NbdControl> control = NbdControl::Open();
  if (!control.ok()) return control.status();
  Status s = control.value().Disconnect(device);
  // It may not be connected any more.
  return s.code() == Status::Code::kNotFound || s.error() == EINVAL ? Status::Ok() : s;
}

std::unique_ptr<FrontEnd> NewNbdFrontEnd(const std::vector<BlockStore*>& stores) {
  return std::make_unique<NbdFrontEnd>(stores);
}

}  // namespace farpool
