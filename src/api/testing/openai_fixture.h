// A server of the OpenAI API over a pseudo-model that says what it is told to.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "api/answer/answer_service.h"
#include "api/http/client.h"
#include "api/http/server.h"
#include "api/json.h"
#include "api/openai/api.h"
#include "api/testing/byte_text.h"
#include "base/random.h"
#include "base/status.h"
#include "sched/testing/fake_engine.h"

namespace shoal {

inline Deadline Soon() { return Deadline::after_ms(30'000); }

/// A model that says what follows "say:" in the prompt, up to "[assistant]", then ends; "say:*" never ends,
/// and "say:?" gives letters drawn with the seed.
inline int32_t Reciter(std::span<const int32_t> tokens, int32_t prompt_tokens,
                       const SamplingParams& sampling) {
  std::string prompt;
  for (const int32_t token : tokens.first(static_cast<size_t>(prompt_tokens)))
    prompt += static_cast<char>(token);
  const size_t begin = prompt.rfind("say:") + 4;
  const std::string script = prompt.substr(begin, prompt.rfind("[assistant]") - begin);
  const auto said = static_cast<size_t>(static_cast<int32_t>(tokens.size()) - prompt_tokens);
  if (script == "*") return 'x';
  if (script == "?")
    return static_cast<int32_t>('a' + RandomBits(sampling.seed, sampling.choice, tokens.size()) % 26);
  return said < script.size() ? static_cast<unsigned char>(script[said]) : kByteEos;
}

class OpenAiTest : public ::testing::Test {
 protected:
  void start(FakeEngineOptions engine = {}, SchedulerOptions scheduler = {},
             AnswerServiceOptions service = {}) {
    engine.limits.vocabulary = vocabulary_;
    service.model_names = {"shoal-test", "org/shoal-test"};
    if (service.vocabulary == 0) service.vocabulary = vocabulary_;
    service.eos_ids = {kByteEos};
    OpenAiOptions api;
    api.cluster_status = [] { return R"({"nodes":[]})"; };
    api.load_progress = [] { return 0.4256; };
    api.trained_context = 4096;
    scheduler.on_step = [this](const StepObservation& step) { metrics_.observe_step(step); };
    engine_ = std::make_unique<FakeEngine>(engine, Reciter);
    scheduler_ = std::make_unique<Scheduler>(*engine_, std::move(scheduler));
    metrics_.set_sources({.scheduler = [this] { return scheduler_->stats(); },
                          .links =
                              [] {
                                return std::vector<LinkTotals>{{"a", "b", 12, 3}};
                              },
                          .node_name = [](NodeId node) { return fmt::format("node-{}", node); }});
    service_ = std::make_unique<AnswerService>(std::move(service), text_, *scheduler_, metrics_);
    api_ = std::make_unique<OpenAiApi>(std::move(api), *service_, *scheduler_, metrics_);
    std::vector<HttpRoute> routes = api_->routes();
    for (HttpRoute& route : more_routes()) routes.push_back(std::move(route));
    auto server =
        HttpServer::Start({.body_bytes_max = 64 << 10,
                           .error_body = OpenAiApi::ErrorBodyOf,
                           .on_response = [this](const std::string& route,
                                                 int status) { metrics_.count_response(route, status); }},
                          std::move(routes));
    ASSERT_TRUE(server.ok());
    server_ = *std::move(server);
  }
  /// Of another API that a test is about.
  virtual std::vector<HttpRoute> more_routes() { return {}; }
  void TearDown() override {
    if (!server_) return;
    EXPECT_TRUE(eventually([&] { return idle(); }));
    EXPECT_THAT(engine_->violations(), ::testing::IsEmpty());
    server_->stop(std::chrono::seconds(5));
    scheduler_->stop();
  }

  bool idle() {
    const SchedulerStats stats = scheduler_->stats();
    return stats.running == 0 && stats.waiting == 0 && stats.steps_in_flight == 0 && stats.blocks_used == 0;
  }
  bool eventually(const std::function<bool()>& condition) {
    const Deadline deadline = Soon();
    while (!condition() && !deadline.expired()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return condition();
  }
  HttpClient client() { return HttpClient("127.0.0.1", server_->port()); }
  HttpReply post(const std::string& path, const std::string& body) {
    const auto reply = client().post(path, body, Soon());
    EXPECT_TRUE(reply.ok()) << ToString(reply.status());
    return reply.ok() ? *reply : HttpReply{};
  }
  Json post_json(const std::string& path, const std::string& body, int status = 200) {
    const HttpReply reply = post(path, body);
    EXPECT_EQ(reply.status, status) << reply.body;
    return ParseJson(reply.body).value_or(Json());
  }
  HttpReply get(const std::string& path) { return *client().get(path, Soon()); }
  std::vector<std::string> events(const std::string& path, const std::string& body) {
    std::vector<std::string> all;
    const auto reply = client().post_events(path, body, Soon(), [&](std::string_view data) {
      all.emplace_back(data);
      return true;
    });
    EXPECT_TRUE(reply.ok()) << ToString(reply.status());
    EXPECT_EQ(reply->header("content-type"), "text/event-stream");
    return all;
  }
  static std::string say(const std::string& script, const std::string& more = "") {
    return fmt::format(R"({{"messages": [{{"role": "user", "content": "say:{}"}}]{}}})", script, more);
  }

  ServedText text_ = ByteText();
  int32_t vocabulary_ = kByteVocabulary;  ///< Of the model.
  Metrics metrics_;
  std::unique_ptr<FakeEngine> engine_;
  std::unique_ptr<Scheduler> scheduler_;
  std::unique_ptr<AnswerService> service_;
  std::unique_ptr<OpenAiApi> api_;
  std::unique_ptr<HttpServer> server_;
};

inline constexpr const char* kChat = "/v1/chat/completions";

}  // namespace shoal
