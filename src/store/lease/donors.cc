#include "store/lease/donors.h"

#include <poll.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "base/clock.h"
#include "base/text.h"
#include "placement/choose.h"
#include "store/lease/bandwidth.h"
#include "store/remote_store.h"
#include "transport/rdma/rdma_link.h"

namespace farpool {

namespace {
constexpr uint64_t kResumeShare = 5;  // Of the grace: a donor that does not answer for so long is gone.
constexpr uint64_t kAskAgainNs = 100'000'000;  // A full pool is asked so often whether it still is.
constexpr auto kResumePause = std::chrono::milliseconds(50);
}  // namespace

Status Donors::Open(const std::vector<PoolEntry>& pool, uint64_t grace_ms, SlabTable* slabs, SlabHook hook,
                    Placement placement) {
  slabs_ = slabs;
  resume_ns_ = grace_ms * 1'000'000 / kResumeShare;
  hook_ = std::move(hook);
  slab_memory_.resize(1);
  slabs->count.store(1);
  if (pool.size() > kDonorsMax) return Status::InvalidArgument("--pool: more than 64 donors");
  for (const PoolEntry& entry : pool) {
    Result<std::unique_ptr<DonorSession>> session = DonorSession::Open(entry, grace_ms);
    if (!session.ok()) return session.status();
    Donor donor;
    donor.session = std::move(session).value();
    Result<DonorInfo> info = donor.session->Info();
    if (!info.ok()) return info.status();
    donor.free_bytes = info.value().free_bytes;
    donor.slab_bytes = info.value().slab_bytes;
    if (donor.slab_bytes / kPageBytes > kSlotsPerSlabMax || donor.slab_bytes < kPageBytes)
      return Status::Unsupported((entry.ToString() + ": its slab size cannot be used").c_str());
    if (donor.session->rdma())
      if (Status s = TryRdma(donor.session.get()); !s.ok())
        return Status(s.code(), (entry.ToString() + ": " + s.text()).c_str());
    donors_.push_back(std::move(donor));
  }
  // With one donor there is nothing to divide.
  for (size_t i = 0; i < donors_.size() && donors_.size() > 1 && placement != Placement::kSlabs; ++i) {
    slabs->weights[i] = 1;
    if (placement == Placement::kEven) continue;
    const Result<uint32_t> bandwidth = MeasureBandwidth(*donors_[i].session);
    if (!bandwidth.ok()) return bandwidth.status();
    slabs->weights[i] = bandwidth.value();
  }
  return Status::Ok();
}

Status Donors::TryRdma(DonorSession* session) {
  if (verbs_ == nullptr) {
    verbs_ = std::make_unique<Verbs>();
    if (Status s = OpenVerbs(VerbsPlace::kOrdinary, verbs_.get()); !s.ok()) return s;
  }
  Result<Fd> channel = session->OpenDataChannel();
  if (!channel.ok()) return channel.status();
  RdmaLink link;
  Status s = link.Open(verbs_.get(), channel.value().get());
  link.Close();
  return s;
}

bool Donors::HasRoom() const {
  return std::any_of(donors_.begin(), donors_.end(),
                     [](const Donor& donor) { return donor.free_bytes >= donor.slab_bytes; });
}

Status Donors::AddSlab(size_t donor, SlabLease lease, uint32_t* index) {
  const uint32_t i = slabs_->count.load();
  if (i >= kSlabsMax) return Status::Exhausted("this client holds as many slabs as it can");
  SlabEntry& entry = slabs_->slabs[i];
  entry.donor = static_cast<uint32_t>(donor);
  entry.id = lease.id;
  entry.slots = static_cast<uint32_t>(lease.bytes / kPageBytes);
  if (hook_)
    if (Status s = hook_(i, entry.slots, lease.memory.get()); !s.ok()) return s;
  Adopt(i, std::move(lease.memory));
  entry.state.store(SlabEntry::kReady, std::memory_order_release);
  slabs_->count.store(i + 1, std::memory_order_release);
  leased_bytes_ += lease.bytes;
  *index = i;
  return Status::Ok();
}

Status Donors::Reconnect(DonorSession* session) const {
  Status last;
  for (const uint64_t end = NowNs() + resume_ns_; NowNs() < end;) {
    last = session->Resume();
    if (last.ok()) return last;
    // It is there but has no memory of us, or nobody listens: waiting does not bring the data back.
    if (last.code() == Status::Code::kNotFound || last.error() == 111 /*ECONNREFUSED*/) break;
    std::this_thread::sleep_for(kResumePause);
  }
  return last;
}

Result<SlabLease> Donors::LeaseFrom(const Donor& donor) {
  Result<SlabLease> lease = donor.session->LeaseSlab();
  if (!lease.ok() || lease.value().bytes == donor.slab_bytes) return lease;
  (void)donor.session->ReturnSlab(lease.value().id);
  return Status::Exhausted(
      (donor.session->entry().ToString() + " leased a slab of another size than it says").c_str());
}

Result<uint32_t> Donors::LeaseSlab() {
  std::vector<DonorLoad> loads(donors_.size());
  const Donor* silent = nullptr;
  Status refusal;
  for (;;) {
    for (size_t i = 0; i < donors_.size(); ++i)
      loads[i] = {donors_[i].free_bytes,
                  loads[i].usable && !donors_[i].gone && donors_[i].free_bytes >= donors_[i].slab_bytes,
                  donors_[i].leased_bytes, slabs_->weights[i]};
    const size_t chosen = slabs_->weights[0] != 0 ? ChooseByWeight(loads, 1) : ChooseDonor(loads, 1, random_);
    if (chosen == kNoDonor && NowNs() - asked_ns_ > kAskAgainNs) {
      // Others may have given some back since.
      for (Donor& donor : donors_) {
        if (donor.gone) continue;
        if (Result<DonorInfo> info = donor.session->Info(); info.ok())
          donor.free_bytes = info.value().free_bytes;
      }
      asked_ns_ = NowNs();
      continue;
    }
    if (chosen == kNoDonor) break;
    Result<SlabLease> lease = LeaseFrom(donors_[chosen]);
    // An answer that came too late has ended the connection, not the session.
    if (!lease.ok() && lease.status().code() != Status::Code::kExhausted) {
      if (Reconnect(donors_[chosen].session.get()).ok())
        lease = LeaseFrom(donors_[chosen]);
      else
        silent = &donors_[chosen];
    }
    if (!lease.ok()) {
      loads[chosen].usable = false;
      // Others may have taken what was free: ask again next time.
      if (Result<DonorInfo> info = donors_[chosen].session->Info(); info.ok())
        donors_[chosen].free_bytes = info.value().free_bytes;
      // Not for want of memory.
      if (donors_[chosen].free_bytes >= donors_[chosen].slab_bytes) refusal = lease.status();
      continue;
    }
    donors_[chosen].leased_bytes += lease.value().bytes;
    donors_[chosen].free_bytes -= std::min(donors_[chosen].free_bytes, lease.value().bytes);
    uint32_t index = 0;
    const SlabId id = lease.value().id;
    if (Status s = AddSlab(chosen, std::move(lease).value(), &index); !s.ok()) {
      (void)donors_[chosen].session->ReturnSlab(id);
      return s;
    }
    return index;
  }
  for (const Donor& donor : donors_)
    if (donor.gone) silent = &donor;
  TextBuffer<184> text;
  if (silent == nullptr && !refusal.ok()) {
    text.Add(refusal.text()).Add("; ").Add(leased_bytes_ >> 20).Add(" MiB are lent to this run");
    return Status::Exhausted(text.c_str());
  }
  if (silent != nullptr)
    text.Add("donor ")
        .Add(silent->session->entry().ToString().c_str())
        .Add(" does not answer, and without it ");
  text.Add("the pool is full: all ")
      .Add(leased_bytes_ >> 20)
      .Add(" MiB it lends to this run are in use; add a donor or raise --local");
  return Status::Exhausted(text.c_str());
}

Result<int> Donors::SlabMemory(uint32_t index) const {
  if (index == 0 || index >= slab_memory_.size() || !slab_memory_[index].valid())
    return Status(Status::Code::kNotFound, "no such slab");
  return slab_memory_[index].get();
}

Result<Fd> Donors::Connect(uint32_t donor, uint64_t holder) {
  if (donor >= donors_.size() || donors_[donor].gone) return Status::Unavailable("the donor is gone");
  return donors_[donor].session->OpenDataChannel(holder);
}

void Donors::EndChannels(uint32_t index, uint64_t holder) {
  const Donor& donor = donors_[index];
  if (donor.gone || donor.session->EndDataChannels(holder).ok()) return;
  // Once more by another control connection; who does not answer then might still carry anything out.
  if (!Reconnect(donor.session.get()).ok() || !donor.session->EndDataChannels(holder).ok()) Lose(index);
}

Status Donors::Check(uint32_t index, uint64_t* lost_bytes) {
  *lost_bytes = 0;
  if (index >= donors_.size()) return Status::InvalidArgument("no such donor");
  Donor& donor = donors_[index];
  Status last = Status::Unavailable("the donor is gone");
  if (!donor.gone) {
    Result<DonorInfo> info = donor.session->Info();
    if (info.ok()) return Status::Ok();
    last = Reconnect(donor.session.get());
    if (last.ok()) return last;
  }
  *lost_bytes = Lose(index);
  return last;
}

uint64_t Donors::Lose(uint32_t index) {
  Donor& donor = donors_[index];
  donor.gone = true;
  uint64_t slots = 0;
  const uint32_t count = slabs_->count.load();
  for (uint32_t i = 1; i < count; ++i) {
    SlabEntry& slab = slabs_->slabs[i];
    // Shared memory outlives its donor: we hold it mapped.
    if (slab.donor != index || donor.session->shared_memory()) continue;
    slots += slab.used.load();
    slab.state.store(SlabEntry::kLost);
  }
  return slots * kPageBytes;
}

void Donors::Detach() {
  for (Donor& donor : donors_) donor.session->Detach();
}

void Donors::Adopt(uint32_t index, Fd memory) {
  if (slab_memory_.size() <= index) slab_memory_.resize(index + 1);
  slab_memory_[index] = std::move(memory);
}

void Donors::Close() {
  for (Donor& donor : donors_)
    if (!donor.gone) (void)donor.session->Close();
  donors_.clear();
}

std::string Donors::Names() const {
  std::string names;
  for (const Donor& donor : donors_) names += (names.empty() ? "" : ",") + donor.session->entry().ToString();
  return names;
}

}  // namespace farpool
