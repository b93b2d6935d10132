#include "text/output/output_testing.h"

namespace shoal::test {
namespace {

const Reading kChannels = {.dialect = {.tools = "harmony", .reasoning = "harmony"},
                           .silent = {"<|channel|>analysis<|", "<|start|>assistant<|", "<|channel|>final<|",
                                      "<|channel|>commentary to=functions.", " <|constrain|>json<|",
                                      "<|start|>assistant to=functions.",
                                      "now<|channel|>commentary<|message|>", "<|channel|>commentary<|"}};

TEST(Harmony, ChannelsAreReasoningAndContent) {
  ExpectReads(
      kChannels,
      "<|channel|>analysis<|message|>Hm, <a|b>.<|end|><|start|>assistant<|channel|>final<|message|>Yes.",
      {.content = "Yes.", .reasoning = "Hm, <a|b>."});
}

TEST(Harmony, MessagesToToolsAreCalls) {
  ExpectReads(kChannels,
              "<|channel|>analysis<|message|>Both.<|end|><|start|>assistant<|channel|>commentary<|message|>I "
              "look.<|end|>"
              "<|start|>assistant<|channel|>commentary to=functions.get_time "
              "<|constrain|>json<|message|>{\"zone\": \"CET\"}"
              "<|call|><|start|>assistant to=functions.now<|channel|>commentary<|message|>{}<|call|>",
              {.content = "I look.",
               .reasoning = "Both.",
               .calls = {{"get_time", R"({"zone": "CET"})"}, {"now", "{}"}}});
}

TEST(Harmony, TheRecipientMayStandFirst) {
  EXPECT_EQ(Read(kChannels, " to=functions.now<|channel|>commentary json<|message|>{}<|call|>"),
            (Answer{.calls = {{"now", "{}"}}}));
  EXPECT_EQ(Read(kChannels, "<|channel|>commentary to=functions.now<|message|><|call|>"),
            (Answer{.calls = {{"now", "{}"}}}));
}

TEST(Harmony, MessagesOfAKindAreKeptApart) {
  EXPECT_EQ(
      Read(kChannels,
           "<|channel|>commentary<|message|>One.<|end|><|start|>assistant<|channel|>final<|message|>Two."),
      (Answer{.content = "One.\n\nTwo."}));
}

TEST(Harmony, TextWithoutChannelsIsContent) {
  for (const std::string text : {"Hello <|x|>", "to be", "t", "<"})
    ExpectReads({.dialect = kChannels.dialect}, text, {.content = text});
}

TEST(Harmony, AHeaderThatIsCutOffSaysNothing) {
  EXPECT_EQ(Read(kChannels, "<|channel|>ana"), (Answer{}));
  EXPECT_EQ(Read(kChannels, "<|channel|>analysis<|message|>Hm<|end|><|start|>assi"),
            (Answer{.reasoning = "Hm"}));
}

TEST(Harmony, WithoutToolsAndReasoningAllIsContent) {
  DialectParser parser(kChannels.dialect, {.parse_tools = false, .parse_reasoning = false});
  OutputEvents events;
  parser.push(
      "<|channel|>analysis<|message|>A<|end|><|start|>assistant to=functions.now<|message|>{}<|call|>",
      events);
  parser.finish(events);
  EXPECT_EQ(AnswerOf(events), (Answer{.content = "A\n\n{}"}));
}

}  // namespace
}  // namespace shoal::test
