#pragma once
// Samples of far faults for `farpool run --trace`: the fault handler copies registers and a slice of the
// stack here, the supervisor unwinds and names them at the end of the run. Every fault of the run has the
// same chance to be among them (reservoir sampling, Vitter's algorithm R), so the longer the run, the rarer a
// sample is taken.

#include <atomic>
#include <cstdint>

namespace farpool {

struct TraceSample {
  static constexpr uint32_t kStackBytesMax = 16384;
  std::atomic<bool> busy;
  uint32_t image;          // Index + 1 in TraceRing::images; 0: unknown.
  uint64_t registers[17];  // In DWARF's order: rax rdx rcx rbx rsi rdi rbp rsp r8..r15 rip.
  uint64_t stack_bytes;    // From rsp upwards.
  unsigned char stack[kStackBytesMax];
};

// What a process had mapped as code when it was last looked at: lines of /proc/PID/maps.
struct TraceImage {
  static constexpr uint32_t kTextMax = 65536;
  std::atomic<uint32_t> text_bytes;
  char text[kTextMax];
};

struct TraceRing {
  static constexpr uint32_t kSamples = 512;
  static constexpr uint32_t kImages = 64;
  std::atomic<uint64_t> faults;
  std::atomic<uint32_t> images_used;
  TraceSample samples[kSamples];
  TraceImage images[kImages];
};

}  // namespace farpool
