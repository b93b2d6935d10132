#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>

#include "api/http/tcp_stream.h"
#include "api/testing/openai_fixture.h"
#include "api/trace/tracer.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr char kParent[] = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

TEST(TraceParent, IsReadAndWhatIsNoneIsAbsent) {
  const auto context = ParseTraceParent(kParent);
  ASSERT_TRUE(context.has_value());
  EXPECT_EQ(context->trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
  EXPECT_EQ(SpanId(context->span), "00f067aa0ba902b7");
  EXPECT_TRUE(context->sampled);
  std::string other = kParent;
  other.back() = '0';
  EXPECT_FALSE(ParseTraceParent(other)->sampled);
  other.back() = '3';
  EXPECT_TRUE(ParseTraceParent(other)->sampled);  // Flags to come are left alone.
  EXPECT_TRUE(ParseTraceParent("01" + std::string(kParent).substr(2) + "-more").has_value());
  for (const char* text : {"", "00", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
                           "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
                           "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
                           "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
                           "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
                           "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
                           "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}) {
    EXPECT_FALSE(ParseTraceParent(text).has_value()) << text;
  }
}

TEST(Otlp, ASpanIsAsTheSpecificationWritesIt) {
  const TraceContext trace{.trace_high = 1, .trace_low = 0xab};
  const Span span{.id = 2,
                  .parent = 3,
                  .name = "step",
                  .start_ns = 1'000'000'000'000'000'001,
                  .end_ns = 1'000'000'000'000'000'009,
                  .attributes = {{"a", "text"}, {"b", int64_t{1} << 60}, {"c", 0.5}},
                  .error = "no"};
  EXPECT_EQ(*ParseJson(OtlpSpan(trace, span)), *ParseJson(R"({
    "traceId": "000000000000000100000000000000ab", "spanId": "0000000000000002",
    "parentSpanId": "0000000000000003", "name": "step", "kind": 1,
    "startTimeUnixNano": "1000000000000000001", "endTimeUnixNano": "1000000000000000009",
    "attributes": [{"key": "a", "value": {"stringValue": "text"}},
                   {"key": "b", "value": {"intValue": "1152921504606846976"}},
                   {"key": "c", "value": {"doubleValue": 0.5}}],
    "status": {"code": 2, "message": "no"}})"));
  const OtlpEnvelope envelope = OtlpEnvelopeOf({{"service.name", "shoal"}, {"x", "[]"}}, "1.2");
  EXPECT_EQ(*ParseJson(envelope.head + "{},{}" + envelope.tail), *ParseJson(R"({"resourceSpans": [{
    "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "shoal"}},
                                {"key": "x", "value": {"stringValue": "[]"}}]},
    "scopeSpans": [{"scope": {"name": "shoal", "version": "1.2"}, "spans": [{}, {}]}]}]})"));
}

/// A collector on loopback. It refuses what a collector refuses.
class Collector {
 public:
  Collector() {
    auto server =
        HttpServer::Start({}, {{"POST", "/v1/traces", [this](const HttpRequest& request, auto writer) {
                                  take(request);
                                  writer->send({.body = "{}"});
                                }}});
    SHOAL_CHECK(server.ok());
    server_ = *std::move(server);
  }
  std::string url() const { return fmt::format("http://127.0.0.1:{}", server_->port()); }
  std::vector<Json> spans() {
    const std::lock_guard lock(mutex_);
    return spans_;
  }
  /// The one span of this name.
  Json span(const std::string& name) {
    std::vector<Json> found;
    for (Json& span : spans()) {
      if (span["name"] == name) found.push_back(std::move(span));
    }
    EXPECT_EQ(found.size(), 1U) << name;
    return found.empty() ? Json() : found.front();
  }

 private:
  void take(const HttpRequest& request) {
    EXPECT_EQ(request.header("content-type"), "application/json");
    const auto body = ParseJson(request.body);
    ASSERT_TRUE(body.has_value()) << request.body;
    const std::lock_guard lock(mutex_);
    for (const Json& resource : body->at("resourceSpans")) {
      EXPECT_EQ(resource["resource"]["attributes"][0]["value"]["stringValue"], "shoal");
      for (const Json& scope : resource["scopeSpans"]) {
        for (const Json& span : scope["spans"]) spans_.push_back(span);
      }
    }
  }

  std::mutex mutex_;
  std::vector<Json> spans_;
  std::unique_ptr<HttpServer> server_;
};

std::map<std::string, std::string> AttributesOf(const Json& span) {
  std::map<std::string, std::string> attributes;
  for (const Json& one : span["attributes"])
    attributes[one["key"].get<std::string>()] = one["value"].begin().value().get<std::string>();
  return attributes;
}
int64_t NsOf(const Json& span, const char* key) { return std::stoll(span[key].get<std::string>()); }

class TraceTest : public OpenAiTest {
 protected:
  void trace(double sample, int rows_per_step = 256) {
    auto tracer =
        Tracer::Start({.endpoint = collector_.url(), .sample = sample, .node = "n", .version = "1"});
    ASSERT_TRUE(tracer.ok()) << ToString(tracer.status());
    tracer_ = *std::move(tracer);
    start({}, {.batch = {.rows_per_step = rows_per_step}, .tell_steps = true},
          {.tracer = tracer_, .node_name = [](NodeId) { return "mini2"; }});
  }
  /// Posts a chat with this traceparent; "": without one.
  HttpReply chat(const std::string& what, const std::string& parent = "") {
    const std::string body = say(what);
    auto stream = TcpStream::Connect("127.0.0.1", server_->port(), Soon());
    EXPECT_TRUE(stream.ok());
    const std::string header = parent.empty() ? "" : fmt::format("traceparent: {}\r\n", parent);
    EXPECT_TRUE(stream
                    ->send_all(fmt::format("POST {} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{}"
                                           "Content-Length: {}\r\n\r\n{}",
                                           kChat, header, body.size(), body),
                               Soon())
                    .ok());
    HttpReply reply;
    for (auto piece = stream->receive(Soon()); piece.ok() && !piece->empty(); piece = stream->receive(Soon()))
      reply.body += *piece;
    return reply;
  }
  /// Whatever was traced is there.
  std::vector<Json> exported() {
    EXPECT_TRUE(eventually([&] { return idle(); }));
    tracer_->stop(std::chrono::seconds(10));
    return collector_.spans();
  }

  Collector collector_;
  std::shared_ptr<Tracer> tracer_;
};

TEST_F(TraceTest, ARequestIsASpanOfItsClientsTraceWithWhatItWaitedForAndItsSteps) {
  trace(0);  // Its client decides.
  EXPECT_THAT(chat("hello", kParent).body, HasSubstr("hello"));
  const std::vector<Json> spans = exported();
  const Json root = collector_.span("POST /v1/chat/completions");
  EXPECT_EQ(root["parentSpanId"], "00f067aa0ba902b7");
  EXPECT_EQ(root["kind"], 2);
  EXPECT_FALSE(root.contains("status"));
  const auto attributes = AttributesOf(root);
  EXPECT_EQ(attributes.at("gen_ai.request.model"), "shoal-test");
  EXPECT_EQ(attributes.at("gen_ai.usage.output_tokens"), "5");
  EXPECT_EQ(attributes.at("shoal.steps"), "6");  // With that of the token that ends the text.
  std::map<std::string, Json> by_id;
  for (const Json& span : spans) {
    EXPECT_EQ(span["traceId"], "4bf92f3577b34da6a3ce929d0e0e4736");
    EXPECT_TRUE(by_id.emplace(span["spanId"].get<std::string>(), span).second) << span.dump();
  }
  std::map<std::string, int> count;
  for (const Json& span : spans) {
    ++count[span["name"].get<std::string>()];
    EXPECT_LE(NsOf(span, "startTimeUnixNano"), NsOf(span, "endTimeUnixNano")) << span.dump();
    if (span["spanId"] == root["spanId"]) continue;
    const auto parent = by_id.find(span["parentSpanId"].get<std::string>());
    ASSERT_NE(parent, by_id.end()) << span.dump();
    EXPECT_GE(NsOf(span, "startTimeUnixNano"), NsOf(parent->second, "startTimeUnixNano")) << span.dump();
    EXPECT_LE(NsOf(span, "endTimeUnixNano"), NsOf(parent->second, "endTimeUnixNano")) << span.dump();
  }
  EXPECT_EQ(count["queue"], 1);
  EXPECT_EQ(count["prefill"], 1);
  EXPECT_EQ(count["step"], 6);
  EXPECT_EQ(count["stage"], 6);
  EXPECT_EQ(count["hops"], 6);
  const int64_t now_ns = UnixSeconds() * 1'000'000'000;
  EXPECT_NEAR(static_cast<double>(NsOf(root, "startTimeUnixNano")), static_cast<double>(now_ns), 60e9);
  // Nothing that the client said, nor what it was told.
  for (const Json& span : spans) EXPECT_THAT(span.dump(), Not(HasSubstr("hello")));
}

TEST_F(TraceTest, EachChunkOfAPromptIsAStep) {
  trace(1, 8);
  chat("hello");
  exported();
  const auto attributes = AttributesOf(collector_.span("POST /v1/chat/completions"));
  const int chunks = (std::stoi(attributes.at("gen_ai.usage.input_tokens")) + 7) / 8;
  EXPECT_GT(chunks, 2);
  EXPECT_EQ(std::stoi(attributes.at("shoal.steps")), chunks + 5);
}

TEST_F(TraceTest, WhatAClientDoesNotWantTracedIsNot) {
  trace(1);
  std::string parent = kParent;
  parent.back() = '0';
  chat("a", parent);
  EXPECT_THAT(exported(), IsEmpty());
}

TEST_F(TraceTest, WithoutAClientsTraceTheShareDecidesAndIdsDiffer) {
  trace(1);
  for (int i = 0; i < 3; ++i) chat("a", i == 0 ? "nonsense" : "");
  std::map<std::string, int> traces;
  for (const Json& span : exported()) {
    if (span["kind"] == 2) {
      EXPECT_FALSE(span.contains("parentSpanId"));
      ++traces[span["traceId"].get<std::string>()];
    }
  }
  EXPECT_EQ(traces.size(), 3U);
  EXPECT_EQ(tracer_->outbox().totals().sent, 3);
}

TEST_F(TraceTest, AShareOfNothingTracesNothing) {
  trace(0);
  chat("a");
  EXPECT_THAT(exported(), IsEmpty());
}

TEST_F(TraceTest, ARequestThatFailsSaysWhy) {
  trace(1);
  engine_->lose(Unavailable("node 'mini3' is away"));
  std::thread client([&] { chat("*"); });
  EXPECT_TRUE(eventually([&] { return scheduler_->stats().waiting == 1; }));
  scheduler_->stop();
  client.join();
  tracer_->stop(std::chrono::seconds(10));
  const Json root = collector_.span("POST /v1/chat/completions");
  EXPECT_EQ(root["status"]["code"], 2);
  EXPECT_THAT(root["status"]["message"].get<std::string>(), HasSubstr("CANCELLED"));
}

TEST(RequestTrace, OfManyStepsSomeHaveSpansAndWhatPeersTellIsHeldToTheStep) {
  Collector collector;
  auto tracer = Tracer::Start({.endpoint = collector.url() + "/v1/traces", .node = "n", .version = "1"});
  ASSERT_TRUE(tracer.ok());
  auto trace = (*tracer)->begin("", {.name = "POST /x", .id = "7", .model = "m"});
  ASSERT_NE(trace, nullptr);
  trace->begin(3);
  const int64_t huge = INT64_MAX;
  for (int i = 1; i <= 10'000; ++i) {
    trace->step(
        {.id = StepId{static_cast<uint64_t>(i)},
         .rows = 1,
         .elapsed_ns = 1000,
         .timings = {{.node = NodeId{0}, .busy_ns = 300, .expert_wait_ns = 200},
                     {.node = NodeId{1}, .busy_ns = -5, .expert_wait_ns = huge, .mask_wait_ns = huge}}});
  }
  trace->end(absl::OkStatus());
  trace.reset();
  (*tracer)->stop(std::chrono::seconds(10));
  int steps = 0;
  int64_t in_first = 0;
  for (const Json& span : collector.spans()) {
    const int64_t ns = NsOf(span, "endTimeUnixNano") - NsOf(span, "startTimeUnixNano");
    steps += span["name"] == "step" ? 1 : 0;
    if (span["name"] != "POST /x" && span["name"] != "queue") {
      EXPECT_GE(ns, 0) << span.dump();
      EXPECT_LE(ns, 1000) << span.dump();
    }
    if (steps == 1 && (span["name"] == "stage" || span["name"] == "hops")) in_first += ns;
  }
  EXPECT_EQ(steps, RequestTrace::kStepsMax);
  EXPECT_EQ(in_first, 1000);  // They fill the step.
  EXPECT_EQ(AttributesOf(collector.span("POST /x")).at("shoal.steps"), "10000");
}

}  // namespace
}  // namespace shoal
