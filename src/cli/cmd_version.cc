// farpool version: what this binary was built from.

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/build_info.h"
#include "cli/commands.h"

namespace farpool {

Command AddVersion(CLI::App& root) {
  auto json = std::make_shared<bool>(false);
  CLI::App* app = root.add_subcommand("version", "Print the version of this binary");
  AddJson(app, json.get());
  return {app, [json] {
            if (*json) {
              const nlohmann::ordered_json out = {{"version", build_info::kVersion},
                                                  {"commit", build_info::kCommit},
                                                  {"compiler", build_info::kCompiler},
                                                  {"build_type", build_info::kBuildType}};
              std::printf("%s\n", out.dump(2).c_str());
            } else {
              std::printf("farpool %s\ncommit %s\ncompiler %s\nbuild type %s\n", build_info::kVersion,
                          build_info::kCommit, build_info::kCompiler, build_info::kBuildType);
            }
            return 0;
          }};
}

}  // namespace farpool
