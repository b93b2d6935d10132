#include "app/tokenizer_assets.h"

#include "base/status.h"

namespace shoal {

absl::StatusOr<Tokenizer> LoadTokenizer(const Checkpoint& checkpoint) {
  if (!checkpoint.is_gguf()) return Tokenizer::Load(checkpoint.folder());
  ASSIGN_OR_RETURN(const GgufText text, checkpoint.gguf_text());
  auto tokenizer = Tokenizer::FromJson(text.tokenizer_json);
  if (!tokenizer.ok()) return Annotate(tokenizer.status(), checkpoint.folder());
  return tokenizer;
}

absl::StatusOr<ChatTemplate> LoadChatTemplate(const Checkpoint& checkpoint) {
  if (!checkpoint.is_gguf()) return ChatTemplate::Load(checkpoint.folder());
  ASSIGN_OR_RETURN(const GgufText text, checkpoint.gguf_text());
  auto chat = ChatTemplate::FromText("", text.tokenizer_config_json);
  if (!chat.ok()) return Annotate(chat.status(), checkpoint.folder());
  return chat;
}

}  // namespace shoal
