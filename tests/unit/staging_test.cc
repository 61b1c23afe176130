// Frames of the staging area: the books agree with what the kernel has, whatever is done.

#include "paging/staging.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "base/uffd_abi.h"

namespace farpool {
namespace {

class StagingTest : public testing::Test {
 protected:
  void SetUp() override {
    uffd_ = static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY));
    uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP, .ioctls = 0};
    ASSERT_EQ(ioctl(uffd_, UFFDIO_API, &api), 0);
    void* free =
        mmap(nullptr, Staging::kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    ASSERT_NE(free, MAP_FAILED);
    munmap(free, Staging::kBytes);
    area_ = static_cast<std::byte*>(free);
    const Status s = staging_->Init(area_, uffd_);
    ASSERT_TRUE(s.ok()) << s.text();
  }
  void TearDown() override {
    EXPECT_EQ(staging_->populated(), Present());
    munmap(area_, Staging::kBytes);
    close(uffd_);
  }

  // Pages of memory, by the kernel.
  uint64_t Present() const {
    std::vector<unsigned char> there(Staging::kFramesMax);
    EXPECT_EQ(mincore(area_, Staging::kBytes, there.data()), 0);
    return static_cast<uint64_t>(std::count_if(there.begin(), there.end(), [](auto c) { return c & 1; }));
  }
  // As eviction does, with a page number that tells frames apart.
  void StagePage(uint32_t frame) {
    *staging_->At(frame) = std::byte{1};
    staging_->Stage(frame, 1000 + frame);
  }

  int uffd_ = -1;
  std::byte* area_ = nullptr;
  std::unique_ptr<Staging> staging_ = std::make_unique<Staging>();
};

TEST_F(StagingTest, PopulatedFramesAreFreeAndZeroUntilTheyAreUsed) {
  ASSERT_TRUE(staging_->Populate(3, 8));
  EXPECT_EQ(staging_->free_frames(), 8u);
  EXPECT_EQ(Present(), 8u);
  uint32_t first = 0;
  ASSERT_EQ(staging_->FindRun(8, &first), 8u);
  EXPECT_EQ(first, 3 * kGroupPages);
  EXPECT_EQ(staging_->Take(first, 3), 0u);
  staging_->Freed(first);            // Used.
  staging_->Freed(first + 1, true);  // All zero again.
  staging_->Freed(first + 2);
  EXPECT_EQ(staging_->Take(first, 4), 0b0101u);
  EXPECT_EQ(staging_->free_frames(), 4u);
}

TEST_F(StagingTest, TheShortestRunThatIsLongEnoughIsTaken) {
  ASSERT_TRUE(staging_->Populate(0, 64));
  ASSERT_TRUE(staging_->Populate(1, 10));
  staging_->Take(5, 1);
  staging_->Take(20, 20);  // Leaves 5, 14 and 24.
  uint32_t first = 0;
  EXPECT_EQ(staging_->FindRun(6, &first), 6u);
  EXPECT_EQ(first, kGroupPages);
  EXPECT_EQ(staging_->FindRun(5, &first), 5u);
  EXPECT_EQ(first, 0u);
  EXPECT_EQ(staging_->FindRun(12, &first), 12u);
  EXPECT_EQ(first, 6u);
  EXPECT_EQ(staging_->FindRun(40, &first), 24u);  // There is no longer one.
  EXPECT_EQ(first, 40u);
}

TEST_F(StagingTest, BlocksLeaveInTheOrderTheyCameIn) {
  for (const unsigned block : {7u, 2u, 9u}) {
    StagePage(block * kGroupPages + 5);
    staging_->Enqueue(block);
    staging_->Enqueue(block);  // Once is enough.
  }
  EXPECT_EQ(staging_->queue_size(), 3u);
  EXPECT_EQ(staging_->Oldest(), 7u);
  EXPECT_EQ(staging_->owner(7 * kGroupPages + 5), 1000u + 7 * kGroupPages + 5);
  staging_->Unstage(7 * kGroupPages + 5, 1);  // A second chance took it.
  EXPECT_EQ(staging_->Oldest(), 2u);
  EXPECT_FALSE(staging_->queued(7));
  staging_->LastFirst();
  EXPECT_EQ(staging_->Oldest(), 9u);
  EXPECT_EQ(staging_->queue_at(1), 2u);
  EXPECT_EQ(staging_->staged(), 2u);
}

TEST_F(StagingTest, ABlockIsEmptyOnceNothingIsThere) {
  StagePage(1);
  staging_->Enqueue(0);
  EXPECT_EQ(staging_->EmptyBlock(0), 1u);
  // The page goes back into the arena, by a flight.
  staging_->Unstage(1, 1);
  staging_->TookOff(1);
  EXPECT_EQ(staging_->Oldest(), Staging::kNoBlock);
  EXPECT_EQ(staging_->EmptyBlock(0), 1u);
  staging_->MemoryGoes(1);
  madvise(staging_->At(1), kPageBytes, MADV_DONTNEED);
  staging_->Landed(1);
  EXPECT_EQ(staging_->EmptyBlock(0), 0u);
}

TEST_F(StagingTest, EmptyBlocksAreCountedUpToWhatIsThere) {
  ASSERT_TRUE(staging_->Populate(4, 1));
  EXPECT_EQ(staging_->EmptyBlocks(1, 100), 3u);
  EXPECT_EQ(staging_->EmptyBlocks(1, 3), 2u);
}

// Method: what a failed mremap may have unmapped is, and the second time no mapping can be had.
TEST_F(StagingTest, BrokenFramesAreMappedAnewOrTheirBlockIsNotUsedAgain) {
  constexpr uint32_t kFirst = 2 * kGroupPages + 63, kLast = 3 * kGroupPages;
  munmap(staging_->At(kFirst), kPageBytes);
  EXPECT_TRUE(staging_->Renew(kFirst, kLast));
  EXPECT_EQ(staging_->EmptyBlock(2), 2u);
  EXPECT_TRUE(staging_->Populate(2, 64));
  EXPECT_EQ(staging_->DropFree(), 64u);
  rlimit before;
  getrlimit(RLIMIT_AS, &before);
  const rlimit none = {kPageBytes, before.rlim_max};
  munmap(staging_->At(kFirst), kPageBytes);
  setrlimit(RLIMIT_AS, &none);
  EXPECT_FALSE(staging_->Renew(kFirst, kLast));
  setrlimit(RLIMIT_AS, &before);
  EXPECT_EQ(staging_->EmptyBlock(2), 3u);
  EXPECT_TRUE(staging_->Renew(kFirst, kLast));  // For whoever looks at it all at the end.
}

TEST_F(StagingTest, MemoryOfFreeFramesGoesBackByBlocksThatHaveNothingElse) {
  for (const unsigned block : {0u, 1u, 2u, 3u}) ASSERT_TRUE(staging_->Populate(block, 64));
  staging_->Take(0, 64 - 3);  // Three free frames are not worth a call,
  madvise(staging_->At(0), 61 * kPageBytes, MADV_DONTNEED);
  staging_->MemoryGoes(61);
  staging_->Take(kGroupPages, 1);  // here is something else,
  StagePage(kGroupPages);
  staging_->MemoryGoes(1);                                    // (whose memory came from elsewhere)
  Staging::FreeBlocks found = staging_->FindBlocks(1000, 2);  // and this one is to be spared.
  ASSERT_EQ(found.count, 1u);
  EXPECT_EQ(found.blocks[0], 3u);
  EXPECT_EQ(found.frames, 64u);
  staging_->TakeBlocks(found);
  EXPECT_EQ(staging_->EmptyBlock(3), 4u);  // Until the kernel has it.
  EXPECT_EQ(staging_->FindBlocks(1000, 2).count, 0u);
  staging_->Drop(found);
  staging_->Dropped(found);
  EXPECT_EQ(staging_->EmptyBlock(3), 3u);
  EXPECT_EQ(staging_->free_frames(), 3u + 63 + 64);
  EXPECT_EQ(staging_->populated(), Present());
}

TEST_F(StagingTest, NeighbouringBlocksAreEnoughForWhatIsWanted) {
  for (unsigned block = 0; block < 20; ++block) ASSERT_TRUE(staging_->Populate(block, 64));
  EXPECT_EQ(staging_->FindBlocks(65, Staging::kNoBlock).count, 2u);
  const Staging::FreeBlocks most = staging_->FindBlocks(100000, Staging::kNoBlock);
  EXPECT_EQ(most.frames, most.count * 64u);
  EXPECT_LT(most.count, 20u);  // By pieces.
}

TEST_F(StagingTest, DroppingWhatIsFreeLeavesWhatIsStaged) {
  ASSERT_TRUE(staging_->Populate(0, 64));
  ASSERT_TRUE(staging_->Populate(5, 10));
  staging_->Take(20, 1);
  StagePage(20);
  staging_->MemoryGoes(1);  // It had memory before.
  staging_->Enqueue(0);
  EXPECT_EQ(staging_->DropFree(), 63u + 10);
  EXPECT_EQ(Present(), 1u);
  EXPECT_EQ(*staging_->At(20), std::byte{1});
  EXPECT_EQ(staging_->free_frames(), 0u);
  EXPECT_EQ(staging_->EmptyBlock(0), 1u);
  EXPECT_EQ(staging_->EmptyBlock(5), 5u);
}

TEST_F(StagingTest, CompactingSparesWholeBlocks) {
  ASSERT_TRUE(staging_->Populate(0, 64));
  ASSERT_TRUE(staging_->Populate(1, 1));
  EXPECT_EQ(staging_->Compact(), 1u);
  EXPECT_EQ(staging_->free_frames(), 64u);
  EXPECT_EQ(staging_->Compact(), 0u);
}

TEST_F(StagingTest, PagesThatAreKeptComeTogetherAndGoTogether) {
  // Two of three pages of the oldest block stay: it becomes a hot one.
  for (const uint32_t frame : {0u, 1u, 2u}) StagePage(frame);
  staging_->Enqueue(0);
  staging_->Keep(1);
  staging_->Keep(2);
  EXPECT_EQ(staging_->leaving_of(0), 0b001u);
  staging_->Unstage(0, 1);
  staging_->Freed(0);
  EXPECT_EQ(staging_->leaving_of(0), 0u);
  uint32_t to = 0;
  EXPECT_FALSE(staging_->MoveToHot(1, &to));  // There is none yet.
  staging_->OldestBecomesHot();
  EXPECT_TRUE(staging_->hot(0));
  EXPECT_EQ(staging_->Oldest(), Staging::kNoBlock);
  // Then the page of another.
  StagePage(kGroupPages);
  staging_->Enqueue(1);
  staging_->Keep(kGroupPages);
  ASSERT_TRUE(staging_->MoveToHot(kGroupPages, &to));
  EXPECT_EQ(to, 0u);
  EXPECT_EQ(staging_->owner(0), 1000u + kGroupPages);
  EXPECT_EQ(*staging_->At(0), std::byte{1});
  EXPECT_EQ(staging_->kept(), 3u);
  EXPECT_EQ(staging_->free_frames(), 1u);
  EXPECT_EQ(staging_->Oldest(), Staging::kNoBlock);  // Nothing is left there.
  EXPECT_EQ(staging_->hot_blocks(), 1u);
  // A second chance.
  staging_->Unstage(2, 1);
  EXPECT_EQ(staging_->kept(), 2u);
  staging_->Freed(2);
  EXPECT_EQ(staging_->OldestHotGoes(), 0u);
  EXPECT_EQ(staging_->kept(), 0u);
  EXPECT_EQ(staging_->Oldest(), 0u);
  EXPECT_EQ(staging_->leaving_of(0), 0b011u);
  EXPECT_EQ(staging_->OldestHotGoes(), Staging::kNoBlock);
}

TEST_F(StagingTest, FreeFramesOfHotBlocksComeLast) {
  ASSERT_TRUE(staging_->Populate(0, 2));
  StagePage(2);
  staging_->Enqueue(0);
  staging_->Keep(2);
  ASSERT_EQ(staging_->Oldest(), 0u);
  staging_->OldestBecomesHot();
  ASSERT_TRUE(staging_->Populate(1, 1));
  uint32_t first = 0;
  EXPECT_EQ(staging_->FindRun(2, &first), 1u);
  EXPECT_EQ(first, kGroupPages);
  staging_->Take(first, 1);
  EXPECT_EQ(staging_->FindRun(2, &first), 2u);
  EXPECT_EQ(first, 0u);
  staging_->Freed(kGroupPages);
}

// A frame with two owners would be somebody's wrong data.
TEST_F(StagingTest, AFrameThatIsGivenTwiceEndsTheProcess) {
  ASSERT_TRUE(staging_->Populate(0, 4));
  staging_->Take(0, 2);
  EXPECT_DEATH(staging_->Take(1, 2), "free_of_");
  StagePage(kGroupPages);
  EXPECT_DEATH(staging_->Freed(kGroupPages), "staged_of_");
  EXPECT_DEATH(staging_->Unstage(kGroupPages, 2), "staged_of_");
  EXPECT_DEATH(staging_->Freed(2), "free_of_");
}

}  // namespace
}  // namespace farpool
