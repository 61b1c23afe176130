// farpool run: flags to RunOptions; the work is supervisor/run.h.

#include <charconv>
#include <memory>

#include "base/size_text.h"
#include "cli/commands.h"
#include "supervisor/run.h"
#include "supervisor/run_via_swap.h"

namespace farpool {

namespace {

// "25%" or SIZE.
void SetLocal(const std::string& text, RunOptions* options) {
  if (!text.ends_with('%')) {
    const Result<uint64_t> size = ParseSize(text);
    if (!size.ok()) throw CLI::ValidationError("--local", size.status().text());
    if (size.value() == 0) throw CLI::ValidationError("--local", "must be more than 0, such as 512M or 25%");
    options->local_bytes = size.value();
    return;
  }
  unsigned percent = 0;
  const char* const end = text.data() + text.size() - 1;
  const auto [at, error] = std::from_chars(text.data(), end, percent);
  if (error != std::errc() || at != end || percent < 1 || percent > 100)
    throw CLI::ValidationError("--local", "'" + text.substr(0, 40) + "' is not a share; write 1% to 100%");
  options->local_bytes = 0;
  options->local_percent = percent;
}

void SetHandoff(const std::string& text, RunOptions* options) {
  if (text != "auto" && text != "direct" && text != "monitor")
    throw CLI::ValidationError("--handoff",
                               "'" + text.substr(0, 40) + "' is unknown; use auto, direct or monitor");
  options->handoff = text;
}

void SetPlacement(const std::string& text, RunOptions* options) {
  if (text == "slabs")
    options->placement = Placement::kSlabs;
  else if (text == "even")
    options->placement = Placement::kEven;
  else if (text == "weighted")
    options->placement = Placement::kWeighted;
  else
    throw CLI::ValidationError("--placement",
                               "'" + text.substr(0, 40) + "' is unknown; use slabs, even or weighted");
}

void SetCompress(const std::string& text, RunOptions* options) {
  if (text == "auto")
    options->compress = SlabTable::kWhatIsSooner;
  else if (text == "on")
    options->compress = SlabTable::kPack;
  else if (text == "off")
    options->compress = SlabTable::kPlain;
  else
    throw CLI::ValidationError("--compress", "'" + text.substr(0, 40) + "' is unknown; use auto, on or off");
}

void SetVia(const std::string& text, RunOptions* options) {
  if (text != "preload" && text != "swap")
    throw CLI::ValidationError("--via", "'" + text.substr(0, 40) + "' is unknown; use preload or swap");
  options->via_swap = text == "swap";
}

}  // namespace

Command AddRun(CLI::App& root, const std::vector<std::string>* program) {
  auto options = std::make_shared<RunOptions>();
  CLI::App* app = root.add_subcommand("run", "Run a program with memory lent by donors");
  RunOptions* const o = options.get();
  app->add_option_function<std::string>(
         "--local", [o](const std::string& text) { SetLocal(text, o); },
         "Far memory that may be resident at once, over all processes of the run: a size, or a share of the "
         "peak footprint so far, at least 16M (default: 50%)")
      ->type_name("SIZE|N%");
  AddPool(
      app, &o->pool,
      "Donors: comma list of tcp://HOST:PORT, rdma://HOST:PORT and unix://PATH, or file:PATH with one a line "
      "(default: a private donor on this host, for this run)");
  app->add_option_function<std::string>(
         "--handoff", [o](const std::string& text) { SetHandoff(text, o); },
         "How a touch of an absent page reaches farpool: direct lets the touching thread fetch it, monitor "
         "has a thread of farpool's do so, slower, for programs whose memory the kernel itself touches "
         "(KVM), auto is direct (default)")
      ->type_name("auto|direct|monitor");
  app->add_option_function<std::string>(
         "--placement", [o](const std::string& text) { SetPlacement(text, o); },
         "Which of several donors a page goes to: slabs fills slab by slab, at whoever has memory free "
         "(default); even and weighted divide every batch of pages among all, in equal shares or by the "
         "bandwidth of each, measured when the run starts")
      ->type_name("slabs|even|weighted");
  app->add_option_function<std::string>(
         "--compress", [o](const std::string& text) { SetCompress(text, o); },
         "Whether pages travel packed by LZ4 to donors on other hosts: auto packs where that is sooner, as "
         "measured for each donor while the program runs (default)")
      ->type_name("auto|on|off");
  app->add_option_function<std::string>(
         "--via", [o](const std::string& text) { SetVia(text, o); },
         "How the program gets far memory: a preloaded library (preload, the default), or a swap device and "
         "a memory control group, for static programs (swap; needs root, --local SIZE and --pool)")
      ->type_name("preload|swap");
  app->add_option_function<std::string>(
         "--threshold",
         [o](const std::string& text) {
           const Result<uint64_t> size = ParseSize(text);
           if (!size.ok()) throw CLI::ValidationError("--threshold", size.status().text());
           // RunOptions takes 0 for "the default"; a threshold of one byte keeps nothing near either.
           o->threshold_bytes = size.value() == 0 ? 1 : size.value();
         },
         "Mappings smaller than this stay near (default: 64K)")
      ->type_name("SIZE");
  app->add_option(
         "--near", o->near_programs,
         "Programs that get no far memory: comma list of file names, * and ? allowed; an interpreter "
         "counts, not its script")
      ->type_name("PATTERN");
  app->add_option("--report", o->report_path, "Write a text report at the end; - is stderr")
      ->type_name("FILE|-");
  app->add_option("--report-json", o->report_json_path, "Write a JSON report at the end; - is stdout")
      ->type_name("FILE|-");
  app->add_option(
         "--trace", o->trace_path,
         "Write a flame graph (SVG) of which functions waited for pages from donors: at most 512 faults, "
         "sampled over the whole run, with their stacks; - is stdout")
      ->type_name("FILE|-");
  app->footer(
      "SIZE is bytes, or a number with K, M, G or T (powers of 1024).\n"
      "\n"
      "Examples:\n"
      "  farpool run --local 25% --report - -- sort -k2 big.txt\n"
      "  farpool run --local 2G --pool tcp://10.0.0.2,tcp://10.0.0.3 -- redis-server\n"
      "\n"
      "Exit status: the program's own, 128+n if signal n ended it, 74 if data was lost with its donor\n"
      "or the pool was full, 125 if farpool failed before the program started, 126 or 127 if the program\n"
      "cannot be executed or found.");
  return {app,
          [options, program] {
            if (program->empty())
              return Refuse("no program to run; put it after --, as in: farpool run --local 25% -- sort FILE",
                            kExitFarpoolFailed);
            options->command = *program;
            return options->via_swap ? RunViaSwap(*options) : RunProgram(*options);
          },
          kExitFarpoolFailed};
}

}  // namespace farpool
