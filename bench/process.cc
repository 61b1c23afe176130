#include "bench/process.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <fstream>

#include "base/clock.h"
#include "base/fd.h"

namespace bench {

namespace {

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
  _exit(127);
}

std::string LastLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::string last = "no word from it";
  while (std::getline(file, line)) last = line;
  return last;
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

Result<std::string> RunForOutput(const std::vector<std::string>& argv, unsigned seconds_max,
                                 const std::string& cgroup_procs) {
  farpool::Fd output;
  const Result<pid_t> pid = Spawn(argv, cgroup_procs, "", &output);
  if (!pid.ok()) return pid.status();
  const uint64_t deadline = farpool::NowNs() + seconds_max * 1'000'000'000ull;
  std::string text;
  for (;;) {
    if (InterruptGuard::interrupted()) {
      End(pid.value());
      return Status::Unavailable("interrupted");
    }
    if (farpool::NowNs() > deadline) {
      End(pid.value());
      return Status::Timeout((argv[0] + " did not end in " + std::to_string(seconds_max) + " s").c_str());
    }
    pollfd wait = {output.get(), POLLIN, 0};
    if (poll(&wait, 1, 200) <= 0) continue;
    char buffer[4096];
    const ssize_t n = read(output.get(), buffer, sizeof(buffer));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    text.append(buffer, static_cast<size_t>(n));
  }
  int status = 0;
  while (waitpid(pid.value(), &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return text;
  const std::string how = WIFEXITED(status) ? "status " + std::to_string(WEXITSTATUS(status))
                                            : "signal " + std::to_string(WTERMSIG(status));
  const bool killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
  return Status(killed ? Status::Code::kExhausted : Status::Code::kInternal,
                (argv[0] + " ended with " + how).c_str());
}

Result<std::unique_ptr<Donor>> Donor::Start(const std::string& farpool, const std::vector<std::string>& flags,
                                            const std::string& log_path) {
  std::vector<std::string> argv = {farpool, "donor"};
  argv.insert(argv.end(), flags.begin(), flags.end());
  farpool::Fd output;
  const Result<pid_t> pid = Spawn(argv, "", log_path, &output);
  if (!pid.ok()) return pid.status();
  std::unique_ptr<Donor> donor(new Donor(pid.value(), output.Release()));
  const uint64_t deadline = farpool::NowNs() + 10'000'000'000u;
  std::string text;
  while (text.find("ready\n") == std::string::npos) {
    pollfd wait = {donor->output_, POLLIN, 0};
    if (farpool::NowNs() > deadline || InterruptGuard::interrupted())
      return Status::Timeout("the donor did not become ready");
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
