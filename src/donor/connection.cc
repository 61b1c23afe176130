#include "donor/connection.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/clock.h"
#include "base/pass_descriptors.h"
#include "base/prefetch.h"

namespace farpool {

using wire::Op;
using wire::ReplyCode;

namespace {

// Payload of a refused read. Never written; not const, which would put 256 KiB of zeros into the file.
alignas(4096) std::byte zeros[wire::kMaxTransferBytes];

ReplyCode CodeOf(const Status& status) { return wire::ToWire(status.code()); }

}  // namespace

Connection::Connection(Fd socket, Kind kind, std::string peer, const Shared* shared, const char* refusal)
    : socket_(std::move(socket)),
      kind_(kind),
      peer_(std::move(peer)),
      shared_(shared),
      refusal_(refusal),
      hello_deadline_ns_(NowNs() + kHelloNs),
      buffer_(new std::byte[kBufferBytes]) {}

Connection::~Connection() = default;

void Connection::Shutdown() { shutdown(socket_.get(), SHUT_RDWR); }

void Connection::Serve() {
  for (bool going = true; going;) {
    while (going && end_ - begin_ >= sizeof(wire::RequestHeader)) {
      wire::RequestHeader request;
      const wire::Fault fault = wire::Decode({buffer_.get() + begin_, end_ - begin_}, &request);
      if (fault == wire::Fault::kVersion) {
        // The only fault that is answered: its sender can do something about it.
        ReplyNow(request, Status::Unsupported("the donor speaks another protocol version"), nullptr, 0);
      }
      if (fault != wire::Fault::kNone) {
        going = Blame(wire::FaultText(fault));
        break;
      }
      begin_ += sizeof(request);
      going = Handle(request);
    }
    // Now, not when the socket is found empty: that look costs as much as a tenth of the reply's way.
    if (!going || (begin_ == end_ && replies_ != 0 && !FlushReplies())) break;
    std::memmove(buffer_.get(), buffer_.get() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
    size_t none = 0;
    going = Fill(nullptr, 0, &none);
  }
  if (reason_ == nullptr) {
    FlushReplies();
  } else {
    shared_->log("closed the connection of " + peer_ + ": " + reason_);
  }
  rdma_peer_.reset();
  if (session_ != nullptr) shared_->sessions->Detach(session_.get(), socket_.get(), NowNs());
  Shutdown();
}

bool Connection::Handle(const wire::RequestHeader& request) {
  if (session_ == nullptr) return request.op == Op::kHello ? Hello(request) : Blame("no hello");
  switch (request.op) {
    case Op::kHello:
      return Blame("a second hello");
    case Op::kRead:
      return Read(request);
    case Op::kWrite:
      return Write(request);
    case Op::kCompareAndSwap:
    case Op::kFetchAdd:
      return Atomic(request);
    case Op::kRdmaConnect:
      return ConnectRdma(request);
    case Op::kSlabKey:
      return SlabKey(request);
    default:
      return Control(request);
  }
}

bool Connection::Hello(const wire::RequestHeader& request) {
  std::byte bytes[sizeof(wire::HelloRequest)];
  if (!ReadPayload(bytes, sizeof(bytes))) return false;
  wire::HelloRequest hello;
  wire::Fault fault = wire::Decode(bytes, &hello);
  if (request.operand != 0 && hello.mode != wire::HelloMode::kDataChannel) fault = wire::Fault::kReserved;
  if (fault != wire::Fault::kNone) return Blame(wire::FaultText(fault));
  if (refusal_ != nullptr) return ReplyNow(request, Status::Exhausted(refusal_), nullptr, 0) && false;

  const SessionToken token = {hello.token_high, hello.token_low};
  auto session = hello.mode == wire::HelloMode::kNewSession
                     ? shared_->sessions->Open(token, hello.grace_ms, socket_.get())
                     : shared_->sessions->Attach(token, socket_.get(), request.operand);
  if (!session.ok()) return ReplyNow(request, session.status(), nullptr, 0) && false;
  session_ = session.value();
  control_ = hello.mode != wire::HelloMode::kDataChannel;
  wire::HelloReply reply;
  reply.grace_ms = session_->grace_ms();
  reply.slab_bytes = shared_->sessions->limits().slab_bytes;
  return ReplyNow(request, Status::Ok(), &reply, sizeof(reply));
}

bool Connection::Control(const wire::RequestHeader& request) {
  SessionTable* sessions = shared_->sessions;
  if (request.op == Op::kInfo) {
    wire::InfoReply info;
    const uint64_t leased = sessions->leased_bytes();
    info.memory_bytes = sessions->limits().memory_bytes;
    info.free_bytes = info.memory_bytes - std::min(leased, info.memory_bytes);
    info.slab_bytes = sessions->limits().slab_bytes;
    info.rack_bytes = static_cast<uint32_t>(std::min<size_t>(shared_->rack.size(), wire::kMaxRackBytes));
    std::memcpy(info.rack, shared_->rack.data(), info.rack_bytes);
    return ReplyNow(request, Status::Ok(), &info, sizeof(info));
  }
  if (!control_)
    return ReplyNow(request, Status(Status::Code::kPermission, "not on a data channel"), nullptr, 0);
  switch (request.op) {
    case Op::kLeaseSlab:
      return Lease(request);
    case Op::kReturnSlab:
      return ReplyNow(request, sessions->Return(session_.get(), SlabId{request.slab}), nullptr, 0);
    case Op::kEndChannels:
      if (request.operand == 0) return Blame("channels of nobody");
      sessions->EndChannels(session_.get(), request.operand);
      return ReplyNow(request, Status::Ok(), nullptr, 0);
    case Op::kCloseSession:
      sessions->Close(session_.get(), socket_.get());
      return ReplyNow(request, Status::Ok(), nullptr, 0);
    default:
      return Blame("unknown operation");
  }
}

bool Connection::Lease(const wire::RequestHeader& request) {
  auto slab = shared_->sessions->Lease(session_.get());
  if (!slab.ok()) return ReplyNow(request, slab.status(), nullptr, 0);
  const bool mapped = kind_ == Kind::kUnix;  // By the client, from the reply on.
  if (mapped) slab.value()->AllocateHuge();
  const wire::LeaseReply lease = {.slab = static_cast<uint64_t>(slab.value()->id()),
                                  .bytes = slab.value()->bytes()};
  if (!ReplyNow(request, Status::Ok(), &lease, sizeof(lease), mapped ? slab.value()->memfd() : -1))
    return false;
  if (!mapped) slab.value()->AllocateHuge();
  // Ahead of the client's first writes, until it wants something else.
  pollfd next = {.fd = socket_.get(), .events = POLLIN, .revents = 0};
  for (uint64_t done = 0; done < slab.value()->bytes() && poll(&next, 1, 0) == 0;)
    done = slab.value()->AllocateFrom(done);
  if (kind_ == Kind::kRdma) {
    // For the same reason; a failure is told to whoever asks for the key.
    if (auto domain = session_->Domain(shared_->rdma); domain.ok()) (void)slab.value()->Key(domain.value());
  }
  return true;
}

bool Connection::ConnectRdma(const wire::RequestHeader& request) {
  std::byte bytes[sizeof(wire::RdmaEndpoint)];
  if (!ReadPayload(bytes, sizeof(bytes))) return false;
  wire::RdmaEndpoint peer;
  const wire::Fault fault = wire::Decode(bytes, &peer);
  if (fault != wire::Fault::kNone) return Blame(wire::FaultText(fault));
  if (kind_ != Kind::kRdma)
    return ReplyNow(request, Status::Unsupported("the donor serves no RDMA on this port; see its --rdma"),
                    nullptr, 0);
  if (rdma_peer_ != nullptr) return Blame("a second queue pair");
  auto domain = session_->Domain(shared_->rdma);
  if (!domain.ok()) return ReplyNow(request, domain.status(), nullptr, 0);
  wire::RdmaEndpoint own;
  auto connected = RdmaPeer::Connect(domain.value(), peer, &own);
  if (!connected.ok()) return ReplyNow(request, connected.status(), nullptr, 0);
  rdma_peer_ = std::move(connected).value();
  return ReplyNow(request, Status::Ok(), &own, sizeof(own));
}

bool Connection::SlabKey(const wire::RequestHeader& request) {
  if (kind_ != Kind::kRdma)
    return ReplyNow(request, Status::Unsupported("the donor serves no RDMA on this port"), nullptr, 0);
  std::shared_ptr<Slab> slab = session_->Find(SlabId{request.slab});
  if (slab == nullptr)
    return ReplyNow(request, Status(Status::Code::kNotFound, "this session holds no such slab"), nullptr, 0);
  auto domain = session_->Domain(shared_->rdma);
  if (!domain.ok()) return ReplyNow(request, domain.status(), nullptr, 0);
  const Result<uint32_t> key = slab->Key(domain.value());
  if (!key.ok()) return ReplyNow(request, key.status(), nullptr, 0);
  const wire::SlabKeyReply reply = {
      .address = reinterpret_cast<uint64_t>(slab->base()), .bytes = slab->bytes(), .key = key.value()};
  return ReplyNow(request, Status::Ok(), &reply, sizeof(reply));
}

std::shared_ptr<Slab> Connection::Locate(const wire::RequestHeader& request, uint64_t bytes,
                                         ReplyCode* code) {
  std::shared_ptr<Slab> slab = session_->Find(SlabId{request.slab});
  if (slab == nullptr) {
    *code = ReplyCode::kNotFound;
  } else if (!wire::RangeFits(request.offset, bytes, slab->bytes())) {
    *code = ReplyCode::kInvalidArgument;
  } else if (slab->base() == nullptr) {
    *code = ReplyCode::kExhausted;
  } else {
    *code = ReplyCode::kOk;
    return slab;
  }
  return nullptr;
}

bool Connection::Read(const wire::RequestHeader& request) {
  ReplyCode code;
  std::shared_ptr<Slab> slab = Locate(request, request.read_bytes, &code);
  const std::byte* from = slab == nullptr ? zeros : slab->base() + request.offset;
  PrefetchPage(from);  // Read by sendmsg, when that has made room for it.
  shared_->counters->reads.fetch_add(1, std::memory_order_relaxed);
  shared_->counters->bytes_out.fetch_add(request.read_bytes, std::memory_order_relaxed);
  return Reply(request, code, 0, from, request.read_bytes, std::move(slab));
}

bool Connection::Write(const wire::RequestHeader& request) {
  ReplyCode code;
  std::shared_ptr<Slab> slab = Locate(request, request.payload_bytes, &code);
  std::byte* into = nullptr;
  if (slab != nullptr) {
    into = slab->base() + request.offset;
    if (!FlushIfRead(into, request.payload_bytes)) return false;
  } else {
    if (discard_ == nullptr) discard_.reset(new std::byte[wire::kMaxTransferBytes]);
    into = discard_.get();
  }
  if (!ReadPayload(into, request.payload_bytes)) return false;
  shared_->counters->writes.fetch_add(1, std::memory_order_relaxed);
  shared_->counters->bytes_in.fetch_add(request.payload_bytes, std::memory_order_relaxed);
  return Reply(request, code, 0, nullptr, 0, nullptr);
}

bool Connection::Atomic(const wire::RequestHeader& request) {
  ReplyCode code;
  std::shared_ptr<Slab> slab = Locate(request, sizeof(uint64_t), &code);
  if (request.offset % sizeof(uint64_t) != 0) code = ReplyCode::kInvalidArgument;
  uint64_t before = 0;
  if (code == ReplyCode::kOk) {
    std::byte* at = slab->base() + request.offset;
    if (!FlushIfRead(at, sizeof(uint64_t))) return false;
    std::atomic_ref<uint64_t> word(*reinterpret_cast<uint64_t*>(at));
    if (request.op == Op::kFetchAdd) {
      before = word.fetch_add(request.operand);
    } else {
      before = request.compare;
      word.compare_exchange_strong(before, request.operand);
    }
  }
  return Reply(request, code, before, nullptr, 0, nullptr);
}

// Takes what has come, first into [into, into + want), the rest into the buffer; waits if there is nothing.
bool Connection::Fill(std::byte* into, size_t want, size_t* got) {
  uint64_t spin_until = 0;
  bool spinning = false;
  bool open = false;
  for (;;) {
    ssize_t n;
    if (want == 0) {
      n = recv(socket_.get(), buffer_.get() + end_, kBufferBytes - end_, MSG_DONTWAIT);
    } else {
      iovec iov[2] = {{into, want}, {buffer_.get() + end_, kBufferBytes - end_}};
      msghdr message = {};
      message.msg_iov = iov;
      message.msg_iovlen = 2;
      n = recvmsg(socket_.get(), &message, MSG_DONTWAIT);
    }
    if (n > 0) {
      *got = std::min(static_cast<size_t>(n), want);
      end_ += static_cast<size_t>(n) - *got;
      if (spinning) spin_history_.Ended(true);
      open = true;
      break;
    }
    if (n < 0 && errno == EINTR) continue;
    if (n == 0 || errno != EAGAIN) break;
    if (replies_ != 0 && !FlushReplies()) break;
    if (spin_until == 0) {
      spin_until = NowNs() + kSpinNs;
      spinning = session_ != nullptr && spin_history_.ShouldSpin() && shared_->spin_gate->Enter();
    }
    if (spinning) {
      if (NowNs() < spin_until) {
        SpinPause();
        continue;
      }
      shared_->spin_gate->Leave();
      spin_history_.Ended(false);
      spinning = false;
    }
    int timeout_ms = -1;
    if (session_ == nullptr) {
      const uint64_t now = NowNs();
      if (now >= hello_deadline_ns_) {
        Blame("no hello in time");
        break;
      }
      timeout_ms = static_cast<int>((hello_deadline_ns_ - now) / 1'000'000 + 1);
    }
    pollfd wait = {.fd = socket_.get(), .events = POLLIN, .revents = 0};
    poll(&wait, 1, timeout_ms);
  }
  if (spinning) shared_->spin_gate->Leave();
  return open;
}

bool Connection::ReadPayload(std::byte* into, size_t bytes) {
  const size_t have = std::min(bytes, end_ - begin_);
  std::memcpy(into, buffer_.get() + begin_, have);
  begin_ += have;
  into += have;
  bytes -= have;
  if (bytes == 0) return true;
  begin_ = end_ = 0;  // All of the buffer is used up; what follows this payload goes there.
  while (bytes > 0) {
    size_t got = 0;
    if (!Fill(into, bytes, &got)) return false;
    into += got;
    bytes -= got;
  }
  return true;
}

bool Connection::Reply(const wire::RequestHeader& request, ReplyCode code, uint64_t value,
                       const void* payload, uint32_t payload_bytes, std::shared_ptr<Slab> holder) {
  wire::ReplyHeader header;
  header.op = request.op;
  header.code = code;
  header.request_id = request.request_id;
  header.value = value;
  header.payload_bytes = payload_bytes;
  std::byte* slot = headers_[replies_];
  wire::Encode(header, slot);
  iovec* last = iovs_ > 0 ? &iov_[iovs_ - 1] : nullptr;
  if (last != nullptr && static_cast<std::byte*>(last->iov_base) + last->iov_len == slot) {
    last->iov_len += sizeof(header);  // Headers without payloads lie side by side.
  } else {
    iov_[iovs_++] = {slot, sizeof(header)};
  }
  if (payload_bytes != 0) iov_[iovs_++] = {const_cast<void*>(payload), payload_bytes};
  holders_[replies_++] = std::move(holder);
  reply_bytes_ += sizeof(header) + payload_bytes;
  return (replies_ < kReplyBatch && reply_bytes_ < kReplyBatchBytes) || FlushReplies();
}

// For control requests: a refusal carries its reason.
bool Connection::ReplyNow(const wire::RequestHeader& request, const Status& status, const void* payload,
                          uint32_t payload_bytes, int pass_fd) {
  if (!status.ok()) {
    payload = status.text();
    payload_bytes = static_cast<uint32_t>(std::min<size_t>(std::strlen(status.text()), wire::kMaxTextBytes));
  }
  // What waits goes first and alone, so that a descriptor arrives with its own reply.
  if (!FlushReplies()) return false;
  if (!Reply(request, CodeOf(status), 0, payload, payload_bytes, nullptr)) return false;
  return FlushReplies(pass_fd);
}

bool Connection::FlushReplies(int pass_fd) {
  iovec* iov = iov_;
  unsigned left = iovs_;
  bool sent_all = true;
  PassedDescriptors<1> passed;
  while (left > 0) {
    msghdr message = {};
    message.msg_iov = iov;
    message.msg_iovlen = left;
    passed.AddTo(&message, &pass_fd, pass_fd >= 0 ? 1 : 0);
    ssize_t n = sendmsg(socket_.get(), &message, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      sent_all = false;
      break;
    }
    pass_fd = -1;  // It travels with the first byte.
    auto rest = static_cast<size_t>(n);
    while (left > 0 && rest >= iov->iov_len) {
      rest -= iov->iov_len;
      ++iov;
      --left;
    }
    if (left > 0) {
      iov->iov_base = static_cast<std::byte*>(iov->iov_base) + rest;
      iov->iov_len -= rest;
    }
  }
  for (unsigned i = 0; i < replies_; ++i) holders_[i].reset();
  replies_ = iovs_ = 0;
  reply_bytes_ = 0;
  return sent_all;
}

// A read that waits in the batch points into slab memory; a later write must not reach it before it is sent.
bool Connection::FlushIfRead(const std::byte* at, size_t bytes) {
  for (unsigned i = 0; i < iovs_; ++i) {
    const auto* from = static_cast<const std::byte*>(iov_[i].iov_base);
    if (at < from + iov_[i].iov_len && from < at + bytes) return FlushReplies();
  }
  return true;
}

}  // namespace farpool
