#include "text/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "base/clock.h"
#include "base/process.h"
#include "text/test_data.h"

namespace shoal {
namespace {

using absl::StatusCode;
using testing::AnyOf;
using testing::HasSubstr;
using testing::StartsWith;

constexpr std::string_view kHi = R"([{"role": "user", "content": "Hi"}])";

/// A folder for test files, removed at the end.
class Folder {
 public:
  Folder() : path_(testing::TempDir() + "/chat_template_" + std::to_string(NowNs())) {
    std::filesystem::create_directories(path_);
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  void write(const std::string& name, std::string_view text) const { std::ofstream(path_ / name) << text; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

std::string Rendered(const absl::StatusOr<ChatTemplate>& chat_template, const ChatRequest& request) {
  if (!chat_template.ok()) return ToString(chat_template.status());
  const auto text = chat_template->render(request);
  return text.ok() ? *text : ToString(text.status());
}

TEST(ChatTemplate, RendersTheTemplateOfTheDemoModel) {
  EXPECT_EQ(Rendered(ChatTemplate::Load(test::DemoModel()), {.messages = kHi}),
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
}

TEST(ChatTemplate, TheJinjaFileOverridesTheConfigAndUsesItsTokens) {
  const Folder folder;
  folder.write(
      "tokenizer_config.json",
      R"({"chat_template": "config", "bos_token": {"content": "<s>"}, "eos_token": "</s>", "unk_token": null})");
  EXPECT_EQ(Rendered(ChatTemplate::Load(folder.path()), {.messages = kHi}), "config");
  folder.write("chat_template.jinja",
               "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ unk_token is defined }}");
  EXPECT_EQ(Rendered(ChatTemplate::Load(folder.path()), {.messages = kHi}), "<s>Hi</s>False");
}

TEST(ChatTemplate, ARequestWithToolsUsesTheTemplateNamedToolUse) {
  const auto chat_template = ChatTemplate::FromText(
      "",
      R"({"chat_template": [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]})");
  EXPECT_EQ(Rendered(chat_template, {.messages = kHi}), "plain");
  EXPECT_EQ(Rendered(chat_template, {.messages = kHi, .tools = "[]"}), "tools");
  EXPECT_THAT(Rendered(ChatTemplate::FromText("", R"({"chat_template": [{"name": "rag", "template": "x"}]})"),
                       {.messages = kHi}),
              HasSubstr("only: rag"));
}

TEST(ChatTemplate, TellsItsSource) {
  EXPECT_EQ(ChatTemplate::FromText("a", R"({"chat_template": "b"})")->source(), "a");
  EXPECT_EQ(ChatTemplate::FromText("", R"({"chat_template": "b"})")->source(), "b");
  EXPECT_EQ(ChatTemplate::FromText("", R"({"chat_template": [{"name": "default", "template": "a"},
                                                             {"name": "tool_use", "template": "b"}]})")
                ->source(),
            "a\nb\n");
}

TEST(ChatTemplate, AModelWithoutATemplateIsNotFound) {
  EXPECT_EQ(ChatTemplate::FromText("", R"({"bos_token": "<s>"})").status().code(), StatusCode::kNotFound);
  const auto missing = ChatTemplate::Load("/nonexistent");
  EXPECT_EQ(missing.status().code(), StatusCode::kNotFound);
  EXPECT_THAT(Message(missing.status()), StartsWith("/nonexistent: no chat template"));
}

TEST(ChatTemplate, RaiseExceptionGivesTheMessageOfTheTemplate) {
  const auto chat_template = ChatTemplate::FromText("{{ raise_exception('Only ' ~ 2 ~ ' roles') }}", "");
  const auto text = chat_template->render({.messages = kHi});
  EXPECT_EQ(text.status().code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(Message(text.status()), "Only 2 roles");
}

TEST(ChatTemplate, ErrorsNameTheLineOfTheTemplate) {
  const auto broken =
      ChatTemplate::FromText("a\n{% generation %}{% endgeneration %}\n{% for x in messages %}\n{{ x }\n", "");
  EXPECT_EQ(broken.status().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(broken.status()), StartsWith("chat template line 4: syntax error"));
  EXPECT_THAT(Rendered(ChatTemplate::FromText("a\n\n{{ 'a' + 1 }}", ""), {.messages = kHi}),
              StartsWith("INVALID_ARGUMENT: chat template line 3: "));
  for (const char* source :
       {"{% for %}", "{%", "{{", "{#", "{% raw %}", "{% for x in %}", "{% endfor %}", "{% 'a", "{{ '"}) {
    EXPECT_THAT(Rendered(ChatTemplate::FromText(source, ""), {.messages = kHi}),
                StartsWith("INVALID_ARGUMENT: chat template"))
        << source;
  }
}

TEST(ChatTemplate, EndlessAndDeepTemplatesEndWithAnError) {
  const std::string loops =
      "{% for a in range(99999) %}{% for b in range(99999) %}{% if a %}{% endif %}{% endfor %}{% endfor %}";
  const std::string calls = "{% macro f(x) %}{{ f(x + 1) }}{% endmacro %}{{ f(1) }}";
  const std::string brackets = "{{ " + std::string(60'000, '(') + " }}";
  const std::string nested =
      "{% set ns = namespace(x=[]) %}{% for a in range(300) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}";
  const std::string huge(100'000, 'x');
  for (const std::string& source : {loops, calls, brackets, nested, nested + "{{ ns.x | tojson }}", huge}) {
    const CpuTime begin = ProcessCpuTime();  // Not time on the clock: others may have the CPU.
    EXPECT_THAT(Rendered(ChatTemplate::FromText(source, ""), {.messages = kHi}),
                StartsWith("INVALID_ARGUMENT: chat template"))
        << source.substr(0, 60);
    const CpuTime spent = ProcessCpuTime() - begin;
    EXPECT_LT(spent.user_s + spent.system_s, 20);
  }
  EXPECT_EQ(
      Rendered(ChatTemplate::FromText("{{ " + std::string(60'000, '-') + "1 }}", ""), {.messages = kHi}),
      "1");
}

TEST(ChatTemplate, ATemplateThatFillsTheMemoryEndsAndIsRefusedFromThenOn) {
  const std::string doubled =
      "{% set ns = namespace(x='12345678') %}{% if messages %}{% for a in range(60) %}{% set ns.x = ns.x ~ "
      "ns.x %}"
      "{% endfor %}{% endif %}{{ ns.x }}";
  const std::string repeated = "{% if messages %}{{ 'x' * 99999999999 }}{% endif %}ok";
  const std::string listed =
      "{% set ns = namespace(x=[1, 2]) %}{% if messages %}{% for a in range(60) %}{% set ns.x = ns.x + ns.x "
      "%}"
      "{% endfor %}{{ ns.x | list | length }}{% endif %}ok";
  for (const std::string& source : {doubled, repeated, listed}) {
    const auto chat_template = ChatTemplate::FromText(source, "");
    EXPECT_THAT(Rendered(chat_template, {.messages = "[]"}), AnyOf("ok", "12345678")) << source;
    const std::string refusal = Rendered(chat_template, {.messages = kHi});
    EXPECT_THAT(refusal, StartsWith("INVALID_ARGUMENT: chat template")) << source;
    if (refusal.find("asked for more than 256 MiB") != std::string::npos) {
      EXPECT_EQ(Rendered(chat_template, {.messages = "[]"}), refusal) << source;
    }
  }
  EXPECT_THAT(Rendered(ChatTemplate::FromText(doubled, ""), {.messages = kHi}),
              HasSubstr("asked for more than 256 MiB of memory and is not used again"));
  // A large text of a large conversation stays allowed.
  const std::string long_text(24 << 20, 'x');
  EXPECT_EQ(Rendered(ChatTemplate::FromText("{{ messages[0].content }}", ""),
                     {.messages = R"([{"role": "user", "content": ")" + long_text + R"("}])"}),
            long_text);
}

TEST(ChatTemplate, ErrorsNameTheFieldOfTheRequestThatIsWrong) {
  const auto chat_template = ChatTemplate::FromText("x", "");
  const auto with = [&](const ChatRequest& request) { return Rendered(chat_template, request); };
  EXPECT_THAT(with({.messages = "{"}), StartsWith("INVALID_ARGUMENT: messages: EOF"));
  EXPECT_THAT(with({.messages = ""}), HasSubstr("messages: expected a list"));
  EXPECT_THAT(with({.messages = "[{}, 3]"}), HasSubstr("messages[1]: expected an object"));
  EXPECT_THAT(with({.messages = "[]", .tools = "{}"}), HasSubstr("tools: expected a list"));
  EXPECT_THAT(with({.messages = "[]", .kwargs = "[]"}),
              HasSubstr("chat_template_kwargs: expected an object"));
  EXPECT_THAT(with({.messages = "[\"\xff\"]"}), HasSubstr("messages is not valid UTF-8: byte 2"));
  EXPECT_THAT(with({.messages = std::string(100'000, '[')}), HasSubstr("recursion limit"));
  EXPECT_THAT(with({.messages = "[]", .continue_final_message = true}), HasSubstr("continue_final_message"));
}

TEST(ChatTemplate, KwargsAreVariablesButCannotReplaceTheConversation) {
  const auto chat_template =
      ChatTemplate::FromText("{{ messages[0].content }} {{ color }} {{ add_generation_prompt }}", "");
  EXPECT_EQ(Rendered(chat_template,
                     {.messages = kHi,
                      .kwargs = R"({"color": "red", "messages": [], "add_generation_prompt": false})"}),
            "Hi red True");
}

TEST(ChatTemplate, ContinuesAMessageThatTheTemplateTrims) {
  const std::string messages = R"([{"role": "assistant", "content": [{"type": "text", "text": "1, 2, "}]}])";
  const ChatRequest request = {.messages = messages, .continue_final_message = true};
  EXPECT_EQ(Rendered(ChatTemplate::FromText("<{{ messages[0].content[0].text }}>", ""), request), "<1, 2, ");
  EXPECT_EQ(Rendered(ChatTemplate::FromText("<{{ messages[0].content[0].text | trim }}>", ""), request),
            "<1, 2,");
  EXPECT_THAT(Rendered(ChatTemplate::FromText("nothing of the content", ""), request),
              HasSubstr("does not appear"));
}

TEST(ChatTemplate, StrftimeNowIsTheLocalTimeUnlessATimeIsGiven) {
  const auto chat_template = ChatTemplate::FromText("{{ strftime_now('%Y-%m-%d') }}", "");
  EXPECT_EQ(Rendered(chat_template, {.messages = kHi, .local_seconds = 0}), "1970-01-01");
  EXPECT_GE(Rendered(chat_template, {.messages = kHi}), "2024-01-01");
  EXPECT_THAT(Rendered(ChatTemplate::FromText("{{ strftime_now('%!') }}", ""), {.messages = kHi}),
              HasSubstr("unknown format"));
}

}  // namespace
}  // namespace shoal
