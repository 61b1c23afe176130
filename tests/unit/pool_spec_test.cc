#include "registry/pool_spec.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>

#include "base/read_file.h"

namespace farpool {
namespace {

using Scheme = PoolEntry::Scheme;

PoolEntry One(std::string_view spec) {
  const Result<std::vector<PoolEntry>> pool = ParsePoolSpec(spec);
  EXPECT_TRUE(pool.ok()) << spec << ": " << pool.status().text();
  if (!pool.ok() || pool.value().size() != 1) return {};
  return pool.value()[0];
}

// The refusal's text, one line; "" if the spec was taken.
std::string Refusal(std::string_view spec) {
  const Result<std::vector<PoolEntry>> pool = ParsePoolSpec(spec);
  if (pool.ok()) return {};
  EXPECT_EQ(pool.status().code(), Status::Code::kInvalidArgument);
  const std::string text = pool.status().text();
  EXPECT_EQ(text.find('\n'), std::string::npos) << text;
  return text;
}

bool Contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// A pool file that is gone after the test.
class PoolFile {
 public:
  explicit PoolFile(const std::string& text) {
    char name[] = "/tmp/farpool-pool-XXXXXX";
    close(mkstemp(name));
    path_ = name;
    std::ofstream(path_) << text;
  }
  ~PoolFile() { unlink(path_.c_str()); }
  const std::string& path() const { return path_; }
  std::string spec() const { return "file:" + path_; }

 private:
  std::string path_;
};

TEST(PoolSpecTest, EachSchemeParsesAndPrintsAsTyped) {
  for (const char* spec :
       {"tcp://10.0.0.2:99", "rdma://node-3.example:1", "registry://r_1:65535", "etcd://e:2379",
        "unix:///run/farpool.sock", "tcp://[fe80::1%eth0]:5", "tcp://[::1]:7171"})
    EXPECT_EQ(One(spec).ToString(), spec);
  EXPECT_EQ(One("tcp://a:99").scheme, Scheme::kTcp);
  EXPECT_EQ(One("rdma://a").scheme, Scheme::kRdma);
  EXPECT_EQ(One("registry://a").scheme, Scheme::kRegistry);
  EXPECT_EQ(One("etcd://a").scheme, Scheme::kEtcd);
  EXPECT_EQ(One("unix://rel/path").scheme, Scheme::kUnix);
  EXPECT_EQ(One("unix://rel/path").path, "rel/path");
}

TEST(PoolSpecTest, PortDefaultsTo7171) {
  EXPECT_EQ(One("tcp://host").port, 7171);
  EXPECT_EQ(One("tcp://[::1]").port, 7171);
  EXPECT_EQ(One("tcp://[::1]").host, "::1");
}

TEST(PoolSpecTest, ListKeepsItsOrderAndForgivesBlanks) {
  const auto pool = ParsePoolSpec(" tcp://b , unix:///x,tcp://a ");
  ASSERT_TRUE(pool.ok());
  ASSERT_EQ(pool.value().size(), 3u);
  EXPECT_EQ(pool.value()[0].host, "b");
  EXPECT_EQ(pool.value()[1].path, "/x");
  EXPECT_EQ(pool.value()[2].host, "a");
}

TEST(PoolSpecTest, RefusalNamesTheEntryAndTheWayOut) {
  const std::pair<const char*, const char*> cases[] = {
      {"", "empty pool"},
      {" ", "empty pool"},
      {"tcp://a,", "empty entry"},
      {",tcp://a", "empty entry"},
      {"host:7171", "has no scheme"},
      {"http://a", "unknown scheme"},
      {"TCP://a", "unknown scheme"},
      {"tcp://", "names no host"},
      {"tcp://:7171", "names no host"},
      {"tcp://a:0", "1 to 65535"},
      {"tcp://a:65536", "1 to 65535"},
      {"tcp://a:", "1 to 65535"},
      {"tcp://a:7x", "1 to 65535"},
      {"tcp://a:-1", "1 to 65535"},
      {"tcp://a:+1", "1 to 65535"},
      {"tcp://a:71/", "1 to 65535"},
      {"tcp://a/", "no host name"},
      {"tcp://a b", "no host name"},
      {"tcp://u@a", "no host name"},
      {"tcp://-a", "no host name"},
      {"tcp://::1", "brackets"},
      {"tcp://[::1", "']'"},
      {"tcp://[::1]7171", "only :PORT"},
      {"tcp://[10.0.0.1]", "no IPv6 address"},
      {"tcp://[]", "no IPv6 address"},
      {"unix://", "names no socket"},
      {"file:", "names no file"},
      {"file:/nonexistent/list", "cannot be read: No such file"},
      {"file:/tmp", "cannot be read: Is a directory"},
  };
  for (const auto& [spec, part] : cases)
    EXPECT_TRUE(Contains(Refusal(spec), part)) << "'" << spec << "': " << Refusal(spec);
  EXPECT_TRUE(Contains(Refusal("tcp://a,tcp://b:x"), "'tcp://b:x'"));
}

// A message has a fixed size: a long entry must not push out what is right.
TEST(PoolSpecTest, LongAndOddEntriesStillEndWithTheWayOut) {
  const std::string text = Refusal("tcp://" + std::string(200, 'a') + ":x");
  EXPECT_TRUE(Contains(text, "1 to 65535")) << text;
  EXPECT_EQ(Refusal("ht\ntp://a").find('\n'), std::string::npos);
  EXPECT_NE(Refusal("tcp://" + std::string(254, 'a')), "");
  EXPECT_EQ(Refusal("tcp://" + std::string(253, 'a')), "");
}

TEST(PoolSpecTest, SocketPathHasTheKernelsBound) {
  EXPECT_EQ(Refusal("unix://" + std::string(107, 'p')), "");
  EXPECT_TRUE(Contains(Refusal("unix://" + std::string(108, 'p')), "107 bytes"));
}

TEST(PoolSpecTest, DuplicatesAreRefusedHoweverTheyAreWritten) {
  EXPECT_TRUE(Contains(Refusal("tcp://a,tcp://a:7171"), "listed twice"));
  EXPECT_TRUE(Contains(Refusal("tcp://Node,tcp://node"), "listed twice"));
  EXPECT_EQ(Refusal("tcp://a:1,tcp://a:2,rdma://a:1"), "");
}

TEST(PoolSpecTest, FileListsOneEntryALineWithComments) {
  const PoolFile file("# our donors\n\n  tcp://a  # first\ntcp://b:1\r\nunix:///x");
  const auto pool = ParsePoolSpec("tcp://c," + file.spec());
  ASSERT_TRUE(pool.ok()) << pool.status().text();
  ASSERT_EQ(pool.value().size(), 4u);
  EXPECT_EQ(pool.value()[1].host, "a");
  EXPECT_EQ(pool.value()[2].port, 1);
  EXPECT_EQ(pool.value()[3].path, "/x");
}

TEST(PoolSpecTest, FileRefusalNamesTheLine) {
  const PoolFile bad("tcp://a\n\nnonsense\n");
  EXPECT_TRUE(Contains(Refusal(bad.spec()), bad.path() + ":3: 'nonsense'")) << Refusal(bad.spec());
  const PoolFile twice("tcp://a\ntcp://a\n");
  EXPECT_TRUE(Contains(Refusal(twice.spec()), ":2: 'tcp://a' is listed twice"));
  const PoolFile nested("file:/etc/pool\n");
  EXPECT_TRUE(Contains(Refusal(nested.spec()), "inside a pool file"));
  const PoolFile list("tcp://a,tcp://b\n");  // One a line, not a comma list.
  EXPECT_NE(Refusal(list.spec()), "");
  const PoolFile none("# nobody\n");
  EXPECT_TRUE(Contains(Refusal(none.spec()), "lists no donor"));
}

TEST(PoolSpecTest, FileIsBounded) {
  std::string lines;
  for (size_t i = 0; i < kMaxPoolEntries; ++i) lines += "tcp://n" + std::to_string(i) + "\n";
  EXPECT_EQ(Refusal(PoolFile(lines).spec()), "");
  EXPECT_TRUE(Contains(Refusal(PoolFile(lines + "tcp://last\n").spec()), "more than 1024"));
  EXPECT_EQ(Refusal(PoolFile("tcp://a\n" + std::string(kSmallFileBytesMax - 8, '#')).spec()), "");
  EXPECT_TRUE(
      Contains(Refusal(PoolFile("tcp://a\n" + std::string(kSmallFileBytesMax - 7, '#')).spec()), "1 MiB"));
  EXPECT_TRUE(Contains(Refusal("file:/dev/zero"), "no regular file"));
}

TEST(PoolSpecTest, OnlyAListenerMayLeaveThePortToTheKernel) {
  const auto entry = ParsePoolEntry("tcp://127.0.0.1:0", /*listening=*/true);
  ASSERT_TRUE(entry.ok()) << entry.status().text();
  EXPECT_EQ(entry.value().port, 0);
  EXPECT_FALSE(ParsePoolEntry("tcp://127.0.0.1:0").ok());
  EXPECT_FALSE(ParsePoolEntry("file:/x").ok());
  EXPECT_FALSE(ParsePoolEntry("tcp://a,tcp://b").ok());
}

}  // namespace
}  // namespace farpool
