// The benches of pages, faults and scan: their configs and cases. All of them run the same worker; runs of
// the configs are interleaved, so that a machine that gets slower does not favour whoever came first.

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "bench/benches.h"
#include "bench/kernel_swap.h"
#include "bench/process.h"
#include "bench/setup.h"

namespace bench {

namespace {

constexpr uint64_t kMiB = 1u << 20;
constexpr unsigned kSecondsMax = 600;  // One run of the worker.
// Should the kernel still kill in a control group that had swap left (see MemoryGroup::stat), what that run
// measured is lost, and it is made again, this often in all.
constexpr unsigned kKilledMax = 3;

struct Case {
  std::string name;      // random-read, update, ...
  std::string mode;      // The worker's.
  unsigned threads = 0;  // Of it, where not 0.
};

struct Plan {
  std::string name;
  uint64_t limit_bytes;
  uint64_t array_bytes;
  uint64_t amount;  // Touches or rounds.
  unsigned runs;
  std::vector<Case> cases;
};

Plan PlanFor(const std::string& name, const Options& options) {
  const bool once = options.quick || options.smoke;
  const uint64_t limit = (options.smoke ? 8 : options.quick ? 64 : 256) * kMiB;
  const unsigned runs = once ? 1 : 5;
  const unsigned touches = options.smoke ? 5'000 : options.quick ? 100'000 : 400'000;
  // Half local for single faults; a quarter for scans, where keeping a part of the loop already pays.
  if (name == "faults")
    return {name,
            limit,
            2 * limit,
            touches,
            runs,
            {{"random-read", "faults-read"},
             {"random-write", "faults-write"},
             {"random-read-2", "faults-read", 2}}};
  return {name, limit, 4 * limit, once ? 2u : 3u, runs, {{"read", "scan-read"}, {"update", "scan-update"}}};
}

// How one config starts the worker. Empty pool and no zram: as an ordinary program.
struct Config {
  std::string name;
  std::string pool;
  SwapSpace* zram = nullptr;
};

// The worker's line without its long part.
std::string Brief(const std::string& text) {
  return text.substr(0, std::min(text.find('\n'), text.find(", \"quantiles\"")));
}

class Driver {
 public:
  Driver(const Options& options, const Plan& plan, Results* results)
      : options_(options), plan_(plan), results_(*results) {}

  Status Run() {
    if (const Status s = setup_.Init(); !s.ok()) return s;
    if (const Status s = StartDonors(); !s.ok()) return s;
    StartZram();
    for (unsigned run = 0; run < plan_.runs; ++run) {
      if (plan_.name == "faults")
        if (const Status s = RunLimits(run); !s.ok()) return s;
      for (const Config& config : configs_)
        for (const Case& c : plan_.cases)
          if (const Status s = RunUnlessKilled(config, c, run); !s.ok()) return s;
    }
    return Status::Ok();
  }

 private:
  void Progress(unsigned run, const std::string& text) const {
    fmt::print(stderr, "bench {} run {}/{}: {}\n", plan_.name, run + 1, plan_.runs, text);
  }

  Result<std::unique_ptr<Donor>> StartDonor(const std::vector<std::string>& flags) const {
    // Everything may be away at once, and slabs are leased whole.
    return setup_.StartDonor(flags, plan_.array_bytes + plan_.array_bytes / 4 + 256 * kMiB);
  }

  Status StartDonors() {
    if (!options_.pool.empty()) {
      configs_.push_back({Setup::PoolConfig(options_.pool), options_.pool});
      return Status::Ok();
    }
    auto shm = StartDonor({"--unix", setup_.folder() + "/donor.sock"});
    if (!shm.ok()) return shm.status();
    configs_.push_back({"farpool-shm", shm.value()->endpoint()});
    donors_.push_back(std::move(shm).value());
    std::string both;
    for (const std::string name : {"farpool-tcp", "farpool-tcp-2"}) {
      auto tcp = StartDonor({"--listen", "tcp://127.0.0.1:0"});
      if (!tcp.ok()) return tcp.status();
      both += (both.empty() ? "" : ",") + tcp.value()->endpoint();
      configs_.push_back({name, both});
      donors_.push_back(std::move(tcp).value());
    }
    return Status::Ok();
  }

  void StartZram() {
    auto zram = SwapSpace::Zram(plan_.array_bytes + plan_.array_bytes / 4);
    Status s = zram.status();
    if (s.ok()) s = zram.value()->On();
    if (s.ok()) s = MemoryGroup::Create(plan_.limit_bytes).status();  // Tried here, so that it is said early.
    if (!s.ok()) {
      fmt::print(stderr, "bench {}: zram is left out: {}\n", plan_.name, s.text());
      results_.Skip("zram", s.text());
      return;
    }
    zram_ = std::move(zram).value();
    configs_.push_back({"zram", "", zram_.get()});
  }

  Status RunLimits(unsigned run) {
    const std::string count = std::to_string(plan_.amount / 2);
    for (const std::string config : {"floor", "raw-tcp"}) {
      const auto text = RunToEnd({.argv = {setup_.worker(), config, count}, .seconds_max = kSecondsMax});
      if (!text.ok()) return text.status();
      if (const Status s = Record(config, "page", text.value().output); !s.ok()) return s;
      Progress(run, config + ": " + Brief(text.value().output));
    }
    return Status::Ok();
  }

  // RunCase(), but a run of zram that the kernel kills is made again, and in the end left out with a word.
  Status RunUnlessKilled(const Config& config, const Case& c, unsigned run) {
    for (;;) {
      if (config.zram != nullptr && zram_killed_ == kKilledMax) return Status::Ok();
      const Status s = RunCase(config, c, run);
      if (config.zram == nullptr || s.code() != Status::Code::kExhausted) return s;
      const std::string reason = c.name + ": the kernel killed the program for want of memory";
      Progress(run, "zram " + reason);
      if (++zram_killed_ == kKilledMax) results_.Skip("zram", reason + "; the runs after that are left out");
    }
  }

  Status RunCase(const Config& config, const Case& c, unsigned run) {
    std::vector<std::string> worker = {setup_.worker(), c.mode, std::to_string(plan_.array_bytes),
                                       std::to_string(plan_.amount), std::to_string(run + 1)};
    if (c.threads != 0) worker.push_back(std::to_string(c.threads));
    Command command = {.argv = worker, .seconds_max = kSecondsMax};
    std::unique_ptr<MemoryGroup> group;
    uint64_t moved = 0;
    if (config.zram != nullptr) {
      auto created = MemoryGroup::Create(plan_.limit_bytes);
      if (!created.ok()) return created.status();
      group = std::move(created).value();
      command.cgroup_procs = group->procs();
      command.cgroup_stat = group->stat();
      moved = config.zram->bytes_moved();
    } else {
      command.argv = setup_.Far(config.pool, plan_.limit_bytes, worker);
    }
    const std::string of = config.name + " " + c.name;
    const auto failed = [&of](const Status& s) { return Status(s.code(), (of + ": " + s.text()).c_str()); };
    const auto outcome = RunToEnd(command);
    if (!outcome.ok()) return failed(outcome.status());
    if (config.zram != nullptr) {
      moved = config.zram->bytes_moved() - moved;
    } else {
      const auto far = setup_.BytesMoved();
      if (!far.ok()) return failed(far.status());
      moved = far.value();
    }
    if (moved == 0) return Status::Corrupt((of + " moved nothing").c_str());
    const std::string& text = outcome.value().output;
    if (const Status s = Record(config.name, c.name, text); !s.ok()) return s;
    // Of the whole program: fill, warm-up, measurement and the check at the end.
    results_.Add(config.name, c.name, "moved", "MiB", static_cast<double>(moved) / static_cast<double>(kMiB));
    Progress(run, of + ": " + Brief(text));
    return Status::Ok();
  }

  Status Record(const std::string& config, const std::string& what, const std::string& text) {
    const auto json = nlohmann::json::parse(text, nullptr, false);
    if (!json.is_object()) return Status::Corrupt((config + " " + what + " printed no result").c_str());
    for (const auto& [metric, unit] : {std::pair{"p50", "us"},
                                       {"p99", "us"},
                                       {"mean", "us"},
                                       {"rate", "faults/s"},
                                       {"touches", "touches/s"},
                                       {"throughput", "GB/s"}})
      if (json.contains(metric)) results_.Add(config, what, metric, unit, json[metric].get<double>());
    for (const auto& point : json.value("quantiles", nlohmann::json::array()))
      results_.AddQuantile(config, what, "us", point[0].get<double>(), point[1].get<double>());
    return Status::Ok();
  }

  const Options& options_;
  const Plan plan_;
  Results& results_;
  Setup setup_;
  std::vector<std::unique_ptr<Donor>> donors_;
  std::unique_ptr<SwapSpace> zram_;
  unsigned zram_killed_ = 0;
  std::vector<Config> configs_;
};

}  // namespace

Status RunFaultsOrScan(const Options& options, Results* results) {
  return Driver(options, PlanFor(results->name(), options), results).Run();
}

}  // namespace bench
