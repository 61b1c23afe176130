#pragma once
// What `farpool doctor` looks at. Each function appends its checks; nothing it tries outlives the call, and
// what could hurt this process (a seccomp filter, a signal) is tried in a forked child.

#include <string>
#include <vector>

#include "farpool/status.h"
#include "registry/pool_spec.h"

namespace farpool {

struct Check {
  enum class Verdict { kOk, kWarn, kFail };  // kFail: far memory cannot work here.
  std::string name;
  Verdict verdict = Verdict::kOk;
  std::string found;   // What is there, in a few words.
  std::string advice;  // What it means and what to change; empty for kOk.
};

// Kernel version, userfaultfd and seccomp: what the fault engine stands on.
void CheckKernel(std::vector<Check>* checks);
// Limits and settings of this host, this user and this container.
void CheckLimits(std::vector<Check>* checks);

// The devices that rdma:// can use here.
void CheckRdma(std::vector<Check>* checks);

struct DonorProbe {
  const char* transport = "tcp";  // tcp, shm, rdma.
  double round_trip_p50_us = 0;   // Read of 4 KiB.
  double read_gb_per_s = 0;       // 256 KiB reads, eight at a time; GB are 10^9 bytes.
};
// Leases one slab from the donor, measures, gives it back. Ends within some seconds.
Result<DonorProbe> ProbeDonor(const PoolEntry& entry);

struct KernelVersion {
  unsigned major = 0, minor = 0;
  friend auto operator<=>(const KernelVersion&, const KernelVersion&) = default;
};
KernelVersion RunningKernel();

// First line of a small file such as those in /proc and /sys, "" if it cannot be read.
std::string ReadLine(const std::string& path);

}  // namespace farpool
