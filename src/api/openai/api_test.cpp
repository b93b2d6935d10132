#include "api/openai/api.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <thread>

#include "api/http/tcp_stream.h"
#include "api/testing/openai_fixture.h"
#include "base/status.h"

namespace shoal {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

TEST_F(OpenAiTest, AChatGetsTheModelsTextReasonAndUsage) {
  start();
  const Json json = post_json(kChat, say("hello"));
  EXPECT_EQ(json["object"], "chat.completion");
  EXPECT_THAT(json["id"].get<std::string>(), ::testing::StartsWith("chatcmpl-"));
  EXPECT_EQ(json["model"], "shoal-test");
  EXPECT_EQ(json["choices"][0]["message"]["role"], "assistant");
  EXPECT_EQ(json["choices"][0]["message"]["content"], "hello");
  EXPECT_EQ(json["choices"][0]["finish_reason"], "stop");
  const int prompt = static_cast<int>(std::string("[user]say:hello[assistant]").size());
  EXPECT_EQ(json["usage"]["prompt_tokens"], prompt);
  EXPECT_EQ(json["usage"]["completion_tokens"], 5);
  EXPECT_EQ(json["usage"]["total_tokens"], prompt + 5);
}

TEST_F(OpenAiTest, TheUsageSaysHowManyTokensWereCached) {
  start();
  const std::string text(100, 'a');
  EXPECT_EQ(post_json(kChat, say(text))["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
  ASSERT_TRUE(eventually([&] { return idle(); }));
  const Json again = post_json(kChat, say(text));
  EXPECT_EQ(again["usage"]["prompt_tokens_details"]["cached_tokens"], 96);
  EXPECT_EQ(again["choices"][0]["message"]["content"], text);
  ASSERT_TRUE(eventually([&] { return idle(); }));
  const Json stats = *ParseJson(get("/cache/stats").body);
  EXPECT_EQ(stats["prefix_cache"]["hits"], 1);
  EXPECT_EQ(stats["prefix_cache"]["misses"], 1);
  EXPECT_EQ(stats["prefix_cache"]["tokens_reused"], 96);
  EXPECT_EQ(stats["blocks"]["used"], 0);
  EXPECT_EQ(stats["blocks"]["cached"].get<int>() + stats["blocks"]["free"].get<int>(), 64);
  const std::string metrics = get("/metrics").body;
  for (const char* line :
       {"shoal_prefix_cache_lookups_total{result=\"hit\"} 1", "shoal_prefix_cache_tokens_reused_total 96",
        "shoal_prefix_cache_evictions_total 0"}) {
    EXPECT_THAT(metrics, HasSubstr(line));
  }
}

TEST_F(OpenAiTest, MaxTokensEndsTheTextWithLength) {
  start();
  for (const char* name : {"max_tokens", "max_completion_tokens"}) {
    const Json json = post_json(kChat, say("hello", fmt::format(R"(, "{}": 3)", name)));
    EXPECT_EQ(json["choices"][0]["message"]["content"], "hel");
    EXPECT_EQ(json["choices"][0]["finish_reason"], "length");
  }
}

TEST_F(OpenAiTest, AStreamJoinsToTheAnswer) {
  start();
  const std::vector<std::string> data =
      events(kChat, say("h\xC3\xA9llo \xF0\x9F\x90\x9F!",
                        R"(, "stream": true, "stream_options": {"include_usage": true})"));
  ASSERT_GE(data.size(), 4u);
  EXPECT_EQ(data.back(), "[DONE]");
  std::string text;
  for (size_t i = 0; i + 1 < data.size(); ++i) {
    const Json chunk = *ParseJson(data[i]);
    EXPECT_EQ(chunk["object"], "chat.completion.chunk");
    EXPECT_EQ(chunk["id"], (*ParseJson(data[0]))["id"]);
    if (i + 2 == data.size()) {
      EXPECT_THAT(chunk["choices"], IsEmpty());
      EXPECT_EQ(chunk["usage"]["completion_tokens"], 12);
      continue;
    }
    EXPECT_TRUE(chunk["usage"].is_null());
    const Json& choice = chunk["choices"][0];
    if (i == 0) {
      EXPECT_EQ(choice["delta"]["role"], "assistant");
    }
    text += choice["delta"].value("content", "");
    EXPECT_EQ(choice["finish_reason"].is_null(), i + 3 != data.size()) << data[i];
  }
  EXPECT_EQ(text, "h\xC3\xA9llo \xF0\x9F\x90\x9F!");
}

TEST_F(OpenAiTest, CompletionsContinueTextAndTokenIds) {
  start();
  for (const char* prompt :
       {R"("say:abcdefghijklmnopqrstuvwxyz")", R"(["say:abcdefghijklmnopqrstuvwxyz"])"}) {
    const Json json = post_json("/v1/completions", fmt::format(R"({{"prompt": {}}})", prompt));
    EXPECT_EQ(json["object"], "text_completion");
    EXPECT_EQ(json["choices"][0]["text"], "abcdefghijklmnop");  // 16 tokens unless said.
    EXPECT_EQ(json["choices"][0]["finish_reason"], "length");
  }
  const Json ids = post_json("/v1/completions", R"({"prompt": [115, 97, 121, 58, 104, 105]})");
  EXPECT_EQ(ids["choices"][0]["text"], "hi");
  EXPECT_EQ(ids["usage"]["prompt_tokens"], 6);
  const std::vector<std::string> data = events("/v1/completions", R"({"prompt": "say:hi", "stream": true})");
  std::string text;
  for (size_t i = 0; i + 1 < data.size(); ++i) {
    EXPECT_FALSE(ParseJson(data[i])->contains("usage"));
    text += (*ParseJson(data[i]))["choices"][0]["text"].get<std::string>();
  }
  EXPECT_EQ(text, "hi");
}

TEST_F(OpenAiTest, GenerateIsPlain) {
  start();
  const Json json = post_json("/generate", R"({"prompt": "say:hello", "max_tokens": 4})");
  EXPECT_EQ(json["text"], "hell");
  EXPECT_EQ(json["finish_reason"], "length");
}

TEST_F(OpenAiTest, StopStringsEndTheTextBeforeThemAndSaveTheRest) {
  start();
  const std::string more = R"(, "stop": ["zzz", "lo w"])";
  const Json json = post_json(kChat, say("hello world and more", more));
  EXPECT_EQ(json["choices"][0]["message"]["content"], "hel");
  EXPECT_EQ(json["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(json["usage"]["completion_tokens"], 7);  // Nothing is computed after the stop.
  std::string text;
  for (const std::string& data : events(kChat, say("hello world", more + R"(, "stream": true)"))) {
    if (data != "[DONE]") text += (*ParseJson(data))["choices"][0]["delta"].value("content", "");
  }
  EXPECT_EQ(text, "hel");
  // The beginning of a stop that never comes is given out in the end.
  EXPECT_EQ(post_json(kChat, say("hello", R"(, "stop": "lox")"))["choices"][0]["message"]["content"],
            "hello");
}

TEST_F(OpenAiTest, TheSameSeedGivesTheSameText) {
  start();
  auto text = [&](const std::string& more) {
    return post_json(kChat, say("?", R"(, "max_tokens": 20)" + more))["choices"][0]["message"]["content"]
        .get<std::string>();
  };
  EXPECT_EQ(text(R"(, "seed": 7)"), text(R"(, "seed": 7)"));
  EXPECT_NE(text(R"(, "seed": 7)"), text(R"(, "seed": 8)"));
  EXPECT_NE(text(""), text(""));
}

TEST_F(OpenAiTest, ListsAndKnowsItsModels) {
  start();
  const Json list = *ParseJson(get("/v1/models").body);
  EXPECT_EQ(list["object"], "list");
  EXPECT_EQ(list["data"][0]["id"], "shoal-test");
  EXPECT_EQ((*ParseJson(get("/v1/models/org/shoal-test").body))["id"], "org/shoal-test");
  EXPECT_EQ((*ParseJson(get("/v1/models/org%2Fshoal-test").body))["object"], "model");
  EXPECT_EQ(get("/v1/models/other").status, 404);
  EXPECT_EQ(post_json(kChat, say("a", R"(, "model": "org/shoal-test")"))["model"], "shoal-test");
  const Json wrong = post_json(kChat, say("a", R"(, "model": "gpt-9")"), 404);
  EXPECT_EQ(wrong["error"]["code"], "model_not_found");
  EXPECT_EQ(wrong["error"]["param"], "model");
}

TEST_F(OpenAiTest, ErrorsHaveOpenAisShape) {
  start();
  const Json unknown = post_json(kChat, say("a", R"(, "surprise": 1)"), 400);
  EXPECT_EQ(unknown["error"]["type"], "invalid_request_error");
  EXPECT_EQ(unknown["error"]["param"], "surprise");
  EXPECT_EQ(unknown["error"]["code"], "unknown_parameter");
  EXPECT_EQ(post_json("/v1/embeddings", "{}", 404)["error"]["code"], "unknown_url");
  EXPECT_EQ((*ParseJson(get(kChat).body))["error"]["type"], "invalid_request_error");
  EXPECT_EQ(get(kChat).status, 405);
  EXPECT_THAT(post_json(kChat, std::string(65 << 10, ' '), 413)["error"]["message"].get<std::string>(),
              HasSubstr("65536"));
  const Json nothing = post_json("/v1/completions", R"({"prompt": ""})", 400);
  EXPECT_EQ(nothing["error"]["param"], "prompt");
}

TEST_F(OpenAiTest, WhatCanNeverFitIsRefusedWithTheNumbers) {
  start({.limits = {.blocks = 8, .context = 100, .steps_in_flight = 1}});
  const Json json = post_json(kChat, say(std::string(200, 'a')), 400);
  EXPECT_EQ(json["error"]["code"], "context_length_exceeded");
  EXPECT_EQ(json["error"]["param"], "messages");
  EXPECT_THAT(json["error"]["message"].get<std::string>(), HasSubstr("100"));
  // Without max_tokens the rest of the context may be used.
  const Json rest = post_json(kChat, say("*"));
  EXPECT_EQ(rest["usage"]["total_tokens"], 100);
  EXPECT_EQ(rest["choices"][0]["finish_reason"], "length");
}

TEST_F(OpenAiTest, ATokenBeyondTheModelsVocabularyIsTheRequestsFaultAndNobodyElses) {
  // Only the template can write the token: a message that spells it is text.
  text_ = ByteText(
      "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
      "{% if messages[0].content == 'say:mark' %}<|end|>{% endif %}[assistant]");
  start({.step_time = milliseconds(1)}, {}, {.vocabulary = kByteEos});
  TcpStream other = *TcpStream::Connect("127.0.0.1", server_->port(), Soon());
  const std::string endless = say("*", R"(, "stream": true)");
  ASSERT_TRUE(other
                  .send_all(fmt::format("POST {} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{}", kChat,
                                        endless.size(), endless),
                            Soon())
                  .ok());
  ASSERT_TRUE(eventually([&] { return scheduler_->stats().running == 1; }));
  const std::vector<std::pair<std::string, std::string>> requests = {
      {kChat, say("mark")},
      {"/v1/completions", R"({"prompt": "a <|end|> b"})"},
      {"/generate", R"({"prompt": "a <|end|> b"})"}};
  for (const auto& [path, body] : requests) {
    const Json error = post_json(path, body, 400)["error"];
    EXPECT_EQ(error["code"], "token_out_of_vocabulary") << path;
    EXPECT_EQ(error["param"], path == kChat ? "messages" : "prompt");
    EXPECT_THAT(error["message"].get<std::string>(), HasSubstr("token 256 ('<|end|>')"));
  }
  EXPECT_EQ(scheduler_->stats().running, 1);
}

TEST_F(OpenAiTest, DrainingRefusesNewRequestsLetsOthersRunAndThenEndsThemWithAnError) {
  start({.step_time = milliseconds(1)});
  std::vector<std::string> streamed;
  std::thread stream([&] { streamed = events(kChat, say("*", R"(, "stream": true)")); });
  HttpReply whole;
  std::thread other([&] { whole = post(kChat, say("*")); });
  ASSERT_TRUE(eventually([&] { return scheduler_->stats().running == 2; }));
  const int64_t before = scheduler_->stats().tokens_generated;
  service_->drain();
  const HttpReply refused = post(kChat, say("hello"));
  EXPECT_EQ(refused.status, 503);
  EXPECT_FALSE(refused.header("retry-after").empty());
  EXPECT_EQ((*ParseJson(refused.body))["error"]["code"], "shutting_down");
  EXPECT_EQ(get("/health").status, 503);
  EXPECT_EQ((*ParseJson(get("/health").body))["status"], "draining");
  EXPECT_EQ(get("/metrics").status, 200);
  EXPECT_TRUE(eventually([&] { return scheduler_->stats().tokens_generated > before + 5; }));
  scheduler_->stop();
  stream.join();
  other.join();
  ASSERT_GE(streamed.size(), 2u);
  EXPECT_THAT((*ParseJson(streamed.back()))["error"]["message"].get<std::string>(),
              HasSubstr("shutting down"));
  EXPECT_EQ(whole.status, 503) << whole.body;
  EXPECT_THAT((*ParseJson(whole.body))["error"]["message"].get<std::string>(), HasSubstr("shutting down"));
  server_ = nullptr;  // A stopped scheduler does not become idle.
}

TEST_F(OpenAiTest, AFullQueueIs429WithRetryAfter) {
  start({}, {.batch = {.rows_per_step = 64, .sequences_max = 1}, .queue_max = 1});
  engine_->hold(true);
  std::vector<std::thread> clients;
  for (int i = 0; i < 2; ++i) {
    clients.emplace_back([&] { EXPECT_EQ(post(kChat, say("hi")).status, 200); });
    // The first must have left the queue before the second comes, or that one finds it full.
    ASSERT_TRUE(eventually([&] {
      const SchedulerStats stats = scheduler_->stats();
      return stats.running == 1 && stats.waiting == i;
    }));
  }
  const HttpReply refused = post(kChat, say("hi"));
  EXPECT_EQ(refused.status, 429);
  EXPECT_EQ(refused.header("retry-after"), "1");
  EXPECT_EQ((*ParseJson(refused.body))["error"]["code"], "rate_limit_exceeded");
  engine_->hold(false);
  for (std::thread& one : clients) one.join();
}

TEST(ApiError, AFullQueueSaysWhenItHasAPlaceButNoLongerThanClientsHeed) {
  EXPECT_EQ(FromStatus(QueueFull(3, 0)).retry_after_s, 1);
  EXPECT_EQ(FromStatus(QueueFull(3, 12.2)).retry_after_s, 13);
  EXPECT_EQ(FromStatus(QueueFull(3, 1e9)).retry_after_s, 60);
  EXPECT_EQ(FromStatus(ResourceExhausted("no memory")).retry_after_s, 1);
  EXPECT_EQ(FromStatus(Unavailable("a node is lost")).retry_after_s, std::nullopt);
}

TEST_F(OpenAiTest, ACallerMayNotAskForABetterPriorityThanItsOwn) {
  start({}, {},
        {.caller_priority = [](const std::string&) { return CallerPriority{.usual = 5, .best = 5}; }});
  for (const char* allowed : {"", R"(, "priority": 5)", R"(, "priority": 100)"}) {
    EXPECT_EQ(post(kChat, say("hi", allowed)).status, 200) << allowed;
  }
  const HttpReply refused = post(kChat, say("hi", R"(, "priority": 4)"));
  EXPECT_EQ(refused.status, 400);
  EXPECT_EQ((*ParseJson(refused.body))["error"]["param"], "priority");
  EXPECT_THAT(refused.body, HasSubstr("from 5 to 100"));
}

TEST_F(OpenAiTest, AClientThatLeavesFreesItsBlocks) {
  start({.step_time = milliseconds(1)});
  for (const bool stream : {true, false}) {
    {
      auto socket = TcpStream::Connect("127.0.0.1", server_->port(), Soon());
      const std::string body = say("*", stream ? R"(, "stream": true)" : "");
      ASSERT_TRUE(socket
                      ->send_all(fmt::format("POST {} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{}",
                                             kChat, body.size(), body),
                                 Soon())
                      .ok());
      ASSERT_TRUE(eventually([&] { return scheduler_->stats().blocks_used > 0; }));
      if (stream) {
        ASSERT_TRUE(socket->receive(Soon()).ok());
      }
    }
    EXPECT_TRUE(eventually([&] { return idle(); })) << stream;
  }
  EXPECT_LT(engine_->steps(), 2 * 1900);
}

TEST_F(OpenAiTest, AStreamGoesOnWhereItStoodWhenALostNodeIsBack) {
  const std::string end = R"(, "stream": true, "max_tokens": 400, "stop": ["xyz", "END"], "seed": 5)";
  start({.step_time = std::chrono::microseconds(200)});
  const auto text_over = [&](int losses) {
    std::string text;
    int seen = 0;
    const auto reply = client().post_events(kChat, say("?", end), Soon(), [&](std::string_view one) {
      if (one != "[DONE]") text += (*ParseJson(one))["choices"][0]["delta"].value("content", "");
      if (++seen % 50 != 0 || seen / 50 > losses) return true;
      engine_->lose(Unavailable("node 'mini2' is lost"));
      engine_->recover({.blocks = 64, .context = 2048, .steps_in_flight = 1, .vocabulary = kByteVocabulary});
      return true;
    });
    EXPECT_TRUE(reply.ok());
    EXPECT_EQ(scheduler_->stats().engine_losses, losses);
    EXPECT_THAT(engine_->violations(), IsEmpty());
    return text;
  };
  const std::string undisturbed = text_over(0);
  EXPECT_GT(undisturbed.size(), 150u);
  EXPECT_EQ(text_over(3), undisturbed);
  EXPECT_THAT(get("/metrics").body, HasSubstr("shoal_restarts_total 3"));
}

TEST_F(OpenAiTest, ALostNodeIs503BeforeTheFirstTokenAndAnEventAfter) {
  start({}, {.on_loss = OnLoss::kFail, .engine_wait = milliseconds(20)});
  const absl::Status lost = Unavailable("node 'mini2', layer 3, step 17: no progress for 5 s");
  std::vector<std::string> data;
  const auto reply = client().post_events(kChat, say("*", R"(, "stream": true, "max_tokens": 2000)"), Soon(),
                                          [&](std::string_view one) {
                                            data.emplace_back(one);
                                            if (data.size() == 3) engine_->lose(lost);
                                            return true;
                                          });
  ASSERT_TRUE(reply.ok());
  const Json error = ParseJson(data.back()).value_or(Json());
  ASSERT_TRUE(error.contains("error")) << data.back();
  EXPECT_THAT(error["error"]["message"].get<std::string>(), HasSubstr("'mini2', layer 3, step 17"));
  const Json refused = post_json(kChat, say("hi"), 503);
  EXPECT_EQ(refused["error"]["type"], "server_error");
  EXPECT_THAT(refused["error"]["message"].get<std::string>(), HasSubstr("mini2"));
  EXPECT_EQ(get("/health").status, 503);
  const Json health = *ParseJson(get("/health").body);
  EXPECT_EQ(health["status"], "loading");
  EXPECT_EQ(health["progress"], 0.425);
  EXPECT_THAT(health["reason"].get<std::string>(),
              ::testing::AllOf(::testing::StartsWith("loading 42 %"), HasSubstr("mini2")));
  engine_->recover({.blocks = 64, .context = 2048, .steps_in_flight = 1, .vocabulary = kByteVocabulary});
  ASSERT_TRUE(eventually([&] { return get("/health").status == 200; }));
  EXPECT_EQ(post_json(kChat, say("hi"))["choices"][0]["message"]["content"], "hi");
}

TEST_F(OpenAiTest, ADeadlineEndsTheRequest) {
  start({.step_time = milliseconds(5)}, {}, {.request_deadline = milliseconds(60)});
  EXPECT_EQ(post_json(kChat, say("*"), 504)["error"]["code"], "deadline_exceeded");
}

TEST_F(OpenAiTest, SixtyFourStreamsGetTheirOwnTexts) {
  start({.limits = {.blocks = 24, .context = 512, .steps_in_flight = 2}},
        {.batch = {.rows_per_step = 48, .sequences_max = 16}});
  std::vector<std::thread> clients;
  for (int i = 0; i < 64; ++i) {
    clients.emplace_back([this, i] {
      std::string script;
      for (int n = 0; n < 1 + i; ++n) script += static_cast<char>('a' + (i * 7 + n * 3) % 26);
      if (i % 2 == 0) {
        EXPECT_EQ(post_json(kChat, say(script))["choices"][0]["message"]["content"], script);
        return;
      }
      std::string text;
      for (const std::string& data : events(kChat, say(script, R"(, "stream": true)"))) {
        if (data != "[DONE]") text += (*ParseJson(data))["choices"][0]["delta"].value("content", "");
      }
      EXPECT_EQ(text, script);
    });
  }
  for (std::thread& one : clients) one.join();
}

TEST_F(OpenAiTest, OperatorsSeeTheState) {
  start();
  post(kChat, say("hello"));
  ASSERT_TRUE(eventually([&] { return idle(); }));
  EXPECT_EQ((*ParseJson(get("/health").body))["status"], "ok");
  EXPECT_EQ(get("/cluster/status").body, R"({"nodes":[]})");
  const Json cache = *ParseJson(get("/cache/stats").body);
  EXPECT_EQ(cache["blocks"]["total"], 64);
  EXPECT_EQ(cache["blocks"]["used"], 0);
  EXPECT_EQ(cache["blocks"]["free"], 64);
  EXPECT_EQ(cache["tokens_generated"], 6);  // With the one that ended the text.
  get("/nowhere/" + std::string(50, 'x'));
  const std::string metrics = get("/metrics").body;
  for (const char* line :
       {"shoal_generated_tokens_total 5", "shoal_time_to_first_token_seconds_count 1",
        "shoal_inter_token_latency_seconds_count 4", "shoal_kv_blocks{state=\"free\"} 64",
        "shoal_http_responses_total{route=\"/v1/chat/completions\",status=\"200\"} 1",
        "shoal_http_responses_total{route=\"other\",status=\"404\"} 1",
        "shoal_stage_busy_seconds_count{node=\"node-0\"} 6", "shoal_queue_requests 0",
        "shoal_link_bytes_total{from=\"a\",to=\"b\"} 12", "shoal_prompt_tokens_total 26"}) {
    EXPECT_THAT(metrics, HasSubstr(line));
  }
}

TEST_F(OpenAiTest, AConversationThatTheTemplateRefusesIsTheClientsFault) {
  text_ = ByteText("{{ raise_exception('roles must alternate') }}");
  start();
  const Json json = post_json(kChat, say("hi"), 400);
  EXPECT_THAT(json["error"]["message"].get<std::string>(), HasSubstr("roles must alternate"));
  text_.chat.reset();
  EXPECT_THAT(post_json(kChat, say("hi"), 400)["error"]["message"].get<std::string>(),
              HasSubstr("no chat template"));
}

TEST_F(OpenAiTest, TemplateKwargsAndToolsReachTheTemplate) {
  text_ = ByteText("{{ tools | length if tools else 0 }}{{ word }}[assistant]");
  start();
  const Json json = post_json(
      kChat,
      say("",
          R"(, "chat_template_kwargs": {"word": "say:kwargs"}, "tools": [{"type": "function", "function": {"name": "f"}}])"));
  EXPECT_EQ(json["choices"][0]["message"]["content"], "kwargs");
  EXPECT_EQ(json["usage"]["prompt_tokens"], static_cast<int>(std::string("1say:kwargs[assistant]").size()));
}

TEST_F(OpenAiTest, MalformedRequestsLeaveTheServerServing) {
  start();
  for (const char* path : {"/v1/chat/completions", "/v1/completions", "/generate"}) {
    for (const std::string& body :
         {std::string(), std::string("{"), std::string("[]"), std::string("\0\0", 2),
          std::string("{\"messages\":\"\xff\"}"), std::string(1000, '['), std::string("{}"),
          std::string(R"({"messages":[{}]})"), std::string(R"({"prompt":{}})")}) {
      EXPECT_TRUE(post_json(path, body, 400).contains("error")) << path << " " << body;
    }
  }
  EXPECT_EQ(post_json(kChat, say("fine"))["choices"][0]["message"]["content"], "fine");
}

}  // namespace
}  // namespace shoal
