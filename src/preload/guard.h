#pragma once
// The system call guard: makes the memory behind a call's far pointers present and keeps it so while the
// kernel works on it; carries out the calls that concern mappings, signals, fork and exec.
//
// Guard* and Call* stand for one system call each and answer as the kernel would: a result or -errno. They
// run on any thread, in the program's own context: its stack (which may be far), its signal mask, whatever
// locks it holds. They may be interrupted by its handlers, and left for good by longjmp or cancellation,
// wherever they are not inside OnNearStack() (thread.h), which whatever takes the engine's lock runs in.

#include <csignal>
#include <cstdint>

namespace farpool {

// Laid out by entry.S.
struct GuardFrame {
  int64_t number;
  uint64_t args[5 + 1];  // rdi, rsi, rdx, r10, r8, r9.
  uint64_t resume;
};
// What libc's functions keep for their callers, just below the GuardFrame.
struct KeptRegisters {
  uint64_t r15, r14, r13, r12, rbx, rbp;
};

// mappings.cc, mremap.cc. Each returns what the kernel would.
long GuardMmap(GuardFrame* frame);
void NoteIoctl(const GuardFrame& frame);
long GuardMunmap(uint64_t address, uint64_t bytes);
long GuardMprotect(uint64_t address, uint64_t bytes, int protection);
long GuardMremap(GuardFrame* frame);
long GuardMsync(const GuardFrame* frame);
long GuardMadvise(uint64_t address, uint64_t bytes, int advice);
long GuardBrk(uint64_t address);
// Makes the pages of [begin, end) near for good, contents and all. 0, or an error: not all of them.
long KeepNear(uintptr_t begin, uintptr_t end);
// Once, after PatchLibc(): libc's heap will grow in the arena.
void TakeOverBreak();
// signals.cc.
long GuardSigaction(GuardFrame* frame);
long GuardSigprocmask(GuardFrame* frame);
long GuardSigaltstack(GuardFrame* frame);
long GuardSigpending(GuardFrame* frame);
// A signal of `set` that was sent to this thread while the program had it blocked and we could not.
bool TakeHeld(uint64_t set, siginfo_t* info);
void InstallHandlers();
void SignalsAfterFork();
// While an exec is tried: blocked and ignored signals are as the new image shall find them.
class InheritedSignals {
 public:
  InheritedSignals();
  ~InheritedSignals();
  InheritedSignals(const InheritedSignals&) = delete;
  InheritedSignals& operator=(const InheritedSignals&) = delete;

 private:
  uint64_t ignored_ = 0;
  uint64_t blocked_ = 0;
};
// limits.cc.
long GuardLimit(GuardFrame* frame);
long GuardCloseRange(const GuardFrame* frame);
// sandbox.cc.
long GuardSeccomp(GuardFrame* frame);
// credentials.cc.
long GuardCredentials(const GuardFrame* frame);
long GuardPrctl(GuardFrame* frame);
// fork.cc.
long GuardFork(const GuardFrame* frame);
// Takes out of the program's environment, in place, what brought the runtime here.
void HideEnvironment(char** environment);
// For exec: `environment` (present; may be null) with what brings the runtime into the next program, too. The
// result is in near memory of this thread, good until its next exec; `environment` itself if nothing is
// missing, or if the runtime's library cannot be seen from here.
uint64_t ExecEnvironment(uint64_t environment);
// libc_code.cc: sends libc's own system calls to the guard. False if that cannot be. Once, before there is a
// second thread, which might be inside libc.
bool PatchLibc();
// The functions of these names in sites.h, for libc's.
void LeaveStub(uint64_t* rip, uint64_t* rcx);
uint64_t ReturnToStub(uint64_t at);
bool IsCancellable(uint64_t at);

// transfers.cc. Large buffers go in pieces; a message is never divided.
long CallTransfer(const GuardFrame* frame);
long CallAt(const GuardFrame* frame, unsigned buffer_arg, unsigned count_arg, int offset_arg);
long CallVector(const GuardFrame* frame);
long CallMessage(const GuardFrame* frame);
long CallMessages(const GuardFrame* frame);
long CallOtherMemory(const GuardFrame* frame);
long GuardVmsplice(const GuardFrame* frame);
// futexes.cc.
long CallFutex(const GuardFrame* frame);
long CallFutexWaiters(const GuardFrame* frame, uint64_t count);
long GuardThreadExit(const GuardFrame* frame);
// async_io.cc.
long CallIoSubmit(const GuardFrame* frame);
long CallIoGetevents(const GuardFrame* frame);
long CallIoCancel(const GuardFrame* frame);
long CallIoDestroy(const GuardFrame* frame);

// prepare.cc. True if all of [begin, begin + bytes) may be touched: present if far, not ours otherwise. With
// a false it is present up to where the program's mappings end, and the kernel is left to answer EFAULT.
bool MakePresent(uintptr_t begin, uint64_t bytes);

// Passes a call on as it is; the program's own filters see it as the program's.
long Forward(const GuardFrame* frame);

}  // namespace farpool
