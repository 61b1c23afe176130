#include "bench/setup.h"

#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

namespace bench {

Setup::Setup() = default;

Setup::~Setup() {
  if (folder_.empty()) return;
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
  setenv("TMPDIR", tmpdir_before_.c_str(), 1);
}

Status Setup::Init() {
  std::error_code error;
  farpool_ = std::filesystem::read_symlink("/proc/self/exe", error).string();
  libexec_ = (std::filesystem::path(farpool_).parent_path() / "../libexec").lexically_normal();
  for (const std::string& needed : {worker(), app("stream")})
    if (access(needed.c_str(), X_OK) != 0)
      return Status(Status::Code::kNotFound,
                    (needed + " is missing; build or install farpool with its bench").c_str());
  const char* const base = getenv("TMPDIR");
  tmpdir_before_ = base != nullptr && *base != 0 ? base : "/tmp";
  folder_ = tmpdir_before_ + "/farpool-bench.XXXXXX";
  if (mkdtemp(folder_.data()) == nullptr) {
    folder_.clear();
    return Status::FromErrno("mkdtemp", errno);
  }
  // What a program leaves when it is ended goes with the folder.
  setenv("TMPDIR", folder_.c_str(), 1);
  return Status::Ok();
}

std::string Setup::PoolConfig(const std::string& pool) {
  const bool tcp = pool.find("tcp://") != std::string::npos;
  const bool near = pool.find("unix://") != std::string::npos;
  return tcp && near ? "farpool-pool" : tcp ? "farpool-tcp" : "farpool-shm";
}

Result<std::unique_ptr<Donor>> Setup::StartDonor(const std::vector<std::string>& flags, uint64_t bytes,
                                                 const std::vector<std::string>& before) const {
  std::vector<std::string> argv = before;
  argv.insert(argv.end(), {farpool_, "donor", "--memory", std::to_string(bytes)});
  argv.insert(argv.end(), flags.begin(), flags.end());
  return Donor::Start(argv, folder_ + "/donors.log");
}

std::vector<std::string> Setup::Far(const std::string& pool, uint64_t limit_bytes,
                                    const std::vector<std::string>& program,
                                    const std::vector<std::string>& flags, const std::string& name) const {
  std::error_code ignored;
  std::filesystem::remove(report(name), ignored);
  std::vector<std::string> argv = {farpool_, "run", "--local",       std::to_string(limit_bytes),
                                   "--pool", pool,  "--report-json", report(name)};
  argv.insert(argv.end(), flags.begin(), flags.end());
  argv.push_back("--");
  argv.insert(argv.end(), program.begin(), program.end());
  return argv;
}

Result<uint64_t> Setup::BytesMoved(const std::string& name) const {
  std::ifstream file(report(name));
  const auto json = nlohmann::json::parse(file, nullptr, false);
  for (const char* const field : {"bytes_in", "bytes_out", "local_limit_bytes", "peak_resident_bytes"})
    if (!json.is_object() || !json.contains(field)) return Status::Corrupt("farpool run wrote no report");
  if (json["peak_resident_bytes"].get<uint64_t>() > json["local_limit_bytes"].get<uint64_t>())
    return Status::Corrupt("farpool run exceeded its limit");
  return json["bytes_in"].get<uint64_t>() + json["bytes_out"].get<uint64_t>();
}

}  // namespace bench
