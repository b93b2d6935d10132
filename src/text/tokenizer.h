// Text to token ids and back, with Hugging Face's tokenizers library and a model's tokenizer.json.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

struct ShoalTokenizer;

namespace shoal {

struct EncodeOptions {
  /// Adds the special tokens that the model expects around a text (BOS). The output of a chat template has
  /// them.
  bool add_special = false;
  /// Turns "<|im_end|>" in the text into that token, for raw prompts and the output of a chat template.
  /// Otherwise it becomes the ids of its characters, so that a text cannot forge a control token.
  bool parse_special = false;
};

/// Immutable; many threads may call its methods at once.
class Tokenizer {
 public:
  /// Reads tokenizer.json of a model folder.
  static absl::StatusOr<Tokenizer> Load(const std::filesystem::path& folder);
  /// As Load, from the bytes of a tokenizer.json.
  static absl::StatusOr<Tokenizer> FromJson(std::string_view json);

  /// Returns InvalidArgument for text that is not UTF-8.
  absl::StatusOr<std::vector<int32_t>> encode(std::string_view text, EncodeOptions options) const;

  /// The ids of a raw prompt: with control tokens, and with the special tokens around a text, but BOS once
  /// where the text begins with it. Errors as encode().
  absl::StatusOr<std::vector<int32_t>> encode_prompt(std::string_view text) const;

  /// The text of `ids`, as valid UTF-8: invalid bytes become U+FFFD. skip_special omits special tokens. Ids
  /// beyond the vocabulary decode to nothing, because checkpoints pad theirs. Returns InvalidArgument for a
  /// negative id.
  absl::StatusOr<std::string> decode(std::span<const int32_t> ids, bool skip_special) const;

  /// The largest id plus one. The model may have more logits.
  int32_t vocab_size() const { return vocab_size_; }

  /// The id of a token by its name in the vocabulary ("<|im_end|>", "Ġworld").
  std::optional<int32_t> token_id(std::string_view name) const;

  /// The name of a token in the vocabulary. Returns InvalidArgument if no token has this id.
  absl::StatusOr<std::string> token_name(int32_t id) const;

  /// The bytes that a token adds to a text, not always whole characters. Returns InvalidArgument if no token
  /// has this id.
  absl::StatusOr<std::string> token_bytes(int32_t id) const;

  /// Whether `decode` with skip_special omits the token.
  bool is_special(int32_t id) const;

  /// For the other classes of this folder.
  const ShoalTokenizer* handle() const { return handle_.get(); }

 private:
  struct Free {
    void operator()(ShoalTokenizer* tokenizer) const;
  };
  explicit Tokenizer(ShoalTokenizer* handle);
  absl::StatusOr<std::string> token(int32_t id, bool as_bytes) const;

  std::unique_ptr<ShoalTokenizer, Free> handle_;
  int32_t vocab_size_;
};

}  // namespace shoal
