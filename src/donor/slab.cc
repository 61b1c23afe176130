#include "donor/slab.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <string>

#include "base/uffd_abi.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U  // Linux 6.3; newer than the headers of Debian 12.
#endif

namespace farpool {

namespace {

constexpr uint64_t kHugeBytes = 2u << 20;

int NewMemfd() {
  const unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
  const int fd = memfd_create("farpool-slab", flags | MFD_NOEXEC_SEAL);
  return fd >= 0 || errno != EINVAL ? fd : memfd_create("farpool-slab", flags);
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

// Aligned as huge pages are: what is cut off around it goes back.
std::byte* Slab::base() {
  std::call_once(mapped_, [this] {
    void* const room = mmap(nullptr, bytes_ + kHugeBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (room == MAP_FAILED) return;
    auto* const first = static_cast<std::byte*>(room);
    const uint64_t before = -reinterpret_cast<uintptr_t>(room) % kHugeBytes;
    std::byte* const at = first + before;
    munmap(at + bytes_, kHugeBytes - before);
    if (before > 0) munmap(first, before);
    if (mmap(at, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memfd_.get(), 0) != MAP_FAILED) {
      base_ = at;
    } else {
      munmap(at, bytes_);
    }
  });
  return base_;
}

// An extent that is empty is not collapsed, so its first page has to be there.
bool Slab::AllocateHuge(uint64_t offset) {
  if (!huge_ || bytes_ - offset < kHugeBytes || base() == nullptr) return false;
  std::byte* const at = base() + offset;
  if (madvise(at, kPageBytes, MADV_POPULATE_WRITE) == 0 && madvise(at, kHugeBytes, MADV_COLLAPSE) == 0)
    return true;
  huge_ = errno == EAGAIN;  // A client is there just now. Otherwise there is none, or the kernel cannot.
  return false;
}

uint64_t Slab::AllocateFrom(uint64_t offset) {
  const uint64_t bytes = std::min(kHugeBytes, bytes_ - offset);  // A millisecond, if by small pages.
  MutexLock lock(&mutex_);
  if (discarded_) return bytes_;
  // A client's own first write takes the memory that is missing.
  if (!AllocateHuge(offset) &&
      fallocate(memfd_.get(), 0, static_cast<off_t>(offset), static_cast<off_t>(bytes)) != 0)
    return bytes_;
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
