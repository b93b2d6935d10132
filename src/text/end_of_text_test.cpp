#include "text/end_of_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "text/test_data.h"

namespace shoal {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::Not;

/// A tokenizer of a few words, all of them special tokens.
Tokenizer WithTokens(const std::vector<std::string>& special, const std::vector<std::string>& plain = {}) {
  std::string vocabulary;
  std::string added;
  int id = 0;
  for (const auto& list : {special, plain}) {
    for (const std::string& token : list) {
      vocabulary += (id > 0 ? ", \"" : "\"") + token + "\": " + std::to_string(id);
      if (&list != &plain && id < static_cast<int>(special.size())) {
        added +=
            (id > 0 ? ", " : "") + std::string(R"({"id": )") + std::to_string(id) + R"(, "content": ")" +
            token +
            R"(", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true})";
      }
      ++id;
    }
  }
  auto tokenizer = Tokenizer::FromJson(
      R"({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [)" + added +
      R"(], "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
          "model": {"type": "WordLevel", "unk_token": "?", "vocab": {)" +
      vocabulary + "}}}");
  SHOAL_CHECK(tokenizer.ok());
  return *std::move(tokenizer);
}

ChatTemplate Template(const std::string& source) {
  auto chat = ChatTemplate::FromText(source, R"({"eos_token": "<eos>"})");
  SHOAL_CHECK(chat.ok());
  return *std::move(chat);
}

TEST(EndOfText, IsWhatTheConfigNames) {
  const Tokenizer tokenizer = WithTokens({"<eos>", "<other>", "?"});
  EXPECT_THAT(*EndOfTextTokens(tokenizer, nullptr, R"({"eos_token": "<other>"})"), ElementsAre(1));
  EXPECT_THAT(*EndOfTextTokens(tokenizer, nullptr, R"({"eos_token": {"content": "<eos>"}})"), ElementsAre(0));
  EXPECT_THAT(*EndOfTextTokens(tokenizer, nullptr, R"({"eos_token": "no token"})"), ElementsAre());
  EXPECT_THAT(*EndOfTextTokens(tokenizer, nullptr, ""), ElementsAre());
  EXPECT_EQ(EndOfTextTokens(tokenizer, nullptr, "{").status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(EndOfText, IsASpecialTokenOfAWellKnownName) {
  EXPECT_THAT(*EndOfTextTokens(WithTokens({"?", "<|eot_id|>", "<|im_end|>"}), nullptr, ""),
              ElementsAre(1, 2));
  EXPECT_THAT(*EndOfTextTokens(WithTokens({"?"}, {"<|eot_id|>"}), nullptr, ""), ElementsAre());
}

TEST(EndOfText, IsWhatTheTemplateWritesBehindAnAnswer) {
  const Tokenizer tokenizer = WithTokens({"?", "<|user|>", "<|bot|>", "<|done|>", "<|last|>", "<eos>"});
  const auto ends = [&](const std::string& source) {
    const ChatTemplate chat = Template(source);
    return *EndOfTextTokens(tokenizer, &chat, "");
  };
  EXPECT_THAT(ends("{% for m in messages %}<|bot|>{{ m.content }} <|done|>\n{% endfor %}"), ElementsAre(3));
  EXPECT_THAT(ends("{% for m in messages %}<|{{ 'user' if m.role == 'user' else 'bot' }}|>{{ m.content }}{% "
                   "endfor %}"),
              ElementsAre(1));
  EXPECT_THAT(
      ends("{% for m in messages %}<|bot|>{{ m.content }}{{ '<|last|>' if loop.last else '<|done|>' }}"
           "{% endfor %}"),
      ElementsAre(3, 4));
  EXPECT_THAT(ends("{% for m in messages %}{{ m.content }} Human: <|bot|>{% endfor %}"), ElementsAre());
  EXPECT_THAT(ends("{{ raise_exception('never') }}"), ElementsAre());
}

TEST(EndOfText, OfTheGoldensTemplatesIsTheirTurnEnd) {
  const auto ends = [](const std::string& tokenizer_name, const std::string& name) {
    const Tokenizer tokenizer = test::GoldenTokenizer(tokenizer_name);
    auto chat = ChatTemplate::FromText(test::FileText(test::Goldens() / "chat/templates" / (name + ".jinja")),
                                       R"({"eos_token": "</s>", "bos_token": "<s>"})");
    SHOAL_CHECK(chat.ok());
    std::vector<std::string> names;
    const auto ids = *EndOfTextTokens(tokenizer, &*chat, "");
    for (const int32_t id : ids) names.push_back(*tokenizer.token_name(id));
    return names;
  };
  EXPECT_THAT(ends("qwen", "Qwen-Qwen3-0.6B"), ElementsAre("<|endoftext|>", "<|im_end|>"));
  EXPECT_THAT(ends("mistral_v3", "mistralai-Mistral-Nemo-Instruct-2407"), ElementsAre("</s>"));
  EXPECT_THAT(ends("deepseek_style", "deepseek-ai-DeepSeek-V3.1"), Contains("<｜end▁of▁sentence｜>"));
}

TEST(EndOfText, OfAMessageOfSeveralIsNotTheAnswers) {
  const Tokenizer tokenizer = WithTokens({"?", "<|end|>", "<|return|>", "<|call|>"});
  const ChatTemplate chat = Template("{% for m in messages %}{{ m.content }}<|end|>{% endfor %}");
  EXPECT_THAT(*EndOfTextTokens(tokenizer, &chat, ""), ElementsAre(2, 3));
  EXPECT_THAT(*EndOfTextTokens(WithTokens({"?", "<|end|>"}), &chat, ""), ElementsAre(1));
}

}  // namespace
}  // namespace shoal
