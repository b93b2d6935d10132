// Ollama's API over HTTP.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "api/http/text.h"
#include "api/ollama/api.h"
#include "api/ollama/request.h"
#include "api/ollama/writer.h"
#include "api/testing/bracket_parser.h"
#include "api/testing/openai_fixture.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;

class OllamaTest : public OpenAiTest {
 protected:
  void start_brackets() {
    start({}, {}, {.chat_format = [](const ChatRequest&, std::string_view) { return BracketFormat(); }});
  }
  std::vector<HttpRoute> more_routes() override {
    ollama_ = std::make_unique<OllamaApi>(OllamaModel{.architecture = "fake",
                                                      .format = "safetensors",
                                                      .digest = "abc",
                                                      .bytes = 7,
                                                      .context = [] { return int64_t{128}; }},
                                          *service_);
    return ollama_->routes();
  }
  std::vector<Json> lines(const std::string& path, const std::string& body) {
    const HttpReply reply = post(path, body);
    EXPECT_EQ(reply.header("content-type"), "application/x-ndjson");
    std::vector<Json> all;
    std::istringstream text(reply.body);
    for (std::string line; std::getline(text, line);) all.push_back(*ParseJson(line));
    return all;
  }
  std::unique_ptr<OllamaApi> ollama_;
};

std::string Ask(const std::string& script, const std::string& more = "") {
  return fmt::format(
      R"({{"model": "shoal-test:latest", "messages": [{{"role": "user", "content": "say:{}"}}]{}}})", script,
      more);
}

TEST_F(OllamaTest, TheLinesOfAStreamBuildTheWholeAnswer) {
  start_brackets();
  for (const char* script : {"plain", "(why)then", "a[f:{}]b", "[f:{}][g:{}]", "(open", ""}) {
    const Json whole = post_json("/api/chat", Ask(script, R"(, "stream": false)"));
    std::string content, thinking;
    Json calls = Json::array(), last;
    for (const Json& line : lines("/api/chat", Ask(script))) {
      EXPECT_TRUE(last.is_null() || last["done"] == false) << "after the end: " << line;
      last = line;
      content += line["message"]["content"].get<std::string>();
      thinking += line["message"].value("thinking", "");
      for (const Json& call : line["message"].value("tool_calls", Json::array())) calls.push_back(call);
    }
    EXPECT_EQ(content, whole["message"]["content"]) << script;
    EXPECT_EQ(thinking, whole["message"].value("thinking", "")) << script;
    EXPECT_EQ(calls, whole["message"].value("tool_calls", Json::array())) << script;
    EXPECT_EQ(last["done"], true);
    EXPECT_EQ(last["done_reason"], whole["done_reason"]);
    EXPECT_EQ(last["eval_count"], whole["eval_count"]);
    EXPECT_EQ(last["prompt_eval_count"], whole["prompt_eval_count"]);
  }
}

TEST_F(OllamaTest, GenerateTakesPromptsWithAndWithoutATemplate) {
  start();
  const Json chat = post_json(
      "/api/generate", R"({"model": "shoal-test", "prompt": "say:hi", "system": "S", "stream": false})");
  EXPECT_EQ(chat["response"], "hi");
  const Json raw = post_json("/api/generate", R"({"prompt": "say:hi", "raw": true, "stream": false})");
  EXPECT_EQ(raw["response"], "hi");
  EXPECT_EQ(raw["prompt_eval_count"], 6);
  EXPECT_GT(chat["prompt_eval_count"], 6);
  const Json loaded = post_json("/api/generate", R"({"model": "shoal-test", "keep_alive": 0})");
  EXPECT_EQ(loaded["done_reason"], "load");
}

TEST_F(OllamaTest, OptionsAreHonouredOrRefused) {
  start();
  const auto ask = [&](const std::string& options, int status = 200) {
    return post_json("/api/chat", Ask("*", R"(, "stream": false, "options": )" + options), status);
  };
  const Json cut =
      ask(R"({"num_predict": 3, "num_ctx": 4096, "temperature": 0, "top_k": 40, "repeat_penalty": 1.1})");
  EXPECT_EQ(cut["message"]["content"], "xxx");
  EXPECT_EQ(cut["done_reason"], "length");
  EXPECT_EQ(ask(R"({"stop": ["xx"]})")["message"]["content"], "");
  EXPECT_THAT(ask(R"({"mirostat": 2})", 400)["error"].get<std::string>(), HasSubstr("options.mirostat"));
  EXPECT_THAT(ask(R"({"surprise": 2})", 400)["error"].get<std::string>(), HasSubstr("options.surprise"));
  const std::string image = R"({"messages": [{"role": "user", "content": "x", "images": ["aGk="]}]})";
  EXPECT_THAT(post_json("/api/chat", image, 400)["error"].get<std::string>(),
              HasSubstr("messages[0].images"));
  EXPECT_EQ(post("/api/chat", R"({"model": "other"})").status, 404);
}

TEST_F(OllamaTest, TheModelIsListed) {
  start();
  EXPECT_EQ((*ParseJson(get("/api/tags").body))["models"][0]["name"], "shoal-test:latest");
  EXPECT_EQ((*ParseJson(get("/api/ps").body))["models"][0]["context_length"], 128);
  const Json shown = post_json("/api/show", R"({"model": "shoal-test"})");
  EXPECT_EQ(shown["model_info"]["fake.context_length"], 128);
  EXPECT_EQ(DumpJson(shown["capabilities"]), R"(["completion"])");
  EXPECT_EQ(post("/api/show", R"({"model": "other"})").status, 404);
  EXPECT_TRUE((*ParseJson(get("/api/version").body))["version"].is_string());
}

TEST(UtcText, IsOfRfc3339) { EXPECT_EQ(UtcText(1'768'478'400), "2026-01-15T12:00:00Z"); }

}  // namespace
}  // namespace shoal
