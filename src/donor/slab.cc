#include "donor/slab.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <string>

#include "base/clock.h"
#include "base/uffd_abi.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U  // Linux 6.3; newer than the headers of Debian 12.
#endif

namespace farpool {

namespace {

// After so long none is begun any more; a slab of 64 MiB takes a quarter of it.
constexpr uint64_t kHugeNsMax = 20'000'000;

int NewMemfd() {
  const unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
  const int fd = memfd_create("farpool-slab", flags | MFD_NOEXEC_SEAL);
  return fd >= 0 || errno != EINVAL ? fd : memfd_create("farpool-slab", flags);
}

// Where a huge page may begin; what is cut off around it goes back. nullptr if that fails.
std::byte* MapAligned(int fd, uint64_t bytes) {
  void* const room = mmap(nullptr, bytes + kHugePageBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (room == MAP_FAILED) return nullptr;
  auto* const first = static_cast<std::byte*>(room);
  const uint64_t before = -reinterpret_cast<uintptr_t>(room) % kHugePageBytes;
  std::byte* const at = first + before;
  munmap(at + bytes, kHugePageBytes - before);
  if (before > 0) munmap(first, before);
  if (mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) != MAP_FAILED) return at;
  munmap(at, bytes);
  return nullptr;
}

// Whatever it is, the client's way out is the same: another donor.
Status CannotMake(const char* what) {
  const std::string call = std::string("the donor cannot make a slab: ") + what;
  return Status(Status::Code::kExhausted, Status::FromErrno(call.c_str(), errno).text(), errno);
}

}  // namespace

Result<std::shared_ptr<Slab>> Slab::Create(SlabId id, uint64_t bytes, std::atomic<uint64_t>* used_bytes,
                                           uint64_t limit_bytes) {
  uint64_t used = used_bytes->load(std::memory_order_relaxed);
  do {
    if (bytes > limit_bytes || used > limit_bytes - bytes)
      return Status::Exhausted("all of the donor's memory is lent");
  } while (!used_bytes->compare_exchange_weak(used, used + bytes, std::memory_order_relaxed));
  std::shared_ptr<Slab> slab(new Slab(id, bytes, used_bytes));
  slab->memfd_ = Fd(NewMemfd());
  if (!slab->memfd_.valid()) return CannotMake("memfd_create (ulimit -n?)");
  if (ftruncate(slab->memfd_.get(), static_cast<off_t>(bytes)) != 0)
    return CannotMake("ftruncate (ulimit -f?)");
  if (fcntl(slab->memfd_.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
    return CannotMake("F_ADD_SEALS");
  return slab;
}

Slab::~Slab() {
  MutexLock lock(&mutex_);
  region_.reset();
  if (base_ != nullptr) munmap(base_, bytes_);
  if (!discarded_) used_bytes_->fetch_sub(bytes_, std::memory_order_relaxed);
}

std::byte* Slab::base() {
  std::call_once(mapped_, [this] { base_ = MapAligned(memfd_.get(), bytes_); });
  return base_;
}

void Slab::AllocateHuge() {
  // Not base(): what is mapped counts as the donor's own.
  std::byte* const at = bytes_ < kHugePageBytes ? nullptr : MapAligned(memfd_.get(), bytes_);
  if (at == nullptr) return;
  bool made = true;
  const uint64_t start = NowNs();
  for (uint64_t done = 0; made && done < bytes_ && NowNs() - start < kHugeNsMax; done += kHugePageBytes) {
    MutexLock lock(&mutex_);
    // What is empty is not collapsed, so the first page has to be there. EAGAIN says nothing about the next.
    made = !discarded_ && madvise(at + done, kPageBytes, MADV_POPULATE_WRITE) == 0 &&
           (madvise(at + done, kHugePageBytes, MADV_COLLAPSE) == 0 || errno == EAGAIN);
  }
  munmap(at, bytes_);
}

uint64_t Slab::AllocateFrom(uint64_t offset) {
  constexpr uint64_t kPartBytes = 2u << 20;  // A millisecond.
  const uint64_t bytes = std::min(kPartBytes, bytes_ - offset);
  MutexLock lock(&mutex_);
  if (discarded_) return bytes_;
  // A client's own first write takes the memory that is missing.
  if (fallocate(memfd_.get(), 0, static_cast<off_t>(offset), static_cast<off_t>(bytes)) != 0) return bytes_;
  return offset + bytes;
}

Result<uint32_t> Slab::Key(const std::shared_ptr<RdmaDomain>& domain) {
  MutexLock lock(&mutex_);
  if (discarded_) return Status(Status::Code::kNotFound, "this session holds no such slab");
  if (region_ == nullptr) {
    if (base() == nullptr) return Status::Exhausted("the donor cannot map the slab");
    auto region = RdmaRegion::Create(domain, base(), bytes_);
    if (!region.ok()) return region.status();
    region_ = std::move(region).value();
  }
  return region_->key();
}

void Slab::Discard() {
  MutexLock lock(&mutex_);
  region_.reset();  // First: what is registered cannot be given back.
  fallocate(memfd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, static_cast<off_t>(bytes_));
  // Counted as free with its return, not when the last connection lets go of it: the client may lease it
  // anew.
  if (!discarded_) used_bytes_->fetch_sub(bytes_, std::memory_order_relaxed);
  discarded_ = true;
}

}  // namespace farpool
