// Folders with what one node needs of a model: which tensors that is, and the writing of several folders in a
// row.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "convert/model_folder.h"
#include "formats/checkpoint.h"
#include "formats/share.h"
#include "loading/weight_reader.h"
#include "models/spec.h"

namespace shoal {

/// A folder with what one node needs (formats/share.h).
struct ConvertShare {
  std::string out;                            ///< The folder, made if need be. It must not be another model.
  std::string node;                           ///< Whose it is, and
  std::string holds;                          ///< what, in words.
  std::function<bool(const WeightUse&)> has;  ///< Whether the node reads a weight.
  bool text = false;                          ///< With tokenizer and template.
};

using Nodes = std::vector<bool>;  ///< By share: whether it needs something.
Nodes NodesThatNeed(const WeightUse& use, const std::vector<ConvertShare>& shares);
/// nodes: of as many shares, or empty.
void Add(const Nodes& more, Nodes& nodes);

/// A share's folder, without its tensors, and its table, of all `tensors` of the model.
FolderContents FolderOf(const ConvertShare& share, std::string config_json);
Share TableOf(const ConvertShare& share, std::vector<SafetensorsWriter::Entry> tensors);

/// Writes one folder after the other, with one progress over all.
class FolderRun {
 public:
  /// progress: bytes; may be empty.
  FolderRun(const Checkpoint& source, int64_t file_bytes_max,
            std::function<void(int64_t done, int64_t total)> progress)
      : source_(source), file_bytes_max_(file_bytes_max), progress_(std::move(progress)) {}

  void add(FolderContents contents);
  /// formats: what the tensors become, which files that are kept must have been made to, too.
  absl::StatusOr<std::vector<FolderReport>> write(const std::string& formats);

 private:
  const Checkpoint& source_;
  const int64_t file_bytes_max_;
  const std::function<void(int64_t done, int64_t total)> progress_;
  std::vector<FolderContents> folders_;
  int64_t done_ = 0;
  int64_t total_ = 0;
};

/// Shares whose tensors stay what they are. Unimplemented for a GGUF.
absl::StatusOr<std::vector<FolderReport>> CopyShares(const WeightReader& reader, const ModelSpec& spec,
                                                     const std::vector<ConvertShare>& shares, FolderRun& run);

}  // namespace shoal
