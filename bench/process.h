#pragma once
// Child processes of the bench: run to the end with a bound, or kept in the background and stopped by pid.

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "base/fd.h"
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

// How a program is started and watched.
struct Command {
  std::vector<std::string> argv;
  unsigned seconds_max = 0;
  std::string cgroup_procs;      // A file the process writes itself into before it starts the program.
  std::string cgroup_stat;       // A file to read every few milliseconds (see MemoryGroup); empty for none.
  bool watch_footprint = false;  // Looks at its memory every few milliseconds.
  bool always = false;           // An interrupt does not end it: it cleans up.
};

struct Outcome {
  std::string output;           // Its stdout.
  double seconds = 0;           // From fork to its end.
  uint64_t anonymous_peak = 0;  // Bytes, it and its descendants together; if watched.
};

// A program that was started. Ended, if it still runs, with this object.
class Program {
 public:
  static Result<Program> Start(const Command& command);
  Program(Program&& other) noexcept;
  ~Program();
  // As RunToEnd(). Once.
  Result<Outcome> Finish();

 private:
  Program() = default;
  Command command_;
  pid_t pid_ = -1;  // -1: it has ended.
  farpool::Fd output_;
  uint64_t began_ns_ = 0;
};

// Runs a program to its end; its stderr is ours. Any status but 0 is an error, as are `seconds_max` passed
// (kTimeout) and an interrupt (kUnavailable); the process is gone after either. kExhausted: SIGKILL ended it,
// which in a memory control group is the kernel's doing. kNotFound: it ended with 127, so it or something
// that it needs is not installed.
Result<Outcome> RunToEnd(const Command& command);

// A donor: started, ready, and ended with this object.
class Donor {
 public:
  // `argv`: `farpool donor` with its flags, also behind a program that turns into it. Returns once it is
  // ready, within 10 s. What it logs is appended to the file `log_path`; where it does not start, its last
  // line there is part of the error.
  static Result<std::unique_ptr<Donor>> Start(const std::vector<std::string>& argv,
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
