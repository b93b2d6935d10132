#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "api/http/sse_reader.h"
#include "api/load/load_report.h"
#include "api/load/load_run.h"
#include "api/load/workload.h"
#include "base/check.h"
#include "base/status.h"

namespace shoal {
namespace {

using Json = nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(SseReader, AnyCutOfTheInputGivesTheSameEvents) {
  const std::string text =
      ": comment\n\ndata: a\n\nid: 7\r\ndata:b\r\ndata: c\r\n\r\ndata\n\ndata: d\r\rdata:\n\ndata: open";
  for (size_t cut = 0; cut <= text.size(); ++cut) {
    for (size_t second = cut; second <= text.size(); ++second) {
      std::vector<std::string> got;
      SseReader reader([&](std::string_view data) { got.emplace_back(data); });
      reader.push(std::string_view(text).substr(0, cut));
      reader.push(std::string_view(text).substr(cut, second - cut));
      reader.push(std::string_view(text).substr(second));
      ASSERT_THAT(got, ElementsAre("a", "b\nc", "d", "")) << cut << " " << second;
      ASSERT_FALSE(reader.at_end_of_event());
    }
  }
}

TEST(LengthMix, DrawsFromItsRangesByTheirWeights) {
  const auto mix = LengthMix::Parse("10-19:3,100:1");
  ASSERT_TRUE(mix.ok()) << ToString(mix.status());
  RandomStream random(1);
  int large = 0;
  std::set<int64_t> small;
  for (int i = 0; i < 4000; ++i) {
    const int64_t length = mix->draw(random);
    if (length == 100) {
      ++large;
    } else {
      small.insert(length);
    }
  }
  EXPECT_NEAR(large, 1000, 150);  // Five standard deviations: the same numbers in every run.
  EXPECT_EQ(small.size(), 10U);
  EXPECT_EQ(*small.begin(), 10);
  for (const char* wrong : {"", "0", "x", "5-3", "1:0", "1:x", "1,", "1-", "-1", "10:-1", "99999999999"}) {
    EXPECT_EQ(LengthMix::Parse(wrong).status().code(), absl::StatusCode::kInvalidArgument) << wrong;
  }
}

TEST(Workload, ARequestIsAFunctionOfSeedAndNumber) {
  const WorkloadOptions options{
      .model = "m", .prefix_words = 50, .prefixes = 3, .extra = R"({"min_tokens": 4})", .seed = 5};
  const auto one = Workload::Create(options);
  const auto two = Workload::Create(options);
  ASSERT_TRUE(one.ok()) << ToString(one.status());
  std::set<std::string> heads;
  for (int64_t i = 0; i < 64; ++i) {
    ASSERT_EQ(one->body(i), two->body(i));
    const Json json = Json::parse(one->body(i));
    heads.insert(json["messages"][0]["content"].get<std::string>());
    EXPECT_EQ(json["min_tokens"], 4);
    EXPECT_GE(json["max_tokens"], 32);
    EXPECT_LE(json["max_tokens"], 128);
  }
  EXPECT_EQ(heads.size(), 3U);
  EXPECT_NE(one->body(0), one->body(1));
  EXPECT_FALSE(Workload::Create({.extra = "[1]"}).ok());
}

TEST(Workload, PromptsOfTokenIdsAreAsLongAsAsked) {
  WorkloadOptions options{.endpoint = LoadEndpoint::kCompletions, .prompt_words = "300", .token_ids = 7};
  const auto load = Workload::Create(options);
  ASSERT_TRUE(load.ok()) << ToString(load.status());
  const auto ids = Json::parse(load->body(0))["prompt"].get<std::vector<int64_t>>();
  EXPECT_EQ(ids.size(), 300U);
  EXPECT_EQ(std::set<int64_t>(ids.begin(), ids.end()), (std::set<int64_t>{0, 1, 2, 3, 4, 5, 6}));
  EXPECT_NE(load->body(0), load->body(1));
  options.endpoint = LoadEndpoint::kChat;
  EXPECT_EQ(Workload::Create(options).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(PoissonArrivals, HaveTheRateAndTheSpreadOfAPoissonProcess) {
  PoissonArrivals arrivals(10, 3);
  std::vector<double> gaps;
  double last = 0;
  for (int i = 0; i < 10000; ++i) {
    const double next = arrivals.next();
    ASSERT_GE(next, last);
    gaps.push_back(next - last);
    last = next;
  }
  EXPECT_NEAR(last / 10000, 0.1, 0.005);
  double square = 0;
  for (const double gap : gaps) square += (gap - 0.1) * (gap - 0.1);
  EXPECT_NEAR(square / 10000, 0.01, 0.002);  // Of exponential gaps: the square of their mean.
}

/// A server that streams words, and answers as its path of errors says.
class LoadRunTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto server =
        HttpServer::Start({.handler_threads = 8},
                          {{"POST", "/v1/chat/completions", [this](auto&&... all) { answer(all...); }}});
    SHOAL_CHECK(server.ok());
    server_ = *std::move(server);
    auto client = AsyncHttpClient::Create({.host = "127.0.0.1", .port = server_->port()});
    SHOAL_CHECK(client.ok());
    client_ = *std::move(client);
    auto workload = Workload::Create({.model = "m", .output_tokens = "5"});
    SHOAL_CHECK(workload.ok());
    workload_.emplace(*std::move(workload));
  }

  void answer(const HttpRequest& request, const std::shared_ptr<ResponseWriter>& writer) {
    const int number = asked_++;
    const int now = ++answering_;
    int most = most_;
    while (now > most && !most_.compare_exchange_weak(most, now)) {
    }
    if (hold_) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    --answering_;
    if (number % 8 == fail_at_) return fail(writer);
    writer->begin_stream(200, "text/event-stream");
    writer->write(
        "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n: ping\n\n");
    const int tokens = Json::parse(request.body)["max_tokens"];
    for (int i = 0; i < tokens; ++i)
      writer->write("data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n");
    writer->write("data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n");
    writer->write(
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":5,"
        "\"prompt_tokens_details\":{\"cached_tokens\":3}}}\n\ndata: [DONE]\n\n");
    writer->end_stream();
  }
  void fail(const std::shared_ptr<ResponseWriter>& writer) {
    switch (failure_) {
      case 0:
        return writer->send({.status = 429, .body = "slow down"});
      case 1:
        writer->begin_stream(200, "text/event-stream");
        writer->write("data: {\"error\":{\"message\":\"lost\"}}\n\n");
        return writer->end_stream();
      case 2:
        writer->begin_stream(200, "text/event-stream");
        writer->write("data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n");
        return writer->end_stream();
      case 3:
        return writer->begin_stream(200, "text/event-stream");  // And drops the writer: the stream is cut.
      default:
        const std::lock_guard lock(mutex_);
        kept_.push_back(writer);
    }
  }
  LoadReport run(const LoadOptions& options) { return Summarize(RunLoad(*client_, *workload_, options)); }

  std::atomic<int> asked_ = 0, answering_ = 0, most_ = 0;
  std::atomic<int> fail_at_ = -1, failure_ = 0;
  std::atomic<bool> hold_ = false;
  std::mutex mutex_;
  std::vector<std::shared_ptr<ResponseWriter>> kept_;
  std::unique_ptr<HttpServer> server_;
  std::unique_ptr<AsyncHttpClient> client_;
  std::optional<Workload> workload_;
};

TEST_F(LoadRunTest, AClosedLoopHasSoManyRequestsInFlightAndCountsWhatTheServerSays) {
  hold_ = true;
  const LoadReport report = run({.concurrency = 4, .requests = 40});
  EXPECT_EQ(report.sent, 40);
  EXPECT_EQ(report.succeeded, 40) << LoadText(report);
  EXPECT_EQ(report.in_flight_max, 4);
  EXPECT_EQ(asked_, 40);
  EXPECT_LE(most_, 4);
  EXPECT_LE(server_->connections(), 4);
  EXPECT_EQ(report.prompt_tokens, 280);
  EXPECT_EQ(report.cached_tokens, 120);
  EXPECT_EQ(report.output_tokens, 200);
  EXPECT_EQ(report.events, 200);
  EXPECT_EQ(report.itl.count, 160);
  EXPECT_EQ(report.ttft.count, 40);
  EXPECT_GE(report.ttft.p50, 5);
  EXPECT_GE(report.e2e.max, report.ttft.p50);
}

TEST_F(LoadRunTest, AnOpenLoopSendsWhenRequestsAreDue) {
  const LoadReport report = run({.rate = 500, .requests = 50, .seed = 1});
  EXPECT_EQ(report.succeeded, 50) << LoadText(report);
  PoissonArrivals arrivals(500, 1);
  double last = 0;
  for (int i = 0; i < 50; ++i) last = arrivals.next();
  EXPECT_GE(report.elapsed_s, last);
  const LoadReport brief =
      run({.rate = 1000, .requests = 1'000'000, .duration = std::chrono::milliseconds(100)});
  EXPECT_GT(brief.sent, 50);
  EXPECT_LT(brief.sent, 200);
}

TEST_F(LoadRunTest, TellsErrorsByTheirKind) {
  const std::map<int, std::string> kinds = {
      {0, "http 429"}, {1, "error event"}, {2, "no end"}, {3, "hung up"}, {4, "timed out"}};
  for (const auto& [failure, kind] : kinds) {
    asked_ = 0;
    fail_at_ = 3;
    failure_ = failure;
    const LoadReport report = run({.concurrency = 8, .requests = 16, .timeout = std::chrono::seconds(2)});
    EXPECT_EQ(report.succeeded, 14) << kind;
    ASSERT_EQ(report.errors.size(), 1U) << LoadText(report);
    EXPECT_EQ(std::get<0>(report.errors[0]), kind);
    EXPECT_EQ(std::get<1>(report.errors[0]), 2);
  }
  server_.reset();
  const LoadReport report = run({.concurrency = 2, .requests = 4});
  EXPECT_EQ(std::get<0>(report.errors.at(0)), "not connected");
  EXPECT_EQ(std::get<1>(report.errors.at(0)), 4);
}

TEST_F(LoadRunTest, AThousandStreamsAtOnce) {
  const LoadReport report = run({.concurrency = 1000, .requests = 2000});
  EXPECT_EQ(report.succeeded, 2000) << LoadText(report);
  EXPECT_EQ(report.in_flight_max, 1000);
}

TEST(LoadReport, PercentilesAreOfTheNearestRank) {
  std::vector<double> values;
  for (int i = 100; i >= 1; --i) values.push_back(i);
  const Latencies times = LatenciesOf(values);
  EXPECT_EQ(times.count, 100);
  EXPECT_EQ(times.mean, 50.5);
  EXPECT_EQ(times.p50, 50);
  EXPECT_EQ(times.p90, 90);
  EXPECT_EQ(times.p99, 99);
  EXPECT_EQ(times.max, 100);
  EXPECT_EQ(LatenciesOf({7}).p50, 7);
  EXPECT_EQ(LatenciesOf({}).count, 0);
}

TEST(LoadReport, MeasuresFromWhenARequestWasDue) {
  LoadResult result{.elapsed_ns = 2'000'000'000, .in_flight_max = 1};
  result.samples.push_back({.due_ns = 0,
                            .sent_ns = 1'000'000,
                            .first_ns = 5'000'000,
                            .end_ns = 12'000'000,
                            .event_ns = {5'000'000, 7'000'000, 11'000'000},
                            .output_tokens = 4});
  result.samples.push_back({.error = "http 500", .error_text = "oh"});
  const LoadReport report = Summarize(result);
  EXPECT_DOUBLE_EQ(report.ttft.max, 5);
  EXPECT_DOUBLE_EQ(report.itl.mean, 3);
  EXPECT_DOUBLE_EQ(report.tpot.max, 2);
  EXPECT_DOUBLE_EQ(report.e2e.max, 12);
  EXPECT_DOUBLE_EQ(report.lateness.max, 1);
  const Json json = Json::parse(LoadJson(report, {{"url", "u"}}));
  EXPECT_EQ(json["requests"]["failed"], 1);
  EXPECT_EQ(json["errors"]["http 500"]["count"], 1);
  EXPECT_EQ(json["per_second"]["output_tokens"], 2.0);
  EXPECT_EQ(json["settings"]["url"], "u");
  EXPECT_THAT(LoadText(report), HasSubstr("error: 1 times http 500: oh"));
}

}  // namespace
}  // namespace shoal
