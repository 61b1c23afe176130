#include "blockdev/daemon.h"

#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <memory>
#include <thread>

#include "base/clock.h"
#include "base/pass_descriptors.h"
#include "blockdev/control.h"
#include "blockdev/event_log.h"
#include "blockdev/front_end.h"
#include "blockdev/harden.h"
#include "blockdev/slab_source.h"

namespace farpool {

namespace {

constexpr int kTickMs = 200;
constexpr int kStandbySeconds = 30;                  // For a standby to get ready.
constexpr uint64_t kStandbyPauseNs = 5'000'000'000;  // Between attempts to make one.
constexpr auto kTakeOverPause = std::chrono::seconds(1);
constexpr unsigned kQueuesMin = 2;  // A write that waits for a donor must not hold up every read.
constexpr unsigned kQueuesMax = 8;

// What the daemon tells its standby.
struct StandbyMessage {
  enum class Kind : uint32_t { kSlab, kBye } kind;
  uint32_t slab;
  uint32_t slots;
};

class Daemon {
 public:
  Daemon() : source_(&segment_) {}

  Status Create(const SwapOptions& options);
  // Serves until the device is deleted. Says so to `ready` once there is a standby.
  void Serve(Fd ready);
  std::string name() const { return DeviceName(segment_.get()->driver, segment_.get()->device); }
  int device() const { return segment_.get()->device; }

 private:
  void MakeFrontEnd();
  void Announce(uint32_t index, uint32_t slots, int memory);

  // Forks a standby and waits until it is locked in memory. In the standby this returns only to serve.
  enum class Role { kDaemon, kStandby };
  Role StartStandby();
  void StopStandby();
  // In the standby: true when the daemon has died, false when it said goodbye.
  bool Await();
  void BecomeStandby(Fd channel, SlabSource::Channels channels);
  void TakeOver();

  // False once the device is gone.
  bool Answer();
  SwapStatus StatusNow(const Status& status);

  SegmentOwner segment_;
  SlabSource source_;
  SwapListener listener_;
  std::vector<std::unique_ptr<RemoteStore>> stores_;
  std::vector<std::unique_ptr<BlockStore>> blocks_;
  std::unique_ptr<PageMap> map_;
  std::unique_ptr<FrontEnd> front_end_;
  Fd standby_;  // The other end of its channel; in a standby, of the daemon's.
  pid_t standby_pid_ = 0;
  uint64_t standby_tried_ns_ = 0;
};

Status Daemon::Create(const SwapOptions& options) {
  OpenEventLog();
  const long cpus = sysconf(_SC_NPROCESSORS_ONLN);
  // ublk has no more queues than the machine has processors.
  const unsigned least = options.driver == SwapDriver::kUblk ? 1 : kQueuesMin;
  const unsigned queues = std::clamp(static_cast<unsigned>(std::max(cpus, 1L)), least, kQueuesMax);
  if (Status s = HardenProcess(queues); !s.ok()) return s;
  prctl(PR_SET_NAME, "farpool-swap");
  Result<SegmentOwner> segment = SegmentOwner::Create(options.size_bytes / kPageBytes);
  if (!segment.ok()) return segment.status();
  segment_ = segment.value();
  segment_.get()->driver = options.driver;
  segment_.get()->queues = queues;
  if (Status s = source_.Open(options.pool, [this](uint32_t index, uint32_t slots,
                                                   int memory) { Announce(index, slots, memory); });
      !s.ok())
    return s;
  SlabSource::Channels channels;
  if (Status s = source_.OpenChannels(0, &channels); !s.ok()) return s;
  source_.SetChannels(std::move(channels));
  Result<SwapListener> listener = ListenForSwap();
  if (!listener.ok()) return listener.status();
  listener_ = std::move(listener).value();
  MakeFrontEnd();
  Result<int> device = front_end_->Create(options.size_bytes);
  if (!device.ok()) {
    unlink(listener_.path.c_str());
    source_.Close();
    return device.status();
  }
  segment_.get()->device = device.value();
  NameEventLog(name().c_str());
  if (Status s = PublishSwap(&listener_, name()); !s.ok()) {
    (void)front_end_->Delete();
    source_.Close();
    return s;
  }
  return Status::Ok();
}

void Daemon::MakeFrontEnd() {
  SwapSegment* const segment = segment_.get();
  map_ = std::make_unique<PageMap>(segment->map(), segment->pages, segment->hash_seed, &segment->counters);
  std::vector<BlockStore*> blocks;
  for (unsigned i = 0; i < segment->queues; ++i) {
    stores_.push_back(std::make_unique<RemoteStore>());
    stores_.back()->Init(&segment->slabs, &source_);
    blocks_.push_back(std::make_unique<BlockStore>(map_.get(), stores_.back().get()));
    blocks.push_back(blocks_.back().get());
  }
  front_end_ = NewFrontEnd(segment->driver, blocks);
}

// With the source locked.
void Daemon::Announce(uint32_t index, uint32_t slots, int memory) {
  if (!standby_.valid()) return;
  StandbyMessage message = {StandbyMessage::Kind::kSlab, index, slots};
  iovec iov = {&message, sizeof(message)};
  msghdr header = {};
  header.msg_iov = &iov;
  header.msg_iovlen = 1;
  PassedDescriptors<1> passed;
  passed.AddTo(&header, &memory, memory >= 0 ? 1 : 0);
  // A standby that misses a slab is none: it sees the end of its channel when the next one is made.
  if (sendmsg(standby_.get(), &header, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && standby_pid_ > 0)
    kill(standby_pid_, SIGKILL);
}

Daemon::Role Daemon::StartStandby() {
  // Its connections are opened now: when it takes over, memory may be short.
  SlabSource::Channels channels;
  (void)source_.OpenChannels(segment_.get()->takeovers.load() + 1, &channels);
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) return Role::kDaemon;
  Fd ours(ends[0]), theirs(ends[1]);
  source_.Lock();  // So that the copy is whole.
  const pid_t pid = fork();
  if (pid == 0) {
    ours.Reset();
    BecomeStandby(std::move(theirs), std::move(channels));
    return Role::kStandby;
  }
  theirs.Reset();
  if (pid > 0) {
    standby_pid_ = pid;
    standby_ = std::move(ours);
  }
  source_.Unlock();
  if (pid < 0) return Role::kDaemon;
  // Until it has made its memory its own, each first write of ours would need a page to copy to.
  pollfd wait = {.fd = standby_.get(), .events = POLLIN, .revents = 0};
  char word;
  if (poll(&wait, 1, kStandbySeconds * 1000) != 1 || recv(standby_.get(), &word, 1, MSG_DONTWAIT) != 1) {
    kill(pid, SIGKILL);
    StopStandby();
  }
  return Role::kDaemon;
}

void Daemon::StopStandby() {
  source_.Lock();
  standby_.Reset();
  source_.Unlock();
  if (standby_pid_ > 0) waitpid(standby_pid_, nullptr, 0);
  standby_pid_ = 0;
}

void Daemon::BecomeStandby(Fd channel, SlabSource::Channels channels) {
  source_.AfterFork();
  standby_ = std::move(channel);
  standby_pid_ = 0;
  // The daemon's threads are not here, but copies of their descriptors are. The kernel must see its
  // connections end when the daemon dies.
  std::vector<int> kept = source_.memory_fds();
  kept.push_back(standby_.get());
  kept.push_back(listener_.fd.get());
  for (const auto& of_donor : channels)
    for (const auto& data_channel : of_donor)
      if (data_channel.fd.valid()) kept.push_back(data_channel.fd.get());
  std::sort(kept.begin(), kept.end());
  unsigned from = 3;
  for (const int fd : kept) {
    if (fd > static_cast<int>(from)) syscall(SYS_close_range, from, fd - 1, 0);
    from = static_cast<unsigned>(fd) + 1;
  }
  syscall(SYS_close_range, from, ~0U, 0);
  OpenEventLog();
  source_.SetChannels(std::move(channels));
  // Left alone, not ended: their threads, locks and descriptors are the daemon's.
  (void)front_end_.release();
  for (auto& blocks : blocks_) (void)blocks.release();
  for (auto& store : stores_) (void)store.release();
  blocks_.clear();
  stores_.clear();
  prctl(PR_SET_NAME, "farpool-standby");
  const unsigned queues = segment_.get()->queues;
  // Locks are not inherited.
  segment_.Detach();
  Status s = HardenProcess(queues);
  if (s.ok()) s = segment_.Attach();
  if (!s.ok()) {
    LogEvent(s.text());
    _exit(1);
  }
  const char ready = 1;
  if (send(standby_.get(), &ready, 1, MSG_NOSIGNAL) != 1) _exit(1);
}

bool Daemon::Await() {
  for (;;) {
    StandbyMessage message;
    iovec iov = {&message, sizeof(message)};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
    msghdr header = {};
    header.msg_iov = &iov;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = sizeof(control);
    const ssize_t got = recvmsg(standby_.get(), &header, MSG_CMSG_CLOEXEC);
    if (got < 0 && errno == EINTR) continue;
    if (got != static_cast<ssize_t>(sizeof(message))) return true;
    if (message.kind == StandbyMessage::Kind::kBye) return false;
    Fd memory;
    if ((header.msg_flags & MSG_CTRUNC) != 0) {
      LogEvent("no descriptor left in the standby for a slab");
      _exit(1);
    }
    if (cmsghdr* c = CMSG_FIRSTHDR(&header); c != nullptr && c->cmsg_type == SCM_RIGHTS) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(c), sizeof(fd));
      memory = Fd(fd);
    }
    if (Status s = source_.Adopt(message.slab, message.slots, std::move(memory)); !s.ok()) {
      LogEvent(s.text());
      _exit(1);  // The daemon makes another.
    }
  }
}

void Daemon::TakeOver() {
  standby_.Reset();
  prctl(PR_SET_NAME, "farpool-swap");
  LogEvent("the daemon died; its standby goes on");
  SwapSegment* const segment = segment_.get();
  segment->takeovers.fetch_add(1);
  segment->slabs.Recount();
  // Sessions before requests, which may need slabs.
  source_.CheckDonors();
  source_.EndPredecessors();
  MakeFrontEnd();
  // There is nobody else: what fails for want of memory or descriptors works later.
  for (Status s = front_end_->TakeOver(device()); !s.ok(); s = front_end_->TakeOver(device())) {
    LogEvent(s.text());
    std::this_thread::sleep_for(kTakeOverPause);
  }
}

SwapStatus Daemon::StatusNow(const Status& status) {
  SwapSegment* const segment = segment_.get();
  SwapStatus s = {};
  s.code = status.code();
  snprintf(s.text, sizeof(s.text), "%s", status.text());
  s.daemon = getpid();
  s.standby = standby_pid_;
  s.takeovers = segment->takeovers.load();
  s.lost_donors = source_.lost_donors();
  s.lost_bytes = source_.lost_bytes();
  s.size_bytes = segment->pages * kPageBytes;
  s.stored_bytes = segment->slabs.used_slots.load() * kPageBytes;
  s.leased_bytes = source_.leased_bytes();
  s.pages_read = segment->counters.pages_read.load();
  s.pages_written = segment->counters.pages_written.load();
  s.pages_zero = segment->counters.pages_zero.load();
  s.pages_discarded = segment->counters.pages_discarded.load();
  s.errors = segment->counters.errors.load();
  s.corrupt = segment->counters.corrupt.load();
  snprintf(s.pool, sizeof(s.pool), "%s", source_.Names().c_str());
  return s;
}

bool Daemon::Answer() {
  const Fd client(accept4(listener_.fd.get(), nullptr, nullptr, SOCK_CLOEXEC));
  SwapRequest request;
  pollfd wait = {.fd = client.get(), .events = POLLIN, .revents = 0};
  if (!client.valid() || poll(&wait, 1, kTickMs) != 1 ||
      recv(client.get(), &request, sizeof(request), MSG_DONTWAIT) != sizeof(request))
    return true;
  Status status;
  if (request == SwapRequest::kDelete) {
    status = front_end_->Delete();
    if (status.ok()) {
      const StandbyMessage bye = {StandbyMessage::Kind::kBye, 0, 0};
      if (standby_.valid()) (void)send(standby_.get(), &bye, sizeof(bye), MSG_NOSIGNAL);
      StopStandby();
      source_.Close();
      unlink(listener_.path.c_str());
    }
  }
  const SwapStatus answer = StatusNow(status);
  (void)send(client.get(), &answer, sizeof(answer), MSG_NOSIGNAL | MSG_DONTWAIT);
  return request != SwapRequest::kDelete || !status.ok();
}

void Daemon::Serve(Fd ready) {
  for (;;) {
    if (!standby_.valid() && (standby_tried_ns_ == 0 || NowNs() - standby_tried_ns_ > kStandbyPauseNs)) {
      standby_tried_ns_ = NowNs();
      if (StartStandby() == Role::kStandby) {
        (void)ready.Release();  // Closed already.
        if (!Await()) return;
        TakeOver();
        standby_tried_ns_ = 0;
        continue;
      }
    }
    if (ready.valid()) {
      SwapReady outcome;
      outcome.device = device();
      (void)!write(ready.get(), &outcome, sizeof(outcome));
      ready.Reset();
    }
    std::vector<pollfd> polls = {{listener_.fd.get(), POLLIN, 0}, {standby_.get(), POLLIN, 0}};
    for (const int fd : source_.control_fds()) polls.push_back({fd, POLLIN, 0});
    poll(polls.data(), polls.size(), kTickMs);
    if (polls[1].revents != 0 && standby_.valid()) {
      LogEvent("the standby died; making another");
      StopStandby();
    }
    if (std::any_of(polls.begin() + 2, polls.end(), [](const pollfd& p) { return p.revents != 0; }))
      source_.CheckDonors();
    source_.KeepAhead();
    if (polls[0].revents != 0 && !Answer()) return;
  }
}

}  // namespace

void RunSwapDaemon(const SwapOptions& options, Fd ready) {
  auto daemon = std::make_unique<Daemon>();
  if (Status s = daemon->Create(options); s.ok()) {
    daemon->Serve(std::move(ready));
  } else {
    const SwapReady outcome = {s, -1};
    (void)!write(ready.get(), &outcome, sizeof(outcome));
  }
}

}  // namespace farpool
