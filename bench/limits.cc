// `farpool bench limits`: two donors behind links of which one has twice the other's bandwidth, and what it
// brings to place pages by that. Donors and program live in network namespaces of their own, so nothing of
// the host's network is touched; the links are veth pairs with a token bucket (tc tbf) at both ends. And what
// it brings to compress pages where the links are slow.

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>

#include "bench/benches.h"
#include "bench/setup.h"

namespace bench {

namespace {

constexpr uint64_t kMiB = 1u << 20;
constexpr unsigned kSecondsMax = 300;
// Well below what the host itself does between two namespaces.
constexpr unsigned kMegabits[] = {2000, 1000};
constexpr unsigned kSlowMegabits = 100;

class LimitedNetwork {
 public:
  // On any failure everything is as before.
  Status Create() {
    if (geteuid() != 0) return Status::Unsupported("needs root");
    const std::string name = "farpool-bench-" + std::to_string(getpid());
    if (const Status s = AddNamespace(name); !s.ok()) return s;
    for (unsigned i = 0; i < std::size(kMegabits); ++i) {
      const std::string number = std::to_string(i);
      if (const Status s = AddNamespace(name + "-" + number); !s.ok()) return s;
      const std::string& hub = namespaces_[0];
      const std::string& far = namespaces_.back();
      const std::string end = "v" + number;
      const std::vector<std::vector<std::string>> commands = {
          {"ip", "-n", hub, "link", "add", end, "type", "veth", "peer", "name", "v0", "netns", far},
          {"ip", "-n", hub, "addr", "add", "10.0." + number + ".1/30", "dev", end},
          {"ip", "-n", far, "addr", "add", "10.0." + number + ".2/30", "dev", "v0"},
          {"ip", "-n", hub, "link", "set", end, "up"},
          {"ip", "-n", far, "link", "set", "v0", "up"},
      };
      if (const Status s = RunAll(commands); !s.ok()) return s;
      if (const Status s = Limit(i, kMegabits[i]); !s.ok()) return s;
    }
    return Status::Ok();
  }
  // All links.
  Status Limit(unsigned megabits) {
    for (unsigned i = 0; i < kDonors; ++i)
      if (const Status s = Limit(i, megabits); !s.ok()) return s;
    return Status::Ok();
  }
  ~LimitedNetwork() {
    for (const std::string& name : namespaces_)
      (void)RunToEnd({.argv = {"ip", "netns", "del", name}, .seconds_max = 30, .always = true});
  }
  LimitedNetwork() = default;
  LimitedNetwork(const LimitedNetwork&) = delete;

  static constexpr size_t kDonors = std::size(kMegabits);
  // Words in front of a command that is to run there.
  std::vector<std::string> AtProgram() const { return {"ip", "netns", "exec", namespaces_[0]}; }
  std::vector<std::string> AtDonor(size_t i) const { return {"ip", "netns", "exec", namespaces_[1 + i]}; }
  static std::string Address(size_t i) { return fmt::format("10.0.{}.2", i); }

 private:
  Status Limit(unsigned i, unsigned megabits) {
    const std::string rate = std::to_string(megabits) + "mbit";
    const auto command = [&](const std::string& name, const std::string& device) {
      return std::vector<std::string>{"tc",  "-n",   name, "qdisc", "replace", "dev",     device, "root",
                                      "tbf", "rate", rate, "burst", "256kb",   "latency", "50ms"};
    };
    return RunAll({command(namespaces_[0], "v" + std::to_string(i)), command(namespaces_[1 + i], "v0")});
  }
  static Status RunAll(const std::vector<std::vector<std::string>>& commands) {
    for (const auto& command : commands)
      if (const Status s = RunToEnd({.argv = command, .seconds_max = 30}).status(); !s.ok())
        return Status(s.code(),
                      (std::string("network namespaces with tc tbf (iproute2): ") + s.text()).c_str());
    return Status::Ok();
  }
  Status AddNamespace(const std::string& name) {
    const Status s = RunToEnd({.argv = {"ip", "netns", "add", name}, .seconds_max = 30}).status();
    if (!s.ok()) return Status(s.code(), (std::string("network namespaces (iproute2): ") + s.text()).c_str());
    namespaces_.push_back(name);
    return s;
  }
  std::vector<std::string> namespaces_;  // The program's first.
};

// A program in one namespace, with a flag of `farpool run` that has several values.
struct Comparison {
  Setup& setup;
  const LimitedNetwork& network;
  Results& results;
  unsigned runs;

  Status Run(const std::string& what, const std::string& pool, uint64_t limit,
             const std::vector<std::string>& program, const std::string& flag,
             const std::vector<std::string>& values) const {
    const auto plain = RunToEnd({.argv = program, .seconds_max = kSecondsMax});
    if (!plain.ok()) return plain.status();
    for (unsigned run = 0; run < runs; ++run)
      for (const std::string& value : values) {
        std::vector<std::string> argv = network.AtProgram();
        const std::vector<std::string> far = setup.Far(pool, limit, program, {flag, value});
        argv.insert(argv.end(), far.begin(), far.end());
        const auto outcome = RunToEnd({.argv = argv, .seconds_max = kSecondsMax});
        if (!outcome.ok())
          return Status(outcome.status().code(), (value + ": " + outcome.status().text()).c_str());
        if (outcome.value().output != plain.value().output)
          return Status::Corrupt((value + ": the program printed something else").c_str());
        const auto moved = setup.BytesMoved();
        if (!moved.ok()) return moved.status();
        results.Add(value, what, "time", "s", outcome.value().seconds);
        results.Add(value, what, "moved", "MiB", static_cast<double>(moved.value()) / kMiB);
        fmt::print(stderr, "bench limits run {}/{}: {} {} {:.2f} s\n", run + 1, runs, what, value,
                   outcome.value().seconds);
      }
    return Status::Ok();
  }
};

// As of a log; `sort` keeps them and 32 bytes for each.
constexpr uint64_t kLineBytes = 56 + 32;
Status WriteLines(const std::string& path, unsigned lines) {
  std::ofstream file(path);
  for (uint64_t i = 0; i < lines; ++i)
    file << fmt::format("{:07} GET /index/{:03}.html 200 some text of a log line\n", i * 7919 % 1'000'003,
                        i % 977);
  file.flush();
  return file ? Status::Ok() : Status::FromErrno("writing a file to be sorted", errno);
}

}  // namespace

Status RunLimits(const Options& options, Results* results) {
  const uint64_t array_mib = options.smoke ? 8 : options.quick ? 48 : 64;
  const unsigned rounds = options.smoke ? 1 : 3;
  const unsigned runs = options.smoke || options.quick ? 1 : 3;
  const uint64_t limit = array_mib * kMiB * 3 / 2;  // Half of three arrays.
  Setup setup;
  if (const Status s = setup.Init(); !s.ok()) return s;
  LimitedNetwork network;
  if (const Status s = network.Create(); !s.ok()) {
    results->Skip("limits", s.text());
    return Status::Ok();
  }
  std::vector<std::unique_ptr<Donor>> donors;
  std::string pool;
  for (size_t i = 0; i < LimitedNetwork::kDonors; ++i) {
    // Small slabs, so that even a small program's memory lies on both.
    auto donor = setup.StartDonor(
        {"--listen", "tcp://" + network.Address(i) + ":7171", "--allow-anyone", "--slab", "4M"}, 1024 * kMiB,
        network.AtDonor(i));
    if (!donor.ok()) return donor.status();
    pool += (pool.empty() ? "" : ",") + donor.value()->endpoint();
    donors.push_back(std::move(donor).value());
  }
  const Comparison compare{setup, network, *results, runs};
  if (const Status s = compare.Run("stream@50", pool, limit,
                                   {setup.app("stream"), std::to_string(array_mib), std::to_string(rounds)},
                                   "--placement", {"slabs", "even", "weighted"});
      !s.ok())
    return s;
  // Text, which LZ4 packs to a quarter, over links that are slow.
  if (const Status s = network.Limit(kSlowMegabits); !s.ok()) return s;
  const unsigned lines = options.smoke ? 100'000 : 400'000;
  const std::string text = setup.folder() + "/lines";
  if (const Status s = WriteLines(text, lines); !s.ok()) return s;
  return compare.Run("sort@50", donors[0]->endpoint(), uint64_t{lines} * kLineBytes / 2,
                     {"sort", "-S", "1G", "--parallel=1", text}, "--compress", {"off", "auto", "on"});
}

}  // namespace bench
