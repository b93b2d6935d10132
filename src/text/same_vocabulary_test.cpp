#include "text/same_vocabulary.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "text/test_data.h"

namespace shoal {
namespace {

using testing::HasSubstr;

/// The demo model's tokenizer, changed.
template <typename Change>
Tokenizer Changed(Change change) {
  auto json = nlohmann::json::parse(test::FileText(test::DemoModel() / "tokenizer.json"));
  change(json);
  return Tokenizer::FromJson(json.dump()).value();
}

TEST(SameVocabulary, ATokenizerIsItsOwn) {
  const Tokenizer tokenizer = test::GoldenTokenizer("qwen");
  EXPECT_TRUE(CheckSameVocabulary(tokenizer, test::GoldenTokenizer("qwen")).ok());
}

TEST(SameVocabulary, NamesTheFirstIdThatDiffers) {
  const Tokenizer tokenizer = Tokenizer::Load(test::DemoModel()).value();
  const Tokenizer swapped = Changed([&](nlohmann::json& json) {
    auto& ids = json["model"]["vocab"];
    std::swap(ids[*tokenizer.token_name(300)], ids[*tokenizer.token_name(301)]);
  });
  const absl::Status status = CheckSameVocabulary(tokenizer, swapped);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(status),
              HasSubstr("id 300 is '" + *tokenizer.token_name(301) + "' in the draft model"));
  EXPECT_THAT(Message(status), HasSubstr("'" + *tokenizer.token_name(300) + "' in the model"));
}

TEST(SameVocabulary, ATokenMoreOrSpecialInOneOnlyDiffers) {
  const Tokenizer tokenizer = Tokenizer::Load(test::DemoModel()).value();
  const Tokenizer plain_end = Changed([](nlohmann::json& json) {
    for (auto& token : json["added_tokens"]) {
      if (token["id"] == 4089) token["special"] = false;
    }
  });
  EXPECT_THAT(Message(CheckSameVocabulary(tokenizer, plain_end)),
              HasSubstr("the special token '<|im_end|>' in the model"));
  const Tokenizer more = Changed([&](nlohmann::json& json) {
    auto token = json["added_tokens"][0];
    token["id"] = tokenizer.vocab_size();
    token["content"] = "<|more|>";
    json["added_tokens"].push_back(token);
  });
  EXPECT_THAT(Message(CheckSameVocabulary(tokenizer, more)),
              HasSubstr("'<|more|>' in the draft model and no token"));
  EXPECT_THAT(Message(CheckSameVocabulary(more, tokenizer)), HasSubstr("no token in the draft model"));
}

}  // namespace
}  // namespace shoal
