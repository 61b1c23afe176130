#pragma once
// One connection on which control requests are asked and answered one at a time. Threads: one at a time.

#include "base/fd.h"
#include "farpool/status.h"
#include "registry/pool_spec.h"
#include "wire/wire.h"

namespace farpool {

class ControlChannel {
 public:
  // Connects and says hello, of a data channel with its `holder`. kNotFound: the donor does not know the
  // session.
  static Result<ControlChannel> Connect(const PoolEntry& entry, const wire::HelloRequest& hello,
                                        uint64_t deadline_ns, uint64_t holder = 0);
  ControlChannel() = default;

  // Asks `request` and waits for the answer, whose payload is exactly `reply_bytes`. A descriptor that came
  // with it goes to `*passed` if that is not null. What the donor refused has its code and reason, and the
  // channel can be used on; after any other failure (kUnavailable, kTimeout, kCorrupt) it is broken and
  // closed.
  Status Call(wire::RequestHeader request, const void* payload, void* reply, size_t reply_bytes, Fd* passed,
              uint64_t deadline_ns);

  bool open() const { return fd_.valid(); }
  int fd() const { return fd_.get(); }
  Fd Take() { return std::move(fd_); }

 private:
  Status Send(const void* bytes, size_t count, uint64_t deadline_ns);
  Status Receive(void* bytes, size_t count, Fd* passed, uint64_t deadline_ns);
  Status Await(short events, uint64_t deadline_ns);
  Status Broken(const Status& status) {
    fd_.Reset();
    return status;
  }

  Fd fd_;
  uint64_t next_id_ = 1;
};

}  // namespace farpool
