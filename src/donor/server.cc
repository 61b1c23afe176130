#include "donor/server.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cstdio>
#include <list>
#include <system_error>
#include <thread>

#include "base/clock.h"
#include "donor/connection.h"
#include "donor/listener.h"

// One thread accepts, reaps finished connections and ends sessions whose grace is over; each connection has a
// thread of its own. A thread a connection is what a request answered within microseconds costs: it can spin
// and block by itself, and shares nothing with the others but the session table.

namespace farpool {

namespace {

constexpr unsigned kMaxConnections = 512;
// Beyond kMaxConnections so many at a time are told so; those beyond are closed without a word.
constexpr unsigned kMaxRefusals = 16;
constexpr uint64_t kSlabBytesMin = 1u << 20;
constexpr uint64_t kSlabBytesMax = 1u << 30;
// After accept(2) failed for want of descriptors or memory.
constexpr int kAcceptRetryMs = 100;

constexpr const char* kThreadLimits = " (a limit, ulimit -u, -d or -v?)";

std::string TcpPeerName(int fd) {
  sockaddr_storage address = {};
  socklen_t bytes = sizeof(address);
  char host[NI_MAXHOST] = "?";
  char port[NI_MAXSERV] = "?";
  if (getpeername(fd, reinterpret_cast<sockaddr*>(&address), &bytes) == 0)
    getnameinfo(reinterpret_cast<sockaddr*>(&address), bytes, host, sizeof(host), port, sizeof(port),
                NI_NUMERICHOST | NI_NUMERICSERV);
  return std::string(host) + " port " + port;
}

std::string UnixPeerName(int fd) {
  ucred peer = {};
  socklen_t bytes = sizeof(peer);
  getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes);
  return "process " + std::to_string(peer.pid);
}

// A client host that vanished without a word is noticed after about 10 s of silence, so that its grace can
// begin.
void PrepareTcp(int fd) {
  const int on = 1, idle_s = 5, interval_s = 1, probes = 5;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof(interval_s));
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
}

// Threads of the donor take no signals: they are for the program's own thread.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
};

Status CheckOptions(const DonorOptions& options) {
  if (options.tcp_host.empty() && options.unix_path.empty() && options.rdma_host.empty())
    return Status::InvalidArgument("the donor has nowhere to listen; give --listen, --rdma or --unix");
  if (!std::has_single_bit(options.slab_bytes) || options.slab_bytes < kSlabBytesMin ||
      options.slab_bytes > kSlabBytesMax)
    return Status::InvalidArgument("the slab size must be a power of two from 1M to 1G");
  if (options.memory_bytes < options.slab_bytes)
    return Status::InvalidArgument(
        "the memory to lend is less than one slab; give more --memory or a smaller --slab");
  if (options.quota_bytes != 0 && options.quota_bytes < options.slab_bytes)
    return Status::InvalidArgument(
        "the quota is less than one slab; give a larger --quota or a smaller --slab");
  if (options.rack.size() > wire::kMaxRackBytes)
    return Status::InvalidArgument("the rack name is longer than 64 bytes");
  return Status::Ok();
}

}  // namespace

struct DonorServer::Impl {
  explicit Impl(const DonorOptions& o)
      : options(o),
        table({.memory_bytes = o.memory_bytes,
               .slab_bytes = o.slab_bytes,
               .quota_bytes = o.quota_bytes,
               .grace_ms_max = o.grace_ms_max}),
        // One CPU stays for the clients; a host with one has none to spin on.
        spin_gate(static_cast<int>(std::thread::hardware_concurrency()) - 1),
        shared{&table, &counters, &spin_gate, o.rack, nullptr, options.log} {}

  void Run();
  void Accept(int listener, Connection::Kind kind);
  void Reap(bool all);
  void Wake() {
    const uint64_t one = 1;
    // Cannot fail but for a full counter, which is readable already.
    [[maybe_unused]] const ssize_t n = write(wake.get(), &one, sizeof(one));
  }

  const DonorOptions options;
  SessionTable table;
  DonorCounters counters;
  SpinGate spin_gate;
  Connection::Shared shared;
  Fd tcp;
  Fd rdma;
  UnixListener unix_listener;
  uint16_t tcp_port = 0;
  uint16_t rdma_port = 0;
  Fd wake;  // eventfd: a connection ended, or `stopping`.
  std::atomic<bool> stopping{false};
  std::atomic<unsigned> connected{0};
  std::thread thread;

  struct Served {
    std::unique_ptr<Connection> connection;
    std::atomic<bool> finished{false};
    std::thread thread;
  };
  std::list<Served> served;  // The accepting thread's own.
  bool short_of_resources = false;
};

void DonorServer::Impl::Run() {
  while (!stopping.load(std::memory_order_acquire)) {
    const uint64_t now = NowNs();
    const uint64_t next = table.Expire(now);
    int timeout_ms = -1;
    if (next != UINT64_MAX)
      timeout_ms = static_cast<int>(std::min<uint64_t>((next - now) / 1'000'000 + 1, 60'000));
    pollfd fds[4] = {{.fd = wake.get(), .events = POLLIN, .revents = 0},
                     {.fd = tcp.get(), .events = POLLIN, .revents = 0},
                     {.fd = unix_listener.fd(), .events = POLLIN, .revents = 0},
                     {.fd = rdma.get(), .events = POLLIN, .revents = 0}};
    // Listeners that are not there are -1, which poll passes over.
    if (short_of_resources) {
      timeout_ms = kAcceptRetryMs;
      fds[1].fd = fds[2].fd = fds[3].fd = -1;
      short_of_resources = false;
    }
    if (poll(fds, 4, timeout_ms) < 0) continue;
    if (fds[0].revents != 0) {
      uint64_t count;
      [[maybe_unused]] const ssize_t n = read(wake.get(), &count, sizeof(count));
      Reap(false);
    }
    if (fds[1].revents != 0) Accept(tcp.get(), Connection::Kind::kTcp);
    if (fds[2].revents != 0) Accept(unix_listener.fd(), Connection::Kind::kUnix);
    if (fds[3].revents != 0) Accept(rdma.get(), Connection::Kind::kRdma);
  }
  for (Served& s : served) s.connection->Shutdown();
  Reap(true);
}

void DonorServer::Impl::Accept(int listener, Connection::Kind kind) {
  const bool unix_socket = kind == Connection::Kind::kUnix;
  Fd fd(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
  if (!fd.valid()) {
    short_of_resources = errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS;
    if (short_of_resources) options.log("cannot accept: out of descriptors or memory");
    return;
  }
  const std::string peer = unix_socket ? UnixPeerName(fd.get()) : TcpPeerName(fd.get());
  const bool stranger = unix_socket && !options.allow_anyone && !PeerIsUserOrRoot(fd.get());
  if (stranger) options.log("refused " + peer + ": another user's");
  if (!unix_socket) PrepareTcp(fd.get());
  if (served.size() >= kMaxConnections + kMaxRefusals) return;
  const char* refusal = nullptr;
  if (served.size() >= kMaxConnections) refusal = "the donor has too many connections";
  if (stranger) refusal = "the donor serves its own user and root only; start it with --allow-anyone";
  Served& s = served.emplace_back();
  s.connection = std::make_unique<Connection>(std::move(fd), kind, peer, &shared, refusal);
  connected.fetch_add(1, std::memory_order_relaxed);
  try {
    s.thread = std::thread([this, &s] {
      s.connection->Serve();
      s.finished.store(true, std::memory_order_release);
      Wake();
    });
  } catch (const std::system_error&) {
    options.log("refused " + peer + ": cannot start a thread" + kThreadLimits);
    served.pop_back();
    connected.fetch_sub(1, std::memory_order_relaxed);
  }
}

void DonorServer::Impl::Reap(bool all) {
  for (auto it = served.begin(); it != served.end();) {
    if (all || it->finished.load(std::memory_order_acquire)) {
      it->thread.join();
      it = served.erase(it);
      connected.fetch_sub(1, std::memory_order_relaxed);
    } else {
      ++it;
    }
  }
}

Result<std::unique_ptr<DonorServer>> DonorServer::Start(const DonorOptions& options) {
  if (const Status status = CheckOptions(options); !status.ok()) return status;
  auto impl = std::make_unique<Impl>(options);
  impl->wake = Fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!impl->wake.valid()) return Status::FromErrno("eventfd", errno);
  if (!options.tcp_host.empty()) {
    auto tcp = ListenTcp("tcp", options.tcp_host, options.tcp_port, options.allow_anyone, &impl->tcp_port);
    if (!tcp.ok()) return tcp.status();
    impl->tcp = std::move(tcp).value();
  }
  if (!options.rdma_host.empty()) {
    auto rdma =
        ListenTcp("rdma", options.rdma_host, options.rdma_port, options.allow_anyone, &impl->rdma_port);
    if (!rdma.ok()) return rdma.status();
    impl->rdma = std::move(rdma).value();
    auto host = RdmaHost::Open(impl->rdma.get(), options.verbs);
    if (!host.ok()) {
      const std::string text = "--rdma " + options.rdma_host + ": " + host.status().text();
      return Status(host.status().code(), text.c_str());
    }
    impl->shared.rdma = std::move(host).value();
  }
  if (!options.unix_path.empty()) {
    auto listener = UnixListener::Listen(options.unix_path, options.allow_anyone);
    if (!listener.ok()) return listener.status();
    impl->unix_listener = std::move(listener).value();
  }
  const SignalsBlocked blocked;
  try {
    impl->thread = std::thread([raw = impl.get()] { raw->Run(); });
  } catch (const std::system_error&) {
    return Status::Exhausted((std::string("cannot start a thread for the donor") + kThreadLimits).c_str());
  }
  return std::unique_ptr<DonorServer>(new DonorServer(std::move(impl)));
}

void LogToStderr(const std::string& line) { std::fprintf(stderr, "farpool: donor: %s\n", line.c_str()); }

DonorServer::DonorServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

// Slabs are dropped, not discarded: a client that mapped its own keeps it readable and can move its pages.
DonorServer::~DonorServer() {
  impl_->stopping.store(true, std::memory_order_release);
  impl_->Wake();
  impl_->thread.join();
}

uint16_t DonorServer::tcp_port() const { return impl_->tcp_port; }
uint16_t DonorServer::rdma_port() const { return impl_->rdma_port; }

DonorServer::Stats DonorServer::GetStats() const {
  const DonorCounters& c = impl_->counters;
  return {.memory_bytes = impl_->options.memory_bytes,
          .leased_bytes = impl_->table.leased_bytes(),
          .sessions = impl_->table.sessions(),
          .connections = impl_->connected.load(std::memory_order_relaxed),
          .reads = c.reads.load(std::memory_order_relaxed),
          .writes = c.writes.load(std::memory_order_relaxed),
          .bytes_in = c.bytes_in.load(std::memory_order_relaxed),
          .bytes_out = c.bytes_out.load(std::memory_order_relaxed)};
}

}  // namespace farpool
