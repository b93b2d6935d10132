// Which files a GGUF model is: alone, or split as <name>-00001-of-00003.gguf.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace shoal {

inline constexpr std::string_view kGgufExtension = ".gguf";

/// The paths of the files of the model, in order; `path` is any of them. InvalidArgument where the name says
/// an impossible part. Does not check that they exist.
absl::StatusOr<std::vector<std::string>> GgufFiles(const std::string& path);

/// The one GGUF model in a folder (its first file): what `--model FOLDER` means where there are no
/// safetensors. Of several files those that are no text model (image towers, drafters) and second names of one file do
/// not count. nullopt where there is none; InvalidArgument where there are several: the caller must name one.
absl::StatusOr<std::optional<std::string>> GgufInFolder(const std::string& folder);

}  // namespace shoal
