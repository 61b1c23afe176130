// stress [seed [seconds [MiB [threads [processes [children]]]]]]: random mappings, protections, advice, heap
// blocks, forks, system calls and threads that come and go, under a storm of signals whose handlers touch far
// memory too. What a thread does is drawn from the seed; what every byte must be is kept near
// (stress/model.h). Prints the seed and the step of whatever is wrong.

#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include <algorithm>
#include <atomic>
#include <csetjmp>
#include <csignal>
#include <ctime>

#include "stress/channels.h"
#include "stress/model.h"

namespace stress {
namespace {

constexpr int kReadWrite = PROT_READ | PROT_WRITE;
constexpr unsigned kThreadsMax = 16;
constexpr size_t kPipeBytes = 32 * 1024;  // Fits into a pipe or socket at once, however it is cut.
constexpr int kChildDone = 77;
constexpr int kArgumentsRight = 55;

Common g_common;
pid_t g_tid[kThreadsMax];
uint64_t g_deadline_ns;
unsigned g_children_max;  // At once, of one thread.

uint64_t NowNs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000000000 + static_cast<uint64_t>(now.tv_nsec);
}

// --- signals

// Far pages that only this thread's signal handlers use.
struct HandlerPages {
  static constexpr size_t kPages = 16;
  char* at;
  uint64_t keys[kPages];  // One block of each page.
  uint64_t turns;
};
thread_local HandlerPages t_handler = {};
thread_local sigjmp_buf* t_forbidden = nullptr;

void OnSignal(int) {
  const int error = errno;
  HandlerPages& mine = t_handler;
  if (mine.at != nullptr) {
    const size_t page = ++mine.turns % HandlerPages::kPages;
    char* block = mine.at + page * kPage + page * kBlock % kPage;
    CheckBlock(block, mine.keys[page], page);
    mine.keys[page] = Mix(mine.turns) | 1;
    FillBlock(block, mine.keys[page]);
    // A prepared call inside whatever was interrupted: another one, perhaps.
    char copy[kBlock];
    const iovec from = {block, kBlock}, to = {copy, kBlock};
    HOLDS(process_vm_readv(getpid(), &to, 1, &from, 1, 0) == static_cast<ssize_t>(kBlock), "in a handler: %d",
          errno);
    CheckBlock(copy, mine.keys[page], page);
  }
  errno = error;
}

void OnSegv(int, siginfo_t* info, void*) {
  HOLDS(t_forbidden != nullptr, "SIGSEGV at %p", info->si_addr);
  siglongjmp(*t_forbidden, 1);
}

void InstallHandlers() {
  struct sigaction action = {};
  sigemptyset(&action.sa_mask);
  for (int signal : {SIGALRM, SIGUSR1, SIGUSR2}) sigaddset(&action.sa_mask, signal);
  action.sa_handler = OnSignal;
  sigaction(SIGUSR1, &action, nullptr);
  action.sa_flags = SA_RESTART | SA_ONSTACK;
  sigaction(SIGUSR2, &action, nullptr);
  action.sa_flags = SA_RESTART;
  sigaction(SIGALRM, &action, nullptr);
  action.sa_sigaction = OnSegv;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGSEGV, &action, nullptr);
}

void StartTimer() {
  const itimerval every = {{0, 1500}, {0, 1500}};
  HOLDS(setitimer(ITIMER_REAL, &every, nullptr) == 0, "setitimer");
}

// --- one thread of the program

class Worker {
 public:
  void Run(uint64_t seed, unsigned process, unsigned thread, size_t pages_max) {
    t_where = {seed, process, thread, 0, 0, "start"};
    random_ = Random(Mix(seed) + process * 1000 + thread);
    owner_ = thread;
    pages_max_ = pages_max;
    Start();
    while (NowNs() < g_deadline_ns) Step();
    t_where.doing = "the end";
    VerifyAll();
    while (children_ > 0) Reap();
    channels_.Close();
  }

 private:
  struct HeapBlock {
    char* at;
    size_t blocks;
    uint64_t key;
  };
  struct Child {
    pid_t pid;
    bool to_kill;
  };
  struct Operation {
    const char* name;
    unsigned weight;
    void (Worker::*run)();
    bool whole_process;  // Not in a child that inherited other threads' locks.
  };
  static constexpr size_t kRegionsMax = 64;
  static constexpr size_t kHeapMax = 64;
  static constexpr unsigned kChildrenMax = 4;
  static constexpr unsigned kDepthMax = 2;
  static const Operation kOperations[];

  void Start() {
    g_tid[owner_] = static_cast<pid_t>(syscall(SYS_gettid));
    void* at = mmap(nullptr, HandlerPages::kPages * kPage, kReadWrite, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    HOLDS(at != MAP_FAILED, "mmap of the handler's pages");
    t_handler.at = static_cast<char*>(at);
    // Handlers of SIGUSR2 have a stack of their own, far like the rest.
    constexpr size_t kStackBytes = 128 * 1024;
    stack_t stack = {};
    stack.ss_size = kStackBytes;
    stack.ss_sp = mmap(nullptr, kStackBytes, kReadWrite, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    HOLDS(stack.ss_sp != MAP_FAILED && sigaltstack(&stack, nullptr) == 0, "sigaltstack");
    channels_.Open();
  }

  void Step() {
    ++t_where.step;
    static const unsigned total = [] {
      unsigned sum = 0;
      for (const Operation* o = kOperations; o->run != nullptr; ++o) sum += o->weight;
      return sum;
    }();
    uint64_t draw = random_.Below(total);
    const Operation* operation = kOperations;
    while (draw >= operation->weight) draw -= (operation++)->weight;
    if (operation->whole_process && bare_) return;
    t_where.doing = operation->name;
    (this->*operation->run)();
  }

  void VerifyAll() {
    for (size_t i = 0; i < regions_count_; ++i) regions_[i].Verify(0, regions_[i].pages);
    for (size_t page = 0; page < g_common.pages(); ++page) {
      g_common.Verify(page, owner_);
      g_common.VerifyAny(page);
    }
    for (const HeapBlock& block : heap_) VerifyHeap(block);
  }

  // --- choosing

  // Pages that all have `protection`; mostly few, sometimes as many as there are.
  bool Choose(Range* range, int protection, size_t most) {
    for (int tries = 0; tries < 8 && regions_count_ > 0; ++tries) {
      Region& region = regions_[random_.Below(regions_count_)];
      const size_t first = random_.Below(region.pages);
      const size_t limit = std::min(region.pages - first, most);
      const size_t wanted = random_.Below(5) == 0 ? limit : std::min(limit, 1 + random_.Below(12));
      size_t count = 0;
      while (count < wanted && (region.protection[first + count] & protection) == protection) ++count;
      if (count == 0) continue;
      *range = {&region, first, count};
      return true;
    }
    return false;
  }
  // Two ranges of one length that do not meet.
  bool ChoosePair(Range* from, Range* to, size_t most) {
    if (!Choose(from, PROT_READ, most) || !Choose(to, kReadWrite, most)) return false;
    from->count = to->count = std::min(from->count, to->count);
    return from->region != to->region || from->first + from->count <= to->first ||
           to->first + to->count <= from->first;
  }
  void Copied(const Range& from, const Range& to) {
    memcpy(to.keys(), from.keys(), from.count * kBlocksPerPage * sizeof(uint64_t));
    to.Verify();
  }
  // A far place for `bytes` that are not the model's; Refill() afterwards.
  char* Scratch(Range* range, size_t bytes) {
    if (!Choose(range, kReadWrite, 1 + (bytes + kPage - 1) / kPage) || range->bytes() < bytes) return nullptr;
    return range->at() + random_.Below((range->bytes() - bytes) / 64 + 1) * 64;
  }
  void Refill(const Range& range) {
    for (size_t page = 0; page < range.count; ++page) range.region->WritePage(range.first + page, random_);
  }

  // --- touching

  template <typename Touch>
  void Walk(const Range& range, Touch&& touch) {
    const size_t n = range.count;
    switch (random_.Below(4)) {
      case 0:
        for (size_t i = 0; i < n; ++i) touch(range.first + i);
        return;
      case 1:
        for (size_t i = n; i > 0; --i) touch(range.first + i - 1);
        return;
      case 2: {
        const size_t stride = 1 + random_.Below(9);
        for (size_t start = 0; start < stride; ++start)
          for (size_t i = start; i < n; i += stride) touch(range.first + i);
        return;
      }
      default:
        for (size_t i = 0; i < n; ++i) touch(range.first + random_.Below(n));
    }
  }
  void Read() {
    Range range;
    if (!Choose(&range, PROT_READ, 1024)) return;
    Walk(range, [&](size_t page) { range.region->VerifyPage(page); });
  }
  void Write() {
    Range range;
    if (!Choose(&range, kReadWrite, 512)) return;
    Walk(range, [&](size_t page) { range.region->WritePage(page, random_); });
  }
  void WriteSmall() {
    Range range;
    if (!Choose(&range, kReadWrite, 256)) return;
    Walk(range, [&](size_t page) {
      const size_t b = page * kBlocksPerPage + random_.Below(kBlocksPerPage);
      CheckBlock(range.region->at + b * kBlock, range.region->keys[b], b);
      range.region->keys[b] = random_.Next() | 1;
      FillBlock(range.region->at + b * kBlock, range.region->keys[b]);
    });
  }
  void WriteZeros() {
    Range range;
    if (!Choose(&range, kReadWrite, 128)) return;
    Walk(range, [&](size_t page) {
      memset(range.region->Page(page), 0, kPage);
      range.region->ForgetPage(page);
    });
  }
  void WriteSame() {
    Range range;
    if (!Choose(&range, kReadWrite, 128)) return;
    Walk(range, [&](size_t page) {
      for (size_t b = page * kBlocksPerPage; b < (page + 1) * kBlocksPerPage; ++b)
        FillBlock(range.region->at + b * kBlock, range.region->keys[b]);
    });
  }
  void UseCommon() {
    const size_t first = random_.Below(g_common.pages());
    const size_t count = std::min(g_common.pages() - first, 1 + random_.Below(200));
    const bool write = random_.Below(2) == 0;
    for (size_t page = first; page < first + count; ++page) {
      g_common.Verify(page, owner_);
      if (write) g_common.Write(page, owner_);
    }
  }
  // Touches that the protection forbids end in SIGSEGV, wherever the page is.
  void TouchForbidden() {
    if (regions_count_ == 0) return;
    const Region& region = regions_[random_.Below(regions_count_)];
    for (int tries = 0; tries < 32; ++tries) {
      const size_t page = random_.Below(region.pages);
      if (region.protection[page] == kReadWrite) continue;
      sigjmp_buf back;
      t_forbidden = &back;
      if (sigsetjmp(back, 1) == 0) {
        volatile char* place = region.Page(page);
        if (region.protection[page] == PROT_NONE) {
          (void)*place;
        } else {
          *place = 1;
        }
        HOLDS(false, "a forbidden touch of %p went through", const_cast<char*>(place));
      }
      t_forbidden = nullptr;
      if (region.protection[page] == PROT_NONE) {
        errno = 0;
        HOLDS(write(channels_.pipe[1], region.Page(page), 100) == -1 && errno == EFAULT,
              "write of PROT_NONE");
      }
      return;
    }
  }

  // --- mappings

  bool Room(size_t pages) const { return regions_count_ + 3 <= kRegionsMax && pages_ + pages <= pages_max_; }
  Region& AddRegion(const Region& region) {
    pages_ += region.pages;
    return regions_[regions_count_++] = region;
  }
  void DropRegion(size_t which) {
    pages_ -= regions_[which].pages;
    regions_[which].FreeModel();
    regions_[which] = regions_[--regions_count_];
  }
  void Map() {
    const size_t pages = 16 + random_.Below(random_.Below(3) == 0 ? 2048 : 128);
    if (!Room(pages)) return;
    const int populate = random_.Below(10) == 0 ? MAP_POPULATE : 0;
    void* at = mmap(nullptr, pages * kPage, kReadWrite, MAP_PRIVATE | MAP_ANONYMOUS | populate, -1, 0);
    HOLDS(at != MAP_FAILED, "mmap of %zu pages", pages);
    Region& region = AddRegion(Region::Of(static_cast<char*>(at), pages));
    if (random_.Below(4) == 0) return region.Verify(0, pages);
    for (size_t page = 0; page < pages; ++page) region.WritePage(page, random_);
  }
  // Pieces of which [first, first + count) no longer belongs to the region.
  void CutOut(size_t which, size_t first, size_t count) {
    const Region region = regions_[which];
    const size_t rest = region.pages - first - count;
    if (first > 0) AddRegion(region.Copy(0, first, region.at, first));
    if (rest > 0) AddRegion(region.Copy(first + count, rest, region.Page(first + count), rest));
    DropRegion(which);
  }
  void Unmap() {
    if (regions_count_ == 0 || (regions_count_ < 8 && random_.Below(2) == 0)) return;
    if (regions_count_ + 3 > kRegionsMax) return UnmapWhole();
    const size_t which = random_.Below(regions_count_);
    const Region& region = regions_[which];
    const size_t first = random_.Below(region.pages);
    const size_t count = 1 + random_.Below(region.pages - first);
    HOLDS(munmap(region.Page(first), count * kPage) == 0, "munmap");
    CutOut(which, first, count);
  }
  void UnmapWhole() {
    if (regions_count_ < 4) return;
    const size_t which = random_.Below(regions_count_);
    regions_[which].Verify(0, regions_[which].pages);
    HOLDS(munmap(regions_[which].at, regions_[which].pages * kPage) == 0, "munmap");
    DropRegion(which);
  }
  void Resize() {
    if (regions_count_ == 0) return;
    const size_t which = random_.Below(regions_count_);
    const Region region = regions_[which];
    const size_t pages = 1 + random_.Below(region.pages * 2);
    if (!region.whole || (pages > region.pages && !Room(pages - region.pages))) return;
    void* at = mremap(region.at, region.pages * kPage, pages * kPage, MREMAP_MAYMOVE);
    HOLDS(at != MAP_FAILED, "mremap from %zu to %zu pages", region.pages, pages);
    Region& resized = AddRegion(region.Copy(0, std::min(pages, region.pages), static_cast<char*>(at), pages));
    // What is new is as the rest is protected.
    memset(resized.protection, region.protection[0], pages);
    resized.Verify(0, pages);
    DropRegion(which);
  }
  // A part goes to a place of its own, over what is mapped there.
  void MovePart() {
    if (regions_count_ == 0 || !Room(0)) return;
    const size_t which = random_.Below(regions_count_);
    const Region region = regions_[which];
    if (!region.whole) return;
    const size_t first = random_.Below(region.pages);
    const size_t count = 1 + random_.Below(region.pages - first);
    void* place = mmap(nullptr, std::max<size_t>(count, 16) * kPage, kReadWrite,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    HOLDS(place != MAP_FAILED, "mmap of a place");
    memset(place, 1, kPage);
    if (count < 16)
      HOLDS(munmap(static_cast<char*>(place) + count * kPage, (16 - count) * kPage) == 0, "munmap behind it");
    void* at = mremap(region.Page(first), count * kPage, count * kPage, MREMAP_MAYMOVE | MREMAP_FIXED, place);
    HOLDS(at == place, "mremap to a fixed place");
    AddRegion(region.Copy(first, count, static_cast<char*>(at), count)).Verify(0, count);
    CutOut(which, first, count);
  }
  void MoveContents() {
    if (regions_count_ == 0) return;
    const size_t which = random_.Below(regions_count_);
    Region& region = regions_[which];
    if (!region.whole || !Room(region.pages)) return;
    const size_t bytes = region.pages * kPage;
    void* at = mremap(region.at, bytes, bytes, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, nullptr);
    HOLDS(at != MAP_FAILED, "mremap that leaves the old mapping");
    AddRegion(region.Copy(0, region.pages, static_cast<char*>(at), region.pages)).Verify(0, region.pages);
    for (size_t page = 0; page < region.pages; ++page) region.ForgetPage(page);
    region.Verify(0, region.pages);
  }
  void Protect() {
    Range range;
    if (!Choose(&range, 0, 512)) return;
    const uint64_t draw = random_.Below(10);
    const int protection = draw == 0 ? PROT_NONE : draw < 4 ? PROT_READ : kReadWrite;
    HOLDS(mprotect(range.at(), range.bytes(), protection) == 0, "mprotect");
    memset(range.region->protection + range.first, protection, range.count);
    if (range.count != range.region->pages) range.region->whole = false;
    range.Verify();
  }
  void Forget() {
    Range range;
    if (!Choose(&range, 0, 256)) return;
    HOLDS(madvise(range.at(), range.bytes(), MADV_DONTNEED) == 0, "MADV_DONTNEED");
    for (size_t page = 0; page < range.count; ++page) range.region->ForgetPage(range.first + page);
    range.Verify();
  }
  // Until it is written again a page holds what it held, or zeros.
  void FreeLazily() {
    Range range;
    if (!Choose(&range, kReadWrite, 256)) return;
    HOLDS(madvise(range.at(), range.bytes(), MADV_FREE) == 0, "MADV_FREE");
    for (size_t page = range.first; page < range.first + range.count; ++page)
      for (size_t b = page * kBlocksPerPage; b < (page + 1) * kBlocksPerPage; ++b) {
        const auto first = *reinterpret_cast<const volatile uint64_t*>(range.region->at + b * kBlock);
        HOLDS(first == 0 || first == range.region->keys[b], "block %zu: %llx", b,
              static_cast<unsigned long long>(first));
      }
    Refill(range);
  }
  void Advise() {
    static constexpr int kAdvice[] = {MADV_WILLNEED, MADV_COLD,   MADV_PAGEOUT,
                                      MADV_NORMAL,   MADV_RANDOM, MADV_SEQUENTIAL};
    Range range;
    if (!Choose(&range, PROT_READ, 512)) return;
    const unsigned advice = random_.Below(6);
    // How a part is going to be accessed makes it a mapping of its own, which mremap does not cross.
    if (advice < 3) {
      (void)madvise(range.at(), range.bytes(), kAdvice[advice]);  // May be refused.
    } else {
      (void)madvise(range.region->at, range.region->pages * kPage, kAdvice[advice]);
    }
    range.Verify();
  }
  void MapOver() {
    Range range;
    if (!Choose(&range, 0, 128)) return;
    void* at = mmap(range.at(), range.bytes(), kReadWrite, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    HOLDS(at == range.at(), "mmap over a part");
    for (size_t page = range.first; page < range.first + range.count; ++page) {
      range.region->ForgetPage(page);
      range.region->protection[page] = kReadWrite;
    }
    range.region->whole = false;
    range.Verify();
    if (random_.Below(2) == 0) Refill(range);
  }

  // --- the heap

  static void FillHeap(HeapBlock& block, uint64_t key, size_t from = 0) {
    block.key = key;
    for (size_t b = from; b < block.blocks; ++b) FillBlock(block.at + b * kBlock, Mix(key + b));
  }
  static void VerifyHeap(const HeapBlock& block) {
    for (size_t b = 0; b < block.blocks; ++b) CheckBlock(block.at + b * kBlock, Mix(block.key + b), b);
  }
  void Heap() {
    HeapBlock& block = heap_[random_.Below(kHeapMax)];
    VerifyHeap(block);
    const size_t blocks = 1 + random_.Below(random_.Below(8) == 0 ? 800 : 40);
    switch (random_.Below(block.at == nullptr ? 2 : 4)) {
      case 0: {
        free(block.at);
        block = {static_cast<char*>(calloc(blocks, kBlock)), blocks, 0};
        HOLDS(block.at != nullptr, "calloc");
        for (size_t b = 0; b < blocks; ++b) CheckBlock(block.at + b * kBlock, 0, b);
        return FillHeap(block, random_.Next());
      }
      case 1: {
        const size_t kept = block.at == nullptr ? 0 : std::min(block.blocks, blocks);
        block = {static_cast<char*>(realloc(block.at, blocks * kBlock)), blocks, block.key};
        HOLDS(block.at != nullptr, "realloc");
        FillHeap(block, block.key, kept);
        return VerifyHeap(block);
      }
      case 2:
        free(block.at);
        block = {};
        return;
      default:
        return FillHeap(block, random_.Next());
    }
  }

  // --- system calls

  void FileCalls() {
    Range from, to;
    if (!ChoosePair(&from, &to, 200)) return;
    const auto place = static_cast<off_t>(random_.Below(64) * kPage);
    iovec pieces[24];
    if (random_.Below(2) == 0) {
      Fully(from.bytes(), "pwrite", [&](size_t done) {
        return pwrite(channels_.file, from.at() + done, from.bytes() - done,
                      place + static_cast<off_t>(done));
      });
    } else {
      Fully(from.bytes(), "pwritev", [&](size_t done) {
        const int n = Cut(pieces, 24, from.at() + done, from.bytes() - done, random_);
        return pwritev(channels_.file, pieces, n, place + static_cast<off_t>(done));
      });
    }
    const bool direct = channels_.direct >= 0 && random_.Below(2) == 0;
    if (direct || random_.Below(2) == 0) {
      Fully(to.bytes(), direct ? "pread, direct" : "pread", [&](size_t done) {
        return pread(direct ? channels_.direct : channels_.file, to.at() + done, to.bytes() - done,
                     place + static_cast<off_t>(done));
      });
    } else {
      HOLDS(lseek(channels_.file, place, SEEK_SET) == place, "lseek");
      Fully(to.bytes(), "readv", [&](size_t done) {
        const int n = Cut(pieces, 24, to.at() + done, to.bytes() - done, random_);
        return readv(channels_.file, pieces, n);
      });
    }
    Copied(from, to);
  }
  void DirectWrite() {
    Range from, to;
    if (channels_.direct < 0 || !ChoosePair(&from, &to, 64)) return;
    Fully(from.bytes(), "pwrite, direct", [&](size_t done) {
      return pwrite(channels_.direct, from.at() + done, from.bytes() - done, static_cast<off_t>(done));
    });
    Fully(to.bytes(), "pread", [&](size_t done) {
      return pread(channels_.file, to.at() + done, to.bytes() - done, static_cast<off_t>(done));
    });
    Copied(from, to);
  }
  void PipeCalls() {
    Range from, to;
    if (!ChoosePair(&from, &to, kPipeBytes / kPage)) return;
    const bool socket = random_.Below(2) == 0;
    const int in = socket ? channels_.stream[0] : channels_.pipe[0];
    const int out = socket ? channels_.stream[1] : channels_.pipe[1];
    iovec pieces[8];
    Fully(from.bytes(), "write", [&](size_t done) {
      const size_t left = from.bytes() - done;
      const int n = Cut(pieces, 8, from.at() + done, left, random_);
      switch (random_.Below(3)) {
        case 0:
          return write(out, from.at() + done, left);
        case 1:
          return socket ? writev(out, pieces, n) : vmsplice(out, pieces, static_cast<size_t>(n), 0);
        default:
          return writev(out, pieces, n);
      }
    });
    Fully(to.bytes(), "read", [&](size_t done) {
      const size_t left = to.bytes() - done;
      const int n = Cut(pieces, 8, to.at() + done, left, random_);
      return random_.Below(2) == 0 ? read(in, to.at() + done, left) : readv(in, pieces, n);
    });
    Copied(from, to);
  }
  void Datagrams() {
    Range from, to;
    if (!ChoosePair(&from, &to, 12)) return;
    iovec pieces[24];
    msghdr message = {};
    message.msg_iov = pieces;
    // A message is sent and arrives as a whole, interrupted or not, and none is lost or doubled.
    uint64_t number = random_.Next();
    iovec tag = {&number, sizeof(number)};
    pieces[0] = tag;
    message.msg_iovlen = static_cast<size_t>(1 + Cut(pieces + 1, 23, from.at(), from.bytes(), random_));
    const auto bytes = static_cast<ssize_t>(from.bytes() + sizeof(number));
    const ssize_t sent = Again([&] { return sendmsg(channels_.packets[0], &message, 0); });
    HOLDS(sent == bytes, "sendmsg: %zd of %zd", sent, bytes);
    uint64_t arrived = 0;
    pieces[0] = {&arrived, sizeof(arrived)};
    message.msg_iovlen = static_cast<size_t>(1 + Cut(pieces + 1, 23, to.at(), to.bytes(), random_));
    const ssize_t got = Again([&] { return recvmsg(channels_.packets[1], &message, 0); });
    HOLDS(got == bytes && (message.msg_flags & MSG_TRUNC) == 0, "recvmsg: %zd of %zd", got, bytes);
    HOLDS(arrived == number, "another message arrived");
    Copied(from, to);
    char none;
    HOLDS(recv(channels_.packets[1], &none, 1, MSG_DONTWAIT) == -1 && errno == EAGAIN, "a message too many");
  }
  // File to pipe to file to far memory, the offsets in far memory too.
  void Splice() {
    Range from, to, scratch;
    if (!ChoosePair(&from, &to, kPipeBytes / kPage)) return;
    Fully(from.bytes(), "pwrite", [&](size_t done) {
      return pwrite(channels_.file, from.at() + done, from.bytes() - done, static_cast<off_t>(done));
    });
    const auto target = static_cast<off_t>(1024 * kPage);
    auto* offsets = reinterpret_cast<off_t*>(Scratch(&scratch, 2 * sizeof(off_t)));
    if (offsets == nullptr) return;
    const bool overlaps = scratch.region == to.region || scratch.region == from.region;
    if (overlaps) return;
    offsets[0] = 0;
    offsets[1] = target;
    if (random_.Below(2) == 0) {
      Fully(from.bytes(), "splice", [&](size_t done) {
        return splice(channels_.file, &offsets[0], channels_.pipe[1], nullptr, from.bytes() - done, 0);
      });
    } else {
      Fully(from.bytes(), "sendfile", [&](size_t done) {
        return sendfile(channels_.pipe[1], channels_.file, &offsets[0], from.bytes() - done);
      });
    }
    Fully(from.bytes(), "splice out", [&](size_t done) {
      return splice(channels_.pipe[0], nullptr, channels_.file, &offsets[1], from.bytes() - done, 0);
    });
    HOLDS(offsets[0] == static_cast<off_t>(from.bytes()) && offsets[1] == target + offsets[0], "offsets");
    Refill(scratch);
    Fully(to.bytes(), "pread", [&](size_t done) {
      return pread(channels_.file, to.at() + done, to.bytes() - done, target + static_cast<off_t>(done));
    });
    Copied(from, to);
  }
  // From oneself to oneself, cut differently on both sides.
  void OwnMemory() {
    Range from, to;
    if (!ChoosePair(&from, &to, 200)) return;
    iovec near_side[24], far_side[24];
    const bool reads = random_.Below(2) == 0;
    Fully(from.bytes(), "process_vm_readv or writev", [&](size_t done) {
      const size_t left = from.bytes() - done;
      const auto n = static_cast<unsigned long>(Cut(near_side, 24, from.at() + done, left, random_));
      const auto m = static_cast<unsigned long>(Cut(far_side, 24, to.at() + done, left, random_));
      return reads ? process_vm_readv(getpid(), far_side, m, near_side, n, 0)
                   : process_vm_writev(getpid(), near_side, n, far_side, m, 0);
    });
    Copied(from, to);
  }
  void RandomBytes() {
    Range range;
    if (!Choose(&range, kReadWrite, 100)) return;
    memset(range.at(), 0, range.bytes());
    Fully(range.bytes(), "getrandom",
          [&](size_t done) { return getrandom(range.at() + done, range.bytes() - done, 0); });
    for (size_t page = 0; page < range.count; ++page) {
      uint64_t words[2];
      memcpy(words, range.at() + page * kPage + kPage - sizeof(words), sizeof(words));
      HOLDS((words[0] | words[1]) != 0, "no random bytes in page %zu", page);
    }
    Refill(range);
  }
  void Wait() {
    Range scratch;
    char* at = Scratch(&scratch, 4096);
    if (at == nullptr) return;
    const uint64_t one = 1;
    switch (random_.Below(3)) {
      case 0: {
        auto* polled = reinterpret_cast<pollfd*>(at);
        for (unsigned i = 0; i < 32; ++i) polled[i] = {channels_.event, POLLIN, 0};
        polled[31].events = POLLIN | POLLOUT;
        const int ready = Again([&] { return poll(polled, 32, 1000); });
        HOLDS(ready == 1 && polled[31].revents == POLLOUT, "poll: %d", ready);
        break;
      }
      case 1: {
        auto* events = reinterpret_cast<epoll_event*>(at);
        HOLDS(Again([&] { return write(channels_.event, &one, sizeof(one)); }) == sizeof(one), "eventfd");
        const int ready = Again([&] { return epoll_wait(channels_.epoll, events, 16, 1000); });
        HOLDS(ready == 1 && events[0].data.u64 == Channels::kEventTag, "epoll_wait: %d", ready);
        auto* count = reinterpret_cast<uint64_t*>(at);
        HOLDS(Again([&] { return read(channels_.event, count, sizeof(*count)); }) == sizeof(*count),
              "eventfd");
        HOLDS(*count == 1, "eventfd counted %llu", static_cast<unsigned long long>(*count));
        break;
      }
      default: {
        auto* word = reinterpret_cast<uint32_t*>(at);
        auto* patience = reinterpret_cast<timespec*>(at + 64);
        *word = 5;
        *patience = {0, 1000000};
        const long r = syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, 5, patience, nullptr, 0);
        HOLDS(r == -1 && (errno == ETIMEDOUT || errno == EINTR), "futex wait: %ld", r);
        errno = 0;
        HOLDS(syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, 6, nullptr, nullptr, 0) == -1 && errno == EAGAIN,
              "futex wait for another value");
      }
    }
    Refill(scratch);
  }
  void Signal() {
    const pid_t other = g_tid[random_.Below(g_common.owners())];
    if (other != 0) syscall(SYS_tgkill, getpid(), other, random_.Below(2) == 0 ? SIGUSR1 : SIGUSR2);
  }

  // --- threads that come and go

  struct Partner {
    int fd;
    char* at;
    size_t bytes;
    uint32_t* futex;
  };
  static void* WriteAll(void* argument) {
    const Partner self = *static_cast<Partner*>(argument);
    Fully(self.bytes, "a partner's write",
          [&](size_t done) { return write(self.fd, self.at + done, self.bytes - done); });
    return nullptr;
  }
  static void* ReadForever(void* argument) {
    const Partner self = *static_cast<Partner*>(argument);
    for (;;)
      if (read(self.fd, self.at, self.bytes) > 0) return nullptr;
  }
  static void* WakeUp(void* argument) {
    const Partner self = *static_cast<Partner*>(argument);
    __atomic_store_n(self.futex, 1, __ATOMIC_RELEASE);
    syscall(SYS_futex, self.futex, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
    return nullptr;
  }
  pthread_t StartPartner(void* (*run)(void*), Partner* partner) {
    pthread_t id;
    HOLDS(pthread_create(&id, nullptr, run, partner) == 0, "pthread_create");
    return id;
  }
  void TransferBetweenThreads() {
    Range from, to;
    if (!ChoosePair(&from, &to, 400)) return;
    const bool socket = random_.Below(2) == 0;
    Partner partner = {socket ? channels_.stream[1] : channels_.pipe[1], from.at(), from.bytes(), nullptr};
    const pthread_t id = StartPartner(WriteAll, &partner);
    const int in = socket ? channels_.stream[0] : channels_.pipe[0];
    iovec pieces[24];
    Fully(to.bytes(), "read from a partner", [&](size_t done) {
      const size_t left = to.bytes() - done;
      if (random_.Below(2) == 0) return read(in, to.at() + done, left);
      return readv(in, pieces, Cut(pieces, 24, to.at() + done, left, random_));
    });
    HOLDS(pthread_join(id, nullptr) == 0, "pthread_join");
    Copied(from, to);
  }
  void Cancel() {
    Range range;
    if (!Choose(&range, kReadWrite, 80)) return;
    Partner partner = {channels_.pipe[0], range.at(), range.bytes(), nullptr};
    const pthread_t id = StartPartner(ReadForever, &partner);
    if (random_.Below(2) == 0) Signal();
    for (uint64_t spins = random_.Below(3); spins > 0; --spins) sched_yield();
    HOLDS(pthread_cancel(id) == 0, "pthread_cancel");
    void* result = nullptr;
    HOLDS(pthread_join(id, &result) == 0 && result == PTHREAD_CANCELED, "a cancelled thread went on");
    range.Verify();
  }
  void WakeAcross() {
    Range scratch;
    char* at = Scratch(&scratch, 64);
    if (at == nullptr) return;
    auto* word = reinterpret_cast<uint32_t*>(at);
    __atomic_store_n(word, 0, __ATOMIC_RELAXED);
    Partner partner = {-1, nullptr, 0, word};
    const pthread_t id = StartPartner(WakeUp, &partner);
    while (__atomic_load_n(word, __ATOMIC_ACQUIRE) == 0) {
      const long r = syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, 0, nullptr, nullptr, 0);
      HOLDS(r == 0 || errno == EAGAIN || errno == EINTR, "futex wait: %ld", r);
    }
    HOLDS(pthread_join(id, nullptr) == 0, "pthread_join");
    Refill(scratch);
  }

  // --- processes

  void Fork() {
    if (t_where.depth == kDepthMax || g_children_max == 0) return;
    if (children_ == g_children_max) Reap();
    const uint64_t kind = random_.Below(4);
    const bool to_kill = random_.Below(4) == 0;
    const uint64_t childs_seed = random_.Next();
    pid_t pid = -1;
    switch (kind) {
      case 0:
        pid = bare_ ? _Fork() : fork();
        break;
      case 1:
        pid = _Fork();
        break;
      case 2:
        pid = static_cast<pid_t>(syscall(SYS_fork));
        break;
      default:
        pid = static_cast<pid_t>(syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0));
    }
    HOLDS(pid >= 0, "fork");
    if (pid == 0) BeChild(childs_seed, kind != 0, to_kill);
    child_[children_++] = {pid, to_kill};
  }
  [[noreturn]] void BeChild(uint64_t seed, bool bare, bool forever) {
    ++t_where.depth;
    t_where.doing = "first steps of a child";
    memset(g_tid, 0, sizeof(g_tid));
    g_tid[owner_] = static_cast<pid_t>(syscall(SYS_gettid));
    children_ = 0;
    bare_ |= bare;
    random_ = Random(seed);
    channels_.Close();
    channels_.Open();
    if (random_.Below(4) == 0) StartTimer();
    if (random_.Below(2) == 0) VerifyAll();
    const uint64_t steps = random_.Below(30);
    for (uint64_t i = 0; forever ? NowNs() < g_deadline_ns : i < steps; ++i) Step();
    t_where.doing = "the end of a child";
    VerifyAll();
    while (children_ > 0) Reap();
    _exit(kChildDone);
  }
  void Reap() {
    const Child child = child_[--children_];
    if (child.to_kill) HOLDS(kill(child.pid, SIGKILL) == 0, "kill");
    Range scratch;
    int near_status = 0;
    auto* status = reinterpret_cast<int*>(Scratch(&scratch, sizeof(int)));
    const bool far = status != nullptr;
    if (!far) status = &near_status;
    HOLDS(Again([&] { return waitpid(child.pid, status, 0); }) == child.pid, "waitpid");
    const bool done = WIFEXITED(*status) && WEXITSTATUS(*status) == kChildDone;
    const bool killed = child.to_kill && WIFSIGNALED(*status) && WTERMSIG(*status) == SIGKILL;
    HOLDS(done || killed, "child's status %x", static_cast<unsigned>(*status));
    if (far) Refill(scratch);
  }
  // Path, arguments and their vector from far memory.
  void Execute() {
    Range scratch;
    char* at = Scratch(&scratch, 4096);
    if (at == nullptr) return;
    auto** arguments = reinterpret_cast<char**>(at + 512);
    char* text = at + 1024;
    const uint64_t key = random_.Next();
    snprintf(at, 64, "/proc/self/exe");
    snprintf(text, 64, "stress-arguments");
    snprintf(text + 64, 64, "%llu", static_cast<unsigned long long>(key));
    snprintf(text + 128, 64, "%llu", static_cast<unsigned long long>(Mix(key)));
    arguments[0] = text;
    arguments[1] = text + 64;
    arguments[2] = text + 128;
    arguments[3] = nullptr;
    const pid_t pid = vfork();
    HOLDS(pid >= 0, "vfork");
    if (pid == 0) {
      execv(at, arguments);
      _exit(126);
    }
    int status = 0;
    HOLDS(Again([&] { return waitpid(pid, &status, 0); }) == pid, "waitpid");
    HOLDS(WIFEXITED(status) && WEXITSTATUS(status) == kArgumentsRight, "status %x of what was executed",
          static_cast<unsigned>(status));
    Refill(scratch);
  }

  Random random_{0};
  unsigned owner_ = 0;
  size_t pages_max_ = 0;
  size_t pages_ = 0;
  size_t regions_count_ = 0;
  Region regions_[kRegionsMax] = {};
  HeapBlock heap_[kHeapMax] = {};
  Child child_[kChildrenMax] = {};
  unsigned children_ = 0;
  bool bare_ = false;
  Channels channels_;
};

const Worker::Operation Worker::kOperations[] = {
    {"read", 60, &Worker::Read, false},
    {"write", 30, &Worker::Write, false},
    {"small writes", 30, &Worker::WriteSmall, false},
    {"zeros", 8, &Worker::WriteZeros, false},
    {"the same again", 10, &Worker::WriteSame, false},
    {"common pages", 30, &Worker::UseCommon, false},
    {"forbidden touch", 6, &Worker::TouchForbidden, false},
    {"mmap", 30, &Worker::Map, false},
    {"munmap", 8, &Worker::Unmap, false},
    {"munmap of a whole mapping", 3, &Worker::UnmapWhole, false},
    {"mremap", 8, &Worker::Resize, false},
    {"mremap of a part", 5, &Worker::MovePart, false},
    {"mremap without unmapping", 4, &Worker::MoveContents, false},
    {"mprotect", 8, &Worker::Protect, false},
    {"MADV_DONTNEED", 4, &Worker::Forget, false},
    {"MADV_FREE", 2, &Worker::FreeLazily, false},
    {"advice", 6, &Worker::Advise, false},
    {"mmap over a part", 3, &Worker::MapOver, false},
    {"heap", 60, &Worker::Heap, true},
    {"file", 10, &Worker::FileCalls, false},
    {"O_DIRECT", 4, &Worker::DirectWrite, false},
    {"pipe", 15, &Worker::PipeCalls, false},
    {"datagram", 12, &Worker::Datagrams, false},
    {"splice", 6, &Worker::Splice, false},
    {"process_vm_readv", 6, &Worker::OwnMemory, false},
    {"getrandom", 3, &Worker::RandomBytes, false},
    {"waiting", 10, &Worker::Wait, false},
    {"signal", 30, &Worker::Signal, false},
    {"transfer between threads", 6, &Worker::TransferBetweenThreads, true},
    {"cancel", 5, &Worker::Cancel, true},
    {"futex between threads", 5, &Worker::WakeAcross, true},
    {"fork", 4, &Worker::Fork, false},
    {"exec", 1, &Worker::Execute, true},
    {nullptr, 0, nullptr, false},
};

struct Task {
  Worker* worker;
  uint64_t seed;
  unsigned process, thread;
  size_t pages;
};

void* RunTask(void* argument) {
  const Task* task = static_cast<Task*>(argument);
  task->worker->Run(task->seed, task->process, task->thread, task->pages);
  return nullptr;
}

void RunProcess(uint64_t seed, unsigned process, size_t pages, unsigned threads) {
  t_where = {seed, process, 0, 0, 0, "start"};
  g_common.Init(std::max<size_t>(pages / 4, 16), threads);
  InstallHandlers();
  StartTimer();
  Task tasks[kThreadsMax];
  pthread_t ids[kThreadsMax];
  for (unsigned t = 0; t < threads; ++t) {
    tasks[t] = {new (NearArray<Worker>(1)) Worker, seed, process, t, pages * 3 / 4 / threads};
    HOLDS(pthread_create(&ids[t], nullptr, RunTask, &tasks[t]) == 0, "pthread_create");
  }
  for (unsigned t = 0; t < threads; ++t) pthread_join(ids[t], nullptr);
}

}  // namespace
}  // namespace stress

int main(int argc, char** argv) {
  if (argc == 3 && strcmp(argv[0], "stress-arguments") == 0)
    return strtoull(argv[2], nullptr, 10) == Mix(strtoull(argv[1], nullptr, 10)) ? stress::kArgumentsRight
                                                                                 : 1;
  setvbuf(stdout, nullptr, _IOLBF, 0);
  const uint64_t seed = Argument(argc, argv, 1, 1);
  const uint64_t seconds = Argument(argc, argv, 2, 10);
  const uint64_t mib = Argument(argc, argv, 3, 96);
  const auto threads = static_cast<unsigned>(Argument(argc, argv, 4, 3));
  const auto processes = static_cast<unsigned>(Argument(argc, argv, 5, 2));
  stress::g_children_max = static_cast<unsigned>(Argument(argc, argv, 6, 2));
  CHECK(stress::g_children_max <= 4 && threads >= 1 && threads <= stress::kThreadsMax && processes >= 1 &&
            processes <= 64,
        "arguments");
  stress::g_deadline_ns = stress::NowNs() + seconds * 1000000000;
  pid_t ids[64] = {};
  for (unsigned p = 0; p < processes; ++p) {
    ids[p] = fork();
    CHECK(ids[p] >= 0, "fork");
    if (ids[p] == 0) {
      stress::RunProcess(seed, p, mib * 256 / processes, threads);
      _exit(0);
    }
  }
  bool right = true;
  for (unsigned p = 0; p < processes; ++p) {
    int status = 0;
    CHECK(waitpid(ids[p], &status, 0) == ids[p], "waitpid");
    if (status != 0)
      fprintf(stderr, "stress: seed %llu, process %u: status %x\n", static_cast<unsigned long long>(seed), p,
              static_cast<unsigned>(status));
    right &= status == 0;
  }
  if (!right) return 1;
  printf("stress: seed %llu: every byte right\n", static_cast<unsigned long long>(seed));
  return 0;
}
