// `farpool`: finds the subcommand, fills its flags from command line, variables and file, and runs it.

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <sstream>

#include "cli/build_info.h"
#include "cli/commands.h"
#include "cli/layers.h"

namespace farpool {

namespace {

// CLI11's own usage line does not know what follows `--`.
class HelpFormatter final : public CLI::Formatter {
 public:
  std::string make_usage(const CLI::App* app, std::string) const override {
    if (app->get_parent() == nullptr) return "Usage: farpool COMMAND [FLAGS]\n";
    std::string usage = "Usage: farpool " + app->get_name();
    for (const CLI::Option* option : app->get_options())
      if (option->get_positional()) usage += " " + option->get_name(true);
    usage += " [FLAGS]";
    if (app->get_name() == "run") usage += " -- COMMAND [ARGS...]";
    return usage + "\n";
  }
  std::string make_option_opts(const CLI::Option* option) const override {
    return option->get_type_name().empty() ? "" : " " + option->get_type_name();
  }
  // Descriptions are broken at words, to kHelpColumns in all.
  std::string make_option_desc(const CLI::Option* option) const override {
    const size_t room = kHelpColumns - get_column_width();
    std::string out, word;
    size_t line = 0;
    std::istringstream words(option->get_description());
    while (words >> word) {
      if (line != 0 && line + 1 + word.size() > room) {
        out += '\n';  // CLI11 indents what follows.
        line = 0;
      } else if (line != 0) {
        out += ' ';
        ++line;
      }
      out += word;
      line += word.size();
    }
    return out;
  }

 private:
  static constexpr size_t kHelpColumns = 100;
};

std::string SeeHelp(const std::string& what, const std::string& command) {
  return what + "; see 'farpool " + command + (command.empty() ? "--help'" : " --help'");
}

int Main(int argc, char** argv) {
  CLI::App root(
      "farpool gives a Linux program more memory than its machine has, by borrowing idle memory of "
      "other machines.",
      "farpool");
  root.formatter(std::make_shared<HelpFormatter>());
  root.set_help_flag("-h,--help", "Print this help");
  root.require_subcommand(0, 1);

  std::vector<std::string> program;
  std::vector<Command> commands;
  commands.push_back(AddRun(root, &program));
  commands.push_back(AddDonor(root));
  commands.push_back(AddStatus(root));
  commands.push_back(AddSwap(root));
  commands.push_back(AddDoctor(root));
  commands.push_back(AddBench(root));
  commands.push_back(AddVersion(root));
  std::vector<CLI::App*> apps;
  for (const Command& command : commands) {
    AddConfig(command.app);
    apps.push_back(command.app);
  }

  // Set after the subcommands were added: they would inherit it.
  root.footer(
      "'farpool COMMAND --help' tells more. Every flag can also be set by a variable (--local by\n"
      "FARPOOL_LOCAL) or in a TOML file given by --config, one section per command; flags win over\n"
      "variables, variables over the file.\n"
      "\n"
      "Example, on one host:\n"
      "  farpool run --local 25% --report - -- sort -k2 big.txt");

  std::vector<std::string> args(argv + 1, argv + argc);
  if (args.empty()) {
    std::fputs(root.help().c_str(), stdout);
    return kExitUsage;
  }
  if (args[0] == "--version") {
    std::printf("farpool %s\n", build_info::kVersion);
    return 0;
  }
  const auto chosen = std::find_if(commands.begin(), commands.end(), [&args](const Command& command) {
    return command.app->get_name() == args[0];
  });
  if (chosen == commands.end() && !args[0].starts_with('-'))
    return Refuse("no command '" + args[0] + "'; 'farpool --help' lists them", kExitUsage);
  const int exit_usage = chosen == commands.end() ? kExitUsage : chosen->exit_usage;
  const std::string name = chosen == commands.end() ? "" : args[0];

  if (name == "run") {
    // The program's arguments are nobody's business but its own.
    const auto dashes = std::find(args.begin(), args.end(), "--");
    if (dashes != args.end()) {
      program.assign(std::next(dashes), args.end());
      args.erase(dashes, args.end());
    }
  }
  // Before parsing: who asks for help gets it, whatever else is wrong.
  if (std::any_of(args.begin(), args.end(), [](const auto& arg) { return arg == "--help" || arg == "-h"; })) {
    std::fputs((chosen == commands.end() ? root : *chosen->app).help().c_str(), stdout);
    return 0;
  }
  try {
    std::reverse(args.begin(), args.end());  // CLI11 takes this form from the back.
    root.parse(std::move(args));
  } catch (const CLI::ExtrasError&) {
    const std::string first = root.remaining(true).front();
    if (name == "run" && program.empty() && !first.starts_with('-'))
      return Refuse("put -- before the program, as in: farpool run --local 25% -- sort FILE", exit_usage);
    return Refuse(SeeHelp("unknown argument " + first, name), exit_usage);
  } catch (const CLI::ValidationError& error) {
    return Refuse(error.what(), exit_usage);  // Of our own; it already says what to do.
  } catch (const CLI::ArgumentMismatch& error) {
    const std::string what = error.what();  // "FLAG: 1 required SIZE missing" or "FLAG: ... but received 2".
    const std::string flag = what.substr(0, what.find(':'));
    return Refuse(
        SeeHelp(flag + (what.ends_with("missing") ? " needs a value" : " may be given only once"), name),
        exit_usage);
  } catch (const CLI::ParseError& error) {
    return Refuse(SeeHelp(error.what(), name), exit_usage);
  }
  if (chosen == commands.end()) return Refuse("no command given; 'farpool --help' lists them", kExitUsage);
  const Status filled = FillFromLayers(chosen->app, apps, getenv);
  if (!filled.ok()) return Refuse(filled.text(), exit_usage);
  return chosen->run();
}

}  // namespace
}  // namespace farpool

int main(int argc, char** argv) {
  const bool run = argc > 1 && std::string_view(argv[1]) == "run";
  try {
    const int status = farpool::Main(argc, argv);
    // What could not be printed was not done; under `run` the program's own result counts.
    errno = 0;
    if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return status;
    const std::string why = errno != 0 ? std::string(": ") + std::strerror(errno) : "";
    return farpool::Refuse("cannot write to standard output" + why,
                           run || status != 0 ? status : farpool::kExitFailure);
  } catch (const std::exception& error) {
    // Out of memory, or a bug of ours; `run` promises 125 for whatever fails before the program.
    return farpool::Refuse(error.what(), run ? 125 : farpool::kExitFailure);
  }
}
