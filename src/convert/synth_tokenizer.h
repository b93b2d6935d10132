// A tokenizer that any vocabulary size can have: byte-level BPE without merges. Internal to convert/.
#pragma once

#include <cstdint>
#include <string>

namespace shoal {

inline constexpr int64_t kSynthEndOfText =
    256;  ///< <|endoftext|>, the bos and padding token; 257 is <|im_start|>.
inline constexpr int64_t kSynthTurnEnd = 258;  ///< <|im_end|>, the eos token.
inline constexpr int64_t kSynthVocabMin = 259;

/// tokenizer.json: ids 0..255 are the bytes, then the three special tokens; the others decode to " w<id>" and
/// are never encoded.
std::string SynthTokenizerJson(int64_t vocab_size);

/// tokenizer_config.json with a ChatML template.
std::string SynthTokenizerConfigJson();

}  // namespace shoal
