#include "blockdev/harden.h"

#include <malloc.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>

#include "base/raise_limit.h"
#include "base/write_file.h"

namespace farpool {

namespace {

// More than leasing, reconnecting and a takeover ever use; and what a queue does.
constexpr size_t kHeapBytes = 16u << 20;
constexpr size_t kHeapBytesPerQueue = 8u << 20;
constexpr size_t kStackBytes = 64u << 10;  // Used by the deepest call of ours, with room.

// Out of the control group of whoever called us: its memory limit would be ours, and reaching it would stop
// the service that is to relieve it.
void LeaveControlGroup() {
  const std::string unified = "/sys/fs/cgroup/farpool-swap";
  if (access("/sys/fs/cgroup/cgroup.controllers", F_OK) == 0) {
    mkdir(unified.c_str(), 0755);
    (void)WriteFile(unified + "/cgroup.procs", "0");
    // Nothing of ours is ever swapped out; locking says so, too, but not for what the kernel keeps for us.
    (void)WriteFile(unified + "/memory.swap.max", "0");
    return;
  }
  (void)WriteFile("/sys/fs/cgroup/memory/cgroup.procs", "0");
}

}  // namespace

Status HardenProcess(unsigned queues) {
  LeaveControlGroup();
  // Each slab of a donor on this host is a descriptor.
  RaiseLimit(RLIMIT_NOFILE);
  // Killing us frees little and takes the memory of everybody who is swapped out.
  if (!WriteFile("/proc/self/oom_score_adj", "-1000"))
    return Status::FromErrno("writing /proc/self/oom_score_adj", errno);
  // A process that ends waits for files of its mount namespace to be written back, through us perhaps: then
  // we must not share that namespace. A slave: what is unmounted elsewhere goes here, too, and keeps no disk
  // busy.
  if (unshare(CLONE_NEWNS) != 0 || mount(nullptr, "/", nullptr, MS_REC | MS_SLAVE, nullptr) != 0)
    return Status::FromErrno("unshare", errno);
  // A heap that is there already and never given back: one arena, no mappings of its own for large blocks.
  mallopt(M_ARENA_MAX, 1);
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, -1);
  const size_t heap_bytes = kHeapBytes + queues * kHeapBytesPerQueue;
  void* heap = malloc(heap_bytes);
  if (heap == nullptr) return Status::Exhausted("no memory for the swap daemon's heap");
  std::memset(heap, 1, heap_bytes);
  __asm__ volatile("" ::"r"(heap) : "memory");
  free(heap);
  // Whatever of us is not in memory would have to be read, into memory that may not be free, before we can
  // free any. Code and data now; what is mapped later when first touched, since some of it is sparse.
  if (mlockall(MCL_CURRENT) != 0 || mlockall(MCL_FUTURE | MCL_ONFAULT) != 0)
    return Status::FromErrno("mlockall", errno);
  HardenThread();
  return Status::Ok();
}

void HardenThread() {
  // Allocations of the kernel's on our behalf (socket buffers, page tables) must not wait for pages to be
  // written out, since we are who writes them. 1 sets it; Linux 5.6.
  prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
  // Sending a page to a donor needs memory that only sending pages frees. The kernel lets tasks with a
  // real-time policy take half of what it keeps below the min watermark; others wait with everybody else.
  const sched_param lowest = {.sched_priority = 1};
  sched_setscheduler(0, SCHED_RR, &lowest);
  volatile char stack[kStackBytes];
  for (size_t i = 0; i < sizeof(stack); i += 4096) stack[i] = 0;
  // A signal sent to everything (at shutdown, from a terminal) must not end the service of memory in use;
  // only `farpool swap delete` does.
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, nullptr);
}

}  // namespace farpool
