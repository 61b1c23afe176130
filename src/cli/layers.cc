#include "cli/layers.h"

#define TOML_EXCEPTIONS 0
#include <toml++/toml.h>

#include <algorithm>
#include <optional>

#include "base/read_file.h"

namespace farpool {

namespace {

Status Bad(const std::string& where, const std::string& why) {
  return Status::InvalidArgument((where + ": " + why).c_str());
}

// Positional arguments and the two that make no sense in a file are not layered.
bool IsLayered(const CLI::Option& option) {
  if (option.get_lnames().empty()) return false;
  const std::string& name = option.get_lnames().front();
  return name != "help" && name != "config";
}

bool IsSwitch(const CLI::Option& option) { return option.get_expected_max() == 0; }

CLI::Option* OptionNamed(CLI::App* app, std::string_view key) {
  for (CLI::Option* option : app->get_options())
    if (IsLayered(*option) && option->get_lnames().front() == key) return option;
  return nullptr;
}

// True, false, or nothing for a word that is neither.
std::optional<bool> ParseSwitch(std::string word) {
  for (char& c : word) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  if (word == "1" || word == "true" || word == "yes" || word == "on") return true;
  if (word == "0" || word == "false" || word == "no" || word == "off") return false;
  return std::nullopt;
}

// Gives `option` its value as if it stood on the command line; `where` names the source in errors.
Status Fill(CLI::Option* option, const std::string& value, const std::string& where) {
  std::string word = value;
  if (IsSwitch(*option)) {
    const std::optional<bool> on = ParseSwitch(value);
    if (!on) return Bad(where, "'" + value.substr(0, 40) + "' is neither true nor false");
    if (!*on) return Status::Ok();
    word = "true";
  }
  try {
    option->add_result(word);
    option->run_callback();
  } catch (const CLI::ParseError& error) {
    // CLI11 puts the flag's name in front, but the user wrote it elsewhere.
    std::string why = error.what();
    const std::string prefix = option->get_name() + ": ";
    if (why.starts_with(prefix)) why.erase(0, prefix.size());
    return Bad(where, why);
  }
  return Status::Ok();
}

struct Config {
  std::string path;
  toml::table root;
};

std::string At(const Config& config, const toml::source_region& source) {
  return config.path + ":" + std::to_string(source.begin.line);
}

Result<Config> ReadConfig(const std::string& path) {
  const Result<std::string> text = ReadSmallFile(path);
  if (!text.ok()) return Bad(path, text.status().text());
  toml::parse_result parsed = toml::parse(text.value(), path);
  if (!parsed) {
    std::string why(parsed.error().description());
    std::replace(why.begin(), why.end(), '\n', ' ');
    return Bad(path + ":" + std::to_string(parsed.error().source().begin.line), why);
  }
  return Config{path, std::move(parsed).table()};
}

// Every section is a subcommand and every key one of its flags.
Status CheckNames(const Config& config, const std::vector<CLI::App*>& commands) {
  for (const auto& [key, node] : config.root) {
    const std::string name(key.str());
    const auto command = std::find_if(commands.begin(), commands.end(),
                                      [&name](const CLI::App* app) { return app->get_name() == name; });
    if (!node.is_table())
      return Bad(At(config, node.source()),
                 "key '" + name + "' stands in no section; put it under [run], [donor], ...");
    if (command == commands.end())
      return Bad(At(config, node.source()), "section [" + name + "] is no command of farpool");
    for (const auto& [flag, value] : *node.as_table())
      if (OptionNamed(*command, flag.str()) == nullptr)
        return Bad(At(config, value.source()), "unknown key '" + std::string(flag.str()) + "'; 'farpool " +
                                                   name + " --help' lists what [" + name + "] may hold");
  }
  return Status::Ok();
}

// What the file says, as it would stand on the command line.
Result<std::string> ValueOf(const Config& config, const toml::node& node, const std::string& key) {
  if (const auto* text = node.as_string()) return text->get();
  if (const auto* number = node.as_integer()) return std::to_string(number->get());
  if (const auto* truth = node.as_boolean()) return std::string(truth->get() ? "true" : "false");
  return Bad(At(config, node.source()), "'" + key + "' must be a text, a whole number, true or false");
}

}  // namespace

void AddConfig(CLI::App* app) {
  app->add_option("--config")
      ->description("Read flags that are not given from section [" + app->get_name() + "] of this TOML file")
      ->type_name("FILE");
}

std::string VariableOf(const CLI::Option& option) {
  std::string name = "FARPOOL_" + option.get_lnames().front();
  for (char& c : name) c = c == '-' ? '_' : c >= 'a' && c <= 'z' ? static_cast<char>(c - 32) : c;
  return name;
}

Status FillFromLayers(CLI::App* app, const std::vector<CLI::App*>& commands,
                      const std::function<const char*(const char*)>& get_env) {
  std::optional<Config> config;
  const CLI::Option* config_option = app->get_option_no_throw("--config");
  std::string path;
  if (config_option != nullptr && config_option->count() > 0) {
    path = config_option->results().back();
    if (path.empty()) return Status::InvalidArgument("--config: names no file");
  } else if (const char* variable = get_env("FARPOOL_CONFIG");
             config_option != nullptr && variable != nullptr) {
    path = variable;
  }
  if (!path.empty()) {
    Result<Config> read = ReadConfig(path);
    if (!read.ok()) return read.status();
    config = std::move(read).value();
    const Status status = CheckNames(*config, commands);
    if (!status.ok()) return status;
  }

  for (CLI::Option* option : app->get_options()) {
    if (!IsLayered(*option) || option->count() > 0) continue;
    const std::string variable = VariableOf(*option);
    const char* value = variable.starts_with("FARPOOL_RUNTIME_") ? nullptr : get_env(variable.c_str());
    if (value != nullptr && *value != 0) {  // Empty is unset, as everywhere in a shell.
      const Status status = Fill(option, value, variable);
      if (!status.ok()) return status;
      continue;
    }
    if (!config) continue;
    const std::string& key = option->get_lnames().front();
    const toml::node_view<toml::node> node = config->root[app->get_name()][key];
    if (!node) continue;
    const Result<std::string> text = ValueOf(*config, *node.node(), key);
    if (!text.ok()) return text.status();
    const Status status = Fill(option, text.value(), At(*config, node.node()->source()) + ": " + key);
    if (!status.ok()) return status;
  }
  return Status::Ok();
}

}  // namespace farpool
