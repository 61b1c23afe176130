// Which configs and cases each bench has, and how each is run. All of them run the same worker; runs of the
// configs are interleaved, so that a machine that gets slower does not favour whoever came first.

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "bench/bench.h"
#include "bench/process.h"
#include "bench/results.h"
#include "bench/zram.h"

namespace bench {

namespace {

constexpr uint64_t kMiB = 1u << 20;
constexpr unsigned kSecondsMax = 600;  // One run of the worker.
// Kernels kill now and then in a control group that had swap left: reclaim that finds every page just touched
// gives up. What that run measured is lost, and it is made again, this often in all.
constexpr unsigned kKilledMax = 3;

struct Case {
  std::string name;  // random-read, update, ...
  std::string mode;  // The worker's.
};

struct Plan {
  std::string name;
  uint64_t limit_bytes;
  uint64_t array_bytes;
  uint64_t amount;  // Touches or rounds.
  unsigned runs;
  std::vector<Case> cases;
};

Plan PlanFor(const std::string& name, bool quick) {
  const uint64_t limit = (quick ? 64 : 256) * kMiB;
  const unsigned runs = quick ? 1 : 5;
  // Half local for single faults; a quarter for scans, where keeping a part of the loop already pays.
  if (name == "faults")
    return {name,      limit,
            2 * limit, quick ? 100'000u : 400'000u,
            runs,      {{"random-read", "faults-read"}, {"random-write", "faults-write"}}};
  return {name, limit, 4 * limit, quick ? 2u : 3u, runs, {{"read", "scan-read"}, {"update", "scan-update"}}};
}

class TemporaryFolder {
 public:
  TemporaryFolder() {
    const char* const base = getenv("TMPDIR");
    path_ = std::string(base != nullptr && *base != 0 ? base : "/tmp") + "/farpool-bench.XXXXXX";
    if (mkdtemp(path_.data()) == nullptr) path_.clear();
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// How one config starts the worker. Empty pool and no zram: as an ordinary program.
struct Config {
  std::string name;
  std::string pool;
  ZramSwap* zram = nullptr;
};

class Driver {
 public:
  Driver(const Options& options, const Plan& plan) : options_(options), plan_(plan), results_(plan.name) {}

  Status Run() {
    std::error_code error;
    farpool_ = std::filesystem::read_symlink("/proc/self/exe", error).string();
    worker_ = (std::filesystem::path(farpool_).parent_path() / "../libexec/farpool-bench-worker")
                  .lexically_normal();
    if (access(worker_.c_str(), X_OK) != 0)
      return Status(Status::Code::kNotFound,
                    (worker_ + " is missing; build or install farpool with its bench").c_str());
    if (folder_.path().empty()) return Status::FromErrno("mkdtemp", errno);
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
  const Results& results() const { return results_; }

 private:
  void Progress(unsigned run, const std::string& text) const {
    fmt::print(stderr, "bench {} run {}/{}: {}\n", plan_.name, run + 1, plan_.runs, text);
  }

  Result<std::unique_ptr<Donor>> StartDonor(std::vector<std::string> flags) const {
    // Everything may be away at once, and slabs are leased whole.
    const uint64_t lent = plan_.array_bytes + plan_.array_bytes / 4 + 256 * kMiB;
    flags.insert(flags.end(), {"--memory", std::to_string(lent)});
    return Donor::Start(farpool_, flags, folder_.path() + "/donors.log");
  }

  Status StartDonors() {
    if (!options_.pool.empty()) {
      const bool tcp = options_.pool.find("tcp://") != std::string::npos;
      const bool near = options_.pool.find("unix://") != std::string::npos;
      configs_.push_back({tcp && near ? "farpool-pool" : tcp ? "farpool-tcp" : "farpool-shm", options_.pool});
      return Status::Ok();
    }
    auto shm = StartDonor({"--unix", folder_.path() + "/donor.sock"});
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
    auto zram = ZramSwap::Create(plan_.array_bytes + plan_.array_bytes / 4, plan_.limit_bytes);
    if (!zram.ok()) {
      fmt::print(stderr, "bench {}: zram is left out: {}\n", plan_.name, zram.status().text());
      results_.Skip("zram", zram.status().text());
      return;
    }
    zram_ = std::move(zram).value();
    configs_.push_back({"zram", "", zram_.get()});
  }

  Status RunLimits(unsigned run) {
    const std::string count = options_.quick ? "50000" : "200000";
    for (const std::string config : {"floor", "raw-tcp"}) {
      const auto text = RunForOutput({worker_, config, count}, kSecondsMax);
      if (!text.ok()) return text.status();
      if (const Status s = Record(config, "page", text.value()); !s.ok()) return s;
      Progress(run, config + ": " + text.value().substr(0, text.value().find('\n')));
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
    std::vector<std::string> argv;
    const std::string report = folder_.path() + "/report.json";
    if (!config.pool.empty())
      argv = {farpool_,        "run",  "--local", std::to_string(plan_.limit_bytes), "--pool", config.pool,
              "--report-json", report, "--"};
    argv.insert(argv.end(), {worker_, c.mode, std::to_string(plan_.array_bytes), std::to_string(plan_.amount),
                             std::to_string(run + 1)});
    const uint64_t before = config.zram != nullptr ? config.zram->bytes_moved() : 0;
    const auto text =
        RunForOutput(argv, kSecondsMax, config.zram != nullptr ? config.zram->cgroup_procs() : "");
    if (!text.ok())
      return Status(text.status().code(), (config.name + " " + c.name + ": " + text.status().text()).c_str());
    if (const Status s = Record(config.name, c.name, text.value()); !s.ok()) return s;
    uint64_t moved = 0;
    if (config.zram != nullptr) {
      moved = config.zram->bytes_moved() - before;
    } else {
      std::ifstream file(report);
      const auto json = nlohmann::json::parse(file, nullptr, false);
      if (!json.is_object() || !json.contains("bytes_in") || !json.contains("bytes_out"))
        return Status::Corrupt("farpool run wrote no report");
      moved = json["bytes_in"].get<uint64_t>() + json["bytes_out"].get<uint64_t>();
    }
    // Of the whole program: fill, warm-up, measurement and the check at the end.
    results_.Add(config.name, c.name, "moved", "MiB", static_cast<double>(moved) / static_cast<double>(kMiB));
    if (moved == 0) return Status::Corrupt((config.name + " " + c.name + " moved nothing").c_str());
    Progress(run, config.name + " " + c.name + ": " + text.value().substr(0, text.value().find('\n')));
    return Status::Ok();
  }

  Status Record(const std::string& config, const std::string& what, const std::string& text) {
    const auto json = nlohmann::json::parse(text, nullptr, false);
    if (!json.is_object()) return Status::Corrupt((config + " " + what + " printed no result").c_str());
    for (const auto& [metric, unit] : {std::pair{"p50", "us"},
                                       {"p99", "us"},
                                       {"mean", "us"},
                                       {"rate", "faults/s"},
                                       {"throughput", "GB/s"}})
      if (json.contains(metric)) results_.Add(config, what, metric, unit, json[metric].get<double>());
    return Status::Ok();
  }

  const Options& options_;
  const Plan plan_;
  Results results_;
  std::string farpool_;
  std::string worker_;
  TemporaryFolder folder_;
  std::vector<std::unique_ptr<Donor>> donors_;
  std::unique_ptr<ZramSwap> zram_;
  unsigned zram_killed_ = 0;
  std::vector<Config> configs_;
};

std::string WriteFile(const std::string& path, const std::string& text) {
  std::ofstream file(path);
  file << text;
  file.close();
  return file.good() ? "" : path + " could not be written";
}

}  // namespace

bool IsBench(const std::string& name) { return name == "faults" || name == "scan"; }

std::string Run(const Options& options) {
  const InterruptGuard guard;
  std::vector<Results> all;
  for (const std::string& name : options.names) {
    Driver driver(options, PlanFor(name, options.quick));
    if (const Status s = driver.Run(); !s.ok()) return "bench " + name + ": " + s.text();
    all.push_back(driver.results());
    fmt::print("{}", all.back().Table());
    std::fflush(stdout);
  }
  if (!options.json_path.empty()) {
    std::string text = all.size() == 1 ? all[0].Json() : "[\n";
    if (all.size() > 1) {
      for (size_t i = 0; i < all.size(); ++i) text += (i == 0 ? "" : ",\n") + all[i].Json();
      text += "]\n";
    }
    if (std::string error = WriteFile(options.json_path, text); !error.empty()) return error;
  }
  return options.html_path.empty() ? "" : WriteFile(options.html_path, HtmlPage(all));
}

}  // namespace bench
