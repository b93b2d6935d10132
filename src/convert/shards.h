// Folders with the tensors that one node needs: chooses the tensors and writes the folders one after another.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "convert/model_folder.h"
#include "formats/checkpoint.h"
#include "formats/shard.h"
#include "loading/resolved_weights.h"

namespace shoal {

/// A folder with what one node needs (formats/shard.h).
struct ConvertShard {
  std::string out;                            ///< The folder, made if need be. It must not be another model.
  std::string node;                           ///< The node's name, and
  std::string holds;                          ///< what it holds, in words.
  std::function<bool(const WeightUse&)> has;  ///< Whether the node reads a weight.
  bool text = false;                          ///< With tokenizer and template.
};

using Nodes = std::vector<bool>;  ///< By shard: whether it needs something.
Nodes NodesThatNeed(const WeightUse& use, const std::vector<ConvertShard>& shards);
/// nodes: of as many shards, or empty.
void Add(const Nodes& more, Nodes& nodes);

/// A shard's folder, without its tensors, and its table, of all `tensors` of the model.
FolderContents FolderOf(const ConvertShard& shard, std::string config_json);
Shard TableOf(const ConvertShard& shard, std::vector<SafetensorsWriter::Entry> tensors);

/// Writes one folder after the other, with one progress over all.
class FolderRun {
 public:
  /// progress: bytes; may be empty.
  FolderRun(const Checkpoint& source, int64_t file_bytes_max,
            std::function<void(int64_t done, int64_t total)> progress)
      : source_(source), file_bytes_max_(file_bytes_max), progress_(std::move(progress)) {}

  void add(FolderContents contents);
  /// formats: what the tensors become, part of the identity by which files are kept.
  absl::StatusOr<std::vector<FolderReport>> write(const std::string& formats);

 private:
  const Checkpoint& source_;
  const int64_t file_bytes_max_;
  const std::function<void(int64_t done, int64_t total)> progress_;
  std::vector<FolderContents> folders_;
  int64_t done_ = 0;
  int64_t total_ = 0;
};

/// Shards whose tensors stay what they are, of a folder (CHECK): a GGUF has blocks.
absl::StatusOr<std::vector<FolderReport>> CopyShards(const ResolvedWeights& weights,
                                                     const std::vector<ConvertShard>& shards, FolderRun& run);

}  // namespace shoal
