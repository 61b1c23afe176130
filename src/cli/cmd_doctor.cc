// farpool doctor: runs the checks in cli/doctor/ and says what they mean.

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string_view>

#include "cli/commands.h"
#include "cli/doctor/check.h"
#include "supervisor/program.h"

namespace farpool {

namespace {

struct DoctorFlags {
  std::vector<PoolEntry> pool;
  bool json = false;
};

const char* Word(Check::Verdict verdict, bool json) {
  switch (verdict) {
    case Check::Verdict::kOk:
      return "ok";
    case Check::Verdict::kWarn:
      return "warn";
    case Check::Verdict::kFail:
      return json ? "fail" : "FAIL";
  }
  return "";
}

Check CheckOfDonor(const PoolEntry& entry, const Result<DonorProbe>& probe) {
  Check check;
  check.name = entry.ToString();
  if (probe.ok()) {
    check.found = fmt::format(
        "{}: 4 KiB read p50 {:.1f} us, read {:.2f} GB/s",
        probe.value().transport == std::string_view("shm") ? "shared memory" : probe.value().transport,
        probe.value().round_trip_p50_us, probe.value().read_gb_per_s);
    return check;
  }
  check.verdict = Check::Verdict::kFail;
  check.found = probe.status().text();
  if (check.found.starts_with(check.name + ": ")) check.found.erase(0, check.name.size() + 2);
  check.advice =
      probe.status().code() == Status::Code::kExhausted
          ? "The donor answers but lends no slab: give it what it lacks, more --memory or a larger --quota."
          : "Start the donor (farpool donor) or correct --pool; check routes and firewalls.";
  return check;
}

std::string Verdict(size_t failed, size_t warned) {
  if (failed != 0)
    return fmt::format("far memory cannot work here: {} check{} failed", failed, failed == 1 ? "" : "s");
  if (warned != 0)
    return fmt::format("far memory works here, with {} warning{}", warned, warned == 1 ? "" : "s");
  return "far memory works here";
}

void PrintText(const std::vector<Check>& checks, const std::string& verdict) {
  size_t width = 0;
  for (const Check& check : checks) width = std::max(width, check.name.size());
  for (const Check& check : checks) {
    fmt::print("{:<4}  {:<{}}  {}\n", Word(check.verdict, false), check.name, width, check.found);
    if (!check.advice.empty()) fmt::print("{:6}{}\n", "", check.advice);
  }
  fmt::print("{}\n", verdict);
}

int RunDoctor(const DoctorFlags& flags) {
  // What is tried below is taken already.
  if (InsideRun())
    return Refuse("this is inside a run of farpool, where far memory works: ask outside of it");
  std::vector<Check> checks;
  CheckKernel(&checks);
  CheckLimits(&checks);
  CheckRdma(&checks);
  nlohmann::ordered_json donors = nlohmann::ordered_json::array();
  for (const PoolEntry& entry : flags.pool) {
    const Result<DonorProbe> probe = ProbeDonor(entry);
    checks.push_back(CheckOfDonor(entry, probe));
    nlohmann::ordered_json row = {{"donor", entry.ToString()}, {"reachable", probe.ok()}};
    if (probe.ok()) {
      row["transport"] = probe.value().transport;
      row["round_trip_p50_us"] = probe.value().round_trip_p50_us;
      row["read_gb_per_s"] = probe.value().read_gb_per_s;
    } else {
      row["reason"] = checks.back().found;
    }
    donors.push_back(std::move(row));
  }

  const auto count = [&checks](Check::Verdict verdict) {
    return static_cast<size_t>(
        std::count_if(checks.begin(), checks.end(), [=](const Check& c) { return c.verdict == verdict; }));
  };
  const size_t failed = count(Check::Verdict::kFail);
  const std::string verdict = Verdict(failed, count(Check::Verdict::kWarn));
  if (flags.json) {
    nlohmann::ordered_json rows = nlohmann::ordered_json::array();
    for (const Check& check : checks)
      rows.push_back({{"name", check.name},
                      {"verdict", Word(check.verdict, true)},
                      {"found", check.found},
                      {"advice", check.advice}});
    const nlohmann::ordered_json out = {{"checks", std::move(rows)},
                                        {"donors", std::move(donors)},
                                        {"works", failed == 0},
                                        {"verdict", verdict}};
    std::printf("%s\n", out.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace).c_str());
  } else {
    PrintText(checks, verdict);
  }
  return failed == 0 ? 0 : kExitFailure;
}

}  // namespace

Command AddDoctor(CLI::App& root) {
  auto flags = std::make_shared<DoctorFlags>();
  CLI::App* app = root.add_subcommand("doctor", "Check whether far memory works on this machine");
  AddPool(
      app, &flags->pool,
      "Also connect to these donors and measure each: comma list of tcp://HOST:PORT, rdma://HOST:PORT and "
      "unix://PATH, or file:PATH with one a line");
  AddJson(app, &flags->json);
  app->footer(
      "Tries what farpool needs (userfaultfd, seccomp, limits) as the user who runs it and says what to\n"
      "change.\n"
      "Exit status: 0 if far memory can work here, 1 if not.\n"
      "\n"
      "Example:\n"
      "  farpool doctor --pool tcp://10.0.0.2");
  return {app, [flags] { return RunDoctor(*flags); }};
}

}  // namespace farpool
