#pragma once
// Who holds what. A session is named by its token, lives while any connection is attached to it and for its
// grace after the last one went; then, or when its owner closes it, all of its slabs are discarded.
//
// Any thread may call anything. Lock order: SessionTable::mutex_, then one Session::mutex_.

#include <atomic>
#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

#include "base/mutex.h"
#include "donor/slab.h"

namespace farpool {

class Session {
 public:
  Session(SessionToken token, uint64_t grace_ms) : token_(token), grace_ms_(grace_ms) {}
  const SessionToken& token() const { return token_; }
  uint64_t grace_ms() const { return grace_ms_; }
  // The slab if it is leased under this session, else nullptr. It stays mapped while the caller holds it.
  std::shared_ptr<Slab> Find(SlabId id);
  // Its protection domain, made at the first call.
  Result<std::shared_ptr<RdmaDomain>> Domain(const std::shared_ptr<RdmaHost>& host);

 private:
  friend class SessionTable;
  const SessionToken token_;
  const uint64_t grace_ms_;

  Mutex mutex_;
  std::unordered_map<uint64_t, std::shared_ptr<Slab>> slabs_ GUARDED_BY(mutex_);
  uint64_t leased_bytes_ GUARDED_BY(mutex_) = 0;
  bool closed_ GUARDED_BY(mutex_) = false;
  std::shared_ptr<RdmaDomain> domain_ GUARDED_BY(mutex_);
  // An attached connection; its socket stays open until it has been detached.
  struct Attached {
    int socket;
    uint64_t holder;  // 0: a control connection's, or nobody's.
  };
  std::vector<Attached> attached_ GUARDED_BY(mutex_);
  std::atomic<uint32_t> detached_{0};           // Connections that have been.
  uint64_t expires_ns_ GUARDED_BY(mutex_) = 0;  // Valid while attached_ is empty.
};

struct SessionLimits {
  uint64_t memory_bytes = 0;
  uint64_t slab_bytes = 0;
  uint64_t quota_bytes = 0;  // 0: all.
  uint64_t grace_ms_max = 0;
};

class SessionTable {
 public:
  // More than one session a connection could ever hold is somebody opening and dropping them.
  static constexpr size_t kMaxSessions = 4096;

  explicit SessionTable(const SessionLimits& limits) : limits_(limits) {}

  // Starts a session with `socket` attached. kPermission if the token is taken, kExhausted beyond
  // kMaxSessions.
  Result<std::shared_ptr<Session>> Open(SessionToken token, uint64_t grace_ms, int socket);
  // Attaches `socket` to a session that exists, as a channel of `holder` if that is not 0; kNotFound
  // otherwise.
  Result<std::shared_ptr<Session>> Attach(SessionToken token, int socket, uint64_t holder);
  // The connection is going and will do nothing more; call before closing `socket`. The grace starts with the
  // last one.
  void Detach(Session* session, int socket, uint64_t now_ns);

  Result<std::shared_ptr<Slab>> Lease(Session* session);
  Status Return(Session* session, SlabId id);
  // Ends the channels of `holder`, not 0, and waits until they are detached. Not by one of them.
  void EndChannels(Session* session, uint64_t holder);
  // Frees everything and shuts down the session's other connections; `socket` stays for the answer.
  void Close(Session* session, int socket);

  // Ends the sessions whose grace is over; returns when the next one's is, UINT64_MAX if none is running.
  uint64_t Expire(uint64_t now_ns);

  const SessionLimits& limits() const { return limits_; }
  uint64_t leased_bytes() const { return leased_bytes_.load(std::memory_order_relaxed); }
  size_t sessions() const;

 private:
  using Key = std::pair<uint64_t, uint64_t>;
  static Key KeyOf(const SessionToken& token) { return {token.high, token.low}; }
  static void Discard(Session* session, int spared_socket);

  const SessionLimits limits_;
  std::atomic<uint64_t> leased_bytes_{0};
  std::atomic<uint64_t> next_slab_{1};
  mutable Mutex mutex_;
  std::map<Key, std::shared_ptr<Session>> sessions_ GUARDED_BY(mutex_);
};

}  // namespace farpool
