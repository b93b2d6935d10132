#include "app/tokenizer_assets.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "text/end_of_text.h"

namespace shoal {
namespace {

constexpr int64_t kConfigBytesMax = 64 << 20;

/// tokenizer_config.json, empty where there is none.
absl::StatusOr<std::string> TokenizerConfig(const Checkpoint& checkpoint) {
  if (checkpoint.is_gguf()) {
    ASSIGN_OR_RETURN(GgufText text, checkpoint.gguf_text());
    return std::move(text.tokenizer_config_json);
  }
  auto text = ReadTextFile(checkpoint.folder() + "/tokenizer_config.json", kConfigBytesMax);
  if (absl::IsNotFound(text.status())) return std::string();
  return text;
}

}  // namespace

absl::StatusOr<Pool> StatedPooling(const Checkpoint& checkpoint) {
  if (checkpoint.is_gguf()) return Pool::kNone;
  const std::string path = checkpoint.folder() + "/1_Pooling/config.json";
  const auto text = ReadTextFile(path, kConfigBytesMax);
  if (absl::IsNotFound(text.status())) return Pool::kNone;
  RETURN_IF_ERROR(text.status());
  nlohmann::json json;
  RETURN_IF_ERROR(Annotate(ReadJson(*text, {}, &json), path));
  std::vector<std::string> modes;
  for (const auto& [key, value] : json.items()) {
    constexpr std::string_view kPrefix = "pooling_mode_";
    if (key == "pooling_mode" && value.is_string()) modes.push_back(value.get<std::string>());
    if (key.starts_with(kPrefix) && value == true) modes.push_back(key.substr(kPrefix.size()));
  }
  if (modes == std::vector<std::string>{"lasttoken"}) return Pool::kLast;
  if (modes == std::vector<std::string>{"mean_tokens"} || modes == std::vector<std::string>{"mean"}) {
    return Pool::kMean;
  }
  return InvalidArgument(
      "{}: embeddings are made by '{}', expected 'lasttoken' or 'mean_tokens'; choose with --pooling last or "
      "mean",
      path, Join(modes, ", "));
}

absl::StatusOr<Tokenizer> TokenizerOf(const GgufText& text, const std::string& where) {
  auto tokenizer = Tokenizer::FromJson(text.tokenizer_json);
  if (!tokenizer.ok()) return Annotate(tokenizer.status(), where);
  return tokenizer;
}

absl::StatusOr<ChatTemplate> ChatTemplateOf(const GgufText& text, const std::string& where) {
  auto chat = ChatTemplate::FromText("", text.tokenizer_config_json);
  if (!chat.ok()) return Annotate(chat.status(), where);
  return chat;
}

absl::StatusOr<Tokenizer> LoadTokenizer(const Checkpoint& checkpoint) {
  if (!checkpoint.is_gguf()) return Tokenizer::Load(checkpoint.folder());
  ASSIGN_OR_RETURN(const GgufText text, checkpoint.gguf_text());
  return TokenizerOf(text, checkpoint.folder());
}

absl::StatusOr<ChatTemplate> LoadChatTemplate(const Checkpoint& checkpoint) {
  if (!checkpoint.is_gguf()) return ChatTemplate::Load(checkpoint.folder());
  ASSIGN_OR_RETURN(const GgufText text, checkpoint.gguf_text());
  return ChatTemplateOf(text, checkpoint.folder());
}

absl::StatusOr<std::vector<int32_t>> LoadEndOfText(const Checkpoint& checkpoint, const Tokenizer& tokenizer) {
  ASSIGN_OR_RETURN(const std::string config, TokenizerConfig(checkpoint));
  const absl::StatusOr<ChatTemplate> chat = LoadChatTemplate(checkpoint);
  ASSIGN_OR_RETURN(std::vector<int32_t> ids,
                   EndOfTextTokens(tokenizer, chat.ok() ? &*chat : nullptr, config));
  for (const int64_t listed : checkpoint.generation().eos_token_ids) {
    const auto id = static_cast<int32_t>(listed);
    if (id >= tokenizer.vocab_size()) {
      LogWarning("{}: eos_token_id {} is beyond the tokenizer's {} tokens and is left out",
                 checkpoint.folder(), id, tokenizer.vocab_size());
      continue;
    }
    if (!tokenizer.is_special(id)) {
      LogWarning(
          "{}: eos_token_id {} is '{}', which the tokenizer does not mark as special; answers end there. If "
          "that is wrong, correct config.json and generation_config.json",
          checkpoint.folder(), id, tokenizer.token_bytes(id).value_or("?"));
    }
    ids.push_back(id);
  }
  std::ranges::sort(ids);
  const auto repeated = std::ranges::unique(ids);
  ids.erase(repeated.begin(), repeated.end());
  if (ids.empty()) {
    LogWarning(
        "{}: no token ends a text: expected eos_token_id in generation_config.json or config.json, or "
        "eos_token in tokenizer_config.json. Answers end at max_tokens or a stop string only",
        checkpoint.folder());
  }
  return ids;
}

}  // namespace shoal
