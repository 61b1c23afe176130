#pragma once
// What every bench needs around its programs: where things are, a folder for the time it lasts, donors.

#include <memory>
#include <string>
#include <vector>

#include "bench/process.h"

namespace bench {

class Setup {
 public:
  Setup();
  ~Setup();  // Removes the folder.
  Setup(const Setup&) = delete;

  // Finds the programs and makes the folder. kNotFound: the bench is not installed beside farpool.
  Status Init();
  const std::string& farpool() const { return farpool_; }
  std::string worker() const { return libexec_ + "/farpool-bench-worker"; }
  // Of the programs of `farpool bench apps`.
  std::string app(const std::string& name) const { return libexec_ + "/farpool-bench/" + name; }
  const std::string& folder() const { return folder_; }

  // A donor on this host that lends `bytes`; `before` are words that come before its command.
  Result<std::unique_ptr<Donor>> StartDonor(const std::vector<std::string>& flags, uint64_t bytes,
                                            const std::vector<std::string>& before = {}) const;
  // What a given pool is called in results.
  static std::string PoolConfig(const std::string& pool);
  // `farpool run`, with `flags`, in front of `program`; leaves report `name`.
  std::vector<std::string> Far(const std::string& pool, uint64_t limit_bytes,
                               const std::vector<std::string>& program,
                               const std::vector<std::string>& flags = {},
                               const std::string& name = "report") const;
  // What the run with that report moved. An error if it left none or exceeded its limit.
  Result<uint64_t> BytesMoved(const std::string& name = "report") const;

 private:
  std::string report(const std::string& name) const { return folder_ + "/" + name + ".json"; }

  std::string farpool_;
  std::string libexec_;
  std::string folder_;
  std::string tmpdir_before_;
};

}  // namespace bench
