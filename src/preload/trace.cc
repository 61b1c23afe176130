#include "preload/trace.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <cstring>

#include "base/sys.h"
#include "preload/runtime.h"
#include "run/layout.h"
#include "run/trace.h"

namespace farpool {

namespace {

// Libraries come and go; the maps are read again every so many samples of a process.
constexpr uint32_t kLookEvery = 64;

std::atomic<uint32_t> g_image{0};  // Index + 1 of this process's.
std::atomic<long> g_image_of{0};   // Process that it belongs to: a forked child takes its own.
std::atomic<uint32_t> g_looks{0};
std::atomic<int> g_maps{-1};  // /proc/self/maps of that process.
std::atomic<bool> g_looking{false};

void OpenMaps() {
  DescriptorRoom room;
  const long fd = sys::Call(SYS_openat, AT_FDCWD, "/proc/self/maps", O_RDONLY | O_CLOEXEC);
  g_maps = sys::Failed(fd) ? -1 : PlaceFd(static_cast<int>(fd), kFdMaps);
}

uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
  x = (x ^ x >> 27) * 0x94d049bb133111eb;
  return x ^ x >> 31;
}

// Keeps the lines of files mapped as code; the arena alone may have thousands of others.
void ReadMaps(TraceImage* image) {
  char line[4096];
  uint32_t used = 0;
  uint32_t have = 0;
  long offset = 0;
  for (long got;
       (got = sys::Call(SYS_pread64, g_maps.load(), line + have, sizeof(line) - have, offset)) > 0;) {
    offset += got;
    have += static_cast<uint32_t>(got);
    uint32_t begin = 0;
    for (uint32_t at = 0; at < have; ++at) {
      if (line[at] != '\n') continue;
      const uint32_t bytes = at + 1 - begin;
      bool code = false;
      bool file = false;
      for (uint32_t i = begin; i < at; ++i) {
        code = code || (i + 5 < at && std::memcmp(line + i, " r-xp ", 6) == 0);
        file = file || line[i] == '/';
      }
      if (code && file && used + bytes <= TraceImage::kTextMax) {
        std::memcpy(image->text + used, line + begin, bytes);
        used += bytes;
      }
      begin = at + 1;
    }
    if (begin == 0 && have == sizeof(line)) break;
    have -= begin;
    std::memmove(line, line + begin, have);
  }
  image->text_bytes.store(used, std::memory_order_release);
}

// The image of this process, or 0 if all are taken.
uint32_t Image(TraceRing* ring) {
  const long pid = sys::Call(SYS_getpid);
  if (g_image_of.exchange(pid) != pid) {
    const uint32_t index = ring->images_used.fetch_add(1);
    g_image = index < TraceRing::kImages ? index + 1 : 0;
    g_looks = 0;
    OpenMaps();
    g_looking = false;
  }
  const uint32_t image = g_image;
  if (image != 0 && g_looks.fetch_add(1) % kLookEvery == 0 && !g_looking.exchange(true)) {
    ReadMaps(&ring->images[image - 1]);
    g_looking = false;
  }
  return image;
}

}  // namespace

void SampleFault(uintptr_t address, const uint64_t* registers) {
  TraceRing* const ring = &g_runtime.segment->trace;
  const auto* table = reinterpret_cast<const PageEntry*>(kTableBase);
  if (table[(address - kArenaBase) / kPageBytes].state != PageEntry::State::kStored) return;
  const uint64_t nth = ring->faults.fetch_add(1, std::memory_order_relaxed);
  const uint64_t at = nth < TraceRing::kSamples ? nth : Mix(nth ^ g_runtime.segment->hash_seed) % (nth + 1);
  if (at >= TraceRing::kSamples) return;
  TraceSample& sample = ring->samples[at];
  if (sample.busy.exchange(true, std::memory_order_acquire)) return;
  sample.image = Image(ring);
  // The kernel's order: r8..r15 rdi rsi rbp rbx rdx rax rcx rsp rip.
  static constexpr unsigned char kOrder[17] = {13, 12, 14, 11, 9, 8, 10, 15, 0, 1, 2, 3, 4, 5, 6, 7, 16};
  for (unsigned i = 0; i < 17; ++i) sample.registers[i] = registers[kOrder[i]];
  const uint64_t sp = registers[15];
  sample.stack_bytes = 0;
  if (!InArena(sp)) {  // The kernel reads up to where the stack ends.
    iovec to = {sample.stack, sizeof(sample.stack)};
    // Page by page: what is not whole is not read.
    iovec from[TraceSample::kStackBytesMax / kPageBytes + 1];
    unsigned parts = 0;
    for (uint64_t at_sp = sp; at_sp < sp + sizeof(sample.stack);) {
      uint64_t end = (at_sp / kPageBytes + 1) * kPageBytes;
      if (end > sp + sizeof(sample.stack)) end = sp + sizeof(sample.stack);
      from[parts++] = {reinterpret_cast<void*>(at_sp), end - at_sp};
      at_sp = end;
    }
    const long got = sys::Call(SYS_process_vm_readv, sys::Call(SYS_getpid), &to, 1, from, parts, 0);
    if (!sys::Failed(got)) sample.stack_bytes = static_cast<uint64_t>(got);
  }
  sample.busy.store(false, std::memory_order_release);
}

}  // namespace farpool
