#pragma once
// What the kinds of system calls share: reading what the program points to, and calls with their memory made
// present and pinned for as long as they take. Runs in the program's own context (see farpool_guard).

#include <sys/uio.h>

#include <cstdint>

#include "base/sys.h"
#include "farpool/types.h"
#include "preload/guard.h"

namespace farpool {

// Longest stretch of a buffer kept present at once; longer calls go in pieces where that is possible.
inline constexpr uint64_t kPieceBytes = 256 * 1024;
inline constexpr unsigned kRangesMax = 16;    // Pinned at once by one call.
inline constexpr unsigned kIovecsMax = 1024;  // The kernel's own bound (UIO_MAXIOV).
// A call that keeps answering EFAULT although its memory was made present is tried again this often.
inline constexpr int kFaultRetriesMax = 16;

inline uint64_t Min(uint64_t a, uint64_t b) { return a < b ? a : b; }

// Copy between the guard and wherever the program points to, near or far. False where the kernel would answer
// EFAULT.
bool CopyIn(void* to, uintptr_t from, uint64_t bytes);
bool CopyOut(uintptr_t to, const void* from, uint64_t bytes);

// Structures that are then read or written in place; null will do.
bool MayRead(uintptr_t at, uint64_t bytes);
bool MayWrite(uintptr_t at, uint64_t bytes);

// Element `index` of the program's array at `address`.
template <typename T>
bool CopyElement(T* to, uintptr_t address, uint64_t index) {
  return CopyIn(to, address + index * sizeof(T), sizeof(T));
}

// Present now? Cheap: no lock. [begin, end) lies in the arena.
bool AllResident(uintptr_t begin, uintptr_t end);

// All of [begin, begin + bytes) is near, or far and mapped with at least `protection`.
bool Allows(uintptr_t begin, uint64_t bytes, int protection);

// Bytes of the string up to and with its end, all made present; fewer if what follows is not mapped, and no
// more than a path can have.
uint64_t StringBytes(uintptr_t begin);
inline constexpr uint64_t kStringMax = 4096 + 1;

// Asks about each of the pages on which things lie together once.
class LastPage {
 public:
  // As the function of this name; `at` is not null.
  bool MayRead(uintptr_t at, uint64_t bytes) {
    const uintptr_t last = (at + bytes - 1) / kPageBytes;
    if (at / kPageBytes == page_ && last == page_) return true;
    if (!farpool::MayRead(at, bytes)) return false;
    page_ = last;
    return true;
  }

 private:
  uintptr_t page_ = ~uintptr_t{0};
};

// All of the string at `begin`, near or far and of any length, can be read.
bool MayReadString(uintptr_t begin, LastPage* page);

// Makes the call with what its pointers name made present and pinned. The kernel's answer.
long CallPrepared(const GuardFrame* frame);
// The same where the caller has found the far ranges already; no more than kRangesMax.
long CallPrepared(const GuardFrame* frame, const iovec* far, unsigned count);
template <typename... Args>
long CallPrepared(int64_t number, Args... args) {
  const GuardFrame frame = {number, {static_cast<uint64_t>(sys::Word(args))...}, 0};
  return CallPrepared(&frame);
}

// How a descriptor takes a call that is carried out in pieces.
enum class Division {
  kFile,    // Every piece is answered at once: as one call.
  kStream,  // Bytes without borders. What follows a read's first piece may be long in coming.
  kRecord,  // What one call appends lies together, whoever appends beside.
  kWhole,   // A call is a message, or nobody knows.
};
Division DivisionOf(uint64_t fd, bool writes);

}  // namespace farpool
