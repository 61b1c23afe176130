// farpool status: one row per donor of the pool.

#include <fmt/format.h>

#include <cstdio>
#include <future>
#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/size_text.h"
#include "cli/commands.h"
#include "transport/session/donor_session.h"

namespace farpool {

namespace {

struct StatusFlags {
  std::vector<PoolEntry> pool;
  bool json = false;
};

Result<DonorInfo> Ask(const PoolEntry& entry) {
  Result<std::unique_ptr<DonorSession>> session = DonorSession::Open(entry, /*grace_ms=*/0);
  if (!session.ok()) return session.status();
  Result<DonorInfo> info = session.value()->Info();
  // A session that cannot be closed is freed by the donor itself once its grace, none, is over.
  (void)session.value()->Close();
  return info;
}

// What the row says; Open's errors begin with the entry, which stands in the first column already.
std::string Reason(const PoolEntry& entry, const Status& status) {
  std::string text = status.text();
  const std::string prefix = entry.ToString() + ": ";
  return text.starts_with(prefix) ? text.substr(prefix.size()) : text;
}

// The donor chose it, and it goes to a terminal.
std::string Printable(std::string label) {
  for (char& c : label)
    if (static_cast<unsigned char>(c) < ' ' || c == 0x7f) c = '?';
  return label.empty() ? "-" : label;
}

void PrintText(const std::vector<PoolEntry>& pool, const std::vector<Result<DonorInfo>>& infos) {
  size_t width = 5, rack_width = 4;
  for (const PoolEntry& entry : pool) width = std::max(width, entry.ToString().size());
  for (const Result<DonorInfo>& info : infos)
    if (info.ok()) rack_width = std::max(rack_width, info.value().rack.size());
  fmt::print("{:<{}}  {:<11}  {:<{}}  {:>10}  {:>10}  {:>8}\n", "DONOR", width, "STATE", "RACK", rack_width,
             "MEMORY", "FREE", "SLAB");
  for (size_t i = 0; i < pool.size(); ++i) {
    if (!infos[i].ok()) {
      fmt::print("{:<{}}  {:<11}  {}\n", pool[i].ToString(), width, "unreachable",
                 Reason(pool[i], infos[i].status()));
      continue;
    }
    const DonorInfo& info = infos[i].value();
    fmt::print("{:<{}}  {:<11}  {:<{}}  {:>10}  {:>10}  {:>8}\n", pool[i].ToString(), width, "up",
               Printable(info.rack), rack_width, FormatSize(info.memory_bytes), FormatSize(info.free_bytes),
               FormatSize(info.slab_bytes));
  }
}

void PrintJson(const std::vector<PoolEntry>& pool, const std::vector<Result<DonorInfo>>& infos) {
  nlohmann::ordered_json donors = nlohmann::ordered_json::array();
  for (size_t i = 0; i < pool.size(); ++i) {
    nlohmann::ordered_json row = {{"donor", pool[i].ToString()}, {"reachable", infos[i].ok()}};
    if (infos[i].ok()) {
      const DonorInfo& info = infos[i].value();
      row["rack"] = info.rack;
      row["memory_bytes"] = info.memory_bytes;
      row["free_bytes"] = info.free_bytes;
      row["slab_bytes"] = info.slab_bytes;
    } else {
      row["reason"] = Reason(pool[i], infos[i].status());
    }
    donors.push_back(std::move(row));
  }
  // A rack label is the donor's to choose and need not be UTF-8.
  const nlohmann::ordered_json out = {{"donors", std::move(donors)}};
  std::printf("%s\n", out.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace).c_str());
}

int RunStatus(const StatusFlags& flags) {
  std::vector<PoolEntry> pool = flags.pool;
  if (pool.empty()) pool.push_back({PoolEntry::Scheme::kTcp, "127.0.0.1", kDefaultPort, ""});
  // All at once: each that is silent takes seconds.
  std::vector<std::future<Result<DonorInfo>>> asked;
  asked.reserve(pool.size());
  for (const PoolEntry& entry : pool) asked.push_back(std::async(std::launch::async, Ask, entry));
  std::vector<Result<DonorInfo>> infos;
  bool all_up = true;
  for (auto& answer : asked) {
    infos.push_back(answer.get());
    all_up = all_up && infos.back().ok();
  }
  flags.json ? PrintJson(pool, infos) : PrintText(pool, infos);
  return all_up ? 0 : kExitFailure;
}

}  // namespace

Command AddStatus(CLI::App& root) {
  auto flags = std::make_shared<StatusFlags>();
  CLI::App* app = root.add_subcommand("status", "Show the donors of a pool");
  AddPool(
      app, &flags->pool,
      "Donors: comma list of tcp://HOST:PORT, rdma://HOST:PORT and unix://PATH, or file:PATH with one a line "
      "(default: tcp://127.0.0.1:7171)");
  AddJson(app, &flags->json);
  app->footer(
      "Exit status: 0 if every donor answers, 1 if not; the row of one that does not says why.\n"
      "\n"
      "Example:\n"
      "  farpool status --pool tcp://10.0.0.2,tcp://10.0.0.3");
  return {app, [flags] { return RunStatus(*flags); }};
}

}  // namespace farpool
