#include "transport/session/donor_session.h"

#include <fcntl.h>
#include <netdb.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cerrno>

#include "base/clock.h"
#include "transport/session/connect.h"
#include "transport/session/control_channel.h"

namespace farpool {

namespace {

constexpr uint64_t kCallNs = 2'000'000'000;

uint64_t Deadline() { return NowNs() + kCallNs; }

Result<SessionToken> NewToken() {
  SessionToken token;
  do {
    const ssize_t n = getrandom(&token, sizeof(token), 0);
    if (n != static_cast<ssize_t>(sizeof(token))) return Status::FromErrno("getrandom", errno);
  } while (token == SessionToken{});
  return token;
}

// A mapping of a file that somebody can shrink is a SIGBUS waiting to happen.
bool IsSealed(int memfd, uint64_t bytes) {
  const int wanted = F_SEAL_SHRINK | F_SEAL_GROW;
  const int seals = fcntl(memfd, F_GET_SEALS);
  struct stat file;
  return seals >= 0 && (seals & wanted) == wanted && fstat(memfd, &file) == 0 &&
         static_cast<uint64_t>(file.st_size) >= bytes;
}

class DonorSessionImpl final : public DonorSession {
 public:
  DonorSessionImpl(const PoolEntry& entry, SessionToken token, uint64_t grace_ms)
      : entry_(entry), address_(entry), token_(token), grace_ms_(grace_ms) {}

  Status Connect(wire::HelloMode mode) {
    auto channel = ControlChannel::Connect(address_, Hello(mode), Deadline());
    if (!channel.ok()) return channel.status();
    channel_ = std::move(channel).value();
    return Status::Ok();
  }

  // Once connected: names are not looked up again, since later calls have little time, and in a swap daemon
  // no memory to spare.
  void KeepAddress() {
    sockaddr_storage peer;
    socklen_t bytes = sizeof(peer);
    char host[NI_MAXHOST];
    if (entry_.scheme == PoolEntry::Scheme::kUnix ||
        getpeername(channel_.fd(), reinterpret_cast<sockaddr*>(&peer), &bytes) != 0)
      return;
    if (getnameinfo(reinterpret_cast<const sockaddr*>(&peer), bytes, host, sizeof(host), nullptr, 0,
                    NI_NUMERICHOST) == 0)
      address_.host = host;
  }

  Result<SlabLease> LeaseSlab() override {
    Fd memory;
    std::byte bytes[sizeof(wire::LeaseReply)];
    const Status status = Call(wire::Op::kLeaseSlab, SlabId{}, bytes, sizeof(bytes), &memory);
    if (!status.ok()) return status;
    wire::LeaseReply reply;
    if (wire::Decode(bytes, &reply) != wire::Fault::kNone)
      return AtEntry(entry_, Status::Corrupt("the donor leased a slab that makes no sense"));
    if (shared_memory() && !memory.valid())
      return AtEntry(entry_, Status::Exhausted("no descriptor left here for a slab; raise `ulimit -Hn`"));
    if (shared_memory() && !IsSealed(memory.get(), reply.bytes))
      return AtEntry(entry_, Status::Corrupt("the donor leased memory that is not sealed"));
    return SlabLease{SlabId{reply.slab}, reply.bytes, std::move(memory)};
  }

  Status ReturnSlab(SlabId id) override { return Call(wire::Op::kReturnSlab, id, nullptr, 0, nullptr); }

  Result<DonorInfo> Info() override {
    std::byte bytes[sizeof(wire::InfoReply)];
    const Status status = Call(wire::Op::kInfo, SlabId{}, bytes, sizeof(bytes), nullptr);
    if (!status.ok()) return status;
    wire::InfoReply reply;
    if (wire::Decode(bytes, &reply) != wire::Fault::kNone)
      return AtEntry(entry_, Status::Corrupt("the donor's description makes no sense"));
    return DonorInfo{reply.memory_bytes, reply.free_bytes, reply.slab_bytes,
                     std::string(reply.rack, reply.rack_bytes)};
  }

  Result<Fd> OpenDataChannel(uint64_t holder) override {
    auto channel =
        ControlChannel::Connect(address_, Hello(wire::HelloMode::kDataChannel), Deadline(), holder);
    if (!channel.ok()) return channel.status();
    return channel.value().Take();
  }

  Status EndDataChannels(uint64_t holder) override {
    wire::RequestHeader request;
    request.op = wire::Op::kEndChannels;
    request.operand = holder;
    return Call(request, nullptr, 0, nullptr);
  }

  Status Resume() override { return Connect(wire::HelloMode::kResume); }

  void Detach() override { channel_ = ControlChannel(); }

  Status Close() override {
    const Status status = Call(wire::Op::kCloseSession, SlabId{}, nullptr, 0, nullptr);
    channel_ = ControlChannel();
    return status;
  }

  int control_fd() const override { return channel_.fd(); }
  bool shared_memory() const override { return entry_.scheme == PoolEntry::Scheme::kUnix; }
  bool rdma() const override { return entry_.scheme == PoolEntry::Scheme::kRdma; }
  const PoolEntry& entry() const override { return entry_; }

 private:
  wire::HelloRequest Hello(wire::HelloMode mode) const {
    wire::HelloRequest hello;
    hello.mode = mode;
    hello.token_high = token_.high;
    hello.token_low = token_.low;
    if (mode == wire::HelloMode::kNewSession) hello.grace_ms = grace_ms_;
    return hello;
  }

  Status Call(wire::Op op, SlabId slab, void* reply, size_t reply_bytes, Fd* passed) {
    wire::RequestHeader request;
    request.op = op;
    request.slab = static_cast<uint64_t>(slab);
    return Call(request, reply, reply_bytes, passed);
  }

  Status Call(const wire::RequestHeader& request, void* reply, size_t reply_bytes, Fd* passed) {
    const Status status = channel_.Call(request, nullptr, reply, reply_bytes, passed, Deadline());
    return status.ok() ? status : AtEntry(entry_, status);
  }

  const PoolEntry entry_;  // As it was asked for.
  PoolEntry address_;      // The same, without names.
  const SessionToken token_;
  const uint64_t grace_ms_;
  ControlChannel channel_;
};

}  // namespace

Result<std::unique_ptr<DonorSession>> DonorSession::Open(const PoolEntry& entry, uint64_t grace_ms) {
  auto token = NewToken();
  if (!token.ok()) return token.status();
  auto session = std::make_unique<DonorSessionImpl>(entry, token.value(), grace_ms);
  const Status status = session->Connect(wire::HelloMode::kNewSession);
  if (!status.ok()) return status;
  session->KeepAddress();
  return std::unique_ptr<DonorSession>(std::move(session));
}

}  // namespace farpool
