#pragma once
// Sends the system calls that libc makes itself to the guard without a trap. libc's `mov $nr, %eax; ...;
// syscall` has room for a jump where the `mov` is: it goes to a stub that repeats the `mov` and what stands
// between, and enters farpool_site_entry with the address behind the `syscall`. The `syscall` itself stays in
// place, so code that jumps to it from elsewhere still works. Sites of another shape are left alone: for them
// the filter remains.

#include <cstddef>
#include <cstdint>

#include "farpool/types.h"

namespace farpool {

struct Code {
  uint8_t* begin = nullptr;
  uint8_t* end = nullptr;
  size_t bytes() const { return static_cast<size_t>(end - begin); }
};

// Room for stubs: a page of addresses that they jump through, and more stubs than libc has calls.
inline constexpr size_t kStubsBytes = 17 * kPageBytes;

// Writes the first page of the stubs: all that differs between processes.
void WriteEntries(uint8_t* stubs);

// Patches `code`, which is writable and which nobody executes meanwhile. `stubs`: kStubsBytes, zero, within
// reach of a 32-bit jump from all of it. Returns the bytes of them that were used, 0 if no call was found.
// What is written depends on the code and on where the stubs are from it, nothing else: it can be copied to
// any process that has the same code, and stubs at the same distance.
size_t PatchCallSites(Code code, uint8_t* stubs);

// No unwinder knows the stubs. A thread interrupted at `*rip` in one of `stubs` is moved to a place that they
// know and from which on it does the same: in the patched code, or where the stub leads to, for which `*rcx`
// is set. Not so between two instructions of a stub for a call that is always the guard's. Any context.
void LeaveStub(Code stubs, uint64_t* rip, uint64_t* rcx);
// Where a thread goes on that was moved to `at`, or had no need to be. One that gets a signal after each
// instruction (it traces itself) would never get into a stub from the jump to it.
uint64_t ReturnToStub(Code code, Code stubs, uint64_t at);
// Whether `at` is the `syscall` instruction of glibc's __syscall_cancel_arch (since 2.41). A thread is
// cancelled in a call only if it is seen to be at it, or shortly before: then the call has not been made, or
// is to be begun again.
bool IsCancellable(Code code, Code stubs, uint64_t at);

}  // namespace farpool
