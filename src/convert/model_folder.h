// Writes a model folder tensor by tensor: files of weights that appear when they are whole and are kept when
// the writing is cut off and started again, then an index, the tokenizer files, and config.json last.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "formats/checkpoint.h"
#include "formats/safetensors.h"
#include "formats/shard.h"

namespace shoal {

using AppendBytes = absl::FunctionRef<absl::Status(std::span<const std::byte> bytes)>;

/// Tensors that come from one pass over their source: a float one, or the words, scales and biases of a
/// matrix.
struct TensorGroup {
  std::vector<SafetensorsWriter::Entry> entries;
  /// Gives all bytes of the entries, in their order, to `append`, whose errors it returns.
  std::function<absl::Status(AppendBytes append)> write;

  int64_t bytes() const;
};

struct FolderContents {
  std::string out;  ///< The folder, made if need be.
  std::vector<TensorGroup> parts;
  std::string config_json;
  std::optional<Shard> shard;  ///< Set where the folder is not the whole model.
  bool text = true;            ///< Tokenizer, template and generation config, too.
  /// Hash of source and formats: files that an earlier call wrote with the same identity are kept.
  std::string identity;
};

struct FolderReport {
  int64_t bytes = 0;  ///< Of all tensors.
  int64_t files = 0;
  int64_t files_kept = 0;
};

/// source: whose text files are copied. file_bytes_max: largest file of weights. progress(bytes) is told what
/// has been written or kept. FailedPrecondition where `out` is the source or holds another model,
/// ResourceExhausted where the disk is full, and the errors of the parts.
absl::StatusOr<FolderReport> WriteModelFolder(const Checkpoint& source, const FolderContents& contents,
                                              int64_t file_bytes_max,
                                              const std::function<void(int64_t bytes)>& progress);

}  // namespace shoal
