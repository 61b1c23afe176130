#include "donor/session_table.h"

#include <sys/socket.h>

#include <algorithm>

namespace farpool {

std::shared_ptr<Slab> Session::Find(SlabId id) {
  MutexLock lock(&mutex_);
  const auto it = slabs_.find(static_cast<uint64_t>(id));
  return it == slabs_.end() ? nullptr : it->second;
}

Result<std::shared_ptr<RdmaDomain>> Session::Domain(const std::shared_ptr<RdmaHost>& host) {
  MutexLock lock(&mutex_);
  if (domain_ == nullptr) {
    auto domain = RdmaDomain::Create(host);
    if (!domain.ok()) return domain.status();
    domain_ = std::move(domain).value();
  }
  return domain_;
}

Result<std::shared_ptr<Session>> SessionTable::Open(SessionToken token, uint64_t grace_ms, int socket) {
  auto session = std::make_shared<Session>(token, std::min(grace_ms, limits_.grace_ms_max));
  {
    MutexLock lock(&session->mutex_);
    session->attached_.push_back({socket, 0});
  }
  MutexLock lock(&mutex_);
  if (sessions_.size() >= kMaxSessions) return Status::Exhausted("the donor has too many sessions");
  // Answering kPermission tells the caller that it guessed a token, which 128 random bits make harmless.
  if (!sessions_.emplace(KeyOf(token), session).second)
    return Status(Status::Code::kPermission, "this session token is in use");
  return session;
}

Result<std::shared_ptr<Session>> SessionTable::Attach(SessionToken token, int socket, uint64_t holder) {
  MutexLock lock(&mutex_);
  const auto it = sessions_.find(KeyOf(token));
  if (it == sessions_.end()) return Status(Status::Code::kNotFound, "the donor does not know this session");
  MutexLock session_lock(&it->second->mutex_);
  it->second->attached_.push_back({socket, holder});
  return it->second;
}

void SessionTable::Detach(Session* session, int socket, uint64_t now_ns) {
  {
    MutexLock lock(&session->mutex_);
    std::erase_if(session->attached_, [socket](const auto& a) { return a.socket == socket; });
    if (session->attached_.empty()) session->expires_ns_ = now_ns + session->grace_ms_ * 1'000'000;
  }
  session->detached_.fetch_add(1, std::memory_order_release);
  session->detached_.notify_all();
}

void SessionTable::EndChannels(Session* session, uint64_t holder) {
  for (;;) {
    const uint32_t detached = session->detached_.load(std::memory_order_acquire);
    bool any = false;
    {
      MutexLock lock(&session->mutex_);
      for (const auto& [socket, its_holder] : session->attached_) {
        if (its_holder != holder) continue;
        any = true;
        shutdown(socket, SHUT_RDWR);
      }
    }
    if (!any) return;
    session->detached_.wait(detached, std::memory_order_acquire);
  }
}

Result<std::shared_ptr<Slab>> SessionTable::Lease(Session* session) {
  const uint64_t bytes = limits_.slab_bytes;
  {
    // Reserved first, so that two connections of one session cannot pass the quota together.
    MutexLock lock(&session->mutex_);
    if (session->closed_) return Status(Status::Code::kNotFound, "this session is closed");
    if (limits_.quota_bytes != 0 && session->leased_bytes_ + bytes > limits_.quota_bytes)
      return Status::Exhausted("the session's quota at this donor is used up");
    session->leased_bytes_ += bytes;
  }
  auto slab = Slab::Create(SlabId{next_slab_.fetch_add(1)}, bytes, &leased_bytes_, limits_.memory_bytes);
  MutexLock lock(&session->mutex_);
  if (!slab.ok()) {
    session->leased_bytes_ -= bytes;
    return slab.status();
  }
  // It may have been closed meanwhile; a slab added now would never be freed.
  if (session->closed_) return Status(Status::Code::kNotFound, "this session is closed");
  session->slabs_.emplace(static_cast<uint64_t>(slab.value()->id()), slab.value());
  return slab;
}

Status SessionTable::Return(Session* session, SlabId id) {
  std::shared_ptr<Slab> slab;
  {
    MutexLock lock(&session->mutex_);
    const auto it = session->slabs_.find(static_cast<uint64_t>(id));
    if (it == session->slabs_.end())
      return Status(Status::Code::kNotFound, "this session holds no such slab");
    slab = std::move(it->second);
    session->slabs_.erase(it);
    session->leased_bytes_ -= slab->bytes();
  }
  slab->Discard();  // Outside the lock: freeing a slab takes milliseconds.
  return Status::Ok();
}

void SessionTable::Close(Session* session, int socket) {
  {
    MutexLock lock(&mutex_);
    sessions_.erase(KeyOf(session->token()));
  }
  Discard(session, socket);
}

// The session is out of the map already, so nobody can attach to it any more.
void SessionTable::Discard(Session* session, int spared_socket) {
  std::unordered_map<uint64_t, std::shared_ptr<Slab>> slabs;
  {
    MutexLock lock(&session->mutex_);
    session->closed_ = true;
    session->leased_bytes_ = 0;
    slabs.swap(session->slabs_);
    // Their threads may be sending out of these slabs; that ends with the socket.
    for (const auto& attached : session->attached_)
      if (attached.socket != spared_socket) shutdown(attached.socket, SHUT_RDWR);
  }
  for (auto& [id, slab] : slabs) slab->Discard();
}

uint64_t SessionTable::Expire(uint64_t now_ns) {
  std::vector<std::shared_ptr<Session>> over;
  uint64_t next = UINT64_MAX;
  {
    MutexLock lock(&mutex_);
    for (auto it = sessions_.begin(); it != sessions_.end();) {
      MutexLock session_lock(&it->second->mutex_);
      const bool idle = it->second->attached_.empty();
      const uint64_t expires = it->second->expires_ns_;
      if (idle && expires <= now_ns) {
        over.push_back(it->second);
      } else if (idle) {
        next = std::min(next, expires);
      }
      ++it;
    }
    for (const auto& session : over) sessions_.erase(KeyOf(session->token()));
  }
  for (const auto& session : over) Discard(session.get(), -1);
  return next;
}

size_t SessionTable::sessions() const {
  MutexLock lock(&mutex_);
  return sessions_.size();
}

}  // namespace farpool
