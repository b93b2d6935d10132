// Formats of single model families, each with one answer that has calls in parallel.
#include "text/output/output_testing.h"

namespace shoal::test {
namespace {

const std::vector<Call> kCalls = {{"get_time", R"({"zone": "CET"})"}, {"now", "{}"}};

Reading Of(const std::string& tools, const std::string& reasoning = "none") {
  return {.dialect = {.tools = tools, .reasoning = reasoning}};
}

TEST(OtherFormats, Apriel) {
  ExpectReads(Of("apriel", "apriel"),
              "Here are my reasoning steps:\nHm.\n[BEGIN FINAL RESPONSE]\nI look.\n<tool_calls>[{\"name\": "
              "\"get_time\", "
              "\"arguments\": {\"zone\": \"CET\"}}, {\"name\": \"now\", \"arguments\": {}}]</tool_calls>",
              {.content = "I look.", .reasoning = "Hm.", .calls = kCalls});
}

TEST(OtherFormats, Apertus) {
  ExpectReads(
      Of("apertus", "apertus"),
      R"(<|inner_prefix|>Hm.<|inner_suffix|><|tools_prefix|>[{"get_time": {"zone": "CET"}}, {"now": {}}]<|tools_suffix|>)",
      {.reasoning = "Hm.", .calls = kCalls});
}

TEST(OtherFormats, Atem) {
  Reading reading = Of("atem");
  reading.silent = {"\">"};
  ExpectReads(reading,
              "<atem:function_calls>\n<atem:invoke name=\"get_time\">\n<atem:parameter "
              "name=\"zone\">CET</atem:parameter>\n"
              "</atem:invoke>\n<atem:invoke name=\"now\">\n</atem:invoke>\n</atem:function_calls>",
              {.content = "", .calls = kCalls});
}

TEST(OtherFormats, CommandR) {
  ExpectReads(
      Of("command-r", "command-r"),
      R"(<|START_THINKING|>Hm.<|END_THINKING|><|START_RESPONSE|>I look.<|END_RESPONSE|><|START_ACTION|>[
{"tool_call_id": "0", "tool_name": "get_time", "parameters": {"zone": "CET"}},
{"tool_call_id": "1", "tool_name": "now", "parameters": {}}]<|END_ACTION|>)",
      {.content = "I look.",
       .reasoning = "Hm.",
       .calls = {{"get_time", R"({"zone": "CET"})", "0"}, {"now", "{}", "1"}}});
}

TEST(OtherFormats, CommandRPlus) {
  ExpectReads(Of("command-r-plus"),
              "Action:\n```json\n[{\"tool_name\": \"get_time\", \"parameters\": {\"zone\": \"CET\"}},\n"
              "{\"tool_name\": \"now\", \"parameters\": {}}]\n```",
              {.content = "", .calls = kCalls});
}

TEST(OtherFormats, Firefunction) {
  ExpectReads(
      Of("firefunction"),
      R"( functools[{"name": "get_time", "arguments": {"zone": "CET"}}, {"name": "now", "arguments": {}}])",
      {.content = "", .calls = kCalls});
}

TEST(OtherFormats, Functionary) {
  ExpectReads(Of("functionary-v3.1"),
              R"(<function=get_time>{"zone": "CET"}</function><function=now>{}</function>)",
              {.content = "", .calls = kCalls});
}

// The prompt ends with the first ">>>".
TEST(OtherFormats, FunctionaryRecipients) {
  Reading reading = Of("functionary-v3.2");
  reading.silent = {"all\n"};
  ExpectReads(reading, "get_time\n{\"zone\": \"CET\"}>>>now\n{}", {.content = "", .calls = kCalls});
  ExpectReads(reading, "all\nI look.>>>now\n{}", {.content = "I look.", .calls = {{"now", "{}"}}});
  ExpectReads(reading, "all\n>>> 1 + 1\n2", {.content = ">>> 1 + 1\n2"});
}

TEST(OtherFormats, FunctionaryNamesTheUserWithoutToolsToo) {
  DialectParser parser({.tools = "functionary-v3.2"}, {.parse_tools = false});
  OutputEvents events;
  parser.push("all\nHello", events);
  parser.finish(events);
  EXPECT_EQ(AnswerOf(events).content, "Hello");
}

TEST(OtherFormats, GigaChat) {
  ExpectReads(Of("gigachat"),
              "I look.<|message_sep|>\n\nfunction call<|role_sep|>\n{\"name\": \"now\", \"arguments\": {}}",
              {.content = "I look.", .calls = {{"now", "{}"}}});
  ExpectReads(Of("gigachat"), R"(<|function_call|>{"name": "now", "arguments": {}})",
              {.content = "", .calls = {{"now", "{}"}}});
}

TEST(OtherFormats, Hunyuan) {
  ExpectReads(
      Of("hunyuan", "hunyuan"),
      "<think:opensource>Hm.</think:opensource><tool_calls:opensource>\n"
      "<tool_call:opensource>get_time<tool_sep:opensource>\n<arg_key:opensource>zone</arg_key:opensource>\n"
      "<arg_value:opensource>CET</arg_value:opensource>\n</tool_call:opensource>\n"
      "<tool_call:opensource>now<tool_sep:opensource>\n</tool_call:opensource>\n</tool_calls:opensource>",
      {.reasoning = "Hm.", .calls = kCalls});
}

TEST(OtherFormats, Lfm2) {
  ExpectReads(Of("lfm2"), R"(I look.<|tool_call_start|>[get_time(zone="CET"), now()]<|tool_call_end|>)",
              {.content = "I look.", .calls = kCalls});
}

TEST(OtherFormats, MiniCpm) {
  Reading reading = Of("minicpm");
  reading.silent = {"\">", "]]>"};
  ExpectReads(reading,
              "<function name=\"python\"><param name=\"code\"><![CDATA[a </param> b\n]]></param></function>\n"
              "<function name=\"now\"></function>",
              {.content = "", .calls = {{"python", R"({"code": "a </param> b\n"})"}, {"now", "{}"}}});
}

TEST(OtherFormats, Nemotron) {
  ExpectReads(
      Of("nemotron"),
      R"(<TOOLCALL>[{"name": "get_time", "arguments": {"zone": "CET"}}, {"name": "now", "arguments": {}}]</TOOLCALL>)",
      {.content = "", .calls = kCalls});
}

TEST(OtherFormats, Solar) {
  ExpectReads(Of("solar", "solar"),
              "<|think|>Hm.<|end|><|begin|>assistant<|tool_calls|><|tool_call:begin|>a1<|tool_call:name|>now"
              "<|tool_call:args|>{}<|tool_call:end|>",
              {.reasoning = "Hm.", .calls = {{"now", "{}", "a1"}}});
}

}  // namespace
}  // namespace shoal::test
