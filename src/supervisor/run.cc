#include "supervisor/run.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <map>

#include "base/clock.h"
#include "base/raise_limit.h"
#include "base/refuse.h"
#include "base/uffd_abi.h"
#include "run/filter.h"
#include "run/layout.h"
#include "supervisor/make_segment.h"
#include "supervisor/private_donor.h"
#include "supervisor/program.h"
#include "supervisor/run_report.h"
#include "supervisor/supervisor.h"

namespace farpool {

namespace {

constexpr uint64_t kLocalMin = 4u << 20;  // Below this the staging area alone would fill the limit.
constexpr uint64_t kGraceMs = 10'000;     // Leases outlive a broken connection this long.

// Signals that farpool takes otherwise than it may have been started. The program gets back what there was.
class OwnActions {
 public:
  OwnActions() {
    // Where SIGCHLD is ignored the kernel does not say who ended, nor how.
    Set(SIGCHLD, SIG_DFL);
    Set(SIGPIPE, SIG_IGN);
    // A limit on file sizes is to be an error that can be said, not the end.
    Set(SIGXFSZ, SIG_IGN);
  }
  void Restore() const {
    for (const auto& [signal, action] : before_) sigaction(signal, &action, nullptr);
  }

 private:
  void Set(int signal, sighandler_t handler) {
    struct sigaction action = {};
    action.sa_handler = handler;
    sigaction(signal, &action, &before_[signal]);
  }
  std::map<int, struct sigaction> before_;
};

// SIGCHLD, and what somebody may send to farpool and mean for the program.
sigset_t SignalsOfTheRun() {
  sigset_t signals;
  sigemptyset(&signals);
  for (int signal : {SIGCHLD, SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH, SIGCONT, SIGALRM})
    sigaddset(&signals, signal);
  for (int signal = SIGRTMIN; signal <= SIGRTMAX; ++signal) sigaddset(&signals, signal);
  return signals;
}

// In the child between fork and exec; never returns. What goes wrong is written to `errors` as a Status.
[[noreturn]] void ExecProgram(const RunOptions& options, const std::string& path, const std::string& library,
                              RunSegment* segment, int segment_fd, int libc_fd, int control_fd, int errors,
                              const rlimit& limit, const sigset_t& mask, pid_t parent) {
  auto fail = [&](const Status& s) {
    (void)!write(errors, &s, sizeof(s));
    _exit(kExitFarpoolFailed);
  };
  // Without the supervisor the program cannot go on: its memory is out of reach.
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(kExitFarpoolFailed);
  const int base = segment->fd_base;
  // All of the runtime's places, so that the program gets none of them (ReserveFds() does the same after
  // exec).
  for (int i = 0; i < kRuntimeFds; ++i) {
    const int fd = i == kFdControl ? control_fd : i == kFdLibc ? libc_fd : segment_fd;
    if (dup2(fd, base + i) < 0) fail(Status::FromErrno("placing descriptors", errno));
  }
  setrlimit(RLIMIT_NOFILE, &limit);
  const char* others = getenv("LD_PRELOAD");
  const std::string preload = others != nullptr ? library + ":" + others : library;
  setenv("LD_PRELOAD", preload.c_str(), 1);
  setenv("FARPOOL_RUNTIME_FD", std::to_string(base).c_str(), 1);
  sigprocmask(SIG_SETMASK, &mask, nullptr);
  std::vector<char*> argv;
  for (const std::string& word : options.command) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  if (Status s = InstallFilter(base, kRuntimeFds); !s.ok()) fail(s);
  execv(path.c_str(), argv.data());
  if (errno == ENOEXEC) {  // A script without #!, as execvp would do it.
    argv.insert(argv.begin(), const_cast<char*>("/bin/sh"));
    argv[1] = const_cast<char*>(path.c_str());
    execv("/bin/sh", argv.data());
  }
  // The file itself was found before: what is missing is the interpreter that it names.
  const std::string why = errno == ENOENT ? "its interpreter is not there" : strerror(errno);
  const Status s(Status::Code::kNotFound, ("cannot run '" + path + "': " + why).c_str(), errno);
  (void)!write(errors, &s, sizeof(s));
  _exit(kExitCannotExecute);
}

// What can be said before anything is set up: a bad option, a program that cannot run here. 0, or the exit
// status after one line.
int Preflight(const RunOptions& options, std::string* path, std::string* library) {
  const auto refuse = [](const Status& s, int exit_status = kExitFarpoolFailed) {
    return Refuse(s.text(), exit_status);
  };
  if (InsideRun())
    return Refuse(
        "this is inside a run of farpool already: start the program without farpool run, it belongs "
        "to that run",
        kExitFarpoolFailed);
  if (Status s = CheckReportPaths(options); !s.ok()) return refuse(s);
  const Program program = FindProgram(options.command.at(0));
  if (!program.status.ok()) return refuse(program.status, program.exit_status);
  *path = program.path;
  if (Status s = CheckPreloadable(*path); !s.ok()) return refuse(s);
  Result<std::string> runtime = FindRuntimeLibrary();
  if (!runtime.ok()) return refuse(runtime.status());
  *library = runtime.value();
  if (options.local_bytes != 0 && options.local_bytes < kLocalMin)
    return Refuse("--local is too small: at least 4M is needed", kExitFarpoolFailed);
  if (options.handoff != "monitor") return 0;
  if (!options.trace_path.empty())
    return Refuse("--trace needs the thread that touches: leave --handoff monitor away", kExitFarpoolFailed);
  const Fd fd(static_cast<int>(OpenKernelUserfault()));
  if (fd.valid()) return 0;
  return Refuse(
      "--handoff monitor needs the right to serve the kernel's own page faults: open /dev/userfaultfd "
      "to this user, or run as root",
      kExitFarpoolFailed);
}

}  // namespace

int RunProgram(const RunOptions& options) {
  std::string path, library;
  if (const int exit_status = Preflight(options, &path, &library); exit_status != 0) return exit_status;

  const OwnActions actions;
  const sigset_t signals = SignalsOfTheRun();
  sigset_t old_mask;
  sigprocmask(SIG_BLOCK, nullptr, &old_mask);
  PrivateDonor private_donor;
  std::vector<PoolEntry> pool = options.pool;
  if (pool.empty()) {
    PoolEntry entry;
    if (Status s = private_donor.Start(options.private_donor_bytes, &entry); !s.ok())
      return Refuse(s.text(), kExitFarpoolFailed);
    pool.push_back(entry);
  }
  // A descriptor or two per process of the run; the program gets the old limit back.
  rlimit limit;
  getrlimit(RLIMIT_NOFILE, &limit);
  RaiseLimit(RLIMIT_NOFILE);
  Fd segment_fd;
  Result<RunSegment*> made = MakeSegment(options, library, &segment_fd);
  if (!made.ok()) return Refuse(made.status().text(), kExitFarpoolFailed);
  RunSegment* segment = made.value();
  // By that name it stands in /proc/PID/maps.
  const Fd libc_fd(memfd_create("libc.so.6", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!libc_fd.valid() || ftruncate(libc_fd.get(), PatchedLibc::kFileBytes) != 0)
    return Refuse(Status::FromErrno("making room for libc's code", errno).text(), kExitFarpoolFailed);
  segment->slabs.compress = options.compress;
  Donors donors;
  if (Status s = donors.Open(pool, kGraceMs, &segment->slabs, {}, options.placement); !s.ok()) {
    const std::string trouble = private_donor.trouble();
    return Refuse(trouble.empty() ? s.text() : "this run's own donor: " + trouble, kExitFarpoolFailed);
  }
  segment->donor_count = static_cast<uint32_t>(donors.size());
  for (size_t i = 0; i < donors.size(); ++i)
    segment->donors[i] = {.shared_memory = donors.shared_memory(i), .rdma = donors.rdma(i)};
  // A pool without room is found out before the program starts.
  if (!donors.HasRoom())
    return Refuse("no donor has room for a single slab; see farpool status", kExitFarpoolFailed);

  int control[2];
  int errors[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, control) != 0 || pipe2(errors, O_CLOEXEC) != 0)
    return Refuse(Status::FromErrno("socketpair", errno).text(), kExitFarpoolFailed);
  Fd control_ours(control[0]), control_theirs(control[1]), errors_read(errors[0]), errors_write(errors[1]);
  sigprocmask(SIG_BLOCK, &signals, nullptr);
  Fd signal_fd(signalfd(-1, &signals, SFD_CLOEXEC));
  prctl(PR_SET_CHILD_SUBREAPER, 1);

  const uint64_t start = NowNs();
  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child < 0) return Refuse(Status::FromErrno("fork", errno).text(), kExitFarpoolFailed);
  if (child == 0) {
    actions.Restore();
    ExecProgram(options, path, library, segment, segment_fd.get(), libc_fd.get(), control_theirs.get(),
                errors_write.get(), limit, old_mask, parent);
  }
  errors_write.Reset();
  control_theirs.Reset();
  Status failure;
  if (read(errors_read.get(), &failure, sizeof(failure)) == static_cast<ssize_t>(sizeof(failure))) {
    int status;
    waitpid(child, &status, 0);
    donors.Close();
    return Refuse(failure.text(), WEXITSTATUS(status));
  }

  Supervisor supervisor(segment, &donors, control_ours.get(), signal_fd.get());
  const int exit_status = supervisor.Loop(child);
  RunReport report = MakeReport(options, *segment, donors.Names());
  report.exit_status = exit_status;
  report.wall_s = static_cast<double>(NowNs() - start) / 1e9;
  report.stored_bytes = supervisor.stored_bytes();
  report.metadata_bytes = supervisor.table_bytes_peak();
  report.near_peak_bytes = supervisor.near_bytes_peak();
  donors.Close();
  WriteReports(options, report, *segment);
  return exit_status;
}

}  // namespace farpool
