#pragma once
// Answers one connection of the kernel's NBD client (or any that speaks the simple replies of the NBD
// protocol) out of a BlockStore. Allocates nothing.

#include <cstddef>
#include <cstdint>

#include "blockdev/block_store.h"

namespace farpool {

// The most bytes a read or write may carry: the daemon asks the kernel for no more, and a larger read is
// refused.
inline constexpr uint32_t kNbdTransferMax = 256 * 1024;

// Until the peer closes, disconnects or breaks the protocol. `socket` is blocking; `buffer` has
// kNbdTransferMax bytes. Each request is answered before the next is read.
void ServeNbd(int socket, BlockStore* store, std::byte* buffer);

}  // namespace farpool
