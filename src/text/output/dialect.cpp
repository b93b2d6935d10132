#include "text/output/dialect.h"

#include <algorithm>

#include "base/text.h"
#include "text/output/harmony.h"
#include "text/output/json_text.h"

namespace shoal {
namespace {

using Texts = std::vector<std::vector<std::string_view>>;

bool Matches(std::string_view text, const Texts& recognized_by) {
  return std::ranges::any_of(recognized_by, [&](const std::vector<std::string_view>& all) {
    return std::ranges::all_of(all, [&](std::string_view part) { return text.contains(part); });
  });
}

const Texts& HarmonyTexts() {
  static const Texts texts = {{"<|channel|>", "<|message|>", "<|start|>"}};
  return texts;
}

/// In the order in which they are tried: marks of one format stand in templates of others.
const std::vector<ToolFormat>& ToolFormats() {
  static const auto& formats = *new std::vector<ToolFormat>{
      DeepSeekDsmlFormat(), DeepSeekFormat(),    KimiK2Format(),
      KimiK3Format(),       MistralFormat(),     MiniMaxM3Format(),
      MiniMaxM2Format(),    SeedOssFormat(),     HunyuanFormat(),
      AtemFormat(),         Gemma4Format(),      FunctionGemmaFormat(),
      SolarFormat(),        ApertusFormat(),     CommandRFormat(),
      NemotronFormat(),     Lfm2Format(),        GigaChatFormat(),
      FirefunctionFormat(), FunctionaryFormat(), FunctionaryRecipientFormat(),
      MiniCpmFormat(),      GlmFormat(),         Qwen3CoderFormat(),
      AprielFormat(),       GraniteFormat(),     HermesFormat(),
      Llama4Format(),       Llama3Format(),      CommandRPlusFormat(),
      GemmaCodeFormat(),
  };
  return formats;
}

const std::vector<ReasoningFormat>& ReasoningFormats() {
  static const auto& formats = *new std::vector<ReasoningFormat>{
      {.name = "mistral",
       .recognized_by = {{"[THINK]"}},
       .syntax = {.open = "[THINK]", .close = "[/THINK]", .anywhere = true}},
      {.name = "seed-oss",
       .recognized_by = {{"<seed:think>"}},
       .syntax = {.open = "<seed:think>", .close = "</seed:think>"}},
      {.name = "command-r",
       .recognized_by = {{"<|START_THINKING|>"}},
       .syntax = {.open = "<|START_THINKING|>",
                  .close = "<|END_THINKING|>",
                  .anywhere = true,
                  .dropped = {"<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"}}},
      {.name = "gemma4",
       .recognized_by = {{"<|channel>", "<channel|>"}},
       .syntax = {.open = "<|channel>thought\n", .close = "<channel|>", .anywhere = true}},
      {.name = "apertus",
       .recognized_by = {{"<|inner_prefix|>"}},
       .syntax = {.open = "<|inner_prefix|>", .close = "<|inner_suffix|>", .anywhere = true}},
      {.name = "kimi-k3",
       .recognized_by = {{"<|open|>", "<|close|>", "'think'"}},
       .syntax = {.open = "<|open|>think<|sep|>",
                  .close = "<|close|>think<|sep|>",
                  .dropped = {"<|open|>response<|sep|>", "<|close|>response<|sep|>",
                              "<|close|>message<|sep|>"}}},
      {.name = "solar",
       .recognized_by = {{"<|think|>", "<|content|>"}},
       .syntax = {.open = "<|think|>",
                  .close = "<|end|>",
                  .dropped = {"<|begin|>assistant<|content|>", "<|content|>"}}},
      {.name = "minimax-m3",
       .recognized_by = {{"<mm:think>"}},
       .syntax = {.open = "<mm:think>", .close = "</mm:think>"}},
      {.name = "hunyuan",
       .recognized_by = {{"<think{}>", ":opensource"}},
       .syntax = {.open = "<think:opensource>", .close = "</think:opensource>"}},
      {.name = "apriel",
       .recognized_by = {{"[BEGIN FINAL RESPONSE]"}},
       .syntax = {.open = "Here are my reasoning steps:",
                  .close = "[BEGIN FINAL RESPONSE]",
                  .dropped = {"[END FINAL RESPONSE]"}}},
      {.name = "granite",
       .recognized_by = {{"<think>", "<response>", "<|start_of_role|>"}},
       .syntax = {.open = "<think>", .close = "</think>", .dropped = {"<response>", "</response>"}}},
      {.name = "think",
       .recognized_by = {{"<think>"}, {"</think>"}},
       .syntax = {.open = "<think>", .close = "</think>"}},
  };
  return formats;
}

template <typename Format>
const Format* Find(const std::vector<Format>& formats, std::string_view name) {
  const auto found = std::ranges::find(formats, name, &Format::name);
  return found == formats.end() ? nullptr : &*found;
}

/// `flag` if it names a format, `recognized` for "auto".
template <typename Format>
absl::StatusOr<std::string> Choose(std::string_view what, std::string_view flag,
                                   const std::string& recognized, const std::vector<Format>& formats) {
  if (flag == "auto") return recognized;
  if (flag == kNoFormat || flag == kHarmony || Find(formats, flag) != nullptr) return std::string(flag);
  std::vector<std::string> names = {"auto", std::string(kNoFormat), std::string(kHarmony)};
  for (const Format& format : formats) names.emplace_back(format.name);
  return InvalidArgument("{} '{}' is unknown; expected one of: {}", what, flag, Join(names, ", "));
}

}  // namespace

Dialect RecognizeDialect(std::string_view chat_template,
                         absl::FunctionRef<bool(std::string_view)> has_token) {
  if (Matches(chat_template, HarmonyTexts())) return {std::string(kHarmony), std::string(kHarmony)};
  Dialect format;
  const auto& tools = ToolFormats();
  const auto& reasoning = ReasoningFormats();
  const auto by_template = [&](const auto& candidate) {
    return Matches(chat_template, candidate.recognized_by);
  };
  const auto calls = std::ranges::find_if(tools, by_template);
  if (calls != tools.end()) format.tools = calls->name;
  if (const auto found = std::ranges::find_if(reasoning, by_template); found != reasoning.end()) {
    format.reasoning = found->name;
  } else if (has_token("<think>")) {
    format.reasoning = "think";
  }
  return format;
}

absl::StatusOr<Dialect> ChooseDialect(const Dialect& recognized, std::string_view tools,
                                      std::string_view reasoning) {
  Dialect format;
  ASSIGN_OR_RETURN(format.tools, Choose("the tool parser", tools, recognized.tools, ToolFormats()));
  ASSIGN_OR_RETURN(format.reasoning,
                   Choose("the reasoning parser", reasoning, recognized.reasoning, ReasoningFormats()));
  const bool other = (format.tools != kHarmony && format.tools != kNoFormat) ||
                     (format.reasoning != kHarmony && format.reasoning != kNoFormat);
  if (format.harmony() && other) {
    return InvalidArgument("tool parser '{}' and reasoning parser '{}' do not go together: harmony is both",
                           format.tools, format.reasoning);
  }
  return format;
}

std::vector<Dialect> Dialects() {
  std::vector<Dialect> all = {{.tools = std::string(kHarmony), .reasoning = std::string(kHarmony)}};
  for (const ToolFormat& format : ToolFormats()) {
    const bool paired = FindReasoningFormat(format.name) != nullptr;
    all.push_back(
        {.tools = std::string(format.name), .reasoning = paired ? std::string(format.name) : "think"});
  }
  return all;
}

const ToolFormat* FindToolFormat(std::string_view name) { return Find(ToolFormats(), name); }
const ReasoningFormat* FindReasoningFormat(std::string_view name) { return Find(ReasoningFormats(), name); }

std::vector<std::string> DialectMarks(const Dialect& format, bool tools) {
  if (format.harmony()) return HarmonyMarks();
  std::vector<std::string> marks;
  const auto add = [&](const std::vector<std::string>& more) {
    marks.insert(marks.end(), more.begin(), more.end());
  };
  if (const ReasoningFormat* reasoning = FindReasoningFormat(format.reasoning)) {
    add({reasoning->syntax.open, reasoning->syntax.close});
    add(reasoning->syntax.dropped);
  }
  if (const ToolFormat* calls = FindToolFormat(format.tools); calls != nullptr && tools) {
    add(calls->openers);
    add(calls->syntax().closers);
    add(calls->inner_marks);
  }
  return marks;
}

bool EndsWithinReasoning(const Dialect& format, std::string_view prompt) {
  const ReasoningFormat* reasoning = FindReasoningFormat(format.reasoning);
  return reasoning != nullptr && Trimmed(prompt).ends_with(Trimmed(reasoning->syntax.open));
}

}  // namespace shoal
