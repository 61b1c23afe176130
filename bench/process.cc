#include "bench/process.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string_view>
#include <utility>

#include "base/clock.h"
#include "base/fd.h"

namespace bench {

namespace {

constexpr int kWatchMs = 5;
constexpr int kNotFoundStatus = 127;  // As a shell has it.

volatile sig_atomic_t interrupt_seen = 0;
struct sigaction before_int, before_term;

// Starts `argv` with its stdout in a pipe; its stderr is ours unless there is a `log_path`.
Result<pid_t> Spawn(const std::vector<std::string>& argv, const std::string& cgroup_procs,
                    const std::string& log_path, farpool::Fd* output) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return Status::FromErrno("pipe2", errno);
  *output = farpool::Fd(ends[0]);
  const farpool::Fd write_end(ends[1]);
  std::vector<char*> words;
  words.reserve(argv.size() + 1);
  for (const std::string& word : argv) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid < 0) return Status::FromErrno("fork", errno);
  if (pid > 0) return pid;
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != parent) _exit(125);
  signal(SIGINT, SIG_DFL);
  signal(SIGTERM, SIG_DFL);
  if (!cgroup_procs.empty()) {
    const int procs = open(cgroup_procs.c_str(), O_WRONLY | O_CLOEXEC);
    if (procs < 0 || write(procs, "0", 1) != 1) _exit(124);
  }
  if (!log_path.empty()) {
    setsid();  // A donor: Ctrl-C is for the driver, which ends its donors after the programs that use them.
    const int log = open(log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log < 0 || dup2(log, STDERR_FILENO) < 0) _exit(123);
  }
  dup2(ends[1], STDOUT_FILENO);
  execvp(words[0], words.data());
  _exit(kNotFoundStatus);
}

std::string FirstLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

std::string LastLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::string last = "no word from it";
  while (std::getline(file, line)) last = line;
  return last;
}

// Of a process and its descendants. Pages they share after a fork count for each.
uint64_t AnonymousBytes(pid_t pid) {
  const std::string proc = "/proc/" + std::to_string(pid);
  uint64_t bytes = 0;
  std::ifstream status(proc + "/status");
  constexpr std::string_view kField = "RssAnon:";
  for (std::string line; std::getline(status, line);)
    if (line.starts_with(kField)) bytes = strtoull(line.c_str() + kField.size(), nullptr, 10) << 10;
  // Children by the thread that made them; the programs here make theirs in the first.
  std::ifstream children(proc + "/task/" + std::to_string(pid) + "/children");
  for (pid_t child = 0; children >> child;) bytes += AnonymousBytes(child);
  return bytes;
}

// Ends `pid` and collects it: politely first.
void End(pid_t pid) {
  kill(pid, SIGTERM);
  for (int tenths = 0; tenths < 50; ++tenths) {
    if (waitpid(pid, nullptr, WNOHANG) != 0) return;
    usleep(100'000);
  }
  kill(pid, SIGKILL);
  waitpid(pid, nullptr, 0);
}

}  // namespace

InterruptGuard::InterruptGuard() {
  struct sigaction action = {};
  action.sa_handler = [](int) { interrupt_seen = 1; };
  sigaction(SIGINT, &action, &before_int);
  sigaction(SIGTERM, &action, &before_term);
}

InterruptGuard::~InterruptGuard() {
  sigaction(SIGINT, &before_int, nullptr);
  sigaction(SIGTERM, &before_term, nullptr);
}

bool InterruptGuard::interrupted() { return interrupt_seen != 0; }

Result<Program> Program::Start(const Command& command) {
  Program program;
  program.command_ = command;
  program.began_ns_ = farpool::NowNs();
  const Result<pid_t> pid = Spawn(command.argv, command.cgroup_procs, "", &program.output_);
  if (!pid.ok()) return pid.status();
  program.pid_ = pid.value();
  return program;
}

Program::Program(Program&& other) noexcept
    : command_(std::move(other.command_)),
      pid_(std::exchange(other.pid_, -1)),
      output_(std::move(other.output_)),
      began_ns_(other.began_ns_) {}

Program::~Program() {
  if (pid_ >= 0) End(pid_);
}

Result<Outcome> Program::Finish() {
  const pid_t pid = std::exchange(pid_, -1);
  const std::string& name = command_.argv[0];
  const uint64_t deadline = began_ns_ + command_.seconds_max * 1'000'000'000ull;
  Outcome outcome;
  for (;;) {
    if (InterruptGuard::interrupted() && !command_.always) {
      End(pid);
      return Status::Unavailable("interrupted");
    }
    if (farpool::NowNs() > deadline) {
      End(pid);
      return Status::Timeout(
          (name + " did not end in " + std::to_string(command_.seconds_max) + " s").c_str());
    }
    if (command_.watch_footprint)
      outcome.anonymous_peak = std::max(outcome.anonymous_peak, AnonymousBytes(pid));
    if (!command_.cgroup_stat.empty()) (void)FirstLine(command_.cgroup_stat);
    const bool watching = command_.watch_footprint || !command_.cgroup_stat.empty();
    pollfd wait = {output_.get(), POLLIN, 0};
    if (poll(&wait, 1, watching ? kWatchMs : 200) <= 0) continue;
    char buffer[4096];
    const ssize_t n = read(output_.get(), buffer, sizeof(buffer));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    outcome.output.append(buffer, static_cast<size_t>(n));
  }
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  outcome.seconds = static_cast<double>(farpool::NowNs() - began_ns_) / 1e9;
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return outcome;
  if (WIFEXITED(status) && WEXITSTATUS(status) == kNotFoundStatus)
    return Status(Status::Code::kNotFound, "not installed");
  const std::string how = WIFEXITED(status) ? "status " + std::to_string(WEXITSTATUS(status))
                                            : "signal " + std::to_string(WTERMSIG(status));
  const bool killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
  return Status(killed ? Status::Code::kExhausted : Status::Code::kInternal,
                (name + " ended with " + how).c_str());
}

Result<Outcome> RunToEnd(const Command& command) {
  Result<Program> program = Program::Start(command);
  return program.ok() ? program.value().Finish() : program.status();
}

Result<std::unique_ptr<Donor>> Donor::Start(const std::vector<std::string>& argv,
                                            const std::string& log_path) {
  farpool::Fd output;
  const Result<pid_t> pid = Spawn(argv, "", log_path, &output);
  if (!pid.ok()) return pid.status();
  std::unique_ptr<Donor> donor(new Donor(pid.value(), output.Release()));
  const uint64_t deadline = farpool::NowNs() + 10'000'000'000u;
  std::string text;
  while (text.find("ready\n") == std::string::npos) {
    pollfd wait = {donor->output_, POLLIN, 0};
    if (InterruptGuard::interrupted()) return Status::Unavailable("interrupted");
    if (farpool::NowNs() > deadline) return Status::Timeout("the donor did not become ready");
    if (poll(&wait, 1, 200) <= 0) continue;
    char buffer[1024];
    const ssize_t n = read(donor->output_, buffer, sizeof(buffer));
    if (n == 0) return Status::Unavailable(("the donor ended at once: " + LastLine(log_path)).c_str());
    if (n > 0) text.append(buffer, static_cast<size_t>(n));
  }
  constexpr const char kListening[] = "listening on ";
  const size_t from = text.find(kListening) + strlen(kListening);
  donor->endpoint_ = text.substr(from, text.find(',', from) - from);
  return donor;
}

Donor::~Donor() {
  End(pid_);
  close(output_);
}

}  // namespace bench
