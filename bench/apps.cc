// `farpool bench apps`: whole programs, timed from their start to their end, at shares of the memory they use
// when they have all they want. All configs of a program and share run one after the other, so that a machine
// that gets slower does not favour whoever came first.

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

#include "bench/benches.h"
#include "bench/kernel_swap.h"
#include "bench/setup.h"

namespace bench {

namespace {

constexpr uint64_t kMiB = 1u << 20;
// Should the kernel still kill in a control group that had swap left (see MemoryGroup::stat), what that run
// measured is lost, and it is made again, this often in all.
constexpr unsigned kKilledMax = 3;

struct App {
  std::string name;
  std::vector<std::string> words;  // "%" at the start of the first: one of ours.
  std::vector<std::string> smoke;  // Its arguments for --smoke.
};

// Sized for one to three seconds with all the memory they want.
const std::vector<App>& Apps() {
  static const std::vector<App> apps = {
      {"kmeans", {"%kmeans", "4096", "8", "8"}, {"512", "8", "2"}},
      {"quicksort", {"%quicksort", "24"}, {"3"}},
      {"linpack", {"%linpack", "5000"}, {"1800"}},
      {"mbw", {"%mbw", "192", "10"}, {"16", "2"}},
      {"stream", {"%stream", "128", "10"}, {"12", "2"}},
      {"nn", {"/usr/bin/python3", "%nn.py", "1024", "2048", "2"}, {"%nn.py", "256", "1024", "1"}},
      {"redis", {"%kv", "redis", "160", "1000", "256"}, {"redis", "24", "1000", "16"}},
      {"memcached", {"%kv", "memcached", "160", "1000", "256"}, {"memcached", "24", "1000", "16"}},
      {"sqlite",
       {"sqlite3", "-batch", "-cmd", "create temp table size as select 700000 as wanted",
        ":memory:", ".read %sqlite.sql"},
       {"-batch", "-cmd", "create temp table size as select 200000 as wanted",
        ":memory:", ".read %sqlite.sql"}},
      {"graph", {"%graph", "20", "24", "4"}, {"17", "24", "1"}},
  };
  return apps;
}

const std::vector<std::string> kConfigs = {"unlimited",     "farpool-shm", "farpool-tcp",
                                           "farpool-tcp-2", "zram",        "disk"};

struct Plan {
  std::vector<unsigned> shares;
  unsigned runs;
  unsigned seconds_max;
  uint64_t swap_bytes;
};

Plan PlanFor(const Options& options) {
  Plan plan = {{90, 75, 50, 25}, 3, 120, 2048 * kMiB};
  if (options.quick) plan = {{50}, 1, 30, 1024 * kMiB};
  if (options.smoke) plan = {{50}, 1, 40, 256 * kMiB};
  if (!options.shares.empty()) plan.shares = options.shares;
  return plan;
}

// "%name" in a word is the path of one of our programs.
std::vector<std::string> CommandOf(const App& app, bool smoke, const Setup& setup) {
  std::vector<std::string> words = app.words;
  if (smoke) {
    words = {app.words[0]};
    words.insert(words.end(), app.smoke.begin(), app.smoke.end());
  }
  for (std::string& word : words)
    if (const size_t at = word.find('%'); at != std::string::npos)
      word = word.substr(0, at) + setup.app(word.substr(at + 1));
  return words;
}

class AppsBench {
 public:
  AppsBench(const Options& options, Results* results)
      : options_(options), plan_(PlanFor(options)), results_(results) {}

  Status Run() {
    if (const Status s = setup_.Init(); !s.ok()) return s;
    if (const Status s = StartDonors(); !s.ok()) return s;
    StartSwap("zram", &zram_);
    StartSwap("disk", &disk_);
    for (const auto& [config, pool] : pools_)
      if (!options_.pool.empty() || Wanted(options_.configs, config)) configs_.push_back(config);
    if (zram_ != nullptr) configs_.emplace_back("zram");
    if (disk_ != nullptr) configs_.emplace_back("disk");
    for (const App& app : Apps()) {
      if (!Wanted(options_.apps, app.name)) continue;
      program_ = CommandOf(app, options_.smoke, setup_);
      if (const Status s = RunApp(app.name); !s.ok()) return s;
    }
    return Status::Ok();
  }

 private:
  static bool Wanted(const std::vector<std::string>& list, const std::string& name) {
    return list.empty() || std::find(list.begin(), list.end(), name) != list.end();
  }
  void Progress(const std::string& text) const { fmt::print(stderr, "bench apps: {}\n", text); }

  Status StartDonors() {
    const uint64_t bytes = plan_.swap_bytes + 256 * kMiB;
    if (!options_.pool.empty()) {
      pools_ = {{Setup::PoolConfig(options_.pool), options_.pool}};
      return Status::Ok();
    }
    std::string both;
    for (const std::string name : {"farpool-shm", "farpool-tcp", "farpool-tcp-2"}) {
      const bool shm = name == "farpool-shm";
      auto donor = setup_.StartDonor(shm ? std::vector<std::string>{"--unix", setup_.folder() + "/donor.sock"}
                                         : std::vector<std::string>{"--listen", "tcp://127.0.0.1:0"},
                                     bytes);
      if (!donor.ok()) return donor.status();
      if (!shm) both += (both.empty() ? "" : ",") + donor.value()->endpoint();
      pools_.emplace_back(name, shm ? donor.value()->endpoint() : both);
      donors_.push_back(std::move(donor).value());
    }
    return Status::Ok();
  }

  void StartSwap(const std::string& config, std::unique_ptr<SwapSpace>* space) {
    if (!Wanted(options_.configs, config)) return;
    auto made = config == "zram" ? SwapSpace::Zram(plan_.swap_bytes)
                                 : SwapSpace::File(setup_.folder() + "/swap", plan_.swap_bytes);
    Status s = made.status();
    if (s.ok()) s = MemoryGroup::Create(plan_.swap_bytes).status();  // Tried here, so that it is said early.
    if (s.ok()) {
      s = made.value()->On();
      made.value()->Off();
    }
    if (s.ok()) {
      *space = std::move(made).value();
      return;
    }
    Progress(config + " is left out: " + s.text());
    results_->Skip(config, s.text());
  }

  // The first run, not timed, brings its files into memory and says what it prints and how much it uses.
  Status RunApp(const std::string& app) {
    const auto first =
        RunToEnd({.argv = program_, .seconds_max = plan_.seconds_max, .watch_footprint = true});
    if (first.status().code() == Status::Code::kNotFound) {
      Progress(app + " is not installed");
      results_->Skip(app, "not installed");
      return Status::Ok();
    }
    if (!first.ok()) return Status(first.status().code(), (app + ": " + first.status().text()).c_str());
    expected_ = first.value().output;
    footprint_ = first.value().anonymous_peak;
    for (unsigned run = 0; run < plan_.runs; ++run) {
      const auto unlimited = RunToEnd({.argv = program_, .seconds_max = plan_.seconds_max});
      if (!unlimited.ok())
        return Status(unlimited.status().code(), (app + ": " + unlimited.status().text()).c_str());
      if (unlimited.value().output != expected_)
        return Status::Corrupt((app + " never prints the same twice").c_str());
      Progress(fmt::format("{} run {}/{}: unlimited {:.2f} s, {} MiB", app, run + 1, plan_.runs,
                           unlimited.value().seconds, footprint_ / kMiB));
      for (const unsigned share : plan_.shares) {
        const std::string what = fmt::format("{}@{}", app, share);
        if (run == 0)
          results_->Add("unlimited", what, "footprint", "MiB", static_cast<double>(footprint_) / kMiB);
        results_->Add("unlimited", what, "time", "s", unlimited.value().seconds);
        for (const std::string& config : configs_)
          if (const Status s = RunCell(config, what, share); !s.ok()) return s;
      }
    }
    return Status::Ok();
  }

  Status RunCell(const std::string& config, const std::string& what, unsigned share) {
    const uint64_t limit = footprint_ * share / 100;
    Command command = {.argv = program_, .seconds_max = plan_.seconds_max};
    SwapSpace* const space = config == "zram" ? zram_.get() : config == "disk" ? disk_.get() : nullptr;
    const auto pool =
        std::find_if(pools_.begin(), pools_.end(), [&](const auto& p) { return p.first == config; });
    if (pool != pools_.end()) command.argv = setup_.Far(pool->second, limit, program_);
    // Once is enough to know that it takes too long.
    if (const Series* const before = results_->Find(config, what, "time");
        before != nullptr && before->at_least)
      return Status::Ok();
    for (unsigned tries = 0; tries < kKilledMax; ++tries) {
      const Status s = RunOnce(config, what, command, limit, space);
      if (s.code() == Status::Code::kTimeout) {
        results_->AddAtLeast(config, what, "time", "s", plan_.seconds_max);
        Progress(fmt::format("  {} {}: more than {} s", what, config, plan_.seconds_max));
        return Status::Ok();
      }
      if (s.code() != Status::Code::kExhausted || space == nullptr) return s;
      Progress(fmt::format("  {} {}: the kernel killed the program for want of memory", what, config));
    }
    results_->Skip(config + " " + what, "the kernel killed the program for want of memory");
    return Status::Ok();
  }

  Status RunOnce(const std::string& config, const std::string& what, Command command, uint64_t limit,
                 SwapSpace* space) {
    std::unique_ptr<MemoryGroup> group;
    uint64_t moved = 0;
    if (space != nullptr) {
      auto made = MemoryGroup::Create(limit);
      if (!made.ok()) return made.status();
      group = std::move(made).value();
      command.cgroup_procs = group->procs();
      command.cgroup_stat = group->stat();
      if (const Status s = space->On(); !s.ok()) return s;
      moved = space->bytes_moved();
    }
    const auto outcome = RunToEnd(command);
    if (space != nullptr) {
      moved = space->bytes_moved() - moved;
      group.reset();  // Who was ended has left its pages in the swap space until it is gone.
      space->Off();
    } else if (outcome.ok()) {
      const auto far = setup_.BytesMoved();
      if (!far.ok()) return far.status();
      moved = far.value();
    }
    if (!outcome.ok())
      return Status(outcome.status().code(), (what + " " + config + ": " + outcome.status().text()).c_str());
    if (outcome.value().output != expected_)
      return Status::Corrupt((what + " " + config + ": the program printed something else").c_str());
    results_->Add(config, what, "time", "s", outcome.value().seconds);
    results_->Add(config, what, "moved", "MiB", static_cast<double>(moved) / kMiB);
    const double unlimited = results_->Find("unlimited", what, "time")->Median();
    Progress(fmt::format("  {} {}: {:.2f} s, {:.2f} x, {} MiB moved", what, config, outcome.value().seconds,
                         outcome.value().seconds / unlimited, moved / kMiB));
    return Status::Ok();
  }

  const Options& options_;
  const Plan plan_;
  Results* results_;
  Setup setup_;
  std::vector<std::unique_ptr<Donor>> donors_;
  std::vector<std::pair<std::string, std::string>> pools_;  // Config and its pool.
  std::unique_ptr<SwapSpace> zram_, disk_;
  std::vector<std::string> configs_;  // Besides unlimited.
  // Of the program at hand.
  std::vector<std::string> program_;
  std::string expected_;
  uint64_t footprint_ = 0;
};

}  // namespace

std::vector<std::string> AppNames() {
  std::vector<std::string> names;
  for (const App& app : Apps()) names.push_back(app.name);
  return names;
}

std::vector<std::string> AppConfigs() { return kConfigs; }

Status RunApps(const Options& options, Results* results) { return AppsBench(options, results).Run(); }

}  // namespace bench
