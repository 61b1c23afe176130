#pragma once
// Connecting to a donor by name. Errors name the entry.

#include <string>

#include "base/fd.h"
#include "farpool/status.h"
#include "registry/pool_spec.h"

namespace farpool {

// `status` with "tcp://h:1: " before its text.
Status AtEntry(const PoolEntry& entry, const Status& status);

// A connected, non-blocking socket (TCP_NODELAY). Tries every address of the name; ends by `deadline_ns`, but
// for the resolver, which has its own limits.
Result<Fd> ConnectTo(const PoolEntry& entry, uint64_t deadline_ns);

}  // namespace farpool
