// Call sites of libcs that this machine need not have, as bytes: what is patched, and what a thread sees that
// is interrupted in a stub.

#include "preload/sites.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cstring>
#include <initializer_list>

extern "C" {
void farpool_site_entry() {}
void farpool_function_entry() {}
void farpool_clone_entry() {}
}

namespace farpool {
namespace {

class SitesTest : public ::testing::Test {
 protected:
  static constexpr size_t kCodeBytes = 4096;
  static constexpr size_t kSite = 1000;

  void SetUp() override {
    void* const map =
        mmap(nullptr, kStubsBytes + kCodeBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(map, MAP_FAILED);
    stubs_.begin = static_cast<uint8_t*>(map);
    stubs_.end = code_.begin = stubs_.begin + kStubsBytes;
    code_.end = code_.begin + kCodeBytes;
    memset(code_.begin, 0x90, kCodeBytes);
  }
  void TearDown() override { munmap(stubs_.begin, kStubsBytes + kCodeBytes); }

  // Puts `bytes`, which end with a syscall, at the site; the address behind them.
  uint8_t* Put(std::initializer_list<uint8_t> bytes) {
    std::copy(bytes.begin(), bytes.end(), site());
    return site() + bytes.size();
  }
  size_t Patch() {
    WriteEntries(stubs_.begin);
    return PatchCallSites(code_, stubs_.begin);
  }
  uint8_t* site() const { return code_.begin + kSite; }
  // That the jump at the site leads to.
  uint8_t* Stub() const {
    int32_t distance;
    memcpy(&distance, site() + 1, sizeof(distance));
    return site() + 5 + distance;
  }
  static uint64_t Address(const void* at) { return reinterpret_cast<uintptr_t>(at); }
  // Where a thread is shown to be that was interrupted at `at`.
  uint64_t Shown(const uint8_t* at, uint64_t* rcx) const {
    uint64_t rip = Address(at);
    LeaveStub(stubs_, &rip, rcx);
    return rip;
  }

  Code stubs_, code_;
};

// glibc 2.41, __internal_syscall_cancel of a process with one thread.
TEST_F(SitesTest, NumberFromTheStack) {
  const uint8_t* const behind = Put({0x48, 0x8b, 0x44, 0x24, 0x10, 0x0f, 0x05});
  ASSERT_NE(Patch(), 0u);
  ASSERT_EQ(*site(), 0xe9);
  const uint8_t mov[] = {0x48, 0x8b, 0x44, 0x24, 0x10};
  EXPECT_EQ(memcmp(Stub(), mov, sizeof(mov)), 0);
  EXPECT_EQ(memcmp(site() + 5, "\x0f\x05", 2), 0);  // Code that jumps to it goes on as ever.
  uint64_t rcx = 1;
  EXPECT_EQ(Shown(Stub(), &rcx), Address(site()));
  EXPECT_EQ(rcx, 1u);
  for (const size_t done : {5, 12}) {  // Before the lea, before the jump.
    EXPECT_EQ(Shown(Stub() + done, &rcx), Address(reinterpret_cast<const void*>(&farpool_function_entry)));
    EXPECT_EQ(rcx, Address(behind));
  }
  EXPECT_EQ(ReturnToStub(code_, stubs_, Address(site())), Address(Stub()));
  EXPECT_EQ(ReturnToStub(code_, stubs_, Address(site() + 5)), Address(site() + 5));
  EXPECT_FALSE(IsCancellable(code_, stubs_, Address(site() + 5)));
}

// glibc 2.41, the end of __syscall_cancel_arch: a thread is to be cancelled as long as it has not made the
// call.
TEST_F(SitesTest, IsSeenInsideUntilTheCallIsMade) {
  uint8_t* const behind = Put({0x4c, 0x89, 0x5c, 0x24, 0x08, 0x0f, 0x05});
  ASSERT_NE(Patch(), 0u);
  uint64_t rcx = 1;
  EXPECT_EQ(Shown(Stub(), &rcx), Address(site()));
  for (const size_t done : {5, 12}) EXPECT_EQ(Shown(Stub() + done, &rcx), Address(behind - 2));
  for (uint8_t* at : {site(), behind - 1, behind, Stub(), stubs_.begin, code_.begin, code_.end})
    EXPECT_FALSE(IsCancellable(code_, stubs_, Address(at)));
  EXPECT_TRUE(IsCancellable(code_, stubs_, Address(behind - 2)));
}

// mov $SYS_recvfrom, %eax; xor %r9d, %r9d; syscall: what stands behind the jump does the same.
TEST_F(SitesTest, InterruptedBetweenTwoInstructions) {
  Put({0xb8, SYS_recvfrom, 0, 0, 0, 0x45, 0x31, 0xc9, 0x0f, 0x05});
  ASSERT_NE(Patch(), 0u);
  uint64_t rcx = 1;
  EXPECT_EQ(Shown(Stub() + 5, &rcx), Address(site() + 5));
  EXPECT_EQ(rcx, 1u);
}

// The same of a call that is always the guard's: the syscall in place would not get there.
TEST_F(SitesTest, StaysInTheStubOfACallThatIsTheGuards) {
  Put({0xb8, SYS_rt_sigprocmask, 0, 0, 0, 0x45, 0x31, 0xc9, 0x0f, 0x05});
  ASSERT_NE(Patch(), 0u);
  uint64_t rcx = 1;
  EXPECT_EQ(Shown(Stub() + 5, &rcx), Address(Stub() + 5));
  EXPECT_EQ(Shown(Stub() + 8, &rcx), Address(reinterpret_cast<const void*>(&farpool_site_entry)));
}

TEST_F(SitesTest, KnowsWhatIsElsewhere) {
  Put({0xb8, SYS_recvfrom, 0, 0, 0, 0x0f, 0x05});
  // A jump of the program's own.
  uint8_t* const jump = code_.begin + 2000;
  jump[0] = 0xe9;
  ASSERT_NE(Patch(), 0u);
  uint64_t rcx = 1;
  for (const uint8_t* at : {stubs_.begin, code_.begin, site(), jump, code_.end - 1}) {
    EXPECT_EQ(Shown(at, &rcx), Address(at));
    EXPECT_EQ(ReturnToStub(code_, stubs_, Address(at)), Address(at == site() ? Stub() : at));
  }
  EXPECT_EQ(rcx, 1u);
}

}  // namespace
}  // namespace farpool
