// Tokenizers that were put into a GGUF's metadata and taken out again, against the reference's ids.
#include "formats/gguf_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "formats/gguf.h"
#include "formats/gguf_pre_tokenizers.h"
#include "formats/test_gguf.h"
#include "text/chat_template.h"
#include "text/test_data.h"

namespace shoal {
namespace {

using nlohmann::json;
using testing::HasSubstr;

struct Case {
  const char* name;   ///< Of the golden tokenizer.
  const char* model;  ///< tokenizer.ggml.model
  const char* pre;    ///< tokenizer.ggml.pre; "" where there is none.
  const char* bos;    ///< The token put before a text; "" where there is none.
  bool space_first;   ///< SentencePiece: whether a text begins with a space.
};

/// What llama.cpp's converter writes for a tokenizer.json: tokens by id, their kinds, and merges or scores.
GgufBuilder MetadataOf(const Case& tested) {
  const bool sentence_piece = tested.model != std::string("gpt2");
  const json source = json::parse(test::GoldenTokenizerJson(tested.name));
  const json& model = source["model"];
  std::map<int32_t, std::string> by_id;
  for (const auto& [token, id] : model["vocab"].items()) by_id[id.get<int32_t>()] = token;
  std::map<int32_t, int32_t> kinds;
  for (const json& added : source["added_tokens"]) {
    by_id[added["id"].get<int32_t>()] = added["content"].get<std::string>();
    kinds[added["id"].get<int32_t>()] = added["special"].get<bool>() ? 3 : 4;
  }
  const auto size = static_cast<size_t>(by_id.rbegin()->first) + 1;
  std::vector<std::string> tokens(size);
  std::vector<int32_t> types(size, 1);
  std::map<std::string, int32_t> ids;
  for (size_t i = 0; i < size; ++i) {
    const auto id = static_cast<int32_t>(i);
    tokens[i] = by_id.contains(id) ? by_id[id] : fmt::format("[PAD{}]", id);
    if (!by_id.contains(id)) types[i] = 5;
    if (kinds.contains(id)) types[i] = kinds[id];
    if (sentence_piece && tokens[i].starts_with("<0x")) types[i] = 6;
    if (tokens[i] == "<unk>") types[i] = 2;
    ids[tokens[i]] = id;
  }
  GgufBuilder builder;
  builder.add_string("tokenizer.ggml.model", tested.model);
  if (*tested.pre != '\0') builder.add_string("tokenizer.ggml.pre", tested.pre);
  builder.add_strings("tokenizer.ggml.tokens", tokens);
  builder.add_ints("tokenizer.ggml.token_type", types);
  std::vector<std::string> merges;
  std::vector<float> scores(size, 0);
  for (const json& merge : model["merges"]) {
    const auto left = merge[0].get<std::string>();
    const auto right = merge[1].get<std::string>();
    merges.push_back(left + " " + right);
    float& score = scores[static_cast<size_t>(ids.at(left + right))];
    if (score == 0) score = -static_cast<float>(merges.size());  // The first merge that makes it.
  }
  if (sentence_piece) {
    builder.add_floats("tokenizer.ggml.scores", scores);
    builder.add_bool("tokenizer.ggml.add_space_prefix", tested.space_first);
    builder.add_int("tokenizer.ggml.unknown_token_id", static_cast<uint32_t>(ids.at("<unk>")));
  }
  if (tested.model != std::string("llama")) builder.add_strings("tokenizer.ggml.merges", merges);
  if (*tested.bos != '\0') {
    builder.add_int("tokenizer.ggml.bos_token_id", static_cast<uint32_t>(ids.at(tested.bos)));
    builder.add_bool("tokenizer.ggml.add_bos_token", true);
  }
  builder.add_string("tokenizer.chat_template", "{{ bos_token }}{{ messages[0]['content'] }}");
  return builder;
}

class GgufTokenizer : public testing::TestWithParam<Case> {};

TEST_P(GgufTokenizer, GivesTheIdsOfTheTokenizerThatItWasMadeOf) {
  const std::string file = MetadataOf(GetParam()).file();
  const auto header = ParseGguf(std::as_bytes(std::span(file)), "x.gguf");
  ASSERT_TRUE(header.ok()) << ToString(header.status());
  const auto text = TextOfGguf(header->metadata, "x.gguf");
  ASSERT_TRUE(text.ok()) << ToString(text.status());
  const auto tokenizer = Tokenizer::FromJson(text->tokenizer_json);
  ASSERT_TRUE(tokenizer.ok()) << ToString(tokenizer.status());
  const json vectors =
      json::parse(test::FileText(test::Goldens() / "tokenizers" / GetParam().name / "vectors.json"));
  ASSERT_GE(vectors["encode"].size(), 60u);
  for (const json& row : vectors["encode"]) {
    const auto sample = row["text"].get<std::string>();
    EXPECT_EQ(json(*tokenizer->encode(sample, {.parse_special = true})), row["ids"]) << sample;
    EXPECT_EQ(json(*tokenizer->encode(sample, {.add_special = true, .parse_special = true})),
              row["ids_special"])
        << sample;
  }
  for (const json& row : vectors["decode"]) {
    const auto ids = row["ids"].get<std::vector<int32_t>>();
    EXPECT_EQ(*tokenizer->decode(ids, row["skip_special"]), row["text"].get<std::string>());
  }
  const auto chat = ChatTemplate::FromText("", text->tokenizer_config_json);
  ASSERT_TRUE(chat.ok()) << ToString(chat.status());
  EXPECT_EQ(*chat->render({.messages = R"([{"role": "user", "content": "Hi"}])"}),
            GetParam().bos + std::string("Hi"));
}

INSTANTIATE_TEST_SUITE_P(
    Families, GgufTokenizer,
    testing::Values(Case{"qwen", "gpt2", "qwen2", "", false},
                    Case{"llama3_style", "gpt2", "llama-bpe", "<|begin_of_text|>", false},
                    Case{"deepseek_style", "gpt2", "deepseek-v3", "<｜begin▁of▁sentence｜>", false},
                    Case{"mistral_v3", "llama", "", "<s>", true},
                    Case{"gemma_style", "llama", "", "<bos>", false},
                    Case{"gemma_style", "gemma4", "", "<bos>", false}),
    [](const auto& tested) { return fmt::format("{}_{}", tested.param.name, tested.param.model); });

absl::StatusOr<Tokenizer> TokenizerIn(GgufBuilder& builder) {
  const std::string file = builder.file();
  ASSIGN_OR_RETURN(const GgufHeader header, ParseGguf(std::as_bytes(std::span(file)), "x.gguf"));
  ASSIGN_OR_RETURN(const GgufText text, TextOfGguf(header.metadata, "x.gguf"));
  return Tokenizer::FromJson(text.tokenizer_json);
}

TEST(GgufText, LeavesOutMergesOfWhatAreNoTokens) {
  GgufBuilder builder;
  builder.add_string("tokenizer.ggml.model", "gpt2");
  builder.add_string("tokenizer.ggml.pre", "qwen2");
  builder.add_strings("tokenizer.ggml.tokens", {"a", "b", "ab", "bb"});
  builder.add_strings("tokenizer.ggml.merges", {"x y", "b a", "a b"});
  const absl::StatusOr<Tokenizer> tokenizer = TokenizerIn(builder);
  ASSERT_TRUE(tokenizer.ok()) << ToString(tokenizer.status());
  EXPECT_THAT(*tokenizer->encode("abb", {}), testing::ElementsAre(2, 1));
}

TEST(GgufText, DeepSeeksFirstTokenizersPutASpaceBeforeLettersAndDigitsAlone) {
  for (const char* pre : {"deepseek-llm", "deepseek-coder"}) {
    GgufBuilder builder;
    builder.add_string("tokenizer.ggml.model", "gpt2");
    builder.add_string("tokenizer.ggml.pre", pre);
    builder.add_strings("tokenizer.ggml.tokens",
                        {"a", "b", "Ġ", "1", "2", "Ġa", "12", "ab", "Ċ", "ĊĊ", ",", "a,", "Ġ,"});
    builder.add_strings("tokenizer.ggml.merges", {"Ġ a", "1 2", "a b", "Ċ Ċ", "a ,", "Ġ ,"});
    const absl::StatusOr<Tokenizer> tokenizer = TokenizerIn(builder);
    ASSERT_TRUE(tokenizer.ok()) << ToString(tokenizer.status());
    // "ab", " ", "1", "2", two line ends, " a", ",", " ,"
    EXPECT_THAT(*tokenizer->encode("ab 12\n\n a, ,", {}), testing::ElementsAre(7, 2, 3, 4, 8, 8, 5, 10, 12))
        << pre;
  }
}

TEST(GgufText, EveryPreTokenizerIsOneThatTheLibraryTakes) {
  for (const PreTokenizer& pre : PreTokenizers()) {
    GgufBuilder builder;
    builder.add_string("tokenizer.ggml.model", "gpt2");
    builder.add_string("tokenizer.ggml.pre", std::string(pre.name));
    builder.add_strings("tokenizer.ggml.tokens", {"a", "b", "Ġ", "1", "ab", "Ġab"});
    builder.add_strings("tokenizer.ggml.merges", {"a b", "Ġ ab"});
    const absl::StatusOr<Tokenizer> tokenizer = TokenizerIn(builder);
    ASSERT_TRUE(tokenizer.ok()) << pre.name << ": " << ToString(tokenizer.status());
    EXPECT_EQ(tokenizer->decode(*tokenizer->encode("ab ab1", {}), false).value(), "ab ab1") << pre.name;
    EXPECT_THAT(*tokenizer->encode("ab ab", {}), testing::ElementsAre(4, 5)) << pre.name;
  }
}

/// What a pre-tokenizer cuts a text into, of bytes that are tokens and merge with all others.
std::vector<std::string> Words(std::string_view pre, const std::string& text) {
  const auto all = PreTokenizers();
  const auto found = std::ranges::find(all, pre, &PreTokenizer::name);
  EXPECT_NE(found, all.end()) << pre;
  const std::string digits = "0123456789";
  std::vector<std::string> tokens;
  std::vector<std::string> merges;
  for (const char c : digits) tokens.emplace_back(1, c);
  for (const size_t length : {2, 3}) {  // Only digits that follow one another in the text are asked for.
    for (size_t i = 0; i + length <= digits.size(); ++i) {
      tokens.push_back(digits.substr(i, length));
      merges.push_back(digits.substr(i, length - 1) + " " + digits.substr(i + length - 1, 1));
    }
  }
  GgufBuilder builder;
  builder.add_string("tokenizer.ggml.model", "gpt2");
  builder.add_string("tokenizer.ggml.pre", std::string(pre));
  builder.add_strings("tokenizer.ggml.tokens", tokens);
  builder.add_strings("tokenizer.ggml.merges", merges);
  const absl::StatusOr<Tokenizer> tokenizer = TokenizerIn(builder);
  EXPECT_TRUE(tokenizer.ok()) << ToString(tokenizer.status());
  const auto ids = tokenizer->encode(text, {});
  EXPECT_TRUE(ids.ok()) << ToString(ids.status());
  std::vector<std::string> words;
  for (const int32_t id : *ids) words.push_back(tokenizer->token_bytes(id).value());
  return words;
}

TEST(GgufText, DigitsAreCutAsEachPreTokenizerCutsThem) {
  using testing::ElementsAre;
  EXPECT_THAT(Words("qwen2", "1234"), ElementsAre("1", "2", "3", "4"));
  EXPECT_THAT(Words("llama-bpe", "1234"), ElementsAre("123", "4"));
  EXPECT_THAT(Words("afmoe", "1234"), ElementsAre("1", "234"));  // Threes from the right.
  EXPECT_THAT(Words("afmoe", "12345"), ElementsAre("12", "345"));
  EXPECT_THAT(Words("tiny_aya", "1234"), ElementsAre("1", "234"));
  EXPECT_THAT(Words("superbpe", "12345678"), ElementsAre("12", "345", "678"));
}

TEST(GgufText, Gemma4sMergesAreListedAndItsSpacesAreSentencePieces) {
  GgufBuilder builder;
  builder.add_string("tokenizer.ggml.model", "gemma4");
  builder.add_strings("tokenizer.ggml.tokens", {"<unk>", "a", "b", "▁", "▁a", "ab", "▁ab", "<0x0A>"});
  builder.add_ints("tokenizer.ggml.token_type", {2, 1, 1, 1, 1, 1, 1, 6});
  builder.add_strings("tokenizer.ggml.merges", {"▁ a", "a b", "▁ ab", "▁a b"});
  builder.add_int("tokenizer.ggml.unknown_token_id", uint32_t{0});
  const absl::StatusOr<Tokenizer> tokenizer = TokenizerIn(builder);
  ASSERT_TRUE(tokenizer.ok()) << ToString(tokenizer.status());
  // No space is put first; "▁ a" comes before "a b"; a byte that is no token is one of the 256.
  EXPECT_THAT(*tokenizer->encode("ab ab\n", {}), testing::ElementsAre(5, 6, 7));
  EXPECT_EQ(tokenizer->decode({{5, 6, 7}}, false).value(), "ab ab\n");
}

TEST(GgufText, RefusesTablesThatDoNotFitAndKindsThatAreNotBuilt) {
  const auto error = [](const GgufBuilder& builder) {
    const std::string file = builder.file();
    const auto header = ParseGguf(std::as_bytes(std::span(file)), "x.gguf");
    return Message(TextOfGguf(header->metadata, "x.gguf").status());
  };
  GgufBuilder empty;
  EXPECT_THAT(error(empty), HasSubstr("'tokenizer.ggml.model': expected a string, found nothing"));
  GgufBuilder kind;
  kind.add_string("tokenizer.ggml.model", "t5");
  kind.add_strings("tokenizer.ggml.tokens", {"a"});
  EXPECT_THAT(error(kind), HasSubstr("found \"t5\""));
  GgufBuilder pre;
  pre.add_string("tokenizer.ggml.model", "gpt2");
  pre.add_string("tokenizer.ggml.pre", "nobody");
  pre.add_strings("tokenizer.ggml.tokens", {"a"});
  EXPECT_THAT(error(pre), HasSubstr("llama-bpe"));
  GgufBuilder scores;
  scores.add_string("tokenizer.ggml.model", "llama");
  scores.add_strings("tokenizer.ggml.tokens", {"a", "b"});
  scores.add_floats("tokenizer.ggml.scores", {1});
  EXPECT_THAT(error(scores), HasSubstr("expected an array of 2 numbers, found array of 1 f32"));
  GgufBuilder bytes;
  bytes.add_string("tokenizer.ggml.model", "llama");
  bytes.add_strings("tokenizer.ggml.tokens", {"\xff"});
  EXPECT_THAT(error(bytes), HasSubstr("UTF-8"));
}

}  // namespace
}  // namespace shoal
