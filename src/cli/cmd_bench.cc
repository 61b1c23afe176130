// farpool bench: flags to bench::Options; the work is bench/bench.h.

#include <algorithm>
#include <memory>

#include "bench/bench.h"
#include "cli/commands.h"

namespace farpool {

namespace {

struct BenchFlags {
  bench::Options options;
  std::vector<PoolEntry> pool;
};

// All benches, each with what it is behind `colon`; only the names if that is empty.
std::string Names(const std::string& colon, const std::string& between) {
  std::string out;
  for (const bench::Bench& known : bench::Benches())
    out += (out.empty() ? "" : between) + known.name + (colon.empty() ? "" : colon + known.what);
  return out;
}

// A comma list of `known` words.
void AddList(CLI::App* app, const std::string& name, std::vector<std::string>* list,
             const std::vector<std::string>& known, const std::string& help) {
  std::string all;
  for (const std::string& word : known) all += (all.empty() ? "" : ", ") + word;
  app->add_option(name, *list, help + ": " + all)
      ->delimiter(',')
      ->type_name("LIST")
      ->check(CLI::Validator(
          [known, all](const std::string& word) {
            return std::find(known.begin(), known.end(), word) != known.end()
                       ? ""
                       : "'" + word + "' is unknown; there are " + all;
          },
          ""));
}

// The first flag that none of the benches asked for looks at, with those that do; empty if there is none.
std::string Idle(const BenchFlags& flags) {
  const bench::Options& options = flags.options;
  const auto asked = [&options](const std::vector<std::string>& names) {
    return std::find_first_of(options.names.begin(), options.names.end(), names.begin(), names.end()) !=
           options.names.end();
  };
  const bool of_apps = !options.apps.empty() || !options.configs.empty() || !options.shares.empty();
  if (of_apps && !asked({"apps"})) return "--only, --configs and --shares are for bench apps";
  if (!flags.pool.empty() && !asked({"faults", "scan", "apps"}))
    return "--pool is for bench faults, scan and apps";
  return "";
}

int RunBench(BenchFlags* flags) {
  if (const std::string idle = Idle(*flags); !idle.empty()) return Refuse(idle, kExitUsage);
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
  app->add_option("NAME", f->options.names, Names(": ", "; "))
      ->required()
      ->check(CLI::Validator(
          [](const std::string& name) {
            for (const bench::Bench& known : bench::Benches())
              if (known.name == name) return std::string();
            return "no bench '" + name + "'; there are " + Names("", ", ");
          },
          ""))
      ->type_name("");
  app->add_option("--json", f->options.json_path, "Write the results as JSON")->type_name("FILE");
  app->add_option("--html", f->options.html_path, "Write the results as one page")->type_name("FILE");
  app->add_flag("--quick", f->options.quick,
                "Smaller, one run, programs of apps at 50 % only: a first look, not a measurement");
  AddList(app, "--only", &f->options.apps, bench::AppNames(), "Programs of apps to run; otherwise all");
  AddList(app, "--configs", &f->options.configs, bench::AppConfigs(),
          "Configs of apps to run; otherwise all");
  app->add_option("--shares", f->options.shares,
                  "Percent (1-100) of its memory that a program of apps keeps here; otherwise 90,75,50,25")
      ->delimiter(',')
      ->check(CLI::Range(1, 100).description(""))
      ->type_name("LIST");
  app->add_flag("--smoke", f->options.smoke, "Tiny sizes: tries and verifies everything, measures nothing");
  AddPool(app, &f->pool, "Measure against these donors instead of two of its own on this host");
  app->footer(
      "Compares farpool over shared memory and over TCP with the same program unlimited and, as root,\n"
      "with kernel swap to a zram device and to a file, in a memory control group. Everything that\n"
      "comes back is verified. Medians; limits and swap need root too, swap also fio and a kernel with\n"
      "ublk or nbd.\n"
      "\n"
      "Examples:\n"
      "  farpool bench faults scan --json bench.json --html bench.html\n"
      "  farpool bench apps --quick --html apps.html\n"
      "  farpool bench apps --only redis,sqlite --shares 50,25 --configs farpool-shm,zram");
  return {app, [flags] { return RunBench(flags.get()); }};
}

}  // namespace farpool
