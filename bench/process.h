#pragma once
// Child processes of the bench: run to the end with a bound, or kept in the background and stopped by pid.

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "farpool/status.h"

namespace bench {

using farpool::Result;
using farpool::Status;

// Until the returned object goes, SIGINT and SIGTERM set a flag that ends RunForOutput() instead of the
// process.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  static bool interrupted();
};

// Runs `argv` to its end and returns its stdout; stderr is ours. Any status but 0 is an error, as are
// `seconds_max` passed and an interrupt; the process is gone after either. kExhausted: SIGKILL ended it,
// which in a memory control group is the kernel's doing. `cgroup_procs`: a file the process writes itself
// into before it starts the program; empty for none.
Result<std::string> RunForOutput(const std::vector<std::string>& argv, unsigned seconds_max,
                                 const std::string& cgroup_procs = "");

// A donor: started, ready, and ended with this object.
class Donor {
 public:
  // `flags` as for `farpool donor`. Returns once it is ready, within 10 s. What it logs is appended to the
  // file `log_path`; where it does not start, its last line there is part of the error.
  static Result<std::unique_ptr<Donor>> Start(const std::string& farpool,
                                              const std::vector<std::string>& flags,
                                              const std::string& log_path);
  ~Donor();
  Donor(const Donor&) = delete;
  // "tcp://127.0.0.1:40000", as the donor printed it.
  const std::string& endpoint() const { return endpoint_; }

 private:
  Donor(pid_t pid, int output) : pid_(pid), output_(output) {}
  pid_t pid_;
  int output_;
  std::string endpoint_;
};

}  // namespace bench
