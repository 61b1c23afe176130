// `farpool bench scale`: one program with more and more donors, and more and more programs with one donor.
// Each program is the worker of the other benches, with half of its array here.

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "bench/benches.h"
#include "bench/setup.h"

namespace bench {

namespace {

constexpr uint64_t kMiB = 1u << 20;
constexpr unsigned kSecondsMax = 300;

struct Plan {
  std::vector<unsigned> donors, clients;
  unsigned runs;
  uint64_t array_bytes;
  unsigned touches, rounds;
};

Plan PlanFor(const Options& options) {
  if (options.smoke) return {{1, 3}, {1, 2}, 1, 16 * kMiB, 4000, 1};
  if (options.quick) return {{1, 4, 16}, {1, 2, 8}, 1, 64 * kMiB, 50'000, 4};
  return {{1, 2, 4, 8, 16}, {1, 2, 4, 8}, 3, 128 * kMiB, 100'000, 6};
}

class ScaleBench {
 public:
  ScaleBench(const Options& options, Results* results) : plan_(PlanFor(options)), results_(results) {}

  Status Run() {
    if (const Status s = setup_.Init(); !s.ok()) return s;
    if (const Status s = StartDonors(); !s.ok()) return s;
    for (unsigned run = 0; run < plan_.runs; ++run) {
      for (const unsigned count : plan_.donors) {
        std::string pool;
        for (unsigned i = 0; i < count; ++i) pool += (i == 0 ? "" : ",") + tcp_[i]->endpoint();
        if (const Status s = Measure("farpool-tcp", "donors", count, pool, 1, run); !s.ok()) return s;
      }
      for (const unsigned count : plan_.clients) {
        if (const Status s = Measure("farpool-shm", "clients", count, shm_->endpoint(), count, run); !s.ok())
          return s;
        if (const Status s = Measure("farpool-tcp", "clients", count, tcp_[0]->endpoint(), count, run);
            !s.ok())
          return s;
      }
    }
    return Status::Ok();
  }

 private:
  Status StartDonors() {
    const uint64_t bytes = plan_.clients.back() * (plan_.array_bytes * 2 + 64 * kMiB);
    auto shm = setup_.StartDonor({"--unix", setup_.folder() + "/donor.sock"}, bytes);
    if (!shm.ok()) return shm.status();
    shm_ = std::move(shm).value();
    for (unsigned i = 0; i < plan_.donors.back(); ++i) {
      // Small slabs, so that the array lies on all of them. Only the first serves several programs.
      auto tcp = setup_.StartDonor({"--listen", "tcp://127.0.0.1:0", "--slab", "1M"},
                                   i == 0 ? bytes : 2 * plan_.array_bytes);
      if (!tcp.ok()) return tcp.status();
      tcp_.push_back(std::move(tcp).value());
    }
    return Status::Ok();
  }

  // `clients` programs at once, first with random reads, then with passes over their arrays.
  Status Measure(const std::string& config, const std::string& axis, unsigned count, const std::string& pool,
                 unsigned clients, unsigned run) {
    const std::string what = fmt::format("{}@{}", axis, count);
    for (const auto& [mode, amount, metric, unit] :
         {std::tuple{"faults-read", plan_.touches, "rate", "faults/s"},
          {"scan-read", plan_.rounds, "throughput", "GB/s"}}) {
      std::vector<Program> programs;
      for (unsigned i = 0; i < clients; ++i) {
        auto program =
            Program::Start({.argv = setup_.Far(pool, plan_.array_bytes / 2,
                                               {setup_.worker(), mode, std::to_string(plan_.array_bytes),
                                                std::to_string(amount), std::to_string(i + 1)},
                                               {}, fmt::format("report-{}", i)),
                            .seconds_max = kSecondsMax});
        if (!program.ok()) return program.status();
        programs.push_back(std::move(program).value());
      }
      double sum = 0;
      uint64_t moved = 0;
      for (unsigned i = 0; i < clients; ++i) {
        const auto outcome = programs[i].Finish();
        if (!outcome.ok())
          return Status(outcome.status().code(), (what + ": " + outcome.status().text()).c_str());
        const auto json = nlohmann::json::parse(outcome.value().output, nullptr, false);
        if (!json.is_object() || !json.contains(metric))
          return Status::Corrupt((what + " printed no result").c_str());
        sum += json[metric].get<double>();
        const auto far = setup_.BytesMoved(fmt::format("report-{}", i));
        if (!far.ok()) return far.status();
        moved += far.value();
      }
      results_->Add(config, what, metric, unit, sum);
      results_->Add(config, what, std::string("moved, ") + metric, "MiB", static_cast<double>(moved) / kMiB);
      fmt::print(stderr, "bench scale run {}/{}: {} {} {}: {:.4g} {}\n", run + 1, plan_.runs, config, what,
                 mode, sum, unit);
    }
    return Status::Ok();
  }

  const Plan plan_;
  Results* results_;
  Setup setup_;
  std::unique_ptr<Donor> shm_;
  std::vector<std::unique_ptr<Donor>> tcp_;
};

}  // namespace

Status RunScale(const Options& options, Results* results) { return ScaleBench(options, results).Run(); }

}  // namespace bench
