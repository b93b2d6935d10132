#include "text/output/output_testing.h"

namespace shoal::test {
namespace {

const Reading kGemma4 = {.dialect = {.tools = "gemma4", .reasoning = "gemma4"}};

TEST(Gemma4, ReadsReasoningAndParallelCalls) {
  ExpectReads(kGemma4,
              "<|channel>thought\nHm.\n<channel|>I look.<|tool_call>call:get_weather{city:<|\"|>It's "
              "\"K\\öln\"<|\"|>,days:-2,"
              "exact:true,where:{a:{b:null},c:[1.5e10,<|\"|><|x<|\"|>]}}<tool_call|><|tool_call>call:now{}<"
              "tool_call|>",
              {.content = "I look.",
               .reasoning = "Hm.",
               .calls = {{"get_weather", R"({"city": "It's \"K\\öln\"", "days": -2, "exact": true, )"
                                         R"("where": {"a": {"b": null}, "c": [1.5e10, "<|x"]}})"},
                         {"now", "{}"}}});
}

TEST(Gemma4, WhatIsNoCallIsContent) {
  for (const std::string text : {"<|tool_call>", "<|tool_call>now{}", "<|tool_call>call:a b{}<tool_call|>"}) {
    ExpectReads(kGemma4, text, {.content = text});
  }
}

TEST(FunctionGemma, ReadsACall) {
  ExpectReads({.dialect = {.tools = "functiongemma"}},
              "<start_function_call>call:get_time{zone:<escape>C, {E}T<escape>}<end_function_call>",
              {.content = "", .calls = {{"get_time", R"({"zone": "C, {E}T"})"}}});
}

TEST(GemmaCode, ReadsPythonInABlock) {
  ExpectReads({.dialect = {.tools = "gemma-code"}}, "I look.\n```tool_code\nget_time(zone=\"CET\")\n```\n",
              {.content = "I look.", .calls = {{"get_time", R"({"zone": "CET"})"}}});
}

}  // namespace
}  // namespace shoal::test
