#include "supervisor/run.h"

#include <cpuid.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <new>

#include "base/clock.h"
#include "base/mutex.h"
#include "base/physical_memory.h"
#include "base/raise_limit.h"
#include "base/refuse.h"
#include "base/text.h"
#include "base/uffd_abi.h"
#include "base/writable.h"
#include "donor/server.h"
#include "run/filter.h"
#include "run/layout.h"
#include "supervisor/flame_graph.h"
#include "supervisor/program.h"
#include "supervisor/report.h"
#include "supervisor/supervisor.h"
#include "supervisor/unwind.h"

namespace farpool {

namespace {

constexpr uint64_t kLocalMin = 4u << 20;        // Below this the staging area alone would fill the limit.
constexpr uint64_t kLocalShareMin = 16u << 20;  // With --local N%.
constexpr uint64_t kGraceMs = 10'000;           // Leases outlive a broken connection this long.
constexpr uint64_t kThresholdDefault = 64u << 10;
// Our descriptors end here, or at the hard limit if that is lower: above those that select() takes, and not
// much, since each fork and spawn copies the table up to the last.
constexpr rlim_t kFdCeiling = 1024 + kRuntimeFds;

// A donor of our own on this host's shared memory, for this run. Its socket has no place in the file system:
// nothing is left of it however we end.
class PrivateDonor {
 public:
  Status Start(uint64_t bytes, PoolEntry* entry) {
    uint64_t name;
    if (getrandom(&name, sizeof(name), 0) != sizeof(name)) return Status::FromErrno("getrandom", errno);
    DonorOptions options;
    options.unix_path = TextBuffer<40>().Add("@farpool-").AddHex(name).c_str();
    options.memory_bytes = bytes != 0 ? bytes : PhysicalMemory() / 4 * 3;
    options.log = [this](const std::string& line) {
      MutexLock hold(&mutex_);
      trouble_ = line;
    };
    Result<std::unique_ptr<DonorServer>> started = DonorServer::Start(options);
    if (!started.ok()) return started.status();
    server_ = std::move(started).value();
    entry->scheme = PoolEntry::Scheme::kUnix;
    entry->path = options.unix_path;
    return Status::Ok();
  }
  // What it said last; empty if nothing.
  std::string trouble() {
    MutexLock hold(&mutex_);
    return trouble_;
  }

 private:
  Mutex mutex_;
  std::string trouble_ GUARDED_BY(mutex_);
  std::unique_ptr<DonorServer> server_;  // Goes first.
};

uint32_t XsaveBytes() {
  unsigned eax, ebx, ecx, edx;
  const bool enabled = __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_OSXSAVE) != 0 &&
                       __get_cpuid_count(0xd, 0, &eax, &ebx, &ecx, &edx) != 0;
  return enabled ? ebx : 0;
}

Result<RunSegment*> MakeSegment(const RunOptions& options, const std::string& library, Fd* fd) {
  rlimit space;
  getrlimit(RLIMIT_AS, &space);
  if (space.rlim_cur < kArenaBytes) return Status::Unsupported(kNoAddressSpace);
  *fd = Fd(memfd_create("farpool-run", MFD_CLOEXEC));
  if (!fd->valid()) return Status::FromErrno("memfd_create", errno);
  if (ftruncate(fd->get(), sizeof(RunSegment)) != 0)
    return Status::FromErrno("making room for the run's shared state (a limit on file sizes, ulimit -f?)",
                             errno);
  void* map =
      mmap(nullptr, sizeof(RunSegment), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd->get(), 0);
  if (map == MAP_FAILED) return Status::FromErrno("mapping the run's shared state", errno);
  // A fresh memfd is zero, which is every member's initial state; constructing 8 GiB of sparse counters in
  // place would touch them all.
  auto* segment = static_cast<RunSegment*>(map);
  segment->magic = kSegmentMagic;
  segment->bytes = sizeof(RunSegment);
  segment->xsave_bytes = XsaveBytes();
  if (getrandom(&segment->hash_seed, sizeof(segment->hash_seed), 0) != sizeof(segment->hash_seed))
    return Status::FromErrno("getrandom", errno);
  // Not a flag: no user has a reason to be slower.
  if (const char* fill = getenv("FARPOOL_TEST_FILL"); fill != nullptr) {
    if (std::string(fill) == "copy") segment->flags |= RunSegment::kNoMove;
    if (std::string(fill) == "move") segment->flags |= RunSegment::kNoRemap;
  }
  if (options.handoff == "monitor") segment->flags |= RunSegment::kMonitor;
  if (!options.trace_path.empty()) segment->flags |= RunSegment::kTrace;
  if (library.size() >= sizeof(segment->library))
    return Status::Unsupported("the path of farpool is too long");
  if (options.near_programs.size() >= sizeof(segment->near_programs))
    return Status::InvalidArgument("--near is too long: 255 characters at most");
  memcpy(segment->library, library.c_str(), library.size() + 1);
  memcpy(segment->near_programs, options.near_programs.c_str(), options.near_programs.size() + 1);
  segment->threshold_bytes = options.threshold_bytes != 0 ? options.threshold_bytes : kThresholdDefault;
  if (options.local_bytes != 0) {
    segment->budget.limit.store(options.local_bytes / kPageBytes);
  } else {
    segment->budget.percent.store(options.local_percent);
    segment->budget.limit_min.store(kLocalShareMin / kPageBytes);
    segment->budget.limit.store(kLocalShareMin / kPageBytes);
  }
  rlimit files;
  getrlimit(RLIMIT_NOFILE, &files);
  const rlim_t ceiling = std::min(files.rlim_max, kFdCeiling);
  if (ceiling < kDescriptorsMin)
    return Status::Unsupported(("too few file descriptors: raise the hard limit (ulimit -Hn) to " +
                                std::to_string(kDescriptorsWanted))
                                   .c_str());
  segment->fd_base = static_cast<int32_t>(ceiling) - kRuntimeFds;
  return segment;
}

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
  const std::string preload = others != nullptr && others[0] != 0 ? library + ":" + others : library;
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

LatencyReport Latencies(const Histogram& histogram) {
  LatencyReport r;
  r.count = histogram.count();
  if (r.count == 0) return r;
  r.p50_us = static_cast<double>(histogram.PercentileNs(0.50)) / 1e3;
  r.p90_us = static_cast<double>(histogram.PercentileNs(0.90)) / 1e3;
  r.p99_us = static_cast<double>(histogram.PercentileNs(0.99)) / 1e3;
  r.max_us = static_cast<double>(histogram.max_ns()) / 1e3;
  r.mean_us = static_cast<double>(histogram.sum_ns()) / 1e3 / static_cast<double>(r.count);
  return r;
}

std::string Quoted(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) {
    if (!text.empty()) text += ' ';
    if (!word.empty() &&
        word.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                               "%+,-./:=@_") == std::string::npos) {
      text += word;
      continue;
    }
    text += '\'';
    for (char c : word) text += c == '\'' ? "'\\''" : std::string(1, c);
    text += '\'';
  }
  return text;
}

RunReport MakeReport(const RunOptions& options, const RunSegment& segment, const std::string& pool) {
  RunReport r;
  r.command = Quoted(options.command);
  r.handoff = (segment.flags & RunSegment::kMonitor) != 0 ? "monitor" : "direct";
  r.fill = segment.copies.load() ? "copy" : "move";
  const bool pages = segment.devices.load() || (segment.flags & RunSegment::kNoRemap) != 0;
  r.evict = segment.copies.load() ? "copy" : pages ? "move" : "mremap";
  r.pool = pool;
  r.local_limit_bytes = segment.budget.limit.load() * kPageBytes;
  r.peak_resident_bytes = segment.budget.used_peak.load() * kPageBytes;
  r.peak_far_bytes = segment.budget.far_peak.load() * kPageBytes;
  r.processes = segment.processes_started.load();
  const PagingStats& s = segment.stats;
  r.fetch = Latencies(s.fetch);
  r.second_chance = Latencies(s.second_chance);
  r.first_touch = Latencies(s.first_touch);
  r.pages_in = s.pages_in.load();
  r.pages_out = s.pages_out.load();
  r.pages_clean = s.pages_clean.load();
  r.evicted_beside = s.evicted_beside.load();
  r.pages_zero = s.pages_zero.load();
  r.pages_prefetched = s.pages_prefetched.load();
  r.hinted_in = s.hinted_in.load();
  r.hinted_out = s.hinted_out.load();
  r.prefetch_hits = s.prefetch_hits.load();
  for (size_t i = 0; i < r.distances.size(); ++i) r.distances[i] = s.distances[i].load();
  r.bytes_in = r.pages_in * kPageBytes;
  r.bytes_out = r.pages_out * kPageBytes;
  const SlabTable& slabs = segment.slabs;
  r.packed_in_pages = slabs.packed_in_pages.load();
  r.packed_in_bytes = slabs.packed_in_bytes.load();
  r.packed_out_pages = slabs.packed_out_pages.load();
  r.packed_out_bytes = slabs.packed_out_bytes.load();
  r.syscalls_prepared = s.syscalls_prepared.load();
  r.syscalls_trapped = s.syscalls_trapped.load();
  r.efault_uncured = s.efault_uncured.load();
  r.stall_s = static_cast<double>(s.fetch.sum_ns() + s.second_chance.sum_ns() + s.first_touch.sum_ns()) / 1e9;
  return r;
}

// Where a report could not be written the program's own result still counts: one line, same exit status.
void WriteReport(const std::string& path, const std::string& text, FILE* dash) {
  if (path.empty()) return;
  if (path == "-") {
    fputs(text.c_str(), dash);
    fflush(dash);
    return;
  }
  std::ofstream file(path);
  file << text;
  if (!file.flush()) fprintf(stderr, "farpool: cannot write to '%s': %s\n", path.c_str(), strerror(errno));
}

// Said before the program starts where that can be told; what fails at the end is said then.
Status CheckReportPath(const char* flag, const std::string& path) {
  if (path.empty() || path == "-") return Status::Ok();
  if (const int error = WhyNotWritable(path.c_str()); error != 0)
    return Status::InvalidArgument(
        (std::string(flag) + ": cannot write to '" + path + "': " + strerror(error)).c_str());
  return Status::Ok();
}

}  // namespace

int RunProgram(const RunOptions& options) {
  if (InsideRun())
    return Refuse(
        "this is inside a run of farpool already: start the program without farpool run, it belongs "
        "to that run",
        kExitFarpoolFailed);
  for (const auto& [flag, path] :
       {std::pair("--report", &options.report_path), std::pair("--report-json", &options.report_json_path),
        std::pair("--trace", &options.trace_path)})
    if (Status s = CheckReportPath(flag, *path); !s.ok()) return Refuse(s.text(), kExitFarpoolFailed);
  const Program program = FindProgram(options.command.at(0));
  if (!program.status.ok()) return Refuse(program.status.text(), program.exit_status);
  if (Status s = CheckPreloadable(program.path); !s.ok()) return Refuse(s.text(), kExitFarpoolFailed);
  Result<std::string> library = FindRuntimeLibrary();
  if (!library.ok()) return Refuse(library.status().text(), kExitFarpoolFailed);
  if (options.local_bytes != 0 && options.local_bytes < kLocalMin)
    return Refuse("--local is too small: at least 4M is needed", kExitFarpoolFailed);

  if (options.handoff == "monitor") {
    if (!options.trace_path.empty())
      return Refuse("--trace needs the thread that touches: leave --handoff monitor away",
                    kExitFarpoolFailed);
    const Fd fd(static_cast<int>(OpenKernelUserfault()));
    if (!fd.valid())
      return Refuse(
          "--handoff monitor needs the right to serve the kernel's own page faults: open /dev/userfaultfd "
          "to this user, or run as root",
          kExitFarpoolFailed);
  }

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
  Result<RunSegment*> made = MakeSegment(options, library.value(), &segment_fd);
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
    ExecProgram(options, program.path, library.value(), segment, segment_fd.get(), libc_fd.get(),
                control_theirs.get(), errors_write.get(), limit, old_mask, parent);
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
  if (!options.trace_path.empty()) {
    const std::vector<std::vector<std::string>> stacks = UnwindSamples(segment->trace);
    WriteReport(options.trace_path,
                FlameGraphSvg("Far faults of " + report.command + ": " + std::to_string(stacks.size()) +
                                  " samples of " + std::to_string(segment->trace.faults.load()),
                              stacks),
                stdout);
  }
  WriteReport(options.report_path, options.report_path.empty() ? "" : ReportText(report), stderr);
  WriteReport(options.report_json_path, options.report_json_path.empty() ? "" : ReportJson(report), stdout);
  return exit_status;
}

}  // namespace farpool
