// The NBD protocol as the daemon speaks it, over a socket pair with the test in the kernel's place.

#include "blockdev/nbd/serve.h"

#include <endian.h>
#include <gtest/gtest.h>
#include <linux/nbd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "base/fd.h"
#include "fake_page_store.h"

namespace farpool {
namespace {

constexpr uint64_t kPages = 256;

class NbdServeTest : public ::testing::Test {
 protected:
  NbdServeTest() {
    int ends[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    kernel_ = Fd(ends[0]);
    ours_ = Fd(ends[1]);
  }
  ~NbdServeTest() override {
    kernel_.Reset();
    if (thread_.joinable()) thread_.join();
  }
  void Serve() {
    thread_ = std::thread([this] { ServeNbd(ours_.get(), &blocks_, buffer_.data()); });
  }
  void Send(uint32_t type, uint64_t from, uint32_t bytes, const void* data = nullptr) {
    nbd_request request = {};
    request.magic = htobe32(NBD_REQUEST_MAGIC);
    request.type = htobe32(type);
    std::memcpy(request.handle, &++handle_, sizeof(handle_));
    request.from = htobe64(from);
    request.len = htobe32(bytes);
    ASSERT_EQ(send(kernel_.get(), &request, sizeof(request), 0), static_cast<ssize_t>(sizeof(request)));
    if (data != nullptr) {
      ASSERT_EQ(send(kernel_.get(), data, bytes, 0), static_cast<ssize_t>(bytes));
    }
  }
  // The error of the answer to the last request; `out` is filled if there is none.
  int Answer(std::vector<std::byte>* out = nullptr) {
    nbd_reply reply;
    if (recv(kernel_.get(), &reply, sizeof(reply), MSG_WAITALL) != sizeof(reply)) return -1;
    EXPECT_EQ(be32toh(reply.magic), static_cast<uint32_t>(NBD_REPLY_MAGIC));
    EXPECT_EQ(std::memcmp(reply.handle, &handle_, sizeof(handle_)), 0);
    if (out != nullptr && reply.error == 0) {
      EXPECT_EQ(recv(kernel_.get(), out->data(), out->size(), MSG_WAITALL),
                static_cast<ssize_t>(out->size()));
    }
    return static_cast<int>(be32toh(reply.error));
  }

  std::unique_ptr<MapEntry[]> entries_ = std::make_unique<MapEntry[]>(kPages);
  BlockCounters counters_ = {};
  PageMap map_{entries_.get(), kPages, 1, &counters_};
  FakePageStore store_{200};
  BlockStore blocks_{&map_, &store_};
  std::vector<std::byte> buffer_ = std::vector<std::byte>(kNbdTransferMax);
  Fd kernel_, ours_;
  std::thread thread_;
  uint64_t handle_ = 0;
};

TEST_F(NbdServeTest, WritesReadsTrims) {
  Serve();
  std::vector<std::byte> data(20 * kPageBytes, std::byte{7}), read(data.size()), zeros(kPageBytes);
  Send(NBD_CMD_WRITE, 5 * kPageBytes, static_cast<uint32_t>(data.size()), data.data());
  EXPECT_EQ(Answer(), 0);
  Send(NBD_CMD_READ, 5 * kPageBytes, static_cast<uint32_t>(data.size()));
  EXPECT_EQ(Answer(&read), 0);
  EXPECT_EQ(read, data);
  Send(NBD_CMD_TRIM, 0, kPages * kPageBytes);
  EXPECT_EQ(Answer(), 0);
  EXPECT_EQ(store_.held(), 0u);
  read.resize(kPageBytes);
  Send(NBD_CMD_READ, 5 * kPageBytes, kPageBytes);
  EXPECT_EQ(Answer(&read), 0);
  EXPECT_EQ(read, zeros);
  Send(NBD_CMD_FLUSH, 0, 0);
  EXPECT_EQ(Answer(), 0);
}

// Refused in full, and the next request is understood.
TEST_F(NbdServeTest, BadRangesAreRefused) {
  Serve();
  std::vector<std::byte> data(2 * kPageBytes, std::byte{1});
  Send(NBD_CMD_WRITE, (kPages - 1) * kPageBytes, 2 * kPageBytes, data.data());
  EXPECT_EQ(Answer(), EINVAL);
  Send(NBD_CMD_WRITE, 512, kPageBytes, data.data());
  EXPECT_EQ(Answer(), EINVAL);
  Send(NBD_CMD_READ, UINT64_MAX - kPageBytes + 1, kPageBytes);
  EXPECT_EQ(Answer(), EINVAL);
  Send(NBD_CMD_READ, 0, kNbdTransferMax + kPageBytes);
  EXPECT_EQ(Answer(), EINVAL);
  Send(NBD_CMD_TRIM, 0, (kPages + 1) * kPageBytes);
  EXPECT_EQ(Answer(), EINVAL);
  Send(99, 0, 0);
  EXPECT_EQ(Answer(), EINVAL);
  EXPECT_EQ(store_.held(), 0u);
  Send(NBD_CMD_READ, 0, kPageBytes);
  data.resize(kPageBytes);
  EXPECT_EQ(Answer(&data), 0);
}

TEST_F(NbdServeTest, StoreErrorsAreErrors) {
  Serve();
  std::vector<std::byte> data(kPages * kPageBytes, std::byte{3});
  // More than the pool has, and more than the buffer: all of it is taken off the stream.
  Send(NBD_CMD_WRITE, 0, static_cast<uint32_t>(data.size()), data.data());
  EXPECT_EQ(Answer(), ENOSPC);
  data.resize(kPageBytes);
  store_.fail_loads = true;
  Send(NBD_CMD_READ, 0, kPageBytes);
  EXPECT_EQ(Answer(&data), EIO);
  store_.fail_loads = false;
  store_.Spoil(map_.entry(0).slot);
  Send(NBD_CMD_READ, 0, kPageBytes);
  EXPECT_EQ(Answer(&data), EIO);
}

// What still stands in the queue of a connection that the kernel has shut down was sent again by another.
TEST_F(NbdServeTest, NothingHappensAfterShutdown) {
  std::vector<std::byte> data(kPageBytes, std::byte{1});
  Send(NBD_CMD_WRITE, 0, kPageBytes, data.data());
  ASSERT_EQ(shutdown(kernel_.get(), SHUT_RDWR), 0);
  ServeNbd(ours_.get(), &blocks_, buffer_.data());
  EXPECT_EQ(store_.held(), 0u);
  EXPECT_EQ(counters_.pages_written.load(), 0u);
}

TEST_F(NbdServeTest, NonsenseEndsTheConnection) {
  const char nonsense[sizeof(nbd_request)] = "GET / HTTP/1.1";
  ASSERT_EQ(send(kernel_.get(), nonsense, sizeof(nonsense), 0), static_cast<ssize_t>(sizeof(nonsense)));
  ServeNbd(ours_.get(), &blocks_, buffer_.data());
  EXPECT_EQ(store_.held(), 0u);
}

}  // namespace
}  // namespace farpool
