// RDMA: nobody needs it, so that none is there is no fault of this machine's; what is there should work.

#include <arpa/inet.h>
#include <fmt/format.h>
#include <sys/resource.h>

#include "base/size_text.h"
#include "cli/doctor/check.h"
#include "transport/rdma/rdma_link.h"
#include "verbs/device.h"

namespace farpool {

namespace {

std::string AddressText(const ibv_gid& gid) {
  static constexpr uint8_t kMapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
  char text[INET6_ADDRSTRLEN] = {};
  const bool four = std::equal(kMapped, kMapped + sizeof(kMapped), gid.raw);
  inet_ntop(four ? AF_INET : AF_INET6, four ? gid.raw + 12 : gid.raw, text, sizeof(text));
  return text;
}

Check CheckDevice(const Verbs& verbs, ibv_device* device) {
  Check check;
  check.name = fmt::format("rdma {}", verbs.get_device_name(device));
  RdmaPorts ports;
  if (const Status status = QueryPorts(verbs, device, &ports); !status.ok()) {
    check.verdict = Check::Verdict::kWarn;
    check.found = status.text();
    check.advice = "Load the module ib_uverbs, and let this user open /dev/infiniband/uverbs*.";
    return check;
  }
  for (unsigned i = 0; i < ports.address_count; ++i)
    check.found += (i == 0 ? "" : ", ") + AddressText(ports.addresses[i]);
  rlimit locked = {};
  getrlimit(RLIMIT_MEMLOCK, &locked);
  if (!ports.up || ports.address_count == 0) {
    check.verdict = Check::Verdict::kWarn;
    check.found = ports.up ? "no RoCE v2 address" : "no port is active";
    check.advice = ports.up ? "rdma:// needs a device whose network interface has an IP address (RoCE v2)."
                            : "Bring its network interface up.";
  } else if (locked.rlim_max < RdmaLink::kBufferBytes) {
    check.verdict = Check::Verdict::kWarn;
    check.advice = fmt::format(
        "Raise `ulimit -l`, now {}: a program locks {} for each RDMA donor, a donor all "
        "that it lends.",
        FormatSize(locked.rlim_max), FormatSize(RdmaLink::kBufferBytes));
  } else if (ports.limits.atomic_cap == IBV_ATOMIC_NONE) {
    check.found += "; no atomic operations";
  }
  return check;
}

}  // namespace

void CheckRdma(std::vector<Check>* checks) {
  Verbs verbs;
  const Status status = OpenVerbs(VerbsPlace::kOrdinary, &verbs);
  if (!status.ok() || verbs.device_count == 0) {
    Check check;
    check.name = "rdma";
    check.found = status.ok() ? "no device: rdma:// cannot be used, tcp:// can" : status.text();
    checks->push_back(std::move(check));
    return;
  }
  for (int i = 0; i < verbs.device_count; ++i) checks->push_back(CheckDevice(verbs, verbs.devices[i]));
  verbs.free_device_list(verbs.devices);
}

}  // namespace farpool
