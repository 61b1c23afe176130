#pragma once
// The subcommands of `farpool`. Each Add… function declares one: its flags on a CLI::App of its own, and what
// to run once they are filled. It does no work itself.
//
// Flags are plain CLI11 options bound to variables that the returned closure keeps alive. main() also fills
// them from FARPOOL_<FLAG> and --config (see layers.h), so give them long names, no positional meaning, and
// put whatever checks a value into the option (->check, add_option_function): its message then names the
// source. Values that are wrong are reported with CLI::ValidationError.

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <vector>

#include "base/refuse.h"
#include "farpool/status.h"
#include "registry/pool_spec.h"

namespace farpool {

inline constexpr int kExitFailure = 1;
inline constexpr int kExitUsage = 2;

struct Command {
  CLI::App* app = nullptr;
  std::function<int()> run;     // Returns the exit status; a refusal has been written with Refuse().
  int exit_usage = kExitUsage;  // For bad flags: 2, but 125 for `run`.
};

Command AddBench(CLI::App& root);
Command AddDoctor(CLI::App& root);
Command AddDonor(CLI::App& root);
// `program`: what stands after `--` on the command line; filled before the command runs.
Command AddRun(CLI::App& root, const std::vector<std::string>* program);
Command AddStatus(CLI::App& root);
Command AddSwap(CLI::App& root);
Command AddVersion(CLI::App& root);

// --- flags that several subcommands have
// SIZE. `*bytes` keeps its value unless the flag is given; zero is refused unless `zero_allowed`.
CLI::Option* AddSize(CLI::App* app, const std::string& name, uint64_t* bytes, const std::string& help,
                     bool zero_allowed = false);
// --pool SPEC; entries of schemes that cannot be used yet are refused.
CLI::Option* AddPool(CLI::App* app, std::vector<PoolEntry>* pool, const std::string& help);
// --json.
CLI::Option* AddJson(CLI::App* app, bool* json);

}  // namespace farpool
