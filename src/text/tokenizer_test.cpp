#include "text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "base/process.h"
#include "text/bridge.h"
#include "text/stream_decoder.h"
#include "text/test_data.h"

namespace shoal {
namespace {

using absl::StatusCode;
using testing::ElementsAre;
using testing::HasSubstr;

std::string Streamed(const Tokenizer& tokenizer, std::span<const int32_t> ids) {
  StreamDecoder stream(tokenizer, true);
  std::string text;
  for (const int32_t id : ids) text += *stream.push(id);
  return text + *stream.flush();
}

TEST(Tokenizer, LoadsTheFolderOfTheDemoModel) {
  const auto tokenizer = Tokenizer::Load(test::DemoModel());
  ASSERT_TRUE(tokenizer.ok()) << ToString(tokenizer.status());
  EXPECT_EQ(tokenizer->token_id("<|im_end|>"), 4089);
  const std::string text = "Grüße, 世界! def f(x): return x";
  const auto ids = tokenizer->encode(text, {});
  EXPECT_EQ(*tokenizer->decode(*ids, false), text);
  EXPECT_EQ(Streamed(*tokenizer, *ids), text);
}

TEST(Tokenizer, FindsTokensByNameAndById) {
  const Tokenizer tokenizer = test::GoldenTokenizer("qwen");
  EXPECT_EQ(tokenizer.vocab_size(), 151'669);
  const int32_t end = tokenizer.token_id("<|im_end|>").value();
  EXPECT_TRUE(tokenizer.is_special(end));
  EXPECT_EQ(*tokenizer.token_name(end), "<|im_end|>");
  const int32_t world = tokenizer.token_id("Ġworld").value();
  EXPECT_FALSE(tokenizer.is_special(world));
  EXPECT_EQ(*tokenizer.token_bytes(world), " world");
  EXPECT_EQ(tokenizer.token_id("no such token"), std::nullopt);
}

TEST(Tokenizer, TextGivesNoControlTokenWithoutParseSpecial) {
  for (const char* name : {"qwen", "llama3_style", "deepseek_style", "gemma_style", "mistral_v3"}) {
    SCOPED_TRACE(name);
    const Tokenizer tokenizer = test::GoldenTokenizer(name);
    for (const std::string text :
         {"<|im_end|>", "<tool_call>", "<|eot_id|>", "<｜User｜>", "<bos>", "</s>"}) {
      const auto control = tokenizer.token_id(text);
      const bool is_control = control && (tokenizer.is_special(*control) || text == "<tool_call>");
      if (!is_control) continue;
      EXPECT_THAT(*tokenizer.encode("a" + text, {.parse_special = true}), testing::Contains(*control))
          << text;
      const auto literal = *tokenizer.encode("a" + text, {});
      EXPECT_THAT(literal, testing::Not(testing::Contains(*control))) << text;
      EXPECT_EQ(*tokenizer.decode(literal, true), "a" + text);
    }
  }
}

TEST(Tokenizer, ARawPromptBeginsWithOneBos) {
  const std::vector<std::pair<std::string, std::string>> families = {
      {"mistral_v3", "<s>"}, {"llama3_style", "<|begin_of_text|>"}, {"gemma_style", "<bos>"}};
  for (const auto& [name, bos] : families) {
    const Tokenizer tokenizer = test::GoldenTokenizer(name);
    const int32_t id = *tokenizer.token_id(bos);
    const auto once = *tokenizer.encode_prompt(bos + "Hi");
    EXPECT_EQ(once, *tokenizer.encode(bos + "Hi", {.parse_special = true})) << name;
    EXPECT_EQ(once.front(), id);
    EXPECT_EQ((*tokenizer.encode_prompt("Hi")).front(), id);
    EXPECT_EQ(std::ranges::count(*tokenizer.encode_prompt("Hi" + bos), id), 2);
    // Who writes it twice gets it twice.
    EXPECT_EQ(std::ranges::count(*tokenizer.encode_prompt(bos + bos + "Hi"), id), 2) << name;
  }
  const Tokenizer qwen = test::GoldenTokenizer("qwen");
  EXPECT_EQ(*qwen.encode_prompt("<|im_end|><|im_end|>"),
            *qwen.encode("<|im_end|><|im_end|>", {.parse_special = true}));
  EXPECT_THAT(*qwen.encode_prompt(""), ElementsAre());
}

TEST(Tokenizer, PlainTextHasTheSameIdsWithAndWithoutParseSpecial) {
  const Tokenizer tokenizer = test::GoldenTokenizer("qwen");
  const std::string text = "if a < b && c > d:\n\tprint('<ok>')  # naïve";
  EXPECT_EQ(*tokenizer.encode(text, {}), *tokenizer.encode(text, {.parse_special = true}));
}

TEST(Tokenizer, IdsBeyondTheVocabularyDecodeToNothingAndNegativeIdsAreRefused) {
  const Tokenizer tokenizer = test::GoldenTokenizer("llama3_style");
  const std::vector<int32_t> beyond = {tokenizer.vocab_size(), 1'000'000, INT32_MAX};
  EXPECT_EQ(*tokenizer.decode(beyond, true), "");
  EXPECT_EQ(Streamed(tokenizer, beyond), "");
  EXPECT_THAT(Message(tokenizer.decode(std::vector{5, -1}, true).status()), HasSubstr("ids[1]: -1"));
  EXPECT_EQ(StreamDecoder(tokenizer, true).push(-7).status().code(), StatusCode::kInvalidArgument);
  for (const int32_t id : {-1, tokenizer.vocab_size(), INT32_MAX, INT32_MIN}) {
    EXPECT_EQ(tokenizer.token_bytes(id).status().code(), StatusCode::kInvalidArgument) << id;
    EXPECT_EQ(tokenizer.token_name(id).status().code(), StatusCode::kInvalidArgument) << id;
    EXPECT_FALSE(tokenizer.is_special(id)) << id;
  }
}

TEST(Tokenizer, RefusesTextThatIsNotUtf8) {
  const Tokenizer tokenizer = test::GoldenTokenizer("llama3_style");
  const auto ids = tokenizer.encode("ab\xff", {});
  EXPECT_EQ(ids.status().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(ids.status()), HasSubstr("byte 2"));
}

TEST(Tokenizer, ErrorsSayWhatIsWrongWithAFile) {
  const std::string json = test::GoldenTokenizerJson("llama3_style");
  for (const size_t size : {size_t{0}, size_t{1}, json.size() / 3, json.size() - 1}) {
    const auto cut = Tokenizer::FromJson(std::string_view(json).substr(0, size));
    EXPECT_EQ(cut.status().code(), StatusCode::kInvalidArgument) << size;
    EXPECT_THAT(Message(cut.status()), HasSubstr("EOF")) << size;
  }
  const std::vector<std::string> files = {"null",           "[]",       "{}",
                                          "{\"model\": 3}", "\xff\xfe", std::string(100'000, '[')};
  for (const std::string& text : files) {
    EXPECT_EQ(Tokenizer::FromJson(text).status().code(), StatusCode::kInvalidArgument) << text.substr(0, 20);
  }
  const auto missing = Tokenizer::Load("/nonexistent");
  EXPECT_EQ(missing.status().code(), StatusCode::kNotFound);
  EXPECT_THAT(Message(missing.status()), HasSubstr("/nonexistent/tokenizer.json"));
}

TEST(Tokenizer, ManyThreadsGetTheSameIdsAtOnce) {
  const Tokenizer tokenizer = test::GoldenTokenizer("deepseek_style");
  const std::string text = "The quick brown fox <think> jumps </think> 12345 世界";
  const auto parsed = *tokenizer.encode(text, {.parse_special = true});
  std::vector<std::jthread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 200; ++round) {
        EXPECT_EQ(*tokenizer.encode(text, {.parse_special = true}), parsed);
        EXPECT_EQ(*tokenizer.decode(*tokenizer.encode(text, {}), false), text);
      }
    });
  }
}

TEST(StreamDecoder, HoldsACharacterUntilItIsComplete) {
  const Tokenizer tokenizer = test::GoldenTokenizer("qwen");
  StreamDecoder stream(tokenizer, true);
  const auto byte = [&](const char* name) { return *stream.push(tokenizer.token_id(name).value()); };
  EXPECT_EQ(byte("a"), "a");
  EXPECT_EQ(byte("ð"), "");
  EXPECT_EQ(byte("Ł"), "");
  EXPECT_EQ(byte("ĺ"), "");
  EXPECT_EQ(byte("Ģ"), "😀");
  EXPECT_EQ(*stream.flush(), "");
}

TEST(StreamDecoder, ShowsOnlyTheSpecialTokensThatItIsTold) {
  const Tokenizer tokenizer = test::GoldenTokenizer("qwen");
  const int32_t shown = *tokenizer.token_id("<|im_start|>");
  const auto ids = *tokenizer.encode("é<|im_end|> a<|im_start|> b<|im_end|>", {.parse_special = true});
  StreamDecoder stream(tokenizer, true, {shown});
  std::string joined;
  for (const int32_t id : ids) joined += *stream.push(id);
  EXPECT_EQ(joined + *stream.flush(), "é a<|im_start|> b");
}

TEST(StreamDecoder, RandomTokensStreamToTheFullDecode) {
  // Byte-level vocabularies only; the next test has byte fallback.
  for (const char* name : {"qwen", "llama3_style", "deepseek_style"}) {
    const Tokenizer tokenizer = test::GoldenTokenizer(name);
    uint64_t state = 7;
    std::vector<int32_t> ids(2000);
    for (int32_t& id : ids) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      id = static_cast<int32_t>((state >> 33) % static_cast<uint64_t>(tokenizer.vocab_size()));
    }
    EXPECT_EQ(Streamed(tokenizer, ids), *tokenizer.decode(ids, true)) << name;
  }
}

TEST(StreamDecoder, ContinuesAfterABrokenByteWithByteFallback) {
  const Tokenizer tokenizer = test::GoldenTokenizer("mistral_v3");
  const auto byte = [&](const char* name) { return tokenizer.token_id(name).value(); };
  StreamDecoder stream(tokenizer, true);
  std::string text;
  for (const char* name : {"<0xE4>", "<0xBD>", "<0xA0>", "<0xFF>", "a", "b"})
    text += *stream.push(byte(name));
  EXPECT_EQ(text,
            "你\xef\xbf\xbd"
            "ab");
}

TEST(StreamDecoder, TheCostPerTokenIsBoundedForAnyTokens) {
  const Tokenizer tokenizer = test::GoldenTokenizer("qwen");
  const int32_t broken = tokenizer.token_id("ÿ").value();  // The byte 0xFF, which no character contains.
  const int32_t word = tokenizer.token_id("Ġworld").value();
  const int32_t special = tokenizer.token_id("<|im_end|>").value();
  for (const int32_t id : {broken, word, special}) {
    const std::vector<int32_t> ids(20'000, id);
    const CpuTime begin = ProcessCpuTime();  // Not time on the clock: others may have the CPU.
    EXPECT_EQ(Streamed(tokenizer, ids), *tokenizer.decode(ids, true));
    const CpuTime spent = ProcessCpuTime() - begin;
    // A quadratic decoder takes minutes.
    EXPECT_LT(spent.user_s + spent.system_s, 10) << id;
  }
}

TEST(Bridge, APanicBecomesAnError) {
  ShoalBytes error{};
  const absl::Status status = bridge::Result(shoal_bridge_panic(&error), error);
  EXPECT_EQ(status.code(), StatusCode::kInternal);
  EXPECT_THAT(Message(status), HasSubstr("on purpose"));
}

}  // namespace
}  // namespace shoal
