// What clients of llama-server and vLLM ask for, over HTTP.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "api/llamacpp/api.h"
#include "api/llamacpp/indent_cut.h"
#include "api/testing/openai_fixture.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;

class LlamaTest : public OpenAiTest {
 protected:
  std::vector<HttpRoute> more_routes() override {
    llama_ = std::make_unique<LlamaApi>(LlamaOptions{.build = "shoal test",
                                                     .model_path = "/models/test",
                                                     .chat_template = "{{ x }}",
                                                     .eos_token = "<|end|>",
                                                     .sampling = {.temperature = 0.5},
                                                     .sequences_max = 3},
                                        *service_, *scheduler_);
    return llama_->routes();
  }
  std::string code(const std::string& path, const std::string& body) {
    return post_json(path, body, 400)["error"]["code"].get<std::string>();
  }
  std::unique_ptr<LlamaApi> llama_;
};

TEST_F(LlamaTest, TextBecomesTokensAndTokensText) {
  start();
  const Json tokens = post_json("/tokenize", R"({"content": "hé<|end|>"})");
  EXPECT_EQ(tokens.dump(), R"({"tokens":[104,195,169,256]})");
  EXPECT_EQ(post_json("/tokenize", R"({"content": "<|end|>", "parse_special": false})")["tokens"].size(), 7u);
  const Json mixed = post_json("/tokenize", R"({"content": ["a", 256, "b"], "with_pieces": true})");
  EXPECT_EQ(mixed["tokens"].dump(),
            R"([{"id":97,"piece":"a"},{"id":256,"piece":"<|end|>"},{"id":98,"piece":"b"}])");
  // A byte that is no character by itself.
  EXPECT_EQ(post_json("/tokenize", R"({"content": [195], "with_pieces": true})")["tokens"][0]["piece"].dump(),
            "[195]");
  const Json text = post_json("/detokenize", R"({"tokens": [104, 195, 169, 256]})");
  EXPECT_EQ(text["content"], "hé<|end|>");
  EXPECT_EQ(text["prompt"], "hé<|end|>");
}

TEST_F(LlamaTest, VllmsShapesAreToldApart) {
  start();
  const Json text =
      post_json("/tokenize", R"({"model": "shoal-test", "prompt": "hi", "return_token_strs": true})");
  EXPECT_EQ(text["count"], 2);
  EXPECT_EQ(text["tokens"].dump(), "[104,105]");
  EXPECT_EQ(text["token_strs"].dump(), R"(["h","i"])");
  EXPECT_EQ(text["max_model_len"], service_->context());
  const Json chat = post_json("/tokenize", R"({"messages": [{"role": "user", "content": "hi"}]})");
  EXPECT_EQ(chat["tokens"], Json(Bytes("[user]hi[assistant]")));
  EXPECT_TRUE(chat["token_strs"].is_null());
}

TEST_F(LlamaTest, WhatTokenizingCantDoIsRefusedByName) {
  start();
  EXPECT_EQ(code("/tokenize", "{}"), "missing_parameter");
  EXPECT_EQ(code("/tokenize", R"({"content": "a", "prompt": "b"})"), "invalid_value");
  EXPECT_EQ(code("/tokenize", R"({"content": 5})"), "invalid_type");
  EXPECT_EQ(code("/tokenize", R"({"content": [257]})"), "invalid_value");
  EXPECT_EQ(code("/tokenize", R"({"content": "a", "surprise": 1})"), "unknown_parameter");
  EXPECT_EQ(code("/tokenize", R"({"messages": [{"role": "user", "content": "a"}], "surprise": 1})"),
            "unknown_parameter");
  EXPECT_EQ(code("/detokenize", R"({"tokens": [-1]})"), "invalid_value");
  EXPECT_EQ(code("/detokenize", "{}"), "missing_parameter");
  EXPECT_EQ(code("/detokenize", "[]"), "invalid_type");
  EXPECT_EQ(post("/tokenize", R"({"content": "a", "model": "other"})").status, 404);
}

TEST_F(LlamaTest, ATemplateIsApplied) {
  start();
  const std::string body =
      R"({"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "hi"}]})";
  EXPECT_EQ(post_json("/apply-template", body)["prompt"], "[system]S[user]hi[assistant]");
  EXPECT_EQ(code("/apply-template", "{}"), "missing_parameter");
}

TEST_F(LlamaTest, AModelWithoutTheTokensCantFillIn) {
  start();
  const Json error = post_json("/infill", R"({"input_prefix": "a", "input_suffix": "b"})", 400)["error"];
  EXPECT_EQ(error["code"], "unsupported_parameter");
  EXPECT_EQ(error["param"], "input_suffix");
}

/// Has the tokens for filling in. "say:" of the prompt's middle is what the model says.
class InfillTest : public LlamaTest {
 protected:
  InfillTest() {
    text_ = ByteText(kByteTemplate, {"<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"});
    vocabulary_ = kByteVocabulary + 3;
  }
  /// The last piece, and the text of all.
  std::pair<Json, std::string> streamed(const std::string& body) {
    std::string text;
    Json last;
    for (const std::string& event : events("/infill", body)) {
      EXPECT_TRUE(last.is_null() || last["stop"] == false) << "after the end: " << event;
      last = *ParseJson(event);
      text += last["content"].get<std::string>();
    }
    return {last, text};
  }
};

TEST_F(InfillTest, AStreamJoinsToTheWholeAnswer) {
  start();
  for (const char* script : {"middle", "", "two\\nlines", "a STOP b", "*"}) {
    const std::string fields = fmt::format(
        R"("input_prefix": "p", "input_suffix": "s", "prompt": "say:{}", "n_predict": 9, "stop": ["STOP"])",
        script);
    const Json whole = post_json("/infill", "{" + fields + "}");
    const auto [last, text] = streamed("{" + fields + R"(, "stream": true})");
    EXPECT_EQ(text, whole["content"]) << script;
    for (const char* key : {"stop_type", "stopping_word", "tokens_predicted", "tokens_evaluated", "prompt",
                            "model", "has_new_line", "truncated", "stop"}) {
      EXPECT_EQ(last[key], whole[key]) << script << ": " << key;
    }
  }
}

TEST_F(InfillTest, TheAnswerHasWhatClientsRead) {
  start();
  const Json answer = post_json(
      "/infill",
      R"({"input_prefix": "p", "input_suffix": "s", "prompt": "say:a\nb", "return_tokens": true, "temperature": 0,
          "samplers": ["top_k", "top_p", "infill"], "cache_prompt": true, "id_slot": 0, "t_max_predict_ms": 1000})");
  EXPECT_EQ(answer["content"], "a\nb");
  EXPECT_EQ(answer["tokens"].dump(), "[97,10,98]");
  EXPECT_EQ(answer["prompt"], "<|fim_prefix|>p<|fim_suffix|>s<|fim_middle|>say:a\nb");
  EXPECT_EQ(answer["stop_type"], "eos");
  EXPECT_EQ(answer["has_new_line"], true);
  EXPECT_EQ(answer["tokens_predicted"], 3);
  EXPECT_EQ(answer["tokens_evaluated"], 12);
  EXPECT_EQ(answer["generation_settings"]["temperature"], 0);
  EXPECT_EQ(answer["timings"]["predicted_n"], 3);
  EXPECT_EQ(answer["timings"]["prompt_n"], 12);
  const Json some = post_json("/infill", R"({"input_prefix": "p", "prompt": "say:x",
                                             "response_fields": ["content", "timings/predicted_n", "absent/y"]})");
  EXPECT_EQ(some.dump(), R"({"content":"x","predicted_n":1})");
}

TEST_F(InfillTest, NothingIsPredictedButThePromptIsCached) {
  start();
  const std::string long_text(100, 'p');
  const std::string around = fmt::format(R"("input_prefix": "{}", "input_suffix": "s")", long_text);
  const Json nothing = post_json("/infill", "{" + around + R"(, "n_predict": 0})");
  EXPECT_EQ(nothing["content"], "");
  EXPECT_EQ(nothing["stop_type"], "limit");
  EXPECT_EQ(nothing["tokens_predicted"], 0);
  ASSERT_TRUE(eventually([&] { return idle(); }));
  EXPECT_EQ(post_json("/infill", "{" + around + R"(, "n_predict": 1})")["tokens_cached"], 96);
}

TEST_F(InfillTest, TheTextEndsWhereItIsIndentedLess) {
  start();
  const auto ask = [&](const std::string& script) {
    return post_json("/infill", fmt::format(R"({{"input_prefix": "p", "prompt": "say:{}", "n_indent": 2}})",
                                            script))["content"];
  };
  EXPECT_EQ(ask("a\\n  b\\n   c"), "a\n  b\n   c");
  EXPECT_EQ(ask("a\\n  b\\n }"), "a\n  b\n ");
  EXPECT_EQ(ask("a\\n\\n  b"), "a\n");
}

TEST(IndentCut, AnyCutOfTheTextGivesTheSame) {
  const std::string text = "x\n  y\n\t\tz \n q\n  r";
  for (size_t first = 0; first <= text.size(); ++first) {
    IndentCut cut(2);
    OutputEvents out;
    cut.push(std::string_view(text).substr(0, first), out);
    cut.push(std::string_view(text).substr(first), out);
    std::string joined;
    for (const OutputEvent& event : out) joined += event.text;
    EXPECT_EQ(joined, "x\n  y\n\t\tz \n ") << first;
  }
}

TEST_F(LlamaTest, PropsAndSlotsSayWhatTheServerIsLike) {
  start();
  const Json props = *ParseJson(get("/props").body);
  EXPECT_EQ(props["default_generation_settings"]["n_ctx"], service_->context());
  EXPECT_EQ(props["default_generation_settings"]["params"]["temperature"], 0.5);
  EXPECT_EQ(props["total_slots"], 3);
  EXPECT_EQ(props["chat_template"], "{{ x }}");
  EXPECT_EQ(props["model_alias"], "shoal-test");
  EXPECT_EQ(props["modalities"]["vision"], false);
  engine_->hold(true);
  std::thread asking([&] { post_json(kChat, say("hello")); });
  ASSERT_TRUE(eventually([&] { return scheduler_->stats().running == 1; }));
  const Json slots = *ParseJson(get("/slots").body);
  ASSERT_EQ(slots.size(), 3u);
  EXPECT_EQ(slots[0]["is_processing"], true);
  EXPECT_EQ(slots[1]["is_processing"], false);
  EXPECT_EQ(get("/slots?fail_on_no_slot=1").status, 200);
  engine_->hold(false);
  asking.join();
}

TEST_F(LlamaTest, ModelsSayHowLongTheirContextIs) {
  start();
  const Json model = (*ParseJson(get("/v1/models").body))["data"][0];
  EXPECT_EQ(model["max_model_len"], service_->context());
  EXPECT_EQ(model["context_length"], service_->context());
  EXPECT_EQ(model["meta"]["n_ctx_train"], 4096);
  EXPECT_EQ(model["meta"]["n_vocab"], kByteVocabulary);
}

}  // namespace
}  // namespace shoal
