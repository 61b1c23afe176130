// farpool swap: flags and tables; the work is blockdev/swap_device.h.

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/size_text.h"
#include "blockdev/front_end.h"
#include "blockdev/swap_device.h"
#include "cli/commands.h"
#include "farpool/types.h"

namespace farpool {

namespace {

struct SwapFlags {
  std::string action, device, driver = "auto";
  SwapOptions options;
  int priority = kSwapPriorityDefault;
  bool json = false;
};

constexpr uint64_t kSizeMin = 1u << 20;
constexpr uint64_t kSizeMax = uint64_t{1} << 40;  // Of slabs of 64 MiB there can be as many.

int Create(const SwapFlags& flags) {
  SwapOptions options = flags.options;
  options.driver = flags.driver == "auto"   ? ChooseDriver()
                   : flags.driver == "ublk" ? SwapDriver::kUblk
                                            : SwapDriver::kNbd;
  Result<std::string> path = CreateSwap(options);
  if (!path.ok()) return Refuse(path.status().text());
  fmt::print("{}\n", path.value());
  return 0;
}

void PrintText(const std::vector<SwapInfo>& infos) {
  fmt::print("{:<12}  {:<6}  {:<5}  {:>10}  {:>10}  {:>10}  {:<8}  {}\n", "DEVICE", "DRIVER", "STATE", "SIZE",
             "STORED", "LEASED", "STANDBY", "POOL");
  for (const SwapInfo& info : infos) {
    const char* const state = !info.alive ? "dead" : info.on ? "on" : "off";
    if (!info.answers) {
      fmt::print("{:<12}  {:<6}  {:<5}  {}\n", info.path, info.driver, state,
                 info.alive ? "its daemon does not answer: it may be waiting for a donor"
                            : "its daemon is dead; 'farpool swap delete " + info.path + "' clears it away");
      continue;
    }
    const SwapStatus& s = info.status;
    fmt::print("{:<12}  {:<6}  {:<5}  {:>10}  {:>10}  {:>10}  {:<8}  {}\n", info.path, info.driver, state,
               FormatSize(s.size_bytes), FormatSize(s.stored_bytes), FormatSize(s.leased_bytes),
               s.standby != 0 ? "ready" : "none", s.pool);
  }
}

void PrintJson(const std::vector<SwapInfo>& infos) {
  nlohmann::ordered_json devices = nlohmann::ordered_json::array();
  for (const SwapInfo& info : infos) {
    nlohmann::ordered_json row = {
        {"device", info.path}, {"driver", info.driver}, {"alive", info.alive}, {"on", info.on}};
    if (info.answers) {
      const SwapStatus& s = info.status;
      row["pool"] = s.pool;
      row["size_bytes"] = s.size_bytes;
      row["stored_bytes"] = s.stored_bytes;
      row["leased_bytes"] = s.leased_bytes;
      row["daemon"] = s.daemon;
      row["standby"] = s.standby;
      row["takeovers"] = s.takeovers;
      row["lost_donors"] = s.lost_donors;
      row["lost_bytes"] = s.lost_bytes;
      row["pages_read"] = s.pages_read;
      row["pages_written"] = s.pages_written;
      row["pages_zero"] = s.pages_zero;
      row["pages_discarded"] = s.pages_discarded;
      row["errors"] = s.errors;
      row["corrupt"] = s.corrupt;
    }
    devices.push_back(std::move(row));
  }
  const nlohmann::ordered_json out = {{"devices", std::move(devices)}};
  std::printf("%s\n", out.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace).c_str());
}

// Off and delete work all the same; programs that needed what was there have been told by SIGBUS.
void TellLost(const SwapInfo& info) {
  if (info.status.lost_bytes == 0) return;
  fmt::print(stderr, "farpool: {} that were swapped out to {} were lost with {} of its donors\n",
             FormatSize(info.status.lost_bytes), info.path, info.status.lost_donors);
}

int RunSwap(const SwapFlags& flags) {
  const bool create = flags.action == "create";
  const bool list = flags.action == "list";
  if ((create || list) && !flags.device.empty())
    return Refuse("swap " + flags.action + " takes no device", kExitUsage);
  if (create && flags.options.size_bytes == 0)
    return Refuse("swap create needs --size, such as --size 8G", kExitUsage);
  if (create && flags.options.pool.empty())
    return Refuse("swap create needs --pool: donors that lend the memory", kExitUsage);
  if (!create && !list && flags.device.empty())
    return Refuse("name the device, as in: farpool swap " + flags.action + " /dev/ublkb0", kExitUsage);
  if (geteuid() != 0) return Refuse("swap devices are the administrator's: run farpool swap as root");
  if (create) return Create(flags);
  if (list) {
    const std::vector<SwapInfo> infos = ListSwaps();
    flags.json ? PrintJson(infos) : PrintText(infos);
    return 0;
  }
  const SwapInfo before = FindSwap(flags.device);
  const Status s = flags.action == "on"    ? SwapOn(flags.device, flags.priority)
                   : flags.action == "off" ? SwapOff(flags.device)
                                           : DeleteSwap(flags.device);
  if (!s.ok()) return Refuse(s.text());
  // While it is there it may still find out, by what it has to bring back.
  if (flags.action != "on") TellLost(flags.action == "off" ? FindSwap(flags.device) : before);
  return 0;
}

}  // namespace

Command AddSwap(CLI::App& root) {
  auto flags = std::make_shared<SwapFlags>();
  SwapFlags* const f = flags.get();
  CLI::App* app = root.add_subcommand("swap", "Give the whole machine swap space lent by donors");
  app->add_option("ACTION", f->action,
                  "create: make a device and print its name; on, off: use it as swap space or stop; "
                  "list: show devices; delete: end one that is off")
      ->required()
      ->check(CLI::Validator(
          [](const std::string& action) {
            for (const char* known : {"create", "on", "off", "list", "delete"})
              if (action == known) return std::string();
            return "no action '" + action.substr(0, 40) + "'; there are create, on, off, list and delete";
          },
          ""))
      ->type_name("");
  app->add_option("DEVICE", f->device, "For on, off and delete, as create printed it")->type_name("");
  app->add_option_function<std::string>(
         "--size",
         [f](const std::string& text) {
           const Result<uint64_t> size = ParseSize(text);
           if (!size.ok()) throw CLI::ValidationError("--size", size.status().text());
           if (size.value() < kSizeMin || size.value() > kSizeMax)
             throw CLI::ValidationError("--size", "must be from 1M to 1T");
           f->options.size_bytes = size.value() / kPageBytes * kPageBytes;
         },
         "create: how much swap space")
      ->type_name("SIZE");
  app->add_option_function<std::string>(
         "--driver",
         [f](const std::string& text) {
           if (text != "auto" && text != "nbd" && text != "ublk")
             throw CLI::ValidationError("--driver",
                                        "'" + text.substr(0, 40) + "' is unknown; use auto, ublk or nbd");
           f->driver = text;
         },
         "create: the kernel's kind of device; auto is ublk where there is that (default)")
      ->type_name("auto|ublk|nbd");
  app->add_option("--priority", f->priority,
                  fmt::format("on: the kernel uses the swap space with the highest first (0-{}, default {})",
                              kSwapPriorityMax, kSwapPriorityDefault))
      ->check(CLI::Range(0, kSwapPriorityMax).description(""))
      ->type_name("N");
  AddPool(app, &f->options.pool, "create: donors, comma list of tcp://HOST:PORT and unix://PATH");
  AddJson(app, &f->json);
  app->footer(
      "Needs root and the kernel's ublk_drv or nbd module. Serves until it is deleted; a standby goes on\n"
      "if the daemon is killed. SIZE is bytes, or a number with K, M, G or T (powers of 1024).\n"
      "\n"
      "Examples:\n"
      "  farpool swap create --size 16G --pool tcp://10.0.0.2,tcp://10.0.0.3   (prints /dev/ublkb0, say)\n"
      "  farpool swap on /dev/ublkb0\n"
      "  farpool swap off /dev/ublkb0\n"
      "  farpool swap delete /dev/ublkb0");
  return {app, [flags] { return RunSwap(*flags); }};
}

}  // namespace farpool
