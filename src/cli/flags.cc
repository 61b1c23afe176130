// Flags that several subcommands have.

#include "base/size_text.h"
#include "cli/commands.h"

namespace farpool {

CLI::Option* AddSize(CLI::App* app, const std::string& name, uint64_t* bytes, const std::string& help,
                     bool zero_allowed) {
  return app
      ->add_option_function<std::string>(
          name,
          [=](const std::string& text) {
            const Result<uint64_t> size = ParseSize(text);
            if (!size.ok()) throw CLI::ValidationError(name, size.status().text());
            if (size.value() == 0 && !zero_allowed)
              throw CLI::ValidationError(name, "must be more than 0, such as 512M");
            *bytes = size.value();
          },
          help)
      ->type_name("SIZE");
}

CLI::Option* AddPool(CLI::App* app, std::vector<PoolEntry>* pool, const std::string& help) {
  return app
      ->add_option_function<std::string>(
          "--pool",
          [pool](const std::string& text) {
            Result<std::vector<PoolEntry>> parsed = ParsePoolSpec(text);
            if (!parsed.ok()) throw CLI::ValidationError("--pool", parsed.status().text());
            for (const PoolEntry& entry : parsed.value())
              if (entry.scheme == PoolEntry::Scheme::kRegistry || entry.scheme == PoolEntry::Scheme::kEtcd)
                throw CLI::ValidationError(
                    "--pool", "'" + entry.ToString() +
                                  "' cannot be used yet; name donors by tcp://, rdma:// or unix://");
            *pool = std::move(parsed).value();
          },
          help)
      ->type_name("SPEC");
}

CLI::Option* AddJson(CLI::App* app, bool* json) {
  return app->add_flag("--json", *json, "Print JSON to stdout instead of text");
}

}  // namespace farpool
