#include "text/grammar.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "base/process.h"
#include "base/random.h"
#include "text/test_data.h"

namespace shoal {
namespace {

using absl::StatusCode;
using testing::HasSubstr;

constexpr std::string_view kSchema = R"({
  "type": "object",
  "properties": {"name": {"enum": ["Ada", "Zoë"]}, "age": {"type": "integer", "minimum": 0, "maximum": 120}},
  "required": ["name", "age"],
  "additionalProperties": false,
  "x-guidance": {"whitespace_flexible": false}
})";

class GrammarTest : public testing::Test {
 protected:
  static constexpr int32_t kLogits = 2600;

  GrammarTest() {
    auto compiler = GrammarCompiler::Create(tokenizer_, kLogits, std::vector{eos_});
    SHOAL_CHECK(compiler.ok());
    compiler_.emplace(*std::move(compiler));
  }

  Grammar compile(GrammarKind kind, std::string_view text) {
    auto grammar = compiler_->compile(kind, text);
    EXPECT_TRUE(grammar.ok()) << ToString(grammar.status());
    return *std::move(grammar);
  }

  static std::vector<int32_t> allowed(Grammar& grammar) {
    std::vector<uint32_t> words(grammar.mask_words());
    const absl::Status status = grammar.mask(words);
    EXPECT_TRUE(status.ok()) << ToString(status);
    std::vector<int32_t> ids;
    for (int32_t id = 0; id < kLogits; ++id) {
      if (words[id / 32] >> (id % 32) & 1) ids.push_back(id);
    }
    return ids;
  }

  std::vector<int32_t> ids_of(std::string_view text) const { return *tokenizer_.encode(text, {}); }

  /// Draws random allowed tokens until an end-of-text token.
  std::vector<int32_t> draw(Grammar& grammar, uint64_t seed) {
    RandomStream random(seed);
    std::vector<int32_t> ids;
    while (ids.size() < 200) {
      const std::vector<int32_t> next = allowed(grammar);
      if (next.empty()) break;
      const int32_t id = next[random.below(next.size())];
      EXPECT_TRUE(grammar.consume(id).ok());
      if (id == eos_) break;
      ids.push_back(id);
    }
    return ids;
  }

  Tokenizer tokenizer_ = test::GoldenTokenizer("llama3_style");
  int32_t eos_ = tokenizer_.token_id("<|eot_id|>").value();
  std::optional<GrammarCompiler> compiler_;
};

TEST_F(GrammarTest, RandomAllowedTokensGiveTextsOfTheSchema) {
  std::set<std::string> names;
  for (uint64_t seed = 0; seed < 30; ++seed) {
    Grammar grammar = compile(GrammarKind::kJsonSchema, kSchema);
    const std::string text = *tokenizer_.decode(draw(grammar, seed), true);
    EXPECT_TRUE(grammar.is_stopped());
    const auto value = nlohmann::json::parse(text, nullptr, false);
    ASSERT_TRUE(value.is_object()) << text;
    EXPECT_EQ(value.size(), 2u) << text;
    names.insert(value["name"]);
    EXPECT_GE(value["age"].get<int>(), 0) << text;
    EXPECT_LE(value["age"].get<int>(), 120) << text;
  }
  EXPECT_EQ(names, (std::set<std::string>{"Ada", "Zoë"}));
}

TEST_F(GrammarTest, TextsOfTheSchemaAreAcceptedTokenByToken) {
  Grammar grammar = compile(GrammarKind::kJsonSchema, kSchema);
  EXPECT_FALSE(*grammar.is_accepting());
  for (const int32_t id : ids_of(R"({"name":"Zoë","age":36})")) {
    EXPECT_THAT(allowed(grammar), testing::Contains(id));
    ASSERT_TRUE(grammar.consume(id).ok()) << *tokenizer_.token_name(id);
  }
  EXPECT_TRUE(*grammar.is_accepting());
  EXPECT_THAT(allowed(grammar), testing::ElementsAre(eos_));
}

// Texts of all these end within 200 tokens, or not at all.
TEST_F(GrammarTest, AStateThatWentBackIsTheOneThatWasNeverAhead) {
  const std::pair<GrammarKind, std::string_view> grammars[] = {
      {GrammarKind::kJsonSchema, kSchema},
      {GrammarKind::kJsonSchema, R"({"type": "array", "items": {"type": "object"}})"},
      {GrammarKind::kRegex, "(The (moon|sea) is (bright|wide)[.] )+"},
      {GrammarKind::kLark, "start: sum\nsum: item (\"+\" item)*\nitem: /[0-9]+/ | \"(\" sum \")\""},
  };
  for (const auto& [kind, text] : grammars) {
    for (uint64_t seed = 0; seed < 8; ++seed) {
      RandomStream random(seed);
      Grammar walked = compile(kind, text);  // Goes ahead and back.
      Grammar plain = compile(kind, text);
      for (int i = 0; i < 60; ++i) {
        const std::vector<int32_t> next = allowed(plain);
        ASSERT_EQ(allowed(walked), next) << text << ", seed " << seed << ", token " << i;
        int64_t ahead = 0;
        for (const auto steps = static_cast<int64_t>(random.below(6)); ahead < steps; ++ahead) {
          const std::vector<int32_t> some = allowed(walked);
          const int32_t token = some[random.below(some.size())];
          ASSERT_TRUE(walked.consume(token).ok());
          if (token == eos_) {
            ++ahead;
            break;
          }
        }
        ASSERT_TRUE(walked.rewind(ahead).ok());
        const int32_t token = next[random.below(next.size())];
        if (token == eos_) break;
        ASSERT_TRUE(plain.consume(token).ok());
        ASSERT_TRUE(walked.consume(token).ok());
      }
    }
  }
}

TEST_F(GrammarTest, ForcedTokensAreTheOnlyOnesThatMayCome) {
  Grammar grammar = compile(GrammarKind::kJsonSchema, kSchema);
  const std::vector<int32_t> forced = *grammar.forced_tokens();
  EXPECT_EQ(*tokenizer_.decode(forced, true), R"({"name":")");
  for (const int32_t token : forced) {
    EXPECT_THAT(allowed(grammar), testing::ElementsAre(token));
    ASSERT_TRUE(grammar.consume(token).ok());
  }
  Grammar free = compile(GrammarKind::kRegex, "[0-9]{2}");
  EXPECT_THAT(*free.forced_tokens(), testing::IsEmpty());
}

TEST_F(GrammarTest, AForbiddenTokenIsRefusedAndChangesNothing) {
  Grammar grammar = compile(GrammarKind::kRegex, "[0-9]{2}");
  const auto before = allowed(grammar);
  for (const int32_t id : {tokenizer_.token_id("x").value(), eos_, kLogits - 1}) {
    EXPECT_EQ(grammar.consume(id).code(), StatusCode::kInvalidArgument) << id;
  }
  EXPECT_EQ(allowed(grammar), before);
  EXPECT_TRUE(grammar.consume(tokenizer_.token_id("7").value()).ok());
  for (const int32_t id : {-1, kLogits, INT32_MAX}) EXPECT_FALSE(grammar.consume(id).ok()) << id;
}

TEST_F(GrammarTest, ForcedTextIsTheOnlyContinuation) {
  Grammar grammar = compile(GrammarKind::kLark, R"(start: "The answer is " ("yes" | "no"))");
  EXPECT_EQ(*grammar.forced_text(), "The answer is ");
  for (const int32_t id : ids_of("The answer is ")) ASSERT_TRUE(grammar.consume(id).ok());
  EXPECT_EQ(*grammar.forced_text(), "");
  ASSERT_TRUE(grammar.consume(tokenizer_.token_id("n").value()).ok());
  EXPECT_EQ(*grammar.forced_text(), "o");
}

TEST_F(GrammarTest, ACopyIsIndependentOfItsOriginal) {
  Grammar grammar = compile(GrammarKind::kRegex, "ab|ac");
  ASSERT_TRUE(grammar.consume(tokenizer_.token_id("a").value()).ok());
  auto copy = grammar.copy();
  ASSERT_TRUE(copy.ok()) << ToString(copy.status());
  ASSERT_TRUE(copy->consume(tokenizer_.token_id("b").value()).ok());
  EXPECT_TRUE(*copy->is_accepting());
  EXPECT_FALSE(*grammar.is_accepting());
  ASSERT_TRUE(grammar.consume(tokenizer_.token_id("c").value()).ok());
}

TEST_F(GrammarTest, ErrorsSayWhatIsWrongWithAGrammar) {
  const auto error = [&](GrammarKind kind, const std::string& text) {
    const auto grammar = compiler_->compile(kind, text);
    EXPECT_EQ(grammar.status().code(), StatusCode::kInvalidArgument) << text.substr(0, 40);
    return Message(grammar.status());
  };
  EXPECT_THAT(error(GrammarKind::kJsonSchema, "{"), HasSubstr("JSON schema: EOF"));
  EXPECT_THAT(error(GrammarKind::kJsonSchema, R"({"type": "nonsense"})"), HasSubstr("nonsense"));
  EXPECT_THAT(error(GrammarKind::kRegex, "a(b"), HasSubstr("regular expression"));
  EXPECT_THAT(error(GrammarKind::kLark, "start: other"), HasSubstr("other"));
  EXPECT_THAT(error(GrammarKind::kLark, "\xff"), HasSubstr("UTF-8"));
  EXPECT_THAT(error(GrammarKind::kRegex, std::string(2 << 20, 'a')), HasSubstr("bytes"));
}

TEST_F(GrammarTest, HeavyAndDeepGrammarsTakeBoundedTimeAndStack) {
  std::string chain = "start: r0\n";
  for (int i = 0; i < 12'000; ++i) chain += fmt::format("r{}: r{}\n", i, i + 1);
  chain += "r12000: \"a\"\n";
  std::string sequence = "start: \"a\"";
  for (int i = 0; i < 60'000; ++i) sequence += " \"b\"";
  const std::string deep(100'000, '(');
  const std::vector<std::pair<GrammarKind, std::string>> grammars = {
      {GrammarKind::kRegex, "(a{1,1000}){1,1000}"},
      {GrammarKind::kRegex, "(a|a?)+b{100000}"},
      {GrammarKind::kRegex, ".*a.{200}"},
      {GrammarKind::kRegex, deep},
      {GrammarKind::kLark, "start: " + deep},
      {GrammarKind::kLark, chain},
      {GrammarKind::kLark, sequence},
      {GrammarKind::kJsonSchema, R"({"anyOf": [{"$ref": "#"}]})"},
  };
  for (const auto& [kind, text] : grammars) {
    const CpuTime begin = ProcessCpuTime();  // Not time on the clock: others may have the CPU.
    auto grammar = compiler_->compile(kind, text);
    // A grammar or an error is fine; a crash or a hang is not.
    absl::Status status = grammar.status();
    if (grammar.ok()) {
      std::vector<uint32_t> words(grammar->mask_words());
      status = grammar->mask(words);
    }
    EXPECT_TRUE(status.ok() || status.code() == StatusCode::kInvalidArgument) << ToString(status);
    EXPECT_LT(Message(status).size(), 600u);
    const CpuTime spent = ProcessCpuTime() - begin;
    EXPECT_LT(spent.user_s + spent.system_s, 20) << text.substr(0, 60);
  }
}

TEST_F(GrammarTest, RefusesAVocabularyThatDoesNotFitTheTokenizer) {
  const std::vector<int32_t> eos = {eos_};
  EXPECT_THAT(Message(GrammarCompiler::Create(tokenizer_, 10, eos).status()), HasSubstr("10 logits"));
  EXPECT_FALSE(GrammarCompiler::Create(tokenizer_, -1, eos).ok());
  EXPECT_THAT(Message(GrammarCompiler::Create(tokenizer_, kLogits, {}).status()), HasSubstr("end-of-text"));
  for (const int32_t id : {-1, kLogits - 1}) {
    EXPECT_FALSE(GrammarCompiler::Create(tokenizer_, kLogits, std::vector{id}).ok()) << id;
  }
  Grammar grammar = compile(GrammarKind::kRegex, "a");
  std::vector<uint32_t> small(grammar.mask_words() - 1);
  EXPECT_FALSE(grammar.mask(small).ok());
}

TEST(GrammarCompiler, AcceptsTheVocabularyOfEachFamily) {
  for (const auto& [name, eos] :
       std::vector<std::pair<std::string, std::string>>{{"qwen", "<|im_end|>"},
                                                        {"mistral_v3", "</s>"},
                                                        {"gemma_style", "<eos>"},
                                                        {"deepseek_style", "<｜end▁of▁sentence｜>"}}) {
    const Tokenizer tokenizer = test::GoldenTokenizer(name);
    const int32_t id = tokenizer.token_id(eos).value();
    const auto compiler = GrammarCompiler::Create(tokenizer, tokenizer.vocab_size(), std::vector{id});
    ASSERT_TRUE(compiler.ok()) << name << ": " << ToString(compiler.status());
    auto grammar = compiler->compile(GrammarKind::kRegex, "(yes|no), 12");
    ASSERT_TRUE(grammar.ok()) << name;
    std::vector<uint32_t> words(grammar->mask_words());
    ASSERT_TRUE(grammar->mask(words).ok());
    std::set<std::string> first;
    for (int32_t t = 0; t < tokenizer.vocab_size(); ++t) {
      if (words[t / 32] >> (t % 32) & 1) first.insert(*tokenizer.token_bytes(t));
    }
    EXPECT_THAT(first, testing::IsSupersetOf({"y", "n"})) << name;
    for (const std::string& bytes : first) {
      EXPECT_TRUE(std::string("yes, 12").starts_with(bytes) || std::string("no, 12").starts_with(bytes))
          << bytes;
    }
  }
}

}  // namespace
}  // namespace shoal
