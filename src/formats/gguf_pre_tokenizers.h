// How texts are cut into words before byte-level BPE, by the names that llama.cpp's converter writes into
// tokenizer.ggml.pre.
#pragma once

#include <span>
#include <string_view>

namespace shoal {

struct PreTokenizer {
  std::string_view name;
  std::span<const std::string_view> patterns;  ///< One after another; each cuts out what it matches.
  bool nfc = false;                            ///< Texts are normalized first.
  bool ignore_merges = false;  ///< A piece that is a token is that token, whatever the merges give.
  bool add_bos = false;        ///< Where the file does not say.
};

/// All that are known. Their sources are the tokenizer.json of the models that llama.cpp's convert_hf_to_gguf_update.py
/// lists under the name; where two models share patterns but differ in a flag, they have two names.
std::span<const PreTokenizer> PreTokenizers();

}  // namespace shoal
