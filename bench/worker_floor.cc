// The least a user-space page fault costs on this machine: the touching thread gets SIGBUS, copies a local
// page into place with UFFDIO_COPY and goes on. No store, no eviction, no second thread.

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <csignal>

#include "bench/worker.h"

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

namespace bench {

namespace {

constexpr size_t kPages = 4096;
int uffd = -1;
alignas(kPageBytes) uint64_t source[kPageWords];

void OnFault(int, siginfo_t* info, void*) {
  uffdio_copy copy = {};
  copy.dst = reinterpret_cast<uintptr_t>(info->si_addr) & ~(kPageBytes - 1);
  copy.src = reinterpret_cast<uintptr_t>(source);
  copy.len = kPageBytes;
  if (ioctl(uffd, UFFDIO_COPY, &copy) != 0) _exit(1);
}

}  // namespace

void RunFloor(uint64_t count) {
  if (count > kSamplesMax) Die("too many samples");
  uffd = static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY));
  if (uffd < 0) Die("userfaultfd is not available");
  uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_SIGBUS, .ioctls = 0};
  if (ioctl(uffd, UFFDIO_API, &api) != 0) Die("this kernel has no UFFD_FEATURE_SIGBUS");
  void* const at =
      mmap(nullptr, kPages * kPageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) Die("mmap");
  madvise(at, kPages * kPageBytes, MADV_NOHUGEPAGE);
  uffdio_register range = {};
  range.range = {reinterpret_cast<uintptr_t>(at), kPages * kPageBytes};
  range.mode = UFFDIO_REGISTER_MODE_MISSING;
  if (ioctl(uffd, UFFDIO_REGISTER, &range) != 0) Die("UFFDIO_REGISTER");
  struct sigaction action = {};
  action.sa_sigaction = OnFault;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  if (sigaction(SIGBUS, &action, nullptr) != 0) Die("sigaction");
  for (size_t i = 0; i < kPageWords; ++i) source[i] = Mix(i);

  Samples faults;
  uint64_t state = 1;
  uint64_t elapsed = 0;
  for (uint64_t i = 0; i < count; ++i) {
    state = Mix(state);
    const size_t word = (state >> 40) % kPageWords;
    auto* const page = static_cast<uint64_t*>(at) + state % kPages * kPageWords;
    const uint64_t began = NowNs();
    const uint64_t value = __atomic_load_n(page + word, __ATOMIC_RELAXED);
    const uint64_t took = NowNs() - began;
    if (value != Mix(word)) Die("a word read is not the word written");
    faults.Add(took);
    elapsed += took;
    madvise(page, kPageBytes, MADV_DONTNEED);
  }
  faults.Print(count, elapsed);
}

}  // namespace bench
