#pragma once
// How fast pages come from a donor, for placement by bandwidth.

#include <cstdint>

#include "transport/session/donor_session.h"

namespace farpool {

// In MB/s, at least 1: reads from a slab leased for that, for a twentieth of a second. Donors on this host
// share its memory, which is faster than any network, and count as such without being measured.
Result<uint32_t> MeasureBandwidth(DonorSession& session);

}  // namespace farpool
