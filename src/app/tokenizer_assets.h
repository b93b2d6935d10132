// Tokenizer and chat template of an opened model, wherever they lie.
#pragma once

#include "absl/status/statusor.h"
#include "formats/checkpoint.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace shoal {

/// From tokenizer.json of the folder, or from the metadata of the GGUF.
absl::StatusOr<Tokenizer> LoadTokenizer(const Checkpoint& checkpoint);

/// As ChatTemplate::Load, or from the metadata of the GGUF. NotFound where the model has none.
absl::StatusOr<ChatTemplate> LoadChatTemplate(const Checkpoint& checkpoint);

}  // namespace shoal
