#include "blockdev/control.h"

#include <dirent.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "base/clock.h"

namespace farpool {

namespace {

constexpr char kSuffix[] = ".sock";
constexpr time_t kAnswerSeconds = 60;  // Deleting waits for the kernel.

std::string PathOf(const std::string& device) { return std::string(kSwapFolder) + "/" + device + kSuffix; }

sockaddr_un AddressOf(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
  return address;
}

}  // namespace

Result<SwapListener> ListenForSwap() {
  mkdir("/run/farpool", 0755);
  mkdir(kSwapFolder, 0700);
  SwapListener listener;
  listener.path = std::string(kSwapFolder) + "/.new-" + std::to_string(getpid());
  listener.fd = Fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  const sockaddr_un address = AddressOf(listener.path);
  unlink(listener.path.c_str());
  if (!listener.fd.valid() ||
      bind(listener.fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
      listen(listener.fd.get(), 16) != 0)
    return Status::FromErrno(("making a socket in " + std::string(kSwapFolder)).c_str(), errno);
  return listener;
}

Status PublishSwap(SwapListener* listener, const std::string& device) {
  const std::string path = PathOf(device);
  if (rename(listener->path.c_str(), path.c_str()) != 0) return Status::FromErrno("rename", errno);
  listener->path = path;
  return Status::Ok();
}

Result<SwapStatus> AskSwap(const std::string& device, SwapRequest request) {
  const sockaddr_un address = AddressOf(PathOf(device));
  const timeval timeout = {kAnswerSeconds, 0};
  for (const uint64_t end = NowNs() + kAnswerSeconds * uint64_t{1'000'000'000}; NowNs() < end;) {
    const Fd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    if (!fd.valid()) return Status::FromErrno("socket", errno);
    setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
    if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
      if (errno == ENOENT) return Status(Status::Code::kNotFound, "no swap device of farpool's");
      if (errno == ECONNREFUSED) return Status::Unavailable("its daemon is dead");
      return Status::FromErrno("asking the swap daemon", errno);
    }
    if (send(fd.get(), &request, sizeof(request), MSG_NOSIGNAL) == sizeof(request)) {
      SwapStatus answer;
      const ssize_t got = recv(fd.get(), &answer, sizeof(answer), 0);
      if (got == sizeof(answer)) return answer;
      if (got < 0 && errno == EAGAIN) break;
    }
    // Not dead yet, or nobody would have accepted: the daemon died just now and its standby answers next, or
    // it did not wait for us, who were swapped out perhaps.
  }
  // It may be at it still: nobody else may end its device then.
  return Status(Status::Code::kTimeout, "its daemon does not answer");
}

std::vector<std::string> SwapDevices() {
  std::vector<std::string> devices;
  DIR* const folder = opendir(kSwapFolder);
  if (folder == nullptr) return devices;
  while (const dirent* entry = readdir(folder)) {
    const std::string name = entry->d_name;
    if (name[0] != '.' && name.ends_with(kSuffix))
      devices.push_back(name.substr(0, name.size() - strlen(kSuffix)));
  }
  closedir(folder);
  std::sort(devices.begin(), devices.end());
  return devices;
}

void ForgetSwap(const std::string& device) { unlink(PathOf(device).c_str()); }

}  // namespace farpool
