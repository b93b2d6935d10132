// The tokenizer and the chat template in a GGUF's metadata, as the files of a Hugging Face folder:
// tokenizer.json for the `tokenizers` library and tokenizer_config.json for the template.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "formats/gguf.h"

namespace shoal {

class GgufKeys;

struct GgufText {
  std::string tokenizer_json;
  std::string tokenizer_config_json;  ///< The special tokens, and "chat_template" where the file has one.
};

/// Byte-level BPE ("gpt2", with the pre-tokenizer that tokenizer.ggml.pre names) and SentencePiece BPE ("llama", and
/// "gemma4", whose merges are listed). InvalidArgument where a table is missing, of another length or no UTF-8; Unimplemented for
/// other kinds.
absl::StatusOr<GgufText> TextOfGguf(const GgufMetadata& metadata, std::string_view file_name);

/// The same of a file whose model need not be known, or be there at all: a vocabulary alone has metadata only. path: of a
/// split model the first file. Errors also as MappedFile::Open and ParseGguf.
absl::StatusOr<GgufText> TextOfGgufFile(const std::string& path);

/// bos_token_id, pad_token_id and eos_token_id of a config.json. eos_token_id lists the tokens that end a
/// text or a turn, found by key or by the names that released models use. Internal to formats/.
absl::Status AddTokenIds(const GgufKeys& keys, nlohmann::json* config);

}  // namespace shoal
