// Embeddings over HTTP, as OpenAI and Ollama have them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "absl/strings/escaping.h"
#include "api/ollama/embed_api.h"
#include "api/openai/embeddings_api.h"
#include "api/testing/openai_fixture.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;

/// The pseudo-model's embeddings have two values.
class EmbeddingsTest : public OpenAiTest {
 protected:
  std::vector<HttpRoute> more_routes() override {
    embedding_service_ = std::make_unique<EmbeddingService>(EmbeddingOptions{.pool = pool_, .width = 2},
                                                            *service_, *scheduler_, metrics_);
    embeddings_ = std::make_unique<EmbeddingsApi>(*embedding_service_);
    ollama_ = std::make_unique<OllamaEmbedApi>(*embedding_service_);
    std::vector<HttpRoute> routes = embeddings_->routes();
    for (HttpRoute& route : ollama_->routes()) routes.push_back(std::move(route));
    return routes;
  }
  std::vector<float> expected(std::string_view text) const {
    return Normalized(FakeEmbedding(Bytes(text), pool_), std::nullopt);
  }

  Pool pool_ = Pool::kMean;
  std::unique_ptr<EmbeddingService> embedding_service_;
  std::unique_ptr<EmbeddingsApi> embeddings_;
  std::unique_ptr<OllamaEmbedApi> ollama_;
};

TEST_F(EmbeddingsTest, EveryShapeOfInputIsEmbedded) {
  start({}, {.batch = {.rows_per_step = 5}});
  const Json one = post_json("/v1/embeddings", R"({"input": "hello there", "model": "shoal-test"})");
  EXPECT_EQ(one["object"], "list");
  EXPECT_EQ(one["model"], "shoal-test");
  EXPECT_EQ(one["usage"]["prompt_tokens"], 11);
  EXPECT_EQ(one["usage"]["total_tokens"], 11);
  EXPECT_EQ(one["data"][0]["object"], "embedding");
  EXPECT_EQ(one["data"][0]["embedding"].get<std::vector<float>>(), expected("hello there"));
  const Json several = post_json("/v1/embeddings", R"({"input": ["hi", "hello there", "hi"]})");
  ASSERT_EQ(several["data"].size(), 3u);
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(several["data"][i]["index"], i);
  EXPECT_EQ(several["data"][1]["embedding"], one["data"][0]["embedding"]);
  EXPECT_EQ(several["data"][2]["embedding"], several["data"][0]["embedding"]);
  EXPECT_EQ(post_json("/v1/embeddings", R"({"input": [104, 105]})")["data"],
            Json::array({several["data"][0]}));
  const Json lists = post_json("/v1/embeddings", R"({"input": [[104, 105], [97]]})");
  EXPECT_EQ(lists["data"][0], several["data"][0]);
  EXPECT_EQ(lists["data"].size(), 2u);
}

TEST_F(EmbeddingsTest, TheLastRowMayBeTheEmbedding) {
  pool_ = Pool::kLast;
  start();
  const std::string body = fmt::format(R"({{"input": "{}"}})", std::string(100, 'q') + "x");
  for (int i = 0; i < 2; ++i) {  // The second time most of it is cached.
    EXPECT_EQ(post_json("/v1/embeddings", body)["data"][0]["embedding"].get<std::vector<float>>(),
              expected("x"));
    ASSERT_TRUE(eventually([&] { return idle(); }));
  }
  EXPECT_EQ(scheduler_->stats().prefix_cache.hits, 1);
}

TEST_F(EmbeddingsTest, Base64HoldsTheSameValues) {
  start();
  const Json json = post_json("/v1/embeddings", R"({"input": "hi", "encoding_format": "base64"})");
  std::string bytes;
  ASSERT_TRUE(absl::Base64Unescape(json["data"][0]["embedding"].get<std::string>(), &bytes));
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  EXPECT_EQ(values, expected("hi"));
}

TEST_F(EmbeddingsTest, FewerDimensionsHaveLengthOneAgain) {
  start();
  const Json json = post_json("/v1/embeddings", R"({"input": "hi", "dimensions": 1})");
  EXPECT_EQ(json["data"][0]["embedding"].dump(), "[1.0]");
  const Json error = post_json("/v1/embeddings", R"({"input": "hi", "dimensions": 3})", 400)["error"];
  EXPECT_EQ(error["param"], "dimensions");
  EXPECT_THAT(error["message"].get<std::string>(), HasSubstr("from 1 to 2"));
}

TEST_F(EmbeddingsTest, WhatCantBeEmbeddedIsRefusedByName) {
  start({.limits = {.blocks = 8, .context = 100, .steps_in_flight = 1}});
  const auto error = [&](const std::string& body, int status = 400) {
    return post_json("/v1/embeddings", body, status)["error"];
  };
  EXPECT_EQ(error("{}")["code"], "missing_parameter");
  EXPECT_EQ(error(R"({"input": ""})")["code"], "empty_prompt");
  EXPECT_EQ(error(R"({"input": []})")["param"], "input");
  EXPECT_EQ(error(R"({"input": ["a", ""]})")["param"], "input");
  EXPECT_EQ(error(R"({"input": [["a"]]})")["param"], "input[0]");
  EXPECT_EQ(error(R"({"input": "a", "encoding_format": "int8"})")["param"], "encoding_format");
  EXPECT_EQ(error(R"({"input": "a", "surprise": 1})")["code"], "unknown_parameter");
  EXPECT_EQ(error(R"({"input": "a", "model": "other"})", 404)["code"], "model_not_found");
  const Json longer = error(fmt::format(R"({{"input": "{}"}})", std::string(101, 'a')));
  EXPECT_EQ(longer["code"], "context_length_exceeded");
  EXPECT_EQ(longer["param"], "input");
}

TEST_F(EmbeddingsTest, OllamasShapesHoldTheSame) {
  start({.limits = {.blocks = 8, .context = 100, .steps_in_flight = 1}});
  const Json list = post_json("/api/embed", R"({"model": "shoal-test:latest", "input": ["hi", "there"]})");
  EXPECT_EQ(list["embeddings"][0].get<std::vector<float>>(), expected("hi"));
  EXPECT_EQ(list["embeddings"][1].get<std::vector<float>>(), expected("there"));
  EXPECT_EQ(list["prompt_eval_count"], 7);
  EXPECT_EQ(post_json("/api/embed", R"({"input": "hi"})")["embeddings"][0], list["embeddings"][0]);
  EXPECT_EQ(post_json("/api/embeddings", R"({"prompt": "hi", "options": {}})")["embedding"],
            list["embeddings"][0]);
  EXPECT_EQ(post_json("/api/embed", R"({"model": "shoal-test"})")["embeddings"].dump(), "[]");
  const std::string text(120, 'a');
  EXPECT_EQ(post_json("/api/embed", fmt::format(R"({{"input": "{}"}})", text))["prompt_eval_count"], 99);
  EXPECT_TRUE(
      post_json("/api/embed", fmt::format(R"({{"input": "{}", "truncate": false}})", text), 400)["error"]
          .is_string());
  EXPECT_THAT(post_json("/api/embed", R"({"input": "a", "surprise": 1})", 400)["error"].get<std::string>(),
              HasSubstr("surprise"));
}

}  // namespace
}  // namespace shoal
