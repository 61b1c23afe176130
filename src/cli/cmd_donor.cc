// farpool donor: flags to DonorOptions, then waits for a signal to end. What comes to stdout is for
// scripts: a line per endpoint, "ready" once all of them accept, and totals at the end. State changes go to
// stderr.

#include <fmt/format.h>
#include <signal.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>

#include <cstdio>
#include <memory>
#include <utility>

#include "base/raise_limit.h"
#include "base/size_text.h"
#include "cli/commands.h"
#include "cli/host_memory.h"
#include "donor/server.h"
#include "wire/wire.h"

namespace farpool {

namespace {

// How often the donor's state is looked at for the log.
constexpr timespec kWatchInterval = {1, 0};

struct DonorFlags {
  DonorOptions options;
  bool listen_given = false;
};

void SetListen(const std::string& text, DonorFlags* flags) {
  const Result<PoolEntry> entry = ParsePoolEntry(text, /*listening=*/true);
  if (!entry.ok()) throw CLI::ValidationError("--listen", entry.status().text());
  if (entry.value().scheme != PoolEntry::Scheme::kTcp)
    throw CLI::ValidationError("--listen", "only tcp://ADDR:PORT is served; --unix PATH takes a socket");
  flags->options.tcp_host = entry.value().host;
  flags->options.tcp_port = entry.value().port;
  flags->listen_given = true;
}

void SetRdma(const std::string& text, DonorFlags* flags) {
  const Result<PoolEntry> entry =
      ParsePoolEntry(text.starts_with("rdma://") ? text : "rdma://" + text, /*listening=*/true);
  if (!entry.ok()) throw CLI::ValidationError("--rdma", entry.status().text());
  flags->options.rdma_host = entry.value().host;
  flags->options.rdma_port = entry.value().port;
}

void SetSlab(const std::string& text, DonorFlags* flags) {
  const Result<uint64_t> size = ParseSize(text);
  if (!size.ok()) throw CLI::ValidationError("--slab", size.status().text());
  const uint64_t bytes = size.value();
  if (bytes < (1u << 20) || bytes > (1u << 30) || (bytes & (bytes - 1)) != 0)
    throw CLI::ValidationError("--slab", "must be a power of two from 1M to 1G");
  flags->options.slab_bytes = bytes;
}

// Fills in what was not given and refuses what this host cannot do.
Status Complete(DonorFlags* flags) {
  DonorOptions& o = flags->options;
  if (!flags->listen_given && o.unix_path.empty() && o.rdma_host.empty()) {
    o.tcp_host = "127.0.0.1";
    o.tcp_port = kDefaultPort;
  }
  const HostMemory host = ReadHostMemory();
  uint64_t most = host.total_bytes;
  if (host.cgroup_limit_bytes != 0 && host.cgroup_limit_bytes < most) most = host.cgroup_limit_bytes;
  if (o.memory_bytes == 0) {
    o.memory_bytes = host.available_bytes / 2 / o.slab_bytes * o.slab_bytes;
    if (o.memory_bytes == 0)
      return Status::InvalidArgument(
          fmt::format(
              "half of what is available here ({}) does not hold one slab; give --memory or a smaller "
              "--slab",
              FormatSize(host.available_bytes))
              .c_str());
  }
  if (most != 0 && o.memory_bytes > most)
    return Status::InvalidArgument(fmt::format("--memory {} is more than this host has ({}); lend less",
                                               FormatSize(o.memory_bytes), FormatSize(most))
                                       .c_str());
  if (o.memory_bytes < o.slab_bytes)
    return Status::InvalidArgument(fmt::format("--memory {} does not hold one slab of {}; lend more or use a "
                                               "smaller --slab",
                                               FormatSize(o.memory_bytes), FormatSize(o.slab_bytes))
                                       .c_str());
  if (o.quota_bytes != 0 && o.quota_bytes < o.slab_bytes)
    return Status::InvalidArgument(fmt::format("--quota {} does not hold one slab of {}; allow more or use a "
                                               "smaller --slab",
                                               FormatSize(o.quota_bytes), FormatSize(o.slab_bytes))
                                       .c_str());
  for (const auto& [flag, bytes] :
       {std::pair("--memory", &o.memory_bytes), std::pair("--quota", &o.quota_bytes)}) {
    const uint64_t whole = *bytes / o.slab_bytes * o.slab_bytes;
    if (whole != *bytes)
      spdlog::warn("{} {} is no whole number of slabs of {}: it is {}; a smaller --slab leaves less over",
                   flag, FormatSize(*bytes), FormatSize(o.slab_bytes), FormatSize(whole));
    *bytes = whole;
  }
  return Status::Ok();
}

void LogChanges(const DonorServer::Stats& before, const DonorServer::Stats& now) {
  if (before.sessions == now.sessions && before.leased_bytes == now.leased_bytes) return;
  spdlog::info("{} {}, {} of {} leased", now.sessions, now.sessions == 1 ? "session" : "sessions",
               FormatSize(now.leased_bytes), FormatSize(now.memory_bytes));
}

int RunDonor(DonorFlags* flags) {
  auto log = spdlog::stderr_logger_mt("farpool");
  log->set_pattern("farpool: %Y-%m-%d %H:%M:%S.%e %l %v");
  spdlog::set_default_logger(log);
  const Status complete = Complete(flags);
  if (!complete.ok()) return Refuse(complete.text(), kExitUsage);
  const DonorOptions& o = flags->options;

  RaiseLimit(RLIMIT_NOFILE);   // Each slab lent over a unix socket is a descriptor of its own.
  RaiseLimit(RLIMIT_MEMLOCK);  // Memory lent by RDMA is locked.
  // Blocked before the server starts its threads, so that only sigtimedwait below ever sees them.
  sigset_t ends;
  sigemptyset(&ends);
  sigaddset(&ends, SIGTERM);
  sigaddset(&ends, SIGINT);
  sigaddset(&ends, SIGQUIT);
  // A terminal that is closed; under nohup it is ignored, and blocking it would undo that.
  struct sigaction hangup = {};
  sigaction(SIGHUP, nullptr, &hangup);
  if (hangup.sa_handler != SIG_IGN) sigaddset(&ends, SIGHUP);
  pthread_sigmask(SIG_BLOCK, &ends, nullptr);
  signal(SIGPIPE, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN);  // A slab larger than `ulimit -f` is an error that the client is told.

  Result<std::unique_ptr<DonorServer>> started = DonorServer::Start(o);
  if (!started.ok()) return Refuse(started.status().text());
  std::unique_ptr<DonorServer> server = std::move(started).value();

  const std::string lending =
      fmt::format(", lending {} in {} slabs\n", FormatSize(o.memory_bytes), FormatSize(o.slab_bytes));
  if (!o.tcp_host.empty()) {
    const PoolEntry bound = {PoolEntry::Scheme::kTcp, o.tcp_host, server->tcp_port(), ""};
    std::fputs(("listening on " + bound.ToString() + lending).c_str(), stdout);
  }
  if (!o.rdma_host.empty()) {
    const PoolEntry bound = {PoolEntry::Scheme::kRdma, o.rdma_host, server->rdma_port(), ""};
    std::fputs(("listening on " + bound.ToString() + lending).c_str(), stdout);
  }
  if (!o.unix_path.empty()) std::fputs(("listening on unix://" + o.unix_path + lending).c_str(), stdout);
  std::fputs("ready\n", stdout);
  std::fflush(stdout);

  DonorServer::Stats before = server->GetStats();
  int ended_by = -1;
  do {
    ended_by = sigtimedwait(&ends, nullptr, &kWatchInterval);
    const DonorServer::Stats now = server->GetStats();
    LogChanges(before, now);
    before = now;
  } while (ended_by < 0);
  spdlog::info("ending on SIG{}", sigabbrev_np(ended_by));
  server.reset();
  std::fputs(fmt::format("served {} reads ({} sent) and {} writes ({} received)\n", before.reads,
                         FormatSize(before.bytes_out), before.writes, FormatSize(before.bytes_in))
                 .c_str(),
             stdout);
  std::fflush(stdout);
  return 0;
}

}  // namespace

Command AddDonor(CLI::App& root) {
  auto flags = std::make_shared<DonorFlags>();
  DonorFlags* const f = flags.get();
  CLI::App* app = root.add_subcommand("donor", "Lend memory of this host");
  app->add_option_function<std::string>(
         "--listen", [f](const std::string& text) { SetListen(text, f); },
         "Serve TCP here; port 0 takes any free one (default, alone: tcp://127.0.0.1:7171)")
      ->type_name("tcp://ADDR:PORT");
  app->add_option_function<std::string>(
         "--rdma", [f](const std::string& text) { SetRdma(text, f); },
         "Serve RDMA by the device that has this address (RoCE v2); the TCP port is for agreeing on it")
      ->type_name("ADDR:PORT");
  app->add_option_function<std::string>(
         "--unix",
         [f](const std::string& text) {
           const Result<PoolEntry> entry =
               ParsePoolEntry(text.starts_with("unix://") ? text : "unix://" + text);
           if (!entry.ok()) throw CLI::ValidationError("--unix", entry.status().text());
           f->options.unix_path = entry.value().path;
         },
         "Serve clients on this host by shared memory, through this socket; @NAME makes one without a file")
      ->type_name("PATH");
  AddSize(app, "--memory", &f->options.memory_bytes,
          "Lend at most this, in whole slabs (default: half of what is available)");
  app->add_option("--rack", f->options.rack, "Label told to clients: who is near whom")
      ->type_name("NAME")
      ->check([](const std::string& name) -> std::string {
        if (name.size() <= wire::kMaxRackBytes) return "";
        return fmt::format("the name is longer than {} bytes", wire::kMaxRackBytes);
      });
  app->add_option_function<std::string>(
         "--slab", [f](const std::string& text) { SetSlab(text, f); },
         "Unit of lease: a power of two from 1M to 1G (default: 64M)")
      ->type_name("SIZE");
  AddSize(app, "--quota", &f->options.quota_bytes, "Most that one client may hold (default: all)");
  app->add_flag(
      "--allow-anyone", f->options.allow_anyone,
      "Listen on addresses other than loopback, and serve other users through --unix: whoever reaches it "
      "may use the memory");
  app->footer(
      "SIZE is bytes, or a number with K, M, G or T (powers of 1024).\n"
      "Prints a line per endpoint and then \"ready\". SIGTERM, SIGINT, SIGQUIT or SIGHUP ends it with\n"
      "exit status 0.\n"
      "\n"
      "Examples:\n"
      "  farpool donor --memory 8G\n"
      "  farpool donor --listen tcp://10.0.0.2:7171 --allow-anyone --memory 64G --quota 16G --rack r1\n"
      "  farpool donor --rdma 10.0.0.2:7172 --allow-anyone --memory 64G\n"
      "  farpool donor --unix /run/farpool.sock --memory 4G");
  return {app, [flags] { return RunDonor(flags.get()); }};
}

}  // namespace farpool
