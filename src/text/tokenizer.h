// Text to token ids and back, by Hugging Face's own tokenizers (tokenizer.json).
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

/// How a text becomes ids.
struct EncodeOptions {
  /// Adds what the model wants around a text (BOS). A chat template's output has it already.
  bool add_special = false;
  /// "<|im_end|>" in the text becomes that token, as for the output of a chat template or a raw prompt.
  /// Without it, a text cannot forge a control token: it becomes the ids of its characters.
  bool parse_special = false;
};

/// Immutable; its methods may be called by many threads at once.
class Tokenizer {
 public:
  /// Reads tokenizer.json of a model folder.
  static absl::StatusOr<Tokenizer> Load(const std::filesystem::path& folder);
  /// From the bytes of a tokenizer.json.
  static absl::StatusOr<Tokenizer> FromJson(std::string_view json);

  /// InvalidArgument for text that is not UTF-8.
  absl::StatusOr<std::vector<int32_t>> encode(std::string_view text, EncodeOptions options) const;

  /// Valid UTF-8, U+FFFD standing for bytes that are none. `skip_special` leaves out special tokens. Ids
  /// beyond the vocabulary decode to nothing, as checkpoints pad theirs; a negative id is InvalidArgument.
  absl::StatusOr<std::string> decode(std::span<const int32_t> ids, bool skip_special) const;

  /// One above the largest id. The model may have more logits.
  int32_t vocab_size() const { return vocab_size_; }

  /// The id of a token by its name in the vocabulary ("<|im_end|>", "Ġworld").
  std::optional<int32_t> token_id(std::string_view name) const;

  /// The name in the vocabulary. NotFound where no token has this id.
  absl::StatusOr<std::string> token_name(int32_t id) const;

  /// The bytes that the token adds to a text; not always whole characters. NotFound as above.
  absl::StatusOr<std::string> token_bytes(int32_t id) const;

  /// Whether `decode` leaves it out on demand.
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
