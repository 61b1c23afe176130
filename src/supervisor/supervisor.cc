#include "supervisor/supervisor.h"

#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include "base/clock.h"
#include "run/control.h"
#include "supervisor/run.h"

namespace farpool {

namespace {

constexpr int kTickMs = 1000;
// Of our time, one part in so many goes into measuring near memory; but every ten seconds it is measured.
constexpr uint64_t kNearShare = 500;
constexpr uint64_t kNearPauseMaxNs = 10'000'000'000;
constexpr int kKillRoundsMax = 1000;  // New children may appear while we kill; each round ends the ones seen.

// Every process below us. The program and its descendants: orphans come to us (PR_SET_CHILD_SUBREAPER).
std::set<pid_t> Descendants() {
  std::multimap<pid_t, pid_t> children;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", error)) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    std::ifstream file(entry.path() / "stat");
    std::string text;
    std::getline(file, text);
    const size_t paren = text.rfind(')');
    int parent = 0;
    char state = 0;
    if (paren == std::string::npos || sscanf(text.c_str() + paren + 1, " %c %d", &state, &parent) != 2)
      continue;
    if (state != 'Z') children.emplace(parent, std::stoi(name));
  }
  std::set<pid_t> found;
  std::vector<pid_t> open = {getpid()};
  while (!open.empty()) {
    const pid_t parent = open.back();
    open.pop_back();
    for (auto [at, end] = children.equal_range(parent); at != end; ++at)
      if (found.insert(at->second).second) open.push_back(at->second);
  }
  return found;
}

// By which a donor knows whose data channel it is.
uint64_t HolderOf(uint32_t process) { return uint64_t{process} + 1; }

}  // namespace

void Supervisor::NoteNearBytes() {
  const uint64_t now = NowNs();
  if (now < near_due_ns_) return;
  uint64_t private_bytes = 0;
  for (const pid_t pid : Descendants()) {
    std::ifstream file("/proc/" + std::to_string(pid) + "/status");
    for (std::string line; std::getline(file, line);)
      if (line.starts_with("RssAnon:")) private_bytes += std::strtoull(line.c_str() + 8, nullptr, 10) * 1024;
  }
  const uint64_t far_bytes = segment_->budget.used.load() * kPageBytes;
  if (private_bytes > far_bytes && private_bytes - far_bytes > near_bytes_peak_)
    near_bytes_peak_ = private_bytes - far_bytes;
  // On a host with many processes it takes a while.
  const uint64_t took = NowNs() - now;
  near_due_ns_ = now + std::clamp(took * kNearShare, uint64_t{kTickMs} * 1'000'000, kNearPauseMaxNs);
}

void Supervisor::Stop(int status, const std::string& text) {
  if (stopping_) return;
  stopping_ = true;
  exit_status_ = status;
  fprintf(stderr, "farpool: %s\n", text.c_str());
  for (int round = 0; round < kKillRoundsMax; ++round) {
    const std::set<pid_t> victims = Descendants();
    if (victims.empty()) break;
    for (pid_t pid : victims) kill(pid, SIGKILL);
    Reap();
  }
}

void Supervisor::Reply(int channel, const Status& status, uint64_t value, const int* fds, int fd_count) {
  ControlReply reply = {};
  reply.code = status.code();
  reply.value = value;
  snprintf(reply.text, sizeof(reply.text), "%s", status.ok() ? "" : status.text());
  (void)SendPacket(channel, &reply, sizeof(reply), fds, status.ok() ? fd_count : 0);
}

void Supervisor::OnControl() {
  ControlRequest request;
  int fd = -1;
  int count = 0;
  const long r = ReceivePacket(control_, &request, sizeof(request), &fd, 1, &count, 0);
  Fd channel(count == 1 ? fd : -1);
  if (r != static_cast<long>(sizeof(request))) return;
  if (request.op == ControlOp::kFatal) {
    request.text[sizeof(request.text) - 1] = 0;
    Stop(static_cast<int>(request.arg), request.text);
    return;
  }
  if (request.op != ControlOp::kRegister || !channel.valid()) return;
  const int channel_fd = channel.get();
  Result<uint32_t> index = processes_.Add(std::move(channel));
  if (!index.ok()) {
    Reply(channel_fd, index.status(), 0, nullptr, 0);
    return;
  }
  const int table = processes_.table(index.value());
  Reply(channel_fd, Status::Ok(), index.value(), &table, 1);
}

void Supervisor::RemoveEnded() {
  std::vector<uint32_t> ended;
  for (const auto& [index, entry] : processes_.entries()) {
    char byte;
    if (recv(entry.channel.get(), &byte, sizeof(byte), MSG_PEEK | MSG_DONTWAIT) == 0) ended.push_back(index);
  }
  for (const uint32_t index : ended) RemoveProcess(index);
}

void Supervisor::RemoveProcess(uint32_t index) {
  // What it sent when it was killed must not come over what others write to its slots.
  const uint64_t connected = processes_.entries().at(index).donors;
  for (uint64_t left = connected; left != 0; left &= left - 1)
    donors_->EndChannels(static_cast<uint32_t>(std::countr_zero(left)), HolderOf(index));
  processes_.Remove(index);
  for (uint64_t left = connected; left != 0; left &= left - 1) {
    const auto donor = static_cast<uint32_t>(std::countr_zero(left));
    if (donors_->gone(donor)) OnDonor(donor);
  }
}

Result<Fd> Supervisor::Connect(uint32_t index, uint32_t donor) {
  if (donor >= donors_->size()) return Status::InvalidArgument("no such donor");
  if ((processes_.entries().at(index).donors >> donor & 1) != 0) donors_->EndChannels(donor, HolderOf(index));
  processes_.NoteDonor(index, donor);
  return donors_->Connect(donor, HolderOf(index));
}

void Supervisor::OnChannel(uint32_t index) {
  const int channel = processes_.entries().at(index).channel.get();
  ControlRequest request;
  int unexpected_fd;
  int count = 0;
  const long r = ReceivePacket(channel, &request, sizeof(request), &unexpected_fd, 1, &count, 0);
  if (count == 1) close(unexpected_fd);
  if (r != static_cast<long>(sizeof(request))) {
    if (r == -EAGAIN || r == -ETIMEDOUT) return;
    // The process ended or runs another program now.
    if (processes_.entries().size() == 1) stored_bytes_ = segment_->slabs.used_slots.load() * kPageBytes;
    RemoveProcess(index);
    return;
  }
  switch (request.op) {
    case ControlOp::kLease: {
      Result<uint32_t> slab = donors_->LeaseSlab();
      // What processes held that have ended meanwhile is free then, in slabs that are there.
      if (!slab.ok()) RemoveEnded();
      Reply(channel, slab.ok() ? Status::Ok() : slab.status(), slab.ok() ? slab.value() : 0, nullptr, 0);
      return;
    }
    case ControlOp::kMapSlab: {
      Result<int> memory = donors_->SlabMemory(static_cast<uint32_t>(request.arg));
      const int fd = memory.ok() ? memory.value() : -1;
      Reply(channel, memory.ok() ? Status::Ok() : memory.status(), 0, &fd, 1);
      return;
    }
    case ControlOp::kConnect: {
      Result<Fd> link = Connect(index, static_cast<uint32_t>(request.arg));
      const int fd = link.ok() ? link.value().get() : -1;
      if (!link.ok()) OnDonor(static_cast<uint32_t>(request.arg));
      Reply(channel, link.ok() ? Status::Ok() : link.status(), 0, &fd, 1);
      return;
    }
    case ControlOp::kLinkBroke: {
      uint64_t lost_bytes = 0;
      const Status s = donors_->Check(static_cast<uint32_t>(request.arg), &lost_bytes);
      if (!s.ok()) OnDonor(static_cast<uint32_t>(request.arg));
      Reply(channel, s, 0, nullptr, 0);
      return;
    }
    case ControlOp::kFork: {
      int ends[2];
      if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
        Reply(channel, Status::FromErrno("socketpair", errno), 0, nullptr, 0);
        return;
      }
      Fd theirs(ends[1]);
      Fd ours(ends[0]);
      Result<uint32_t> child = processes_.Add(std::move(ours));
      if (!child.ok()) {
        Reply(channel, child.status(), 0, nullptr, 0);
        return;
      }
      const int fds[2] = {processes_.table(child.value()), theirs.get()};
      Reply(channel, Status::Ok(), child.value(), fds, 2);
      return;
    }
    case ControlOp::kForkFailed:
      if (processes_.Has(static_cast<uint32_t>(request.arg)))
        RemoveProcess(static_cast<uint32_t>(request.arg));
      return;
    case ControlOp::kFatal:
      request.text[sizeof(request.text) - 1] = 0;
      Stop(static_cast<int>(request.arg), request.text);
      return;
    case ControlOp::kRegister:
      return;
  }
}

void Supervisor::OnDonor(uint32_t donor) {
  uint64_t lost_bytes = 0;
  const Status s = donors_->Check(donor, &lost_bytes);
  if (s.ok() || lost_bytes == 0) return;
  Stop(kExitDataLost, "donor " + donors_->Name(donor) + " is gone, and with it " +
                          std::to_string((lost_bytes + (1 << 20) - 1) >> 20) +
                          " MiB of the program's memory: the program was stopped");
}

void Supervisor::OnSignal() {
  signalfd_siginfo info;
  if (read(signals_, &info, sizeof(info)) != static_cast<ssize_t>(sizeof(info))) return;
  if (info.ssi_signo == SIGCHLD) {
    Reap();
    return;
  }
  const int signal = static_cast<int>(info.ssi_signo);
  if (child_ended_) {
    // Whoever is left of the run is all that we still wait for.
    for (const pid_t pid : Descendants()) kill(pid, signal);
    return;
  }
  // What the terminal sends reaches the program by itself; what somebody sends to us is meant for it, and so
  // is the alarm that somebody set before farpool was executed.
  if (info.ssi_code <= 0 || signal == SIGALRM) kill(child_, signal);
}

void Supervisor::Reap() {
  int status;
  for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
    if (pid != child_) continue;
    child_ended_ = true;
    if (!stopping_) exit_status_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
}

int Supervisor::Loop(pid_t child) {
  child_ = child;
  for (;;) {
    std::vector<pollfd> polls = {{control_, POLLIN, 0}, {signals_, POLLIN, 0}};
    for (size_t i = 0; i < donors_->size(); ++i) polls.push_back({donors_->control_fd(i), POLLIN, 0});
    std::vector<uint32_t> channels;
    for (const auto& [index, entry] : processes_.entries()) {
      channels.push_back(index);
      polls.push_back({entry.channel.get(), POLLIN, 0});
    }
    if (child_ended_ && channels.empty()) return exit_status_;
    const int ready = poll(polls.data(), polls.size(), kTickMs);
    if (ready < 0 && errno != EINTR) {
      Stop(kExitDataLost, std::string("poll: ") + strerror(errno));
      return exit_status_;
    }
    if (ready <= 0) {
      processes_.NoteTableBytes();
      NoteNearBytes();
      continue;
    }
    // Children first: a process whose channel ended should be known to have ended.
    if (polls[1].revents != 0) OnSignal();
    const size_t first_channel = 2 + donors_->size();
    for (size_t i = 0; i < channels.size(); ++i)
      if (polls[first_channel + i].revents != 0 && processes_.Has(channels[i])) OnChannel(channels[i]);
    for (size_t i = 0; i < donors_->size(); ++i)
      if (polls[2 + i].revents != 0) OnDonor(static_cast<uint32_t>(i));
    if (polls[0].revents != 0) OnControl();
    NoteNearBytes();  // Nobody waits for it.
  }
}

}  // namespace farpool
