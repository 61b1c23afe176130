// farpool bench: flags to bench::Options; the work is bench/bench.h.

#include <memory>

#include "bench/bench.h"
#include "cli/commands.h"

namespace farpool {

namespace {

struct BenchFlags {
  bench::Options options;
  std::vector<PoolEntry> pool;
};

int RunBench(BenchFlags* flags) {
  for (const PoolEntry& entry : flags->pool)
    flags->options.pool += (flags->options.pool.empty() ? "" : ",") + entry.ToString();
  const std::string error = bench::Run(flags->options);
  return error.empty() ? 0 : Refuse(error);
}

}  // namespace

Command AddBench(CLI::App& root) {
  auto flags = std::make_shared<BenchFlags>();
  BenchFlags* const f = flags.get();
  CLI::App* app = root.add_subcommand("bench", "Measure farpool on this machine");
  app->add_option("NAME", f->options.names, "faults: single random touches; scan: passes over an array")
      ->required()
      ->check(CLI::Validator(
          [](const std::string& name) {
            return bench::IsBench(name) ? "" : "no bench '" + name + "'; there are faults and scan";
          },
          ""))
      ->type_name("");
  app->add_option("--json", f->options.json_path, "Write the results as JSON")->type_name("FILE");
  app->add_option("--html", f->options.html_path, "Write the results as one page")->type_name("FILE");
  app->add_flag("--quick", f->options.quick, "Smaller arrays and one run: a first look, not a measurement");
  AddPool(app, &f->pool, "Measure against these donors instead of two of its own on this host");
  app->footer(
      "Compares farpool over shared memory and over TCP with the cheapest user-space fault (floor), a bare "
      "TCP\n"
      "round trip (raw-tcp) and, as root, kernel swap to a zram device in a memory control group. Medians of "
      "five runs.\n"
      "\n"
      "Example:\n"
      "  farpool bench faults scan --json bench.json --html bench.html");
  return {app, [flags] { return RunBench(flags.get()); }};
}

}  // namespace farpool
