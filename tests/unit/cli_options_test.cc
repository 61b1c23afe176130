// Sizes, and where a flag's value comes from (cli/layers.h).

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <map>
#include <optional>

#include "base/size_text.h"
#include "cli/commands.h"
#include "cli/layers.h"

namespace farpool {
namespace {

bool Contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// The size, or nothing for a refusal, whose text names what was given.
std::optional<uint64_t> Size(const std::string& text) {
  const Result<uint64_t> size = ParseSize(text);
  if (size.ok()) return size.value();
  EXPECT_EQ(size.status().code(), Status::Code::kInvalidArgument);
  EXPECT_TRUE(Contains(size.status().text(), "'" + text.substr(0, 40) + "'")) << size.status().text();
  return std::nullopt;
}

TEST(SizeTest, UnitsArePowersOf1024) {
  EXPECT_EQ(Size("0"), 0u);
  EXPECT_EQ(Size("4096"), 4096u);
  EXPECT_EQ(Size("7B"), 7u);
  EXPECT_EQ(Size("1K"), 1024u);
  EXPECT_EQ(Size("1M"), 1u << 20);
  EXPECT_EQ(Size("3G"), uint64_t{3} << 30);
  EXPECT_EQ(Size("2T"), uint64_t{2} << 40);
  for (const char* text : {"64M", "64m", "64MB", "64mb", "64MiB", "64Mib", "64MIB"})
    EXPECT_EQ(Size(text), 64u << 20);
}

TEST(SizeTest, DecimalsAreExactAndCutToBytes) {
  EXPECT_EQ(Size("1.5G"), uint64_t{3} << 29);
  EXPECT_EQ(Size("0.5K"), 512u);
  EXPECT_EQ(Size("0.25T"), uint64_t{1} << 38);
  EXPECT_EQ(Size("1.999999999"), 1u);
  EXPECT_EQ(Size("0.999999999T"), 1099511626676u);  // 2^40 * 0.999999999, cut.
}

TEST(SizeTest, EdgeOf64Bits) {
  EXPECT_EQ(Size("18446744073709551615"), UINT64_MAX);
  EXPECT_EQ(Size("18446744073709551616"), std::nullopt);
  EXPECT_EQ(Size("16777215T"), uint64_t{16777215} << 40);
  EXPECT_EQ(Size("16777216T"), std::nullopt);
  EXPECT_EQ(Size("99999999999999999999999999G"), std::nullopt);
  for (const char* text : {"16777216T", "18446744073709551616"})
    EXPECT_TRUE(Contains(ParseSize(text).status().text(), "2^64")) << text;
}

TEST(SizeTest, JunkIsRefused) {
  for (const char* text : {"",     " ",   "-1",    "+1",  "-1G", "G",   "1Q",    "1P",
                           "12GG", "1 G", " 1G",   "1G ", "1.G", ".5G", "1..5G", "1.1234567890G",
                           "0x10", "1e3", "1KiBs", "1iB", "1Ki", "50%", "1,5G",  "nan"})
    EXPECT_EQ(Size(text), std::nullopt) << "'" << text << "'";
}

TEST(SizeTest, FormatUsesWholeUnitsOrOneDecimal) {
  EXPECT_EQ(FormatSize(0), "0 B");
  EXPECT_EQ(FormatSize(1023), "1023 B");
  EXPECT_EQ(FormatSize(1024), "1 KiB");
  EXPECT_EQ(FormatSize(1536), "1.5 KiB");
  EXPECT_EQ(FormatSize(64u << 20), "64 MiB");
  EXPECT_EQ(FormatSize((1u << 20) - 1), "1.0 MiB");
  EXPECT_EQ(FormatSize(uint64_t{5} << 40), "5 TiB");
  EXPECT_EQ(FormatSize(UINT64_MAX), "16777216.0 TiB");
}

// A command with one flag of each kind, its environment and its file.
class LayersTest : public testing::Test {
 protected:
  LayersTest() {
    app_ = root_.add_subcommand("run");
    AddSize(app_, "--memory", &memory_, "");
    app_->add_option("--report-json", report_json_, "");
    app_->add_flag("--allow-anyone", allow_anyone_, "");
    app_->add_option("--count", count_, "");
    app_->add_option("NAME", name_, "");
    AddConfig(app_);
    other_ = root_.add_subcommand("donor");
    other_->add_option("--rack", rack_, "");
  }
  ~LayersTest() override {
    if (!path_.empty()) unlink(path_.c_str());
  }

  // Writes the config file and returns its path.
  std::string File(const std::string& text) {
    char name[] = "/tmp/farpool-config-XXXXXX";
    close(mkstemp(name));
    path_ = name;
    std::ofstream(path_) << text;
    return path_;
  }
  // "" on success, else the refusal.
  std::string Fill(std::vector<std::string> args) {
    args.insert(args.begin(), "run");
    std::reverse(args.begin(), args.end());
    root_.parse(std::move(args));
    const Status status = FillFromLayers(app_, {app_, other_}, [this](const char* name) -> const char* {
      asked_.push_back(name);
      const auto it = environment_.find(name);
      return it == environment_.end() ? nullptr : it->second.c_str();
    });
    EXPECT_EQ(std::string(status.text()).find('\n'), std::string::npos);
    EXPECT_EQ(status.ok(), status.text()[0] == 0);
    return status.text();
  }

  CLI::App root_;
  CLI::App* app_;
  CLI::App* other_;
  uint64_t memory_ = 1;
  std::string report_json_ = "default", name_, rack_;
  bool allow_anyone_ = false;
  int count_ = 0;
  std::map<std::string, std::string> environment_;
  std::vector<std::string> asked_;
  std::string path_;
};

TEST_F(LayersTest, WithoutAnySourceDefaultsStand) {
  EXPECT_EQ(Fill({}), "");
  EXPECT_EQ(memory_, 1u);
  EXPECT_EQ(report_json_, "default");
  EXPECT_FALSE(allow_anyone_);
}

TEST_F(LayersTest, FileFillsWhatNobodyElseSet) {
  EXPECT_EQ(
      Fill({"--config", File("[run]\nmemory = '2K'\nreport-json = 'f'\nallow-anyone = true\ncount = 7\n")}),
      "");
  EXPECT_EQ(memory_, 2048u);
  EXPECT_EQ(report_json_, "f");
  EXPECT_TRUE(allow_anyone_);
  EXPECT_EQ(count_, 7);
}

TEST_F(LayersTest, VariableWinsOverFile) {
  environment_ = {{"FARPOOL_MEMORY", "3K"}, {"FARPOOL_ALLOW_ANYONE", "0"}};
  EXPECT_EQ(Fill({"--config", File("[run]\nmemory = '2K'\nreport-json = 'f'\nallow-anyone = true\n")}), "");
  EXPECT_EQ(memory_, 3072u);
  EXPECT_EQ(report_json_, "f");
  EXPECT_FALSE(allow_anyone_);
}

TEST_F(LayersTest, FlagWinsOverVariableAndFile) {
  environment_ = {{"FARPOOL_MEMORY", "3K"}, {"FARPOOL_REPORT_JSON", "e"}};
  EXPECT_EQ(Fill({"--memory", "4K", "--config", File("[run]\nmemory = '2K'\n")}), "");
  EXPECT_EQ(memory_, 4096u);
  EXPECT_EQ(report_json_, "e");
}

TEST_F(LayersTest, FileCanBeNamedByVariable) {
  environment_ = {{"FARPOOL_CONFIG", File("[run]\nmemory = 5\n")}};
  EXPECT_EQ(Fill({}), "");
  EXPECT_EQ(memory_, 5u);
}

// A flag given twice would append: the file named on the command line must replace the variable's.
TEST_F(LayersTest, ConfigFlagWinsOverItsVariable) {
  environment_ = {{"FARPOOL_CONFIG", "/nonexistent"}};
  EXPECT_EQ(Fill({"--config", File("[run]\nmemory = 5\n")}), "");
  EXPECT_EQ(memory_, 5u);
}

TEST_F(LayersTest, EmptyVariableIsUnset) {
  environment_ = {{"FARPOOL_MEMORY", ""}};
  EXPECT_EQ(Fill({"--config", File("[run]\nmemory = 5\n")}), "");
  EXPECT_EQ(memory_, 5u);
}

TEST_F(LayersTest, SwitchTakesWordsForTrueAndFalse) {
  for (const char* word : {"1", "true", "YES", "on"}) {
    allow_anyone_ = false;
    environment_ = {{"FARPOOL_ALLOW_ANYONE", word}};
    EXPECT_EQ(Fill({}), "");
    EXPECT_TRUE(allow_anyone_) << word;
    root_.clear();
  }
  for (const char* word : {"0", "false", "No", "off"}) {
    allow_anyone_ = false;
    environment_ = {{"FARPOOL_ALLOW_ANYONE", word}};
    EXPECT_EQ(Fill({}), "");
    EXPECT_FALSE(allow_anyone_) << word;
    root_.clear();
  }
  environment_ = {{"FARPOOL_ALLOW_ANYONE", "maybe"}};
  EXPECT_EQ(Fill({}), "FARPOOL_ALLOW_ANYONE: 'maybe' is neither true nor false");
}

TEST_F(LayersTest, BadValueNamesItsSource) {
  environment_ = {{"FARPOOL_MEMORY", "12Q"}};
  EXPECT_TRUE(Fill({}).starts_with("FARPOOL_MEMORY: '12Q' is not a size")) << "text";
  environment_.clear();
  root_.clear();
  const std::string path = File("# one\n\n[run]\nmemory = '12Q'\n");
  const std::string text = Fill({"--config", path});
  EXPECT_TRUE(text.starts_with(path + ":4: memory: '12Q' is not a size")) << text;
}

TEST_F(LayersTest, ZeroSizeIsRefusedWhereItMeansNothing) {
  environment_ = {{"FARPOOL_MEMORY", "0"}};
  EXPECT_TRUE(Contains(Fill({}), "more than 0"));
}

TEST_F(LayersTest, UnusableFilesAreNamedWithTheirLine) {
  const std::pair<const char*, const char*> cases[] = {
      {"[run]\nmemory =\n", ":2: "},
      {"[run\n", ":1: "},
      {"[run]\nnonsense = 1\n", ":2: unknown key 'nonsense'"},
      {"[donor]\nrack = 'a'\nmemory = 1\n", ":3: unknown key 'memory'"},
      {"[run]\nNAME = 'a'\n", ":2: unknown key 'NAME'"},
      {"[run]\nconfig = 'a'\n", ":2: unknown key 'config'"},
      {"[run]\nhelp = true\n", ":2: unknown key 'help'"},
      {"\nmemory = 1\n", ":2: key 'memory' stands in no section"},
      {"[runn]\nmemory = 1\n", ":1: section [runn] is no command"},
      {"[run]\nmemory = [1]\n", ":2: 'memory' must be"},
      {"[run]\nmemory = 1.5\n", ":2: 'memory' must be"},
      {"[run]\nmemory = true\n", ":2: memory: 'true' is not a size"},
      {"[run]\nallow-anyone = 'perhaps'\n", ":2: allow-anyone: 'perhaps' is neither"},
      {"[run]\nmemory = 1\nmemory = 2\n", ":3: "},
  };
  for (const auto& [text, part] : cases) {
    const std::string path = File(text);
    const std::string refusal = Fill({"--config", path});
    EXPECT_TRUE(refusal.starts_with(path + part)) << refusal;
    unlink(path.c_str());
    root_.clear();
  }
  EXPECT_EQ(Fill({"--config", "/nonexistent"}), "/nonexistent: cannot be read: No such file or directory");
  root_.clear();
  EXPECT_EQ(Fill({"--config", "/tmp"}), "/tmp: cannot be read: Is a directory");
}

// Another command's section is checked but not used.
TEST_F(LayersTest, OtherSectionsAreLeftAlone) {
  EXPECT_EQ(Fill({"--config", File("[donor]\nrack = 'r'\n")}), "");
  EXPECT_EQ(rack_, "");
}

TEST_F(LayersTest, EmptyFileIsNoError) { EXPECT_EQ(Fill({"--config", File("")}), ""); }

TEST_F(LayersTest, VariablesOfTheRuntimeAreNeverRead) {
  std::string value;
  app_->add_option("--runtime-socket", value, "");
  environment_ = {{"FARPOOL_RUNTIME_SOCKET", "7"}};
  EXPECT_EQ(Fill({}), "");
  EXPECT_EQ(value, "");
  EXPECT_EQ(VariableOf(*app_->get_option("--report-json")), "FARPOOL_REPORT_JSON");
}

TEST(PoolFlagTest, SchemesThatCannotBeUsedYetAreRefused) {
  CLI::App app;
  std::vector<PoolEntry> pool;
  AddPool(&app, &pool, "");
  app.parse("--pool tcp://a,rdma://a,unix:///x", false);
  EXPECT_EQ(pool.size(), 3u);
  for (const char* scheme : {"registry", "etcd"}) {
    try {
      app.parse(std::string("--pool tcp://a,") + scheme + "://b", false);
      ADD_FAILURE() << scheme;
    } catch (const CLI::ParseError& error) {
      EXPECT_TRUE(Contains(error.what(), std::string(scheme) + "://b:7171' cannot be used yet"))
          << error.what();
    }
  }
}

}  // namespace
}  // namespace farpool
