// A GGUF model under the names of a Hugging Face folder: a config.json, and for each tensor the name that the
// families look for. One function per architecture (gguf_architectures.cpp).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/range.h"
#include "formats/gguf.h"
#include "formats/tiled_heads.h"

namespace shoal {

/// The files of one model. Does not own them.
struct GgufSource {
  const GgufMetadata& metadata;           ///< Of the first file.
  std::span<const GgufTensor> tensors;    ///< Of all files.
  std::span<const std::byte> first_file;  ///< Where the tables of rope factors lie.
};

/// A tensor under its Hugging Face name.
struct GgufName {
  std::string name;  ///< Empty: it went into the config (rope factors), or no layer of the model uses it.
  std::vector<int64_t> shape;  ///< On Hugging Face; empty: as here.
  /// Heads whose rows were permuted for rope over neighbouring pairs, as llama's q and k are; 0: none were.
  /// Row h * d + j * d / 2 + i of Hugging Face's matrix, with d rows a head, is row h * d + 2 * i + j of this
  /// one.
  int64_t permuted_heads = 0;
  TiledHeads tiled;  ///< Value heads in another order. Of a tensor of taps, in its elements.
};

/// A number of the metadata that is a tensor of one f32 on Hugging Face.
struct GgufNumber {
  std::string name;  ///< On Hugging Face.
  Range bytes;       ///< In the first file.
};

struct GgufModel {
  std::string config_json;
  std::vector<GgufName> names;  ///< Of each tensor, in the order of the source.
  std::vector<GgufNumber> numbers;
};

/// InvalidArgument for a key that is missing or odd, Unimplemented for an architecture, a tensor or a kind of
/// rope that is not built: each with what was expected and found.
absl::StatusOr<GgufModel> ModelOfGguf(const GgufSource& source, std::string_view file_name);

}  // namespace shoal
