// Tensors in chunks: which chunks of the files a node's weights are read from, and where a chunk lies. A chunk means
// the same in every checkpoint of a model, whether whole, a shard, or fetched in part.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "loading/resolved_weights.h"

namespace shoal {

inline constexpr int64_t kChunkBytesMax = int64_t{1} << 20;

/// Bytes [begin, begin + bytes) of a tensor as it lies in the files of the whole model.
struct TensorChunk {
  int32_t tensor = 0;  ///< Index in Checkpoint::stored_tensors().
  int64_t begin = 0;
  int64_t bytes = 0;  ///< 1 to kChunkBytesMax.
  auto operator<=>(const TensorChunk&) const = default;
};

/// A tensor in the files, or one matrix of a stack.
struct StoredPart {
  size_t tensor = 0;    ///< Index in Checkpoint::stored_tensors().
  int64_t matrix = -1;  ///< Of a stack [E, ..], the first dimension counts them; -1: the whole tensor.
  auto operator<=>(const StoredPart&) const = default;
};

/// Says which tensors in the files a weight is read from: an encoded or quantized one has several.
class StoredParts {
 public:
  explicit StoredParts(const ResolvedWeights& weights);
  /// weight: one of `weights`. What a shard lacks is named, too.
  std::vector<StoredPart> of(const ResolvedWeight& weight) const;

 private:
  const Checkpoint& checkpoint_;
  std::map<std::pair<int, int64_t>, size_t> by_place_;
  std::map<std::string, size_t> by_name_;
};

/// Bytes of a tensor of the whole model, of which a shard may have some only.
int64_t WholeBytes(const TensorInfo& tensor);

/// What the weights that `needed` picks are read from: each byte once, ascending, no chunk beyond a matrix of a stack.
std::vector<TensorChunk> ChunksOf(const ResolvedWeights& weights,
                                  const std::function<bool(const WeightUse&)>& needed);

/// A range of a file of the checkpoint.
struct FilePlace {
  int file = 0;
  Range bytes;
};
/// Where a chunk lies; nothing where this is a shard without it. InvalidArgument where the model has no such chunk: a
/// tensor beyond the table, bytes beyond the tensor, or of two matrices of which a shard has only some.
absl::StatusOr<std::optional<FilePlace>> Locate(const Checkpoint& checkpoint, const TensorChunk& chunk);

/// 32 hex digits: equal where chunks mean the same. Hash of the tensors in the files: names, types and shapes.
std::string TensorTableHash(const Checkpoint& checkpoint);

}  // namespace shoal
