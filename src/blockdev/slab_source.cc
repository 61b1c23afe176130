#include "blockdev/slab_source.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>

#include "base/clock.h"
#include "base/text.h"
#include "blockdev/event_log.h"

namespace farpool {

namespace {

// Long enough for a machine to come back from a crash of the daemon and its standby with help by hand.
constexpr uint64_t kGraceMs = 300'000;
// Free slots are kept ahead of need: a lease takes milliseconds, and its messages need memory.
constexpr uint64_t kSlotsAhead = (128u << 20) / kPageBytes;
// Beyond the device's own pages: each write takes its new slots before it gives back the old ones.
constexpr uint64_t kSlotsSpare = 64 * 64;
constexpr uint64_t kRefusedPauseNs = 5'000'000'000;  // A pool that was full is left alone so long.

// I/O thread `queue` of the daemon after so many takeovers.
uint64_t HolderOf(uint32_t takeovers, unsigned queue) { return (uint64_t{takeovers} << 32) + queue + 1; }

}  // namespace

Status SlabSource::Open(const std::vector<PoolEntry>& pool, Announce announce) {
  announce_ = std::move(announce);
  {
    MutexLock lock(&mutex_);
    Status opened = donors_.Open(pool, kGraceMs, &segment_->get()->slabs,
                                 [this](uint32_t index, uint32_t slots, int memory) {
                                   if (Status s = Map(index, slots, memory); !s.ok()) return s;
                                   if (announce_) announce_(index, slots, memory);
                                   return Status::Ok();
                                 });
    if (!opened.ok()) return opened;
    for (size_t i = 0; i < donors_.size(); ++i)
      if (donors_.rdma(i))
        return Status::Unsupported(
            (donors_.Name(i) + " cannot back a swap device; use the donor's tcp://").c_str());
    for (size_t i = 0; i < donors_.size(); ++i) shared_memory_[i] = donors_.shared_memory(i);
    channels_.resize(donors_.size());
    given_.resize(donors_.size());
    if (Result<uint32_t> first = donors_.LeaseSlab(); !first.ok()) return first.status();
  }
  KeepAhead();
  return Status::Ok();
}

Status SlabSource::Map(uint32_t index, uint32_t slots, int memory) {
  if (Status s = segment_->Populate(index, slots); !s.ok()) return s;
  if (memory < 0) return Status::Ok();
  const size_t bytes = size_t{slots} * kPageBytes;
  // Locked, as all we map: the donor's pages are this host's own, and must never be swapped out to
  // themselves.
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
  if (at == MAP_FAILED) return Status::FromErrno("mapping a slab", errno);
  // Now, not by page faults while a request waits. Refused before Linux 5.14; then those it is.
  madvise(at, bytes, MADV_POPULATE_WRITE);
  mapped_[index].store(static_cast<std::byte*>(at), std::memory_order_release);
  return Status::Ok();
}

uint64_t SlabSource::FreeSlots() const {
  uint64_t slots = 0;
  const SlabTable& slabs = segment_->get()->slabs;
  for (uint32_t i = 1; i < slabs.count.load(); ++i)
    if (slabs.slabs[i].state.load() == SlabEntry::kReady)
      slots += slabs.slabs[i].slots - slabs.slabs[i].used.load();
  return slots;
}

uint64_t SlabSource::leased_bytes() const {
  uint64_t slots = 0;
  const SlabTable& slabs = segment_->get()->slabs;
  for (uint32_t i = 1; i < slabs.count.load(); ++i)
    if (slabs.slabs[i].state.load() == SlabEntry::kReady) slots += slabs.slabs[i].slots;
  return slots * kPageBytes;
}

void SlabSource::KeepAhead() {
  for (;;) {
    MutexLock lock(&mutex_);
    if (FreeSlots() >= kSlotsAhead || leased_bytes() / kPageBytes >= segment_->get()->pages + kSlotsSpare)
      return;
    if (NowNs() - refused_ns_ < kRefusedPauseNs) return;
    if (donors_.LeaseSlab().ok()) continue;
    refused_ns_ = NowNs();  // Requests that find no slot ask again, and say so.
    return;
  }
}

Result<uint32_t> SlabSource::LeaseSlab() {
  const uint32_t before = segment_->get()->slabs.count.load();
  MutexLock lock(&mutex_);
  // Whoever was here before us may have got enough for both.
  const uint32_t now = segment_->get()->slabs.count.load();
  if (now != before) return now - 1;
  return donors_.LeaseSlab();
}

Result<std::byte*> SlabSource::MapSlab(uint32_t index) {
  std::byte* const at = mapped_[index].load(std::memory_order_acquire);
  if (at == nullptr) return Status(Status::Code::kNotFound, "no such slab");
  return at;
}

Result<int> SlabSource::Connect(uint32_t donor) {
  MutexLock lock(&mutex_);
  if (channels_[donor].empty()) return Status(Status::Code::kInternal, "more channels than I/O threads");
  Channel& channel = channels_[donor].back();
  if (!channel.fd.valid()) {
    Result<Fd> fd = donors_.Connect(donor, channel.holder);
    if (!fd.ok()) return fd.status();
    channel.fd = std::move(fd).value();
  }
  given_[donor].push_back(std::move(channel));
  channels_[donor].pop_back();
  return given_[donor].back().fd.get();
}

void SlabSource::Disconnect(int fd) {
  MutexLock lock(&mutex_);
  for (size_t donor = 0; donor < given_.size(); ++donor) {
    std::vector<Channel>& given = given_[donor];
    const auto at =
        std::find_if(given.begin(), given.end(), [fd](const Channel& c) { return c.fd.get() == fd; });
    if (at == given.end()) continue;
    at->fd.Reset();
    EndLocked(static_cast<uint32_t>(donor), at->holder);
    channels_[donor].push_back(std::move(*at));
    given.erase(at);
    return;
  }
}

Status SlabSource::OpenChannels(uint32_t takeovers, Channels* channels) {
  MutexLock lock(&mutex_);
  Status result;
  channels->clear();
  channels->resize(donors_.size());
  for (size_t i = 0; i < donors_.size(); ++i) {
    bool answers = true;  // A silent donor is not asked for each: others wait for the lock.
    for (unsigned k = 0; !shared_memory_[i] && k < segment_->get()->queues; ++k) {
      Channel channel = {Fd(), HolderOf(takeovers, k)};
      if (answers) {
        Result<Fd> fd = donors_.Connect(static_cast<uint32_t>(i), channel.holder);
        answers = fd.ok();
        if (answers)
          channel.fd = std::move(fd).value();
        else
          result = fd.status();
      }
      (*channels)[i].push_back(std::move(channel));
    }
  }
  return result;
}

void SlabSource::SetChannels(Channels channels) {
  MutexLock lock(&mutex_);
  channels_ = std::move(channels);
}

void SlabSource::EndPredecessors() {
  MutexLock lock(&mutex_);
  for (uint32_t i = 0; i < donors_.size(); ++i)
    for (unsigned k = 0; !shared_memory_[i] && k < segment_->get()->queues; ++k)
      EndLocked(i, HolderOf(segment_->get()->takeovers.load() - 1, k));
}

void SlabSource::EndLocked(uint32_t donor, uint64_t holder) {
  donors_.EndChannels(donor, holder);
  NoteIfLost(donor);
}

void SlabSource::NoteIfLost(uint32_t donor) {
  if (!donors_.gone(donor) || noted_lost_[donor]) return;
  noted_lost_[donor] = true;
  uint64_t lost_bytes = 0;
  (void)donors_.Check(donor, &lost_bytes);  // It is gone: says only how much of it.
  lost_donors_.fetch_add(1);
  lost_bytes_.fetch_add(lost_bytes);
  TextBuffer<200> text;
  text.Add("donor ").Add(donors_.Name(donor).c_str()).Add(" is gone");
  if (lost_bytes == 0)
    text.Add("; nothing that is swapped out is lost");
  else
    text.Add(", and with it ")
        .Add((lost_bytes + (1 << 20) - 1) >> 20)
        .Add(" MiB of what is swapped out; programs that touch it are stopped");
  LogEvent(text.c_str());
}

Status SlabSource::CheckLocked(uint32_t donor) {
  uint64_t lost_bytes = 0;
  Status s = donors_.Check(donor, &lost_bytes);
  NoteIfLost(donor);
  return s;
}

Status SlabSource::LinkBroke(uint32_t donor) {
  MutexLock lock(&mutex_);
  return CheckLocked(donor);
}

void SlabSource::CheckDonors() {
  MutexLock lock(&mutex_);
  for (uint32_t i = 0; i < donors_.size(); ++i)
    if (!donors_.gone(i)) (void)CheckLocked(i);
}

void SlabSource::Close() {
  MutexLock lock(&mutex_);
  donors_.Close();
}

void SlabSource::AfterFork() {
  mutex_.Reset();
  MutexLock lock(&mutex_);
  donors_.Detach();
  for (Channels* channels : {&channels_, &given_})
    for (auto& of_donor : *channels) of_donor.clear();
}

Status SlabSource::Adopt(uint32_t index, uint32_t slots, Fd memory) {
  MutexLock lock(&mutex_);
  if (Status s = Map(index, slots, memory.get()); !s.ok()) return s;
  donors_.Adopt(index, std::move(memory));
  return Status::Ok();
}

std::vector<int> SlabSource::memory_fds() const {
  std::vector<int> fds;
  for (uint32_t i = 1; i < segment_->get()->slabs.count.load(); ++i)
    if (Result<int> fd = donors_.SlabMemory(i); fd.ok()) fds.push_back(fd.value());
  return fds;
}

std::vector<int> SlabSource::control_fds() {
  MutexLock lock(&mutex_);
  std::vector<int> fds;
  for (size_t i = 0; i < donors_.size(); ++i) fds.push_back(donors_.control_fd(i));
  return fds;
}

std::string SlabSource::Names() {
  MutexLock lock(&mutex_);
  return donors_.Names();
}

}  // namespace farpool
