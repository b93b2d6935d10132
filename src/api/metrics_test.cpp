#include "api/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <regex>
#include <set>
#include <sstream>

#include "base/file.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

/// A metric as it is scraped, and as docs/operations.md has it.
struct DocumentedMetric {
  std::string type;
  std::set<std::string> labels;
  bool operator==(const DocumentedMetric&) const = default;
};
void PrintTo(const DocumentedMetric& metric, std::ostream* out) {
  *out << metric.type << ' ' << testing::PrintToString(metric.labels);
}

/// Metrics of which each has been seen.
void UseAll(Metrics& metrics) {
  metrics.set_sources({.scheduler = [] { return SchedulerStats{}; },
                       .links =
                           [] {
                             return std::vector<LinkTotals>{{"a", "b", 12, 3, 5}};
                           },
                       .nodes =
                           [] {
                             NodeTotals totals;
                             totals.up = {{"a", true}, {"b", false}};
                             totals.links = {{"b", "c", 7, 1, 0}};
                             return totals;
                           },
                       .node_name = [](NodeId) { return "a"; },
                       .experts = [] { return ExpertTotals{}; },
                       .speeds =
                           [] {
                             return std::vector<LinkSpeed>{{"a", "b", 0.002, 1e8}};
                           }});
  metrics.set_outboxes([] { return std::vector<OutboxCount>{{"webhook", {1, 2, 3, 4}}}; });
  metrics.count_response("/v1/models", 200);
  metrics.count_error("internal_error");
  metrics.observe_step({.elapsed_ns = 1000, .timings = {{.busy_ns = 300, .expert_wait_ns = 200}}});
}

/// All that a scrape has, by name.
std::map<std::string, DocumentedMetric> ScrapedBy(const std::string& text) {
  std::map<std::string, DocumentedMetric> metrics;
  static const std::regex kType("# TYPE (\\S+) (\\S+)");
  static const std::regex kLabel("(\\w+)=\"");
  std::istringstream lines(text);
  std::string line;
  std::string name;
  while (std::getline(lines, line)) {
    std::smatch match;
    if (std::regex_match(line, match, kType)) {
      name = match[1];
      metrics[name].type = match[2];
    } else if (!line.starts_with('#')) {
      for (std::sregex_iterator one(line.begin(), line.end(), kLabel), end; one != end; ++one) {
        if ((*one)[1] != "le") metrics[name].labels.insert((*one)[1]);
      }
    }
  }
  return metrics;
}

/// The table of docs/operations.md: | `name` | type | `label`, `label` | what it is |
std::map<std::string, DocumentedMetric> TableOf(const std::string& text) {
  std::map<std::string, DocumentedMetric> metrics;
  static const std::regex kRow(R"(\| `(shoal_\w+)` \| (counter|gauge|histogram) \| ([^|]*) \|.*)");
  static const std::regex kLabel("`(\\w+)`");
  std::istringstream lines(text);
  std::string line;
  while (std::getline(lines, line)) {
    std::smatch match;
    if (!std::regex_match(line, match, kRow)) continue;
    EXPECT_FALSE(metrics.contains(match[1])) << match[1] << " stands there twice";
    DocumentedMetric& metric = metrics[match[1]];
    metric.type = match[2];
    const std::string labels = match[3];
    for (std::sregex_iterator one(labels.begin(), labels.end(), kLabel), end; one != end; ++one)
      metric.labels.insert((*one)[1]);
  }
  return metrics;
}

TEST(Metrics, AreThoseOfTheTableInTheDocs) {
  Metrics metrics;
  UseAll(metrics);
  const auto scraped = ScrapedBy(metrics.scrape());
  const auto docs = ReadTextFile(std::string(SHOAL_SOURCE_DIR) + "/docs/operations.md", 1 << 20);
  ASSERT_TRUE(docs.ok());
  const auto documented = TableOf(*docs);
  EXPECT_GT(documented.size(), 50U);
  for (const auto& [name, metric] : scraped) {
    const auto row = documented.find(name);
    if (row == documented.end()) {
      ADD_FAILURE() << name << " is not in the table of docs/operations.md";
    } else {
      EXPECT_EQ(row->second, metric) << name;
    }
  }
  for (const auto& [name, metric] : documented)
    EXPECT_TRUE(scraped.contains(name)) << name << " is in the docs only";
}

TEST(Metrics, ANodeThatBeginsAnewIsCountedOn) {
  Metrics metrics;
  int64_t bytes = 100;
  metrics.set_sources({.links = [&] { return std::vector<LinkTotals>{{"a", "b", bytes, 1, bytes}}; }});
  EXPECT_THAT(metrics.scrape(), HasSubstr("shoal_link_bytes_total{from=\"a\",to=\"b\"} 100\n"));
  bytes = 130;
  EXPECT_THAT(metrics.scrape(), HasSubstr("shoal_link_bytes_total{from=\"a\",to=\"b\"} 130\n"));
  bytes = 7;
  const std::string text = metrics.scrape();
  EXPECT_THAT(text, HasSubstr("shoal_link_bytes_total{from=\"a\",to=\"b\"} 137\n"));
  EXPECT_THAT(text, HasSubstr("shoal_link_waiting_bytes{from=\"a\",to=\"b\"} 7\n"));
}

TEST(Metrics, ANodeThatLeftIsNotThereAnyMore) {
  Metrics metrics;
  std::vector<NodeUp> nodes = {{"a", true}, {"b", false}};
  metrics.set_sources({.nodes = [&] {
    NodeTotals totals;
    totals.up = nodes;
    return totals;
  }});
  EXPECT_THAT(metrics.scrape(), HasSubstr("shoal_node_up{node=\"b\"} 0\n"));
  nodes.pop_back();
  EXPECT_THAT(metrics.scrape(), Not(HasSubstr("node=\"b\"")));
  nodes.push_back({"b", true});
  EXPECT_THAT(metrics.scrape(), HasSubstr("shoal_node_up{node=\"b\"} 1\n"));
}

TEST(Metrics, WhatNoStageHadOfAStepIsTransit) {
  Metrics metrics;
  metrics.observe_step({.elapsed_ns = 9'000'000'000,
                        .timings = {{.busy_ns = 1'000'000'000, .expert_wait_ns = 2'000'000'000},
                                    {.busy_ns = 500'000'000, .mask_wait_ns = 1'500'000'000}}});
  metrics.observe_step({.elapsed_ns = 10, .timings = {{.busy_ns = INT64_MAX, .expert_wait_ns = INT64_MAX}}});
  const std::string text = metrics.scrape();
  EXPECT_THAT(text, HasSubstr("shoal_step_transit_seconds_sum 4\n"));
  EXPECT_THAT(text, HasSubstr("shoal_step_transit_seconds_count 2\n"));
}

TEST(Metrics, OfSeveralModelsOutboxesAreOfTheServer) {
  Metrics server;
  Metrics model;
  UseAll(server);
  UseAll(model);
  const std::string text = Metrics::ScrapeAll(server, {{"big", &model}});
  EXPECT_THAT(text, HasSubstr("shoal_outbox_messages_total{result=\"failed\",to=\"webhook\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("shoal_node_up{node=\"a\",model=\"big\"} 1\n"));
}

}  // namespace
}  // namespace shoal
