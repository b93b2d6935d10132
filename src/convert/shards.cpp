#include "convert/shards.h"

#include <algorithm>
#include <map>
#include <utility>

#include "base/check.h"
#include "base/status.h"
#include "formats/content_hash.h"
#include "loading/tensor_chunks.h"

namespace shoal {
namespace {

constexpr int64_t kSlabBytes = int64_t{4} << 20;  ///< Copied between two writes.

/// Which shards need which of the tensors that lie in the files: by matrix, where the family reads a stack.
struct StoredNeeds {
  std::vector<std::map<int64_t, Nodes>> by_tensor;  ///< As Checkpoint::stored_tensors(); -1: the whole.
};

StoredNeeds NeedsOf(const ResolvedWeights& weights, const std::vector<ConvertShard>& shards) {
  const StoredParts parts(weights);
  StoredNeeds needs;
  needs.by_tensor.resize(weights.checkpoint().stored_tensors().size());
  for (const ResolvedWeight& weight : weights.all()) {
    const Nodes nodes = NodesThatNeed(weight.use, shards);
    for (const StoredPart& part : parts.of(weight)) Add(nodes, needs.by_tensor[part.tensor][part.matrix]);
  }
  return needs;
}

/// The bytes of a stored tensor, or of those of its matrices that are `held` (all where empty), as they are.
TensorGroup CopyOf(const Checkpoint& checkpoint, const TensorInfo& tensor, std::vector<int64_t> held) {
  TensorGroup part{.entries = {{tensor.name, tensor.dtype, tensor.shape}}, .write = {}};
  if (!held.empty()) part.entries[0].shape[0] = std::ssize(held);
  part.write = [&checkpoint, &tensor, held = std::move(held)](AppendBytes append) -> absl::Status {
    const TensorView view = checkpoint.view(tensor);
    const int64_t count = held.empty() ? 1 : tensor.shape[0];
    const int64_t each = view.bytes / count;
    for (int64_t i = 0; i < (held.empty() ? 1 : std::ssize(held)); ++i) {
      const std::byte* data = view.data + (held.empty() ? 0 : held[static_cast<size_t>(i)]) * each;
      for (int64_t begin = 0; begin < each; begin += kSlabBytes) {
        const int64_t bytes = std::min(kSlabBytes, each - begin);
        RETURN_IF_ERROR(append({data + begin, static_cast<size_t>(bytes)}));
        checkpoint.drop(data + begin, bytes);
      }
    }
    return absl::OkStatus();
  };
  return part;
}

void TakeStored(const Checkpoint& checkpoint, const StoredNeeds& needs, size_t shard,
                FolderContents& contents, Shard& table) {
  const std::span<const TensorInfo> stored = checkpoint.stored_tensors();
  for (size_t i = 0; i < stored.size(); ++i) {
    bool whole = false;
    std::vector<int64_t> held;
    for (const auto& [index, nodes] : needs.by_tensor[i]) {
      if (!nodes[shard]) continue;
      if (index < 0) whole = true;
      if (index >= 0) held.push_back(index);
    }
    if (!whole && held.empty()) continue;
    if (whole || std::ssize(held) == stored[i].shape[0]) held.clear();
    if (!held.empty()) table.stacks[stored[i].name] = held;
    contents.parts.push_back(CopyOf(checkpoint, stored[i], std::move(held)));
  }
}

}  // namespace

Nodes NodesThatNeed(const WeightUse& use, const std::vector<ConvertShard>& shards) {
  Nodes nodes;
  for (const ConvertShard& shard : shards) nodes.push_back(shard.has(use));
  return nodes;
}

void Add(const Nodes& more, Nodes& nodes) {
  if (nodes.empty()) nodes.resize(more.size());
  for (size_t i = 0; i < more.size(); ++i) nodes[i] = nodes[i] || more[i];
}

/// A shard's folder, without its tensors, and its table.
FolderContents FolderOf(const ConvertShard& shard, std::string config_json) {
  return {.out = shard.out,
          .parts = {},
          .config_json = std::move(config_json),
          .shard = std::nullopt,
          .text = shard.text,
          .identity = {}};
}
Shard TableOf(const ConvertShard& shard, std::vector<SafetensorsWriter::Entry> tensors) {
  std::ranges::sort(tensors, {}, &SafetensorsWriter::Entry::name);
  return {.id = "", .node = shard.node, .holds = shard.holds, .tensors = std::move(tensors), .stacks = {}};
}

void FolderRun::add(FolderContents contents) {
  for (const TensorGroup& part : contents.parts) total_ += part.bytes();
  folders_.push_back(std::move(contents));
}

absl::StatusOr<std::vector<FolderReport>> FolderRun::write(const std::string& formats) {
  const std::string from = source_.content_identity() + formats;
  std::vector<FolderReport> reports;
  for (FolderContents& folder : folders_) {
    folder.identity = ContentHashHex(from + (folder.shard ? ShardText(*folder.shard) : ""));
    ASSIGN_OR_RETURN(FolderReport report,
                     WriteModelFolder(source_, folder, file_bytes_max_, [&](int64_t bytes) {
                       done_ += bytes;
                       if (progress_) progress_(done_, total_);
                     }));
    reports.push_back(report);
  }
  return reports;
}

absl::StatusOr<std::vector<FolderReport>> CopyShards(const ResolvedWeights& weights,
                                                     const std::vector<ConvertShard>& shards,
                                                     FolderRun& run) {
  const Checkpoint& checkpoint = weights.checkpoint();
  SHOAL_CHECK(!checkpoint.is_gguf());
  const StoredNeeds needs = NeedsOf(weights, shards);
  std::vector<SafetensorsWriter::Entry> all;
  for (const TensorInfo& tensor : checkpoint.stored_tensors())
    all.push_back({tensor.name, tensor.dtype, tensor.shape});
  for (size_t i = 0; i < shards.size(); ++i) {
    FolderContents contents = FolderOf(shards[i], checkpoint.config().canonical());
    Shard table = TableOf(shards[i], all);
    TakeStored(checkpoint, needs, i, contents, table);
    contents.shard = std::move(table);
    run.add(std::move(contents));
  }
  return run.write("");
}

}  // namespace shoal
