#include "text/output/output_testing.h"

namespace shoal::test {
namespace {

Reading Of(const std::string& reasoning, bool open = false) {
  return {.dialect = {.reasoning = reasoning}, .reasoning_open = open};
}

TEST(Reasoning, StandsAtTheBeginning) {
  ExpectReads(Of("think"), "<think>\nFirst <b>.\n\nThen.\n</think>\n\nThe answer.\n",
              {.content = "The answer.\n", .reasoning = "First <b>.\n\nThen."});
  ExpectReads(Of("think"), "  <think>Hm</think>Yes", {.content = "Yes", .reasoning = "Hm"});
}

TEST(Reasoning, TheTagWithinAnAnswerIsText) {
  for (const std::string text :
       {"The tag <think> opens and </think> closes.", "<thinking>", " \n x", "<thin", "a\n\n"}) {
    ExpectReads(Of("think"), text, {.content = text});
  }
}

TEST(Reasoning, GoesOnWhereThePromptOpensIt) {
  ExpectReads(Of("think", true), "I think.</think>Yes", {.content = "Yes", .reasoning = "I think."});
  ExpectReads(Of("think", true), "<think>\nI think.</think>Yes", {.content = "Yes", .reasoning = "I think."});
  ExpectReads(Of("think", true), "</think>\nYes", {.content = "Yes"});
}

TEST(Reasoning, ThatIsNeverClosedEndsWithTheText) {
  ExpectReads(Of("think"), "<think>And so on </thi", {.reasoning = "And so on </thi"});
}

TEST(Reasoning, HasOtherMarksInOtherFamilies) {
  ExpectReads(Of("mistral"), "[THINK]Hm.[/THINK]Yes", {.content = "Yes", .reasoning = "Hm."});
  ExpectReads(Of("seed-oss", true), "Hm.</seed:think>Yes", {.content = "Yes", .reasoning = "Hm."});
  ExpectReads(Of("minimax-m3"), "<mm:think>Hm.</mm:think>Yes", {.content = "Yes", .reasoning = "Hm."});
  ExpectReads(Of("gemma4"), "One.<|channel>thought\nHm.<channel|>Two.",
              {.content = "One.Two.", .reasoning = "Hm."});
}

TEST(Reasoning, WithoutAParserItIsContent) {
  ExpectReads(Of("none"), "<think>Hm</think>Yes", {.content = "<think>Hm</think>Yes"});
}

TEST(Reasoning, IsOpenWhereThePromptEndsWithTheMark) {
  const Dialect format = {.tools = "none", .reasoning = "think"};
  EXPECT_TRUE(EndsWithinReasoning(format, "<|im_start|>assistant\n<think>\n"));
  EXPECT_FALSE(EndsWithinReasoning(format, "<|im_start|>assistant\n<think>\n\n</think>\n\n"));
  EXPECT_FALSE(EndsWithinReasoning(format, "what does <think> mean?<|im_end|>\n<|im_start|>assistant\n"));
  EXPECT_FALSE(EndsWithinReasoning({}, "<think>"));
}

}  // namespace
}  // namespace shoal::test
