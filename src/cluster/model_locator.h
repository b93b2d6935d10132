// Finds a model's folder on this machine, below the roots that its operator allows.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace shoal {

/// The folder of `name` below one of `roots`, symlinks resolved. `name` is one of
///   a folder's name          Qwen3-1.7B-8bit
///   provider/name            mlx-community/Qwen3-1.7B-8bit (also found as a folder of the last part alone)
///   either, in a Hugging Face cache: models--provider--name/snapshots/<revision>, the revision that
///   refs/main names or the only one;
///                            the root may be the cache's `hub` folder or the one above it
///   an absolute path         whose folder lies below a root
/// or, for each, a GGUF file in place of the folder.
/// The first root that has it wins. Nothing outside the roots is ever given: not by "..", not by a symlink to
/// a folder, not by a symlinked file in the folder (a cache's links into its own blobs/ stay inside and are
/// fine). InvalidArgument for a malformed or ambiguous name, PermissionDenied for a way out of the roots,
/// NotFound (with the roots and the nearest names) where there is no folder with a config.json or one GGUF
/// model.
absl::StatusOr<std::string> FindModel(const std::vector<std::string>& roots, std::string_view name);

struct LocatedModel {
  std::string name;  ///< "Qwen3-1.7B-8bit", "mlx-community/Qwen3-1.7B-8bit", "tiny-q4_0" for tiny-q4_0.gguf.
  std::string folder;  ///< Or the GGUF file.
};
/// The models below `root`, by name. Folders that are none are left out, and of a model that FindModel refuses `refused`
/// has the reason. NotFound where there is no such folder.
absl::StatusOr<std::vector<LocatedModel>> ListModels(const std::string& root,
                                                     std::vector<absl::Status>& refused);

/// The names under which workers may know the model in `folder`: its absolute path, provider/name where a
/// cluster file or a Hugging Face cache path tells, and the folder's own name.
std::vector<std::string> ModelNames(const std::string& folder, const std::string& provider_and_name);

}  // namespace shoal
