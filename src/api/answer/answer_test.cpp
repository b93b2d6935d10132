// The chain from tokens to events, and the sink that runs it, without a wire format.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "api/answer/answer_sink.h"
#include "api/answer/choice_chain.h"
#include "api/testing/bracket_parser.h"
#include "api/testing/byte_text.h"
#include "base/random.h"
#include "base/status.h"

namespace shoal {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using Kind = OutputEvent::Kind;

std::vector<SampledToken> Sampled(std::string_view text) {
  std::vector<SampledToken> tokens;
  for (const int32_t id : Bytes(text)) tokens.push_back({.id = id});
  return tokens;
}

constexpr std::string_view kTexts[] = {"plain",
                                       "h\xC3\xA9llo \xF0\x9F\x90\x9F!",
                                       "(think) and say STOP never this",
                                       "[f:{\"a\": 1}]",
                                       "a(b)c[g:1][h:2]d",
                                       "(open",
                                       "[f:{\"cut\"",
                                       "ends in ST",
                                       ""};

/// What a chain gives for `text`, fed in pieces that `random` cuts.
OutputEvents Events(const ServedText& text, std::string_view what, uint64_t seed) {
  ChoiceChain chain(text.tokenizer, {.stop = {"STOP", "never"}, .format = BracketFormat()});
  OutputEvents all;
  const std::vector<SampledToken> tokens = Sampled(what);
  std::span<const SampledToken> rest = tokens;
  for (uint64_t i = 0; !rest.empty() && !chain.stopped(); ++i) {
    const size_t size = seed == 0 ? rest.size() : std::min(rest.size(), 1 + Mix64(seed + i) % seed);
    OutputEvents events;
    EXPECT_TRUE(chain.push(rest.first(size), events).ok());
    for (OutputEvent& event : events) AddEvent(all, std::move(event));
    rest = rest.subspan(size);
  }
  OutputEvents events;
  EXPECT_TRUE(chain.finish(events).ok());
  for (OutputEvent& event : events) AddEvent(all, std::move(event));
  return all;
}

TEST(ChoiceChain, AnyCutOfTheTokensGivesTheSameEvents) {
  const ServedText text = ByteText();
  for (const std::string_view what : kTexts) {
    const OutputEvents whole = Events(text, what, 0);
    for (uint64_t seed = 1; seed < 9; ++seed) EXPECT_EQ(Events(text, what, seed), whole) << what << seed;
  }
}

TEST(ChoiceChain, TellsContentReasoningAndCallsApart) {
  const ServedText text = ByteText();
  const auto events = Events(text, "(why)so[f:{}]", 1);
  ASSERT_EQ(events.size(), 5u);
  EXPECT_EQ(events[0], (OutputEvent{.kind = Kind::kReasoning, .text = "why"}));
  EXPECT_EQ(events[1], (OutputEvent{.kind = Kind::kContent, .text = "so"}));
  EXPECT_EQ(events[2].kind, Kind::kCallBegin);
  EXPECT_EQ(events[2].name, "f");
  EXPECT_EQ(events[3].text, "{}");
  EXPECT_EQ(events[4].kind, Kind::kCallEnd);
}

TEST(ChoiceChain, CountsNoTokensBehindAStopStringAndSaysWhichItWas) {
  const ServedText text = ByteText();
  ChoiceChain chain(text.tokenizer, {.stop = {"cd", "b"}});
  OutputEvents events;
  ASSERT_TRUE(chain.push(Sampled("abcd"), events).ok());
  EXPECT_TRUE(chain.stopped());
  EXPECT_EQ(chain.stop_string(), "b");
  EXPECT_EQ(chain.tokens(), 2);
  EXPECT_THAT(events, ElementsAre(OutputEvent{.text = "a"}));
}

TEST(ChoiceChain, NoStopStringCountsBeforeTheLeastNumberOfTokens) {
  const ServedText text = ByteText();
  ChoiceChain chain(text.tokenizer, {.stop = {"b"}, .min_tokens = 3});
  OutputEvents events;
  ASSERT_TRUE(chain.push(Sampled("abcabc"), events).ok());
  EXPECT_TRUE(chain.stopped());
  EXPECT_THAT(events, ElementsAre(OutputEvent{.text = "abca"}));
}

/// Writes its calls down, a letter each.
class LetterWriter : public AnswerWriter {
 public:
  explicit LetterWriter(std::string& log) : log_(log) {}
  void admitted() override { log_ += "A"; }
  void piece(const AnswerPiece& piece) override {
    log_ += fmt::format("p{}", piece.choice);
    unflushed_ = true;
  }
  void end_choice(int choice, std::span<const OutputEvent>, const ChoiceEnd& end) override {
    log_ += fmt::format("e{}{}", choice, end.reason == EndReason::kToolCalls ? "t" : "");
  }
  void finish(const Usage& usage) override {
    log_ += fmt::format("F({},{},{})", usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens);
  }
  void error(const ApiError& error) override { log_ += fmt::format("E{}", error.status); }
  void keep_alive() override { log_ += "K"; }
  bool flush() override {
    log_ += "f";
    return std::exchange(unflushed_, false);
  }
  bool gone() const override { return false; }

 private:
  std::string& log_;
  bool unflushed_ = false;
};

class AnswerSinkTest : public ::testing::Test {
 protected:
  AnswerSink sink(int choices = 1, OutputFormat format = {}) {
    return {{.id = "x",
             .choices = choices,
             .choices_per_prompt = 2,
             .chain = {.format = std::move(format)},
             .prompt_tokens = 9},
            text_.tokenizer,
            metrics_,
            std::make_unique<LetterWriter>(log_)};
  }

  const ServedText text_ = ByteText();
  Metrics metrics_;
  std::string log_;
};

TEST_F(AnswerSinkTest, ChoicesAreAnsweredTogetherAndEndWithOneUsage) {
  AnswerSink one = sink(4);
  for (int i = 0; i < 4; ++i) one.on_begin(i, 3);
  EXPECT_TRUE(one.on_tokens(2, Sampled("a")));
  EXPECT_TRUE(one.on_tokens(0, Sampled("bc")));
  one.on_step_end();
  for (const int i : {2, 0, 1, 3}) one.on_finish(i, FinishReason::kStop);
  one.on_step_end();
  EXPECT_EQ(log_,
            "Ap2p0fe2e0e1e3F(9,6,3)");  // Two prompts: what the first choice of each found in the cache.
}

// A step that verified drafts gives several tokens at once.
TEST_F(AnswerSinkTest, TokensOfAStepBehindAStopStringAreNotCounted) {
  AnswerSink one({.id = "test", .chain = {.stop = {"cd"}}, .prompt_tokens = 9}, text_.tokenizer, metrics_,
                 std::make_unique<LetterWriter>(log_));
  one.on_begin(0, 0);
  EXPECT_TRUE(one.on_tokens(0, Sampled("a")));
  EXPECT_FALSE(one.on_tokens(0, Sampled("bcdef")));
  one.on_drafts(0, {.drafted = 8, .accepted = 4});
  one.on_finish(0, FinishReason::kStop);
  EXPECT_THAT(log_, testing::HasSubstr("F(9,0,4)"));
  const std::string metrics = metrics_.scrape();
  EXPECT_THAT(metrics, testing::HasSubstr("shoal_generated_tokens_total 4\n"));
  EXPECT_THAT(metrics, testing::HasSubstr("shoal_time_to_first_token_seconds_count 1\n"));
  EXPECT_THAT(metrics, testing::HasSubstr("shoal_inter_token_latency_seconds_count 3\n"));
}

TEST_F(AnswerSinkTest, AnErrorIsTheLastWord) {
  AnswerSink one = sink(2);
  one.on_begin(0, 0);
  one.on_finish(0, FinishReason::kLength);
  one.on_error(Unavailable("gone"));
  EXPECT_FALSE(one.on_tokens(1, Sampled("a")));
  one.on_finish(1, FinishReason::kStop);
  one.on_tick(Clock::now() + std::chrono::hours(1));
  EXPECT_EQ(log_, "Ae0E503");
}

TEST_F(AnswerSinkTest, SilenceIsBrokenEveryFiveSecondsAndALongQueueCountsAsAdmission) {
  AnswerSink one = sink();
  const auto at = [start = Clock::now()](int seconds) { return start + std::chrono::seconds(seconds); };
  one.on_tick(at(1));
  EXPECT_EQ(log_, "");
  one.on_tick(at(6));  // Still queued.
  EXPECT_EQ(log_, "A");
  one.on_tick(at(12));
  one.on_begin(0, 0);
  one.on_tick(at(13));
  EXPECT_EQ(log_, "AK");
  one.on_tick(at(18));
  EXPECT_EQ(log_, "AKK");
}

TEST_F(AnswerSinkTest, ATextThatStopsByItselfBehindACallEndsForThatCall) {
  for (const auto& [reason, log] :
       {std::pair(FinishReason::kStop, "e0t"), std::pair(FinishReason::kLength, "e0")}) {
    log_.clear();
    AnswerSink one = sink(1, BracketFormat());
    one.on_begin(0, 0);
    one.on_tokens(0, Sampled("[f:{}]"));
    one.on_finish(0, reason);
    EXPECT_THAT(log_, ::testing::HasSubstr(std::string(log) + "F"));
  }
}

}  // namespace
}  // namespace shoal
