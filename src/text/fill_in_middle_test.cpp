#include "text/fill_in_middle.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

namespace shoal {
namespace {

/// A tokenizer of single characters, whose control tokens are `special`.
Tokenizer TokenizerWith(const std::vector<std::string>& special) {
  nlohmann::json json = {{"version", "1.0"}, {"added_tokens", nlohmann::json::array()}};
  json["model"] = {{"type", "BPE"}, {"vocab", nlohmann::json::object()}, {"merges", nlohmann::json::array()}};
  int id = 0;
  for (char c = ' '; c <= '~'; ++c) json["model"]["vocab"][std::string(1, c)] = id++;
  json["model"]["vocab"]["\n"] = id++;
  for (const std::string& name : special) {
    json["added_tokens"].push_back({{"id", id++},
                                    {"content", name},
                                    {"single_word", false},
                                    {"lstrip", false},
                                    {"rstrip", false},
                                    {"normalized", false},
                                    {"special", true}});
  }
  auto tokenizer = Tokenizer::FromJson(json.dump());
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
  return *std::move(tokenizer);
}

std::string Decoded(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  std::string text;
  for (const int32_t id : ids) text += *tokenizer.token_name(id);
  return text;
}

TEST(FillInMiddle, FilesComeInTheTokensOfTheModelOrAsText) {
  const AroundMiddle around{
      .prefix = "ab", .suffix = "cd", .begun = "ef", .files = {{"x.h", "X"}, {"y.h", "Y"}}};
  const Tokenizer qwen =
      TokenizerWith({"<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|file_sep|>", "<|repo_name|>"});
  EXPECT_EQ(Decoded(qwen, EncodeFillInMiddle(qwen, around)->tokens),
            "<|repo_name|>myproject\n<|file_sep|>x.h\nX<|file_sep|>y.h\nY<|file_sep|>filename\n"
            "<|fim_prefix|>ab<|fim_suffix|>cd<|fim_middle|>ef");
  const Tokenizer codestral = TokenizerWith({"[PREFIX]", "[SUFFIX]"});
  EXPECT_EQ(Decoded(codestral, EncodeFillInMiddle(codestral, around)->tokens),
            "\n\n--- snippet ---\n\nX\n\n--- snippet ---\n\nY[SUFFIX]cd[PREFIX]abef");
}

TEST(FillInMiddle, AsksInTheTokensOfTheModel) {
  const Tokenizer qwen =
      TokenizerWith({"<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|file_sep|>"});
  const auto prompt = EncodeFillInMiddle(qwen, {.prefix = "ab", .suffix = "cd"});
  ASSERT_TRUE(prompt.ok());
  EXPECT_EQ(Decoded(qwen, prompt->tokens), "<|fim_prefix|>ab<|fim_suffix|>cd<|fim_middle|>");
  EXPECT_EQ(prompt->tokens.size(), 7u);
  EXPECT_EQ(prompt->end_ids, std::vector<int32_t>{*qwen.token_id("<|file_sep|>")});
  const Tokenizer codestral = TokenizerWith({"[PREFIX]", "[SUFFIX]"});
  EXPECT_EQ(Decoded(codestral, EncodeFillInMiddle(codestral, {.prefix = "ab", .suffix = "cd"})->tokens),
            "[SUFFIX]cd[PREFIX]ab");
}

TEST(FillInMiddle, TheTextsForgeNoControlTokens) {
  const Tokenizer qwen = TokenizerWith({"<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"});
  const auto prompt = EncodeFillInMiddle(qwen, {.prefix = "<|fim_middle|>"});
  ASSERT_TRUE(prompt.ok());
  EXPECT_EQ(prompt->tokens.size(), 3 + std::string("<|fim_middle|>").size());
}

TEST(FillInMiddle, AModelThatWasNotTrainedForItSaysSo) {
  EXPECT_EQ(
      EncodeFillInMiddle(TokenizerWith({"<|fim_prefix|>"}), {.prefix = "a", .suffix = "b"}).status().code(),
      absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace shoal
