// Tokenizer and chat template of an opened model, wherever they lie.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "exec/step.h"
#include "formats/checkpoint.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace shoal {

/// From tokenizer.json of the folder, or from the metadata of the GGUF.
absl::StatusOr<Tokenizer> LoadTokenizer(const Checkpoint& checkpoint);

/// As ChatTemplate::Load, or from the metadata of the GGUF. NotFound where the model has none.
absl::StatusOr<ChatTemplate> LoadChatTemplate(const Checkpoint& checkpoint);

/// The same of the metadata of a GGUF whose model may be one that shoal can't run, or have no weights. `where` begins the
/// message of an error.
absl::StatusOr<Tokenizer> TokenizerOf(const GgufText& text, const std::string& where);
absl::StatusOr<ChatTemplate> ChatTemplateOf(const GgufText& text, const std::string& where);

/// The tokens that end an answer, ascending: those of generation_config.json, config.json (or the GGUF),
/// tokenizer_config.json and the chat template together. Warns where there are none: answers then end at
/// their limits only.
absl::StatusOr<std::vector<int32_t>> LoadEndOfText(const Checkpoint& checkpoint, const Tokenizer& tokenizer);

/// How the files of sentence-transformers beside the model (1_Pooling/config.json) make one embedding of a text; kNone
/// where there are none. InvalidArgument: in a way that is neither the last token's row nor the mean of all.
absl::StatusOr<Pool> StatedPooling(const Checkpoint& checkpoint);

}  // namespace shoal
