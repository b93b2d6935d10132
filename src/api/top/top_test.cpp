// What `shoal top` reads of a coordinator's answers, and how it stands on screens of any size.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "api/top/frame.h"
#include "api/top/picture.h"
#include "api/top/scrape.h"
#include "base/status.h"
#include "base/text.h"

namespace shoal {
namespace {

using testing::AllOf;
using testing::DoubleNear;
using testing::Each;
using testing::HasSubstr;
using testing::Not;
using testing::Optional;

// As a coordinator with two workers answered, shortened.
constexpr const char* kStatus = R"({
  "status": "up", "degraded": true, "generation": 2,
  "model": {"name": "shoal-demo-4bit", "layers": 6, "context": 4096},
  "nodes": [
    {"name": "coordinator", "role": "coordinator", "state": "up", "layers": [0, 3], "experts": 96,
     "memory_bytes": 8589934592, "weight_bytes": 2147483648, "device": "AMD EPYC", "threads": 2},
    {"name": "worker-1", "role": "worker", "state": "up", "layers": [3, 6], "experts": 96,
     "memory_bytes": 4294967296, "weight_bytes": 4080218931},
    {"name": "worker-2", "role": "worker", "state": "lost", "layers": null, "experts": 0,
     "out": {"since": 1, "for_s": 5, "why": "it does not answer", "drained": false}}],
  "links": [{"a": "coordinator", "b": "worker-1", "rtt_us": 212.4, "mbs": 438.2}],
  "predicted": {"tokens_per_s_1": 120}})";

constexpr const char* kEvents = R"({"last": 3, "events": [
  {"id": 1, "at": 3600, "kind": "session", "node": "", "text": "session 1 is open"},
  {"id": 2, "at": 3661, "kind": "lost", "node": "worker-2", "text": "is lost: connection refused"},
  {"id": 3, "at": 3670, "kind": "session", "node": "", "text": "session 2 is open"}]})";

constexpr const char* kExperts = R"({"nodes": ["coordinator", "worker-1"], "layers": [
  {"layer": 0, "node": 0, "of_this_plan": {"local_share": 0.5}, "rows": [10, 0, 5, 85]},
  {"layer": 1, "node": 1, "of_this_plan": {"local_share": 0.25}, "rows": [1, 1, 1, 1]}]})";

constexpr const char* kMetrics = R"(# HELP shoal_steps_total Steps that came back
# TYPE shoal_steps_total counter
shoal_steps_total {0}
shoal_generated_tokens_total {0}
shoal_running_requests 3
shoal_queue_requests 2
shoal_queue_wait_seconds 0.5
shoal_kv_blocks{{state="free"}} 50
shoal_kv_blocks{{state="used"}} 25
shoal_kv_blocks{{state="cached"}} 25
shoal_prefix_cache_lookups_total{{result="hit"}} 1
shoal_prefix_cache_lookups_total{{result="miss"}} 3
shoal_stage_busy_seconds_sum{{node="coordinator"}} {1}
shoal_stage_expert_wait_seconds_sum{{node="coordinator"}} 0
shoal_time_to_first_token_seconds_bucket{{le="0.1"}} {2}
shoal_time_to_first_token_seconds_bucket{{le="1"}} {3}
shoal_time_to_first_token_seconds_bucket{{le="+Inf"}} {3}
)";

std::string Scraped(double tokens, double busy, int fast, int all) {
  return fmt::format(fmt::runtime(kMetrics), tokens, busy, fast, all);
}

TopPicture Picture() {
  TopPicture picture{.url = "http://127.0.0.1:8000", .seen_at = 3671};
  ReadStatus(*ParseJson(kStatus), picture);
  ReadMetrics({{10, Scrape::Read(Scraped(100, 1, 90, 100))}, {12, Scrape::Read(Scraped(300, 1.5, 95, 110))}},
              picture);
  ReadEvents(*ParseJson(kEvents), 0, picture.events);
  picture.experts = ReadExperts(*ParseJson(kExperts));
  return picture;
}

std::string Utc(int64_t at) {
  return fmt::format("{:02}:{:02}:{:02}", at / 3600 % 24, at / 60 % 60, at % 60);
}

TopView View(TopPage page = TopPage::kCluster, int width = 80, int height = 24) {
  return {.page = page, .width = width, .height = height, .clock = Utc};
}

std::string Drawn(const TopView& view) { return TopText(DrawTop(Picture(), view)); }

TEST(TopScrape, ReadsLabelsAndPassesOverWhatIsNoSample) {
  const Scrape scrape = Scrape::Read(
      "# a 1\na 1\na{x=\"1\"} 2\na{x=\"q\\\"\\\\\\n\",y=\"2\"} 3 1700000000\nb{x=\"1\" 2\nc NaN\nd\n{} 1\n");
  EXPECT_EQ(scrape.total("a"), 6);
  EXPECT_EQ(scrape.total("a", {{"x", "1"}}), 2);
  EXPECT_EQ(scrape.total("a", {{"x", "q\"\\\n"}, {"y", "2"}}), 3);
  for (const char* none : {"b", "c", "d", ""}) EXPECT_EQ(scrape.total(none), 0) << none;
}

TEST(TopScrape, QuantilesLieWithinTheirBuckets) {
  const auto histogram =
      Scrape::Read("t_bucket{le=\"1\"} 50\nt_bucket{le=\"3\"} 100\nt_bucket{le=\"+Inf\"} 110\n")
          .histogram("t");
  EXPECT_THAT(histogram.quantile(0.25), Optional(DoubleNear(0.55, 1e-9)));
  EXPECT_THAT(histogram.quantile(0.9), Optional(DoubleNear(1 + 2 * 49.0 / 50, 1e-9)));
  EXPECT_THAT(histogram.quantile(0.99), Optional(3));  // No more is known of it.
  EXPECT_FALSE(ScrapedHistogram().quantile(0.5).has_value());
  EXPECT_EQ(histogram.since(histogram).observations(), 0);
}

TEST(Top, TheFirstPageFits80By24) {
  EXPECT_EQ(Drawn(View()), R"(shoal top  shoal-demo-4bit  degraded, session 2                         01:01:11
 1 cluster  2 links  3 events  4 experts                                 q quits

Tokens/s      100      Steps/s 100      Streams 3     Queue 2 (wait 500 ms)
First token   p50 100 ms    p90 820 ms    p99 982 ms     last 2 s
Between       p50 -         p90 -         p99 -          last 2 s
Cache blocks  [||||::::        ] 25 used, 25 cached, 50 free, 25 % reuse

NODE        STATE        LAYERS  EXPERTS  BUSY WAITS WEIGHTS OF MEMORY
coordinator up           0-2          96  25 %   0 % [||      ] 2.0 GiB of 8.0 ~
worker-1    up           3-5          96     -     - [||||||||] 3.8 GiB of 4.0 ~
worker-2    lost, out    -             -     -     - -

WHAT HAPPENED
01:01:10 session   -              session 2 is open
01:01:01 lost      worker-2       is lost: connection refused
01:00:00 session   -              session 1 is open
)");
}

TEST(Top, NoLineIsWiderThanTheScreenNorAreThereMoreThanItHas) {
  for (int page = 0; page < kTopPages; ++page) {
    for (const int width : {1, 5, 20, 40, 79, 80, 200}) {
      for (const int height : {1, 2, 5, 24, 60}) {
        const TopFrame frame = DrawTop(Picture(), View(static_cast<TopPage>(page), width, height));
        ASSERT_LE(std::ssize(frame.lines), height);
        for (const TopLine& line : frame.lines) {
          int columns = 0;
          for (const auto& [text, style] : line) columns += ColumnsOf(text);
          ASSERT_LE(columns, width) << page;
        }
      }
    }
  }
}

TEST(Top, TheOtherPagesTellLinksEventsAndExperts) {
  EXPECT_THAT(Drawn(View(TopPage::kLinks)),
              HasSubstr("coordinator        worker-1                 212 us      438"));
  const std::string events = Drawn(View(TopPage::kEvents));
  EXPECT_LT(events.find("session 2 is open"), events.find("connection refused"));
  const std::string experts = Drawn(View(TopPage::kExperts));
  EXPECT_THAT(experts, HasSubstr("    0 coordinator     50 % 3: 85 %      : .@"));
  EXPECT_THAT(experts, HasSubstr("    1 worker-1        25 % 0: 25 %      @@@@"));
}

TEST(Top, RatesAndQuantilesAreOfWhatWasSeen) {
  const TopPicture picture = Picture();
  EXPECT_THAT(picture.tokens, Optional(100));
  EXPECT_THAT(picture.nodes[0].busy, Optional(0.25));
  EXPECT_FALSE(picture.nodes[1].busy.has_value()) << "it has run no step";
  EXPECT_EQ(picture.recent_s, 2);
  EXPECT_THAT(picture.first_token[0], Optional(DoubleNear(0.1, 1e-9)));  // Five of ten below it.
  TopPicture first = picture;
  ReadMetrics({{10, Scrape::Read(Scraped(100, 1, 90, 100))}}, first);
  EXPECT_FALSE(first.tokens.has_value());
  EXPECT_EQ(first.recent_s, 0);
  ReadMetrics({{10, Scrape::Read(Scraped(100, 1, 90, 100))}, {12, Scrape::Read(Scraped(40, 0, 1, 1))}},
              first);
  EXPECT_THAT(first.tokens, Optional(20)) << "the server began anew";
}

TEST(Top, EventsOfAServerThatBeganAnewTakeThePlaceOfTheOldOnes) {
  std::vector<TopEvent> events;
  EXPECT_EQ(ReadEvents(*ParseJson(kEvents), 0, events), 3);
  EXPECT_EQ(ReadEvents(*ParseJson(kEvents), 3, events), 3);
  EXPECT_EQ(events.size(), 3U) << "those that are known are not told twice";
  EXPECT_EQ(ReadEvents(*ParseJson(R"({"last": 1, "events": []})"), 3, events), 1);
  EXPECT_EQ(events.size(), 0U);
}

TEST(Top, AnswersOfAnotherShapeAreNoneAndTextsDoNotMoveTheCursor) {
  for (const char* odd :
       {"{}", R"({"status": 1, "nodes": "x", "links": 3, "model": []})",
        R"({"nodes": [1, {"name": 2, "layers": ["a", 1]}, {"layers": [1]}], "generation": 1e300})"}) {
    TopPicture picture;
    ReadStatus(*ParseJson(odd), picture);
    picture.experts = ReadExperts(*ParseJson(odd));
    ReadEvents(*ParseJson(odd), 0, picture.events);
    EXPECT_FALSE(TopText(DrawTop(picture, View())).empty());
  }
  TopPicture picture = Picture();
  picture.nodes[0].name =
      "\x1b[2J\xff\n\xc2\x9b"
      "31m";
  EXPECT_THAT(TopText(DrawTop(picture, View())), AllOf(Not(HasSubstr("\x1b")), Not(HasSubstr("\xc2\x9b"))));
}

TEST(Top, WhatIsWrongStandsOnTheThirdLineAndTheRestAsItWas) {
  TopPicture picture = Picture();
  picture.problem = "http://127.0.0.1:8000: connection refused; asked again";
  const std::vector<std::string> lines = Split(TopText(DrawTop(picture, View())), '\n');
  EXPECT_EQ(lines[2], picture.problem);
  EXPECT_THAT(lines[0], HasSubstr("shoal-demo-4bit"));
}

TEST(Top, TextsAreCutByColumnsNotByBytes) {
  EXPECT_EQ(FitColumns("abc", 5), "abc  ");
  EXPECT_EQ(FitColumns("abcdef", 4), "abc~");
  EXPECT_EQ(FitColumns("\xE6\xBC\xA2\xE5\xAD\x97", 3), "\xE6\xBC\xA2~");
  EXPECT_EQ(FitColumns("\xE6\xBC\xA2\xE5\xAD\x97", 2), "~ ");
  EXPECT_EQ(ColumnsOf("e\xCC\x81\xC3\xA9"), 2);
}

}  // namespace
}  // namespace shoal
