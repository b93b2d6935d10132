// Where chunks of a model's tensors come from: another node, or a test's stand-in for one.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "formats/content_hash.h"
#include "loading/tensor_chunks.h"

namespace shoal {

/// Bounds of one request: what is in flight, and what a source reads ahead.
inline constexpr int64_t kRequestBytesMax = int64_t{8} << 20;
inline constexpr int64_t kRequestChunksMax = 1024;

/// Calls block, each up to a deadline of its own; several threads may call at the same time.
class ChunkSource {
 public:
  virtual ~ChunkSource() = default;
  virtual const std::string& name() const = 0;
  /// Of each chunk its hash; nothing where the source has it not. Unavailable, DeadlineExceeded: the source is away;
  /// NotFound: it does not have the model; else what it refuses.
  virtual absl::StatusOr<std::vector<std::optional<ContentHash128>>> hashes(
      std::span<const TensorChunk> chunks) = 0;
  /// Calls `take` for each chunk that comes, by its place in `chunks`; nothing where the source has it not. Where `take`
  /// fails the call ends with its error. Errors as hashes(); what came before an error was taken.
  using Take = absl::FunctionRef<absl::Status(size_t index, std::optional<std::span<const std::byte>> bytes)>;
  virtual absl::Status fetch(std::span<const TensorChunk> chunks, Take take) = 0;
};

}  // namespace shoal
