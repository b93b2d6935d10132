// A node's shard of a model as a folder: a config, some of the model's tensors, and shoal-shard.json, which
// says what all of them are. So a shard is known to be of its model (Checkpoint::hash() is that of the
// whole), and measured and planned as the whole is.
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
/// What older versions called it; read, never written.
inline constexpr std::string_view kOlderShardFile = "shoal-share.json";

/// In the metadata of a file of weights that a conversion wrote: from what and to what.
inline constexpr char kConversionKey[] = "shoal_convert";

/// What shoal-shard.json says: {"format": "shoal-share-1", "id", "node", "holds", "tensors": {name: [dtype,
/// shape]}, "stacks": {name: [indices]}}.
struct Shard {
  std::string id;     ///< Of the files that belong to it: the kConversionKey of each.
  std::string node;   ///< Whose it is, and what of the model: for messages.
  std::string holds;  ///< "layers [2, 4), 12 experts"
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

/// Makes the table of a shard's files that of its model: stacks get the shape of the whole and `held`, and
/// what is not there an entry of file -1. tensors: those of the files; sorted by name after it.
/// InvalidArgument for a tensor that is not in the model, or of another dtype or shape than it is there.
absl::Status CompleteTable(const Shard& shard, const std::string& folder, std::vector<TensorInfo>* tensors);

}  // namespace shoal
