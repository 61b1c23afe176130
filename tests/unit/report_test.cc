#include "supervisor/report.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

namespace farpool {
namespace {

RunReport Example() {
  RunReport r;
  r.command = "sort -k2 'my file'";
  r.exit_status = 3;
  r.wall_s = 10;
  r.handoff = "direct";
  r.fill = "move";
  r.evict = "mremap";
  r.pool = "tcp://a:7171";
  r.local_limit_bytes = 256u << 20;
  r.peak_resident_bytes = 255u << 20;
  r.peak_far_bytes = uint64_t{1} << 30;
  r.stored_bytes = 800u << 20;
  r.metadata_bytes = 8u << 20;
  r.processes = 2;
  r.fetch = {.count = 60, .p50_us = 7, .p90_us = 8, .p99_us = 11, .max_us = 90, .mean_us = 8};
  r.second_chance = {.count = 30, .p50_us = 2, .p90_us = 3, .p99_us = 4, .max_us = 5, .mean_us = 2};
  r.first_touch = {.count = 10, .p50_us = 1, .p90_us = 1, .p99_us = 1, .max_us = 1, .mean_us = 1};
  r.pages_in = 160;
  r.pages_out = 20;
  r.pages_clean = 50;
  r.pages_zero = 10;
  r.evicted_beside = 40;
  r.pages_prefetched = 100;
  r.hinted_in = 7;
  r.packed_out_pages = 3;
  r.packed_out_bytes = 5000;
  r.prefetch_hits = 75;
  r.distances[1] = 10;  // Of the 60 fetches.
  r.distances[2] = 20;
  r.distances[16] = 30;
  r.bytes_in = 160 * 4096;
  r.bytes_out = 20 * 4096;
  r.syscalls_prepared = 1234;
  r.syscalls_trapped = 56;
  r.efault_uncured = 7;
  r.stall_s = 2.5;
  return r;
}

std::vector<std::string> Lines(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

// The line with `label`, "" if there is none.
std::string LineOf(const std::string& text, const std::string& label) {
  for (const std::string& line : Lines(text))
    if (line.starts_with("farpool: " + label) || line.starts_with("farpool:   " + label)) return line;
  return {};
}

bool Contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(ReportTest, EveryLineSaysWhoSpeaksAndIsShort) {
  const std::string text = ReportText(Example());
  EXPECT_EQ(text.back(), '\n');
  for (const std::string& line : Lines(text)) {
    EXPECT_TRUE(line.starts_with("farpool: ")) << line;
    EXPECT_LE(line.size(), 110u) << line;
  }
}

TEST(ReportTest, ReckonsWhatALargerLimitWouldSave) {
  RunReport r = Example();
  r.fetch.mean_us = 100'000;
  const auto json = nlohmann::json::parse(ReportJson(r))["at_larger_limits"];
  ASSERT_EQ(json.size(), 4u);
  EXPECT_EQ(json[0]["times"], 1.25);
  EXPECT_EQ(json[0]["local_limit_bytes"], 320u << 20);
  EXPECT_EQ(json[0]["fetches"], 50);
  EXPECT_EQ(json[1]["fetches"], 30);
  EXPECT_EQ(json[3]["fetches"], 30);
  EXPECT_NEAR(json[0]["wall_s"], 9, 0.01);
  EXPECT_NEAR(json[3]["wall_s"], 7, 0.01);
  EXPECT_TRUE(Contains(LineOf(ReportText(r), "more local"), "about 9.0 s at 320 MiB, 7.0 s at 384 MiB"));
  r.stall_s = 20;  // Two threads: half of what each saves.
  EXPECT_NEAR(nlohmann::json::parse(ReportJson(r))["at_larger_limits"][0]["wall_s"], 9.5, 0.01);
  r.fetch.count = 0;
  EXPECT_EQ(LineOf(ReportText(r), "more local"), "");
}

TEST(ReportTest, HintsThatMostMemoryStayedNear) {
  RunReport r = Example();
  r.near_peak_bytes = uint64_t{1} << 30;
  EXPECT_EQ(LineOf(ReportText(r), "hint"), "") << "as much far as near";
  r.near_peak_bytes *= 2;
  EXPECT_TRUE(Contains(LineOf(ReportText(r), "hint"), "stayed near"));
  EXPECT_TRUE(Contains(LineOf(ReportText(r), "near memory"), "peak 2 GiB"));
  r.peak_far_bytes = 0;
  r.near_peak_bytes = 63u << 20;
  EXPECT_EQ(LineOf(ReportText(r), "hint"), "") << "too little to matter";
}

TEST(ReportTest, TextGivesUnitsAndShares) {
  const std::string text = ReportText(Example());
  EXPECT_TRUE(Contains(LineOf(text, "command"), "sort -k2 'my file' (exit status 3)"));
  EXPECT_TRUE(Contains(LineOf(text, "time"), "10.00 s, 2 processes"));
  EXPECT_TRUE(Contains(LineOf(text, "resident"), "peak 255 MiB of 256 MiB"));
  EXPECT_TRUE(Contains(LineOf(text, "far memory"), "peak 1 GiB, 800 MiB held by donors at the end, 8 MiB"));
  EXPECT_TRUE(Contains(LineOf(text, "moved"), "in 640 KiB (160 pages), out 80 KiB (20 pages)"));
  EXPECT_TRUE(Contains(LineOf(text, "stalled"), "2.50 s"));
  EXPECT_TRUE(Contains(LineOf(text, "stalled"), "25.0 %"));
  // (60 * 8 + 30 * 2 + 10 * 1) / 100
  EXPECT_TRUE(Contains(LineOf(text, "faults"), "100, mean 5.5 us"));
  EXPECT_TRUE(Contains(LineOf(text, "from donor"), "60.0 %"));
  EXPECT_TRUE(Contains(LineOf(text, "second chance"), "30.0 %"));
  EXPECT_TRUE(Contains(LineOf(text, "first touch"), "10.0 %"));
  EXPECT_TRUE(Contains(LineOf(text, "evictions"),
                       "80, 75.0 % without a write (50 clean, 10 zero), 50.0 % beside faults"));
  EXPECT_TRUE(Contains(LineOf(text, "prefetch"), "100 pages, 75.0 % used"));
  EXPECT_TRUE(Contains(LineOf(text, "system calls"), "1234 prepared, 56 trapped, 7 failed"));
}

TEST(ReportTest, ColumnsOfFaultsAlign) {
  const std::string text = ReportText(Example());
  const size_t width = LineOf(text, "from donor").size();
  EXPECT_EQ(LineOf(text, "second chance").size(), width);
  EXPECT_EQ(LineOf(text, "first touch").size(), width);
  for (const std::string& line : Lines(text)) {
    if (Contains(line, "p99 us")) {
      EXPECT_EQ(line.size(), width);
    }
  }
}

// Method: a run that did nothing. A share of nothing is 0, not a NaN.
TEST(ReportTest, ZeroCountsGiveZeroShares) {
  RunReport empty;
  const std::string text = ReportText(empty);
  EXPECT_FALSE(Contains(text, "nan"));
  EXPECT_FALSE(Contains(text, "inf"));
  const auto json = nlohmann::json::parse(ReportJson(empty));
  for (const char* share : {"fetch_share", "second_chance_share", "first_touch_share", "mean_fault_us",
                            "clean_share", "prefetch_accuracy", "stall_share"}) {
    ASSERT_TRUE(json[share].is_number()) << share;
    EXPECT_EQ(json[share], 0.0) << share;
  }
}

TEST(ReportTest, JsonHasEveryFieldUnderItsName) {
  const RunReport r = Example();
  const auto json = nlohmann::json::parse(ReportJson(r));
  EXPECT_EQ(json["command"], r.command);
  EXPECT_EQ(json["exit_status"], 3);
  EXPECT_EQ(json["wall_s"], 10.0);
  EXPECT_EQ(json["handoff"], "direct");
  EXPECT_EQ(json["fill"], "move");
  EXPECT_EQ(json["evict"], "mremap");
  EXPECT_EQ(json["pool"], "tcp://a:7171");
  EXPECT_EQ(json["local_limit_bytes"], r.local_limit_bytes);
  EXPECT_EQ(json["peak_resident_bytes"], r.peak_resident_bytes);
  EXPECT_EQ(json["peak_far_bytes"], r.peak_far_bytes);
  EXPECT_EQ(json["stored_bytes"], r.stored_bytes);
  EXPECT_EQ(json["metadata_bytes"], r.metadata_bytes);
  EXPECT_EQ(json["processes"], 2);
  const std::pair<const char*, const LatencyReport*> kinds[] = {
      {"fetch", &r.fetch}, {"second_chance", &r.second_chance}, {"first_touch", &r.first_touch}};
  for (const auto& [name, latency] : kinds) {
    EXPECT_EQ(json[name]["count"], latency->count) << name;
    EXPECT_EQ(json[name]["p50_us"], latency->p50_us) << name;
    EXPECT_EQ(json[name]["p90_us"], latency->p90_us) << name;
    EXPECT_EQ(json[name]["p99_us"], latency->p99_us) << name;
    EXPECT_EQ(json[name]["max_us"], latency->max_us) << name;
    EXPECT_EQ(json[name]["mean_us"], latency->mean_us) << name;
  }
  EXPECT_EQ(json["pages_in"], 160);
  EXPECT_EQ(json["pages_out"], 20);
  EXPECT_EQ(json["pages_clean"], 50);
  EXPECT_EQ(json["evicted_beside"], 40);
  EXPECT_EQ(json["pages_zero"], 10);
  EXPECT_EQ(json["pages_prefetched"], 100);
  EXPECT_EQ(json["hinted_in"], 7);
  EXPECT_EQ(json["packed_in_pages"], 0);
  EXPECT_EQ(json["packed_out_pages"], 3);
  EXPECT_EQ(json["packed_out_bytes"], 5000);
  EXPECT_EQ(json["hinted_out"], 0);
  EXPECT_EQ(json["prefetch_hits"], 75);
  EXPECT_EQ(json["bytes_in"], r.bytes_in);
  EXPECT_EQ(json["bytes_out"], r.bytes_out);
  EXPECT_EQ(json["syscalls_prepared"], 1234);
  EXPECT_EQ(json["syscalls_trapped"], 56);
  EXPECT_EQ(json["efault_uncured"], 7);
  EXPECT_EQ(json["stall_s"], 2.5);
  EXPECT_EQ(json["faults"], 100);
  EXPECT_DOUBLE_EQ(json["mean_fault_us"], 5.5);
  EXPECT_DOUBLE_EQ(json["clean_share"], 0.75);
  EXPECT_DOUBLE_EQ(json["prefetch_accuracy"], 0.75);
  EXPECT_DOUBLE_EQ(json["stall_share"], 0.25);
}

// A command line holds what its user likes.
TEST(ReportTest, OddCommandsNeitherTearLinesNorBreakJson) {
  RunReport r = Example();
  r.command = "printf 'a\nb' \xff";
  for (const std::string& line : Lines(ReportText(r))) EXPECT_TRUE(line.starts_with("farpool: ")) << line;
  EXPECT_FALSE(nlohmann::json::parse(ReportJson(r), nullptr, false).is_discarded());
}

}  // namespace
}  // namespace farpool
