#pragma once
// Where a flag's value comes from: the command line wins over FARPOOL_<FLAG>, that over the TOML file that
// --config (or FARPOOL_CONFIG) names, that over the default. One section of the file per subcommand:
//
//   [run]
//   pool = "tcp://10.0.0.2"
//   local = "25%"

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <vector>

#include "farpool/status.h"

namespace farpool {

// Adds --config to `app`. Its value is read by FillFromLayers.
void AddConfig(CLI::App* app);

// Fills every option of `app` that the command line did not set. `commands`: all subcommands, to check the
// whole file: a section or key that nobody knows is refused, so that a typing error is not a silent default.
// `get_env`: the environment (getenv, or a test's). Errors are one line that names variable or file and line.
Status FillFromLayers(CLI::App* app, const std::vector<CLI::App*>& commands,
                      const std::function<const char*(const char*)>& get_env);

// "--report-json" is FARPOOL_REPORT_JSON. FARPOOL_RUNTIME_* belongs to the preloaded runtime and is never
// read.
std::string VariableOf(const CLI::Option& option);

}  // namespace farpool
