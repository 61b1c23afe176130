#pragma once
// Owns a file descriptor.

#include <unistd.h>

#include <utility>

#include <sys/syscall.h>
#include "base/sys.h"

namespace farpool {

class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    if (this != &other) {
      Reset();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  ~Fd() { Reset(); }

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  int Release() { return std::exchange(fd_, -1); }
  void Reset() {
    if (fd_ >= 0) sys::Call(SYS_close, fd_);
    fd_ = -1;
  }

 private:
  int fd_ = -1;
};

}  // namespace farpool
