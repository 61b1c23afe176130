// Pages on donors: slabs in anonymous memory standing for shared-memory donors, and real donors in this
// process behind TCP. The provider is the test's: it decides what the supervisor would say.

#include "store/remote_store.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <set>
#include <vector>

#include "donor/server.h"
#include "slab_table_memory.h"
#include "transport/session/donor_session.h"

namespace farpool {
namespace {

constexpr uint64_t kTcpSlab = 1u << 20;
constexpr uint32_t kTcpSlots = kTcpSlab / kPageBytes;
constexpr uint32_t kShmSlots = 96;

class TestProvider final : public SlabProvider {
 public:
  struct Donor {
    unsigned slabs_left = 0;
    std::unique_ptr<DonorServer> server;  // Null: shared memory.
    std::unique_ptr<DonorSession> session;
    int fd = -1;  // Given out last; the store's.
    unsigned connects = 0, broke = 0;
    Status when_broken;   // What LinkBroke answers.
    Status when_connect;  // Not Ok: Connect fails with it.
    bool dead_channels = false;
  };

  TestProvider() {
    table->count = 1;
    memory_.push_back(nullptr);
  }
  ~TestProvider() {
    for (std::byte* slab : memory_)
      if (slab != nullptr) munmap(slab, kShmSlots * kPageBytes);
  }
  void AddShm(unsigned slabs) {
    donors.emplace_back();
    donors.back().slabs_left = slabs;
  }
  void AddTcp(unsigned slabs) {
    donors.emplace_back();
    Donor& donor = donors.back();
    donor.slabs_left = slabs;
    DonorOptions options;
    options.tcp_host = "127.0.0.1";
    options.memory_bytes = slabs * kTcpSlab;
    options.slab_bytes = kTcpSlab;
    auto server = DonorServer::Start(options);
    ASSERT_TRUE(server.ok()) << server.status().text();
    donor.server = std::move(server).value();
    PoolEntry entry;
    entry.scheme = PoolEntry::Scheme::kTcp;
    entry.host = options.tcp_host;
    entry.port = donor.server->tcp_port();
    auto session = DonorSession::Open(entry, 300'000);
    ASSERT_TRUE(session.ok()) << session.status().text();
    donor.session = std::move(session).value();
  }
  // As a network would do it; the store finds out when it uses the link.
  void Break(unsigned donor) { shutdown(donors[donor].fd, SHUT_RDWR); }

  // From one donor after the other.
  Result<uint32_t> LeaseSlab() override {
    for (size_t tries = 0; tries < donors.size(); ++tries) {
      const size_t i = next_++ % donors.size();
      if (donors[i].slabs_left == 0) continue;
      --donors[i].slabs_left;
      const uint32_t index = table->count;
      SlabEntry& slab = table->slabs[index];
      slab.donor = static_cast<uint32_t>(i);
      memory_.push_back(nullptr);
      if (donors[i].server != nullptr) {
        auto lease = donors[i].session->LeaseSlab();
        if (!lease.ok()) return lease.status();
        slab.id = lease.value().id;
        slab.slots = kTcpSlots;
      } else {
        memory_.back() = static_cast<std::byte*>(mmap(nullptr, kShmSlots * kPageBytes, PROT_READ | PROT_WRITE,
                                                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        slab.id = SlabId{1000 + index};  // Means something at the donor only.
        slab.slots = kShmSlots;
      }
      slab.state = SlabEntry::kReady;
      table->count = index + 1;
      ++leases;
      return index;
    }
    return Status::Exhausted("the test's pool is empty");
  }
  Result<std::byte*> MapSlab(uint32_t index) override { return memory_[index]; }
  Result<int> Connect(uint32_t donor) override {
    Donor& d = donors[donor];
    ++d.connects;
    if (!d.when_connect.ok()) return d.when_connect;
    if (d.dead_channels) {
      int pair[2];
      EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
      close(pair[1]);
      return pair[0];
    }
    auto fd = d.session->OpenDataChannel();
    if (!fd.ok()) return fd.status();
    return d.fd = fd.value().Release();
  }
  Status LinkBroke(uint32_t donor) override {
    ++donors[donor].broke;
    return donors[donor].when_broken;
  }
  bool shared_memory(uint32_t donor) const override { return donors[donor].server == nullptr; }

  const SlabTableMemory table_memory = NewSlabTable();
  SlabTable* const table = table_memory.get();
  std::vector<Donor> donors;
  unsigned leases = 0;

 private:
  std::vector<std::byte*> memory_;
  size_t next_ = 0;
};

// The parameter: whether pages travel packed.
struct RemoteStoreTest : testing::TestWithParam<SlabTable::Compress> {
  void Start() {
    provider.table->compress = GetParam();
    store->Init(provider.table, &provider);
  }
  ~RemoteStoreTest() override { store->AfterFork(); }  // Closes the channels.

  std::vector<SlotId> Reserve(unsigned count) {
    std::vector<SlotId> slots(count);
    for (unsigned have = 0; have < count;) {
      unsigned got = 0;
      const Status s = store->Reserve(std::min(count - have, 64u), &slots[have], &got);
      EXPECT_TRUE(s.ok()) << s.text();
      EXPECT_GE(got, 1u);
      if (!s.ok() || got == 0) {
        slots.resize(have);
        break;
      }
      have += got;
    }
    return slots;
  }
  // Two pages in three can be packed.
  static uint64_t Word(uint64_t value, size_t i) {
    const uint64_t mixed = (value * kPageBytes + i + 1) * 0x9e3779b97f4a7c15;
    return value % 3 == 0 ? mixed ^ mixed >> 29 ^ mixed << 31 : value * 0x9e3779b97f4a7c15 + i;
  }
  static void Fill(void* page, uint64_t value) {
    auto* words = static_cast<uint64_t*>(page);
    for (size_t i = 0; i < kPageBytes / 8; ++i) words[i] = Word(value, i);
  }
  static bool Is(const void* page, uint64_t value) {
    const auto* words = static_cast<const uint64_t*>(page);
    for (size_t i = 0; i < kPageBytes / 8; ++i)
      if (words[i] != Word(value, i)) return false;
    return true;
  }
  uint16_t PackedSize(SlotId slot) const { return provider.table->packed[SlabOf(slot)][SlotOf(slot)]; }
  // One page, from the start of the buffer.
  Status StoreOne(SlotId slot, uint64_t value) {
    Fill(buffer.data(), value);
    const PageIo io{slot, buffer.data()};
    return store->Store(&io, 1);
  }
  Status LoadOne(SlotId slot, uint64_t value) {
    std::memset(buffer.data(), 0xcc, kPageBytes);
    const PageIo io{slot, buffer.data()};
    const Status s = store->Load(&io, 1);
    EXPECT_TRUE(!s.ok() || Is(buffer.data(), value));
    return s;
  }
  // All of `slots` at once, from and to neighbouring pages of the buffer.
  std::vector<PageIo> Batch(const std::vector<SlotId>& slots, size_t first_page = 0) {
    std::vector<PageIo> io;
    for (size_t i = 0; i < slots.size(); ++i)
      io.push_back({slots[i], buffer.data() + (first_page + i) * kPageBytes});
    return io;
  }

  TestProvider provider;
  std::unique_ptr<RemoteStore> store = std::make_unique<RemoteStore>();
  std::vector<std::byte> buffer = std::vector<std::byte>(256 * kPageBytes);
};

INSTANTIATE_TEST_SUITE_P(, RemoteStoreTest,
                         testing::Values(SlabTable::kPlain, SlabTable::kPack, SlabTable::kWhatIsSooner),
                         [](const auto& compress) {
                           return compress.param == SlabTable::kPlain  ? "Plain"
                                  : compress.param == SlabTable::kPack ? "Pack"
                                                                       : "WhatIsSooner";
                         });

// What a donor keeps of a page that can be packed is the packed page; what it cannot be, and what lies on
// shared memory, is as it was. A slot may hold the one after the other.
TEST_P(RemoteStoreTest, PacksWhatGetsSmaller) {
  provider.AddTcp(1);
  provider.AddShm(1);
  Start();
  if (GetParam() != SlabTable::kPack) GTEST_SKIP();
  const std::vector<SlotId> slots = Reserve(kTcpSlots + kShmSlots);
  for (size_t i = 0; i < slots.size(); ++i) {
    const bool tcp = provider.table->slabs[SlabOf(slots[i])].donor == 0;
    for (const uint64_t value : {3 * i, 3 * i + 1, 3 * i}) {
      ASSERT_TRUE(StoreOne(slots[i], value).ok());
      ASSERT_EQ(PackedSize(slots[i]) != 0, tcp && value % 3 != 0);
      ASSERT_LE(PackedSize(slots[i]), kPageBytes / 4 * 3);
      ASSERT_TRUE(LoadOne(slots[i], value).ok());
    }
  }
  const SlabTable& table = *provider.table;
  EXPECT_EQ(table.packed_out_pages, kTcpSlots);
  EXPECT_EQ(table.packed_in_pages, kTcpSlots);
  EXPECT_EQ(table.packed_in_bytes, table.packed_out_bytes);
  EXPECT_LT(table.packed_out_bytes, kTcpSlots * kPageBytes / 4 * 3);
}

// Method: each byte of a packed page is changed at the donor. Either the store says so, or it is for whoever
// keeps the page's hash to see (EngineTest.ChangedPageIsReportedAndNeverMapped); nothing else is written to.
TEST_P(RemoteStoreTest, ChangedPackedPagesAreNeverTakenForTheirs) {
  provider.AddTcp(1);
  Start();
  if (GetParam() != SlabTable::kPack) GTEST_SKIP();
  const SlotId slot = Reserve(1)[0];
  ASSERT_TRUE(StoreOne(slot, 1).ok());
  const uint16_t bytes = PackedSize(slot);
  ASSERT_GT(bytes, 0);
  provider.table->packed[SlabOf(slot)][SlotOf(slot)] = 0;  // As it is at the donor.
  const PageIo raw{slot, buffer.data() + 2 * kPageBytes};
  ASSERT_TRUE(store->Load(&raw, 1).ok());
  const std::vector<std::byte> packed(buffer.begin() + 2 * kPageBytes, buffer.begin() + 3 * kPageBytes);
  unsigned refused = 0, changed = 0;
  std::mt19937_64 random(2);
  for (unsigned at = 0; at < bytes; ++at) {
    std::copy(packed.begin(), packed.end(), buffer.begin() + 2 * kPageBytes);
    buffer[2 * kPageBytes + at] ^= std::byte(1 + random() % 255);
    provider.table->compress = SlabTable::kPlain;
    ASSERT_TRUE(store->Store(&raw, 1).ok());
    provider.table->compress = SlabTable::kPack;
    provider.table->packed[SlabOf(slot)][SlotOf(slot)] = bytes;
    const PageIo io{slot, buffer.data()};
    std::memset(buffer.data(), 0xcc, 2 * kPageBytes);
    const Status s = store->Load(&io, 1);
    if (!s.ok()) {
      ASSERT_EQ(s.code(), Status::Code::kCorrupt);
      ++refused;
    } else if (!Is(buffer.data(), 1)) {
      ++changed;
    }
    ASSERT_TRUE(std::all_of(buffer.begin() + kPageBytes, buffer.begin() + 2 * kPageBytes, [](std::byte b) {
      return b == std::byte{0xcc};
    })) << at;
  }
  EXPECT_GT(refused, 0u);
  EXPECT_GT(changed, bytes / 4U);  // The rest are other ways to pack the same page.
}

// Method: every group of pages is on the donors in the proportion of their weights; when one donor is full
// the others take its part, to the last slot of the pool.
TEST_P(RemoteStoreTest, BatchesAreDividedByWeight) {
  provider.AddTcp(1);
  provider.AddTcp(4);
  provider.AddShm(1);  // No weight, so the last to be asked.
  provider.table->weights[0] = 100;
  provider.table->weights[1] = 300;
  Start();
  std::set<SlotId> seen;
  for (unsigned group = 0; group < 8; ++group) {
    unsigned from[3] = {};
    for (const SlotId slot : Reserve(64)) {
      ++from[provider.table->slabs[SlabOf(slot)].donor];
      EXPECT_TRUE(seen.insert(slot).second);
    }
    EXPECT_EQ(from[0], 16u) << group;
    EXPECT_EQ(from[1], 48u) << group;
  }
  const unsigned left = 5 * kTcpSlots + kShmSlots - 8 * 64;
  for (const SlotId slot : Reserve(left)) EXPECT_TRUE(seen.insert(slot).second);
  EXPECT_EQ(seen.size(), 5 * kTcpSlots + kShmSlots);
  // Nobody is asked for more than there is, again and again.
  EXPECT_EQ(provider.leases, 6u);
  unsigned got = 0;
  SlotId none;
  EXPECT_EQ(store->Reserve(1, &none, &got).code(), Status::Code::kExhausted);
}

// Method: random batches against what each slot should hold; neighbours in slots, in memory, in both and in
// neither; stores while a load is under way.
TEST_P(RemoteStoreTest, WhatIsStoredIsLoadedBack) {
  provider.AddTcp(2);
  provider.AddShm(2);
  provider.AddTcp(2);
  Start();
  const std::vector<SlotId> slots = Reserve(4 * kTcpSlots + 2 * kShmSlots);
  ASSERT_EQ(std::set<SlotId>(slots.begin(), slots.end()).size(), slots.size());
  std::vector<uint64_t> model(slots.size());
  std::mt19937_64 random(1);
  uint64_t next_value = 1;
  struct Pick {
    std::vector<size_t> index;
    std::vector<PageIo> io;
  };
  auto pick = [&](size_t buffer_page, bool distinct) {
    Pick p;
    const size_t count = 1 + random() % kStoreBatchMax;
    std::set<size_t> seen;
    size_t at = random() % slots.size();
    std::vector<size_t> place(kStoreBatchMax);
    for (size_t i = 0; i < place.size(); ++i) place[i] = buffer_page + i;
    if (random() % 2 == 0) std::shuffle(place.begin(), place.end(), random);
    for (size_t i = 0; i < count; ++i) {
      at = random() % 4 == 0 ? random() % slots.size() : (at + 1) % slots.size();
      if (distinct && !seen.insert(at).second) continue;
      p.index.push_back(at);
      p.io.push_back({slots[at], buffer.data() + place[i] * kPageBytes});
    }
    return p;
  };
  auto store_some = [&](const std::set<size_t>& except) {
    Pick p = pick(64, true);
    for (size_t i = 0; i < p.io.size();) {
      if (except.contains(p.index[i])) {
        p.io.erase(p.io.begin() + static_cast<long>(i));
        p.index.erase(p.index.begin() + static_cast<long>(i));
        continue;
      }
      Fill(p.io[i].page, model[p.index[i]] = next_value++);
      ++i;
    }
    if (p.io.empty()) return Status::Ok();
    return store->Store(p.io.data(), static_cast<unsigned>(p.io.size()));
  };
  for (size_t i = 0; i < slots.size(); ++i) ASSERT_TRUE(StoreOne(slots[i], model[i] = next_value++).ok());
  for (int step = 0; step < 400; ++step) {
    Pick p = pick(0, false);
    const std::set<size_t> loading(p.index.begin(), p.index.end());
    store->StartLoad(0, p.io.data(), static_cast<unsigned>(p.io.size()));
    for (uint64_t n = random() % 3; n > 0; --n) {
      const Status s = store_some(loading);
      ASSERT_TRUE(s.ok()) << s.text();
    }
    const Status s = store->FinishLoad(0);
    ASSERT_TRUE(s.ok()) << s.text();
    for (size_t i = 0; i < p.io.size(); ++i) ASSERT_TRUE(Is(p.io[i].page, model[p.index[i]])) << step;
  }
  for (size_t i = 0; i < slots.size(); ++i) ASSERT_TRUE(LoadOne(slots[i], model[i]).ok());
  EXPECT_EQ(provider.donors[0].connects, 1u);
  EXPECT_EQ(provider.donors[2].connects, 1u);
}

TEST_P(RemoteStoreTest, SlabIsFilledBeforeTheNextIsAskedFor) {
  provider.AddShm(3);
  Start();
  std::vector<SlotId> slots = Reserve(kShmSlots);
  EXPECT_EQ(provider.leases, 1u);
  for (size_t i = 1; i < slots.size(); ++i)
    EXPECT_EQ(static_cast<uint32_t>(slots[i]), static_cast<uint32_t>(slots[0]) + i);
  Reserve(1);
  EXPECT_EQ(provider.leases, 2u);
  EXPECT_EQ(provider.table->used_slots, kShmSlots + 1u);
  for (SlotId slot : slots) EXPECT_NE(slot, SlotId::kNone);
}

TEST_P(RemoteStoreTest, FullPoolIsReportedAndAReleasedSlotIsGivenAgain) {
  provider.AddShm(2);
  provider.AddShm(1);
  Start();
  const std::vector<SlotId> slots = Reserve(3 * kShmSlots);
  SlotId out[64];
  unsigned got = 77;
  EXPECT_EQ(store->Reserve(5, out, &got).code(), Status::Code::kExhausted);
  EXPECT_EQ(got, 0u);
  const std::set<SlotId> released = {slots[3], slots[100], slots[101], slots[250]};
  for (SlotId slot : released) store->Release(slot);
  std::set<SlotId> again;
  for (unsigned have = 0; have < released.size(); have += got) {
    const Status s = store->Reserve(64, out, &got);
    ASSERT_TRUE(s.ok()) << s.text();
    again.insert(out, out + got);
  }
  EXPECT_EQ(again, released);
  EXPECT_EQ(store->Reserve(1, out, &got).code(), Status::Code::kExhausted);
  // Held twice: one release does not free it.
  store->Retain(slots[7]);
  EXPECT_FALSE(store->Exclusive(slots[7]));
  store->Release(slots[7]);
  EXPECT_TRUE(store->Exclusive(slots[7]));
  EXPECT_EQ(store->Reserve(1, out, &got).code(), Status::Code::kExhausted);
  store->Release(slots[7]);
  ASSERT_TRUE(store->Reserve(1, out, &got).ok());
  EXPECT_EQ(out[0], slots[7]);
}

TEST_P(RemoteStoreTest, BrokenLinkIsReplaced) {
  provider.AddTcp(1);
  Start();
  const std::vector<SlotId> slots = Reserve(64);
  ASSERT_TRUE(StoreOne(slots[0], 1).ok());
  provider.Break(0);
  EXPECT_TRUE(LoadOne(slots[0], 1).ok());
  EXPECT_EQ(provider.donors[0].broke, 1u);
  EXPECT_EQ(provider.donors[0].connects, 2u);
  provider.Break(0);
  EXPECT_TRUE(StoreOne(slots[0], 2).ok());
  EXPECT_EQ(provider.donors[0].connects, 3u);
  EXPECT_TRUE(LoadOne(slots[0], 2).ok());
  EXPECT_EQ(provider.donors[0].broke, 2u);
}

// The link breaks while a load travels, and is replaced for a store in between.
TEST_P(RemoteStoreTest, LoadUnderWaySurvivesABreak) {
  provider.AddTcp(1);
  Start();
  const std::vector<SlotId> slots = Reserve(128);
  for (size_t i = 0; i < slots.size(); ++i) ASSERT_TRUE(StoreOne(slots[i], 100 + i).ok());
  for (const bool store_between : {false, true}) {
    // Every second slot: as many operations as pages.
    std::vector<SlotId> odd;
    for (size_t i = 1; i < slots.size(); i += 2) odd.push_back(slots[i]);
    std::vector<PageIo> io = Batch(odd, 64);
    std::memset(buffer.data(), 0, buffer.size());
    store->StartLoad(0, io.data(), static_cast<unsigned>(io.size()));
    provider.Break(0);
    if (store_between) {
      EXPECT_TRUE(StoreOne(slots[0], 5).ok());
    }
    const Status s = store->FinishLoad(0);
    ASSERT_TRUE(s.ok()) << s.text();
    for (size_t i = 0; i < odd.size(); ++i) ASSERT_TRUE(Is(io[i].page, 100 + 2 * i + 1)) << i;
  }
  EXPECT_TRUE(LoadOne(slots[0], 5).ok());
}

TEST_P(RemoteStoreTest, TwoBrokenLinksInOneTransfer) {
  provider.AddTcp(1);
  provider.AddTcp(1);
  provider.AddShm(1);
  Start();
  const std::vector<SlotId> all = Reserve(2 * kTcpSlots + kShmSlots);
  const std::vector<SlotId> some = {all[0], all[kTcpSlots], all[2 * kTcpSlots], all[1], all[kTcpSlots + 1]};
  std::vector<PageIo> io = Batch(some);
  for (size_t i = 0; i < io.size(); ++i) Fill(io[i].page, i);
  ASSERT_TRUE(store->Store(io.data(), 5).ok());
  provider.Break(0);
  provider.Break(1);
  std::memset(buffer.data(), 0, buffer.size());
  const Status s = store->Load(io.data(), 5);
  ASSERT_TRUE(s.ok()) << s.text();
  for (size_t i = 0; i < io.size(); ++i) EXPECT_TRUE(Is(io[i].page, i)) << i;
}

TEST_P(RemoteStoreTest, LostDonorEndsWithTheProvidersWord) {
  provider.AddTcp(1);
  provider.AddShm(1);
  Start();
  const std::vector<SlotId> slots = Reserve(kTcpSlots + kShmSlots);
  ASSERT_TRUE(StoreOne(slots[0], 1).ok());
  ASSERT_TRUE(StoreOne(slots.back(), 2).ok());
  provider.donors[0].when_broken = Status(Status::Code::kNotFound, "1 GiB was there");
  provider.Break(0);
  const Status s = LoadOne(slots[0], 1);
  EXPECT_EQ(s.code(), Status::Code::kNotFound);
  EXPECT_STREQ(s.text(), "1 GiB was there");
  EXPECT_EQ(provider.donors[0].broke, 1u);
  // What is elsewhere is not touched by it.
  EXPECT_TRUE(LoadOne(slots.back(), 2).ok());
  // Known as lost: nobody is asked any more.
  provider.table->slabs[SlabOf(slots[0])].state = SlabEntry::kLost;
  const unsigned connects = provider.donors[0].connects;
  EXPECT_FALSE(StoreOne(slots[0], 1).ok());
  EXPECT_EQ(provider.donors[0].connects, connects);
}

TEST_P(RemoteStoreTest, LostSlabGivesNoMoreSlots) {
  provider.AddShm(2);
  Start();
  const SlotId first = Reserve(1)[0];
  provider.table->slabs[SlabOf(first)].state = SlabEntry::kLost;
  for (SlotId slot : Reserve(kShmSlots)) EXPECT_NE(SlabOf(slot), SlabOf(first));
}

TEST_P(RemoteStoreTest, LinkThatKeepsBreakingIsGivenUp) {
  provider.AddTcp(1);
  Start();
  const SlotId slot = Reserve(1)[0];
  ASSERT_TRUE(StoreOne(slot, 1).ok());
  provider.donors[0].dead_channels = true;
  provider.Break(0);
  EXPECT_EQ(LoadOne(slot, 1).code(), Status::Code::kUnavailable);
  EXPECT_LE(provider.donors[0].broke, 5u);
  provider.donors[0].dead_channels = false;
  provider.donors[0].when_connect = Status::Timeout("no channel");
  EXPECT_EQ(LoadOne(slot, 1).code(), Status::Code::kTimeout);
  provider.donors[0].when_connect = Status::Ok();
  EXPECT_TRUE(LoadOne(slot, 1).ok());
}

// A forked child makes channels of its own; slabs in shared memory and what is on donors stay what they are.
TEST_P(RemoteStoreTest, WorksOnAfterFork) {
  provider.AddTcp(1);
  provider.AddShm(1);
  Start();
  const std::vector<SlotId> slots = Reserve(kTcpSlots + kShmSlots);
  ASSERT_TRUE(StoreOne(slots[0], 1).ok());
  ASSERT_TRUE(StoreOne(slots.back(), 2).ok());
  store->AfterFork();
  EXPECT_TRUE(LoadOne(slots[0], 1).ok());
  EXPECT_TRUE(LoadOne(slots.back(), 2).ok());
  EXPECT_EQ(provider.donors[0].connects, 2u);
  EXPECT_EQ(provider.donors[0].broke, 0u);
}

}  // namespace
}  // namespace farpool
