#pragma once
// Shared memory of one run: made by the supervisor, mapped by every process of the run. Constant settings,
// the budget, the counters, who the donors are and which slots are held.

#include <atomic>
#include <cstdint>

#include "paging/budget.h"
#include "paging/stats.h"
#include "run/trace.h"
#include "store/remote_store.h"
#include "store/slab_table.h"

namespace farpool {

inline constexpr uint64_t kSegmentMagic = 0x314e55524c4f4f50;  // "POOLRUN1"
inline constexpr unsigned kProcessesMax = 4096;                // Of one run at once.

struct ProcessEntry {
  std::atomic<uint64_t> resident;  // Pages this process holds of the budget.
};

struct RunDonor {
  bool shared_memory;
  bool rdma;
};

// The code of the run's libc with its system calls sent to the guard, in the file kFdLibc: a process maps it
// in place of copying what it would change. The second process of the run writes it; many runs have only one.
struct PatchedLibc {
  static constexpr long kFileBytes = 4 << 20;
  enum State : uint32_t {
    kNone = 0,
    kWanted,        // The first process has been here.
    kBeingWritten,  // For good, if that fails.
    kWritten,       // What follows is constant.
  };
  std::atomic<State> state;
  unsigned char build_id[20];  // Of that libc.
  uint64_t code_bytes;         // First in the file, in whole pages;
  uint64_t stubs_bytes;        // then the stubs, but for the page of addresses.
};

struct RunSegment {
  uint64_t magic;
  uint64_t bytes;  // sizeof(RunSegment) of the supervisor's build; another build's runtime stays out.
  uint64_t hash_seed;
  uint64_t threshold_bytes;
  uint32_t xsave_bytes;  // Room that xsave needs for what this CPU and kernel have enabled; 0 without xsave.
  int32_t fd_base;
  static constexpr uint32_t kNoMove = 1;   // Tests: behave as on a kernel before 6.8.
  static constexpr uint32_t kMonitor = 2;  // --handoff monitor.
  static constexpr uint32_t kNoRemap = 4;  // Tests: as if devices might pin pages.
  static constexpr uint32_t kTrace = 8;    // --trace.
  uint32_t flags;
  char library[1024];         // Path of the runtime library, for LD_PRELOAD.
  char near_programs[256];    // --near, as given.
  std::atomic<bool> copies;   // Some process had to do without UFFDIO_MOVE.
  std::atomic<bool> devices;  // Some process mapped one: see Engine::DevicesMayPin().
  uint32_t donor_count;
  RunDonor donors[kDonorsMax];
  BudgetState budget;
  PagingStats stats;
  std::atomic<uint64_t> processes_started;  // With far memory.
  ProcessEntry processes[kProcessesMax];
  PatchedLibc libc;
  TraceRing trace;  // Sparse.
  SlabTable slabs;  // Last: sparse, 16 GiB.
};

}  // namespace farpool
