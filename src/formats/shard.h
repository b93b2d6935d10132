// A node's shard of a model as a folder: a config, some of the model's tensors, and shoal-shard.json, which
// lists all of the model's. So a shard can be told to belong to its model (Checkpoint::hash() is the whole
// model's), and is measured and planned like the whole.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "formats/safetensors.h"

namespace shoal {

inline constexpr std::string_view kShardFile = "shoal-shard.json";
/// The name that older versions gave it; it is read, never written.
inline constexpr std::string_view kOlderShardFile = "shoal-share.json";

/// In the metadata of a file of weights that a conversion wrote: from what and to what.
inline constexpr char kConversionKey[] = "shoal_convert";

/// What shoal-shard.json says: {"format": "shoal-share-1", "id", "node", "holds", "tensors": {name: [dtype,
/// shape]}, "stacks": {name: [indices]}}.
struct Shard {
  std::string id;                                 ///< The kConversionKey of each of its files.
  std::string node;                               ///< The node's name, for messages,
  std::string holds;                              ///< and what it holds: "layers [2, 4), 12 experts".
  std::vector<SafetensorsWriter::Entry> tensors;  ///< All of the model's, sorted by name.
  /// Stacked tensors [E, ..] of which the shard has some matrices only: which, ascending. They lie in that
  /// order in a tensor [held, ..] of the same name.
  std::map<std::string, std::vector<int64_t>, std::less<>> stacks;
  std::string file{kShardFile};  ///< The name under which it was found.
};

/// where: the file, for messages. InvalidArgument for anything else than such a text: another format, an
/// unknown dtype, a shape that overflows, indices that do not ascend within a stack of the table.
absl::StatusOr<Shard> ParseShard(std::string_view text, std::string_view where);
std::string ShardText(const Shard& shard);

/// Completes the table of a shard's files to that of its model: stacks get the shape of the whole and `held`;
/// tensors that are not here get an entry with file -1. tensors: those of the files; sorted by name after it.
/// InvalidArgument for a tensor that is not in the model, or of another dtype or shape than it is there.
absl::Status CompleteTable(const Shard& shard, const std::string& folder, std::vector<TensorInfo>* tensors);

}  // namespace shoal
