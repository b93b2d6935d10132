#include "formats/gguf_files.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "base/log.h"
#include "base/status.h"
#include "formats/gguf.h"
#include "formats/mapped_file.h"

namespace shoal {
namespace {

constexpr size_t kDigits = 5;
constexpr int kPartsMax = 99999;

/// "-00002-of-00003" before the extension.
struct Part {
  std::string base;  ///< What stands before it.
  int index = 0;     ///< From 1 on.
  int count = 0;
};

std::optional<int> FiveDigits(std::string_view text) {
  if (text.size() != kDigits) return std::nullopt;
  int value = 0;
  for (const char c : text) {
    if (c < '0' || c > '9') return std::nullopt;
    value = 10 * value + (c - '0');
  }
  return value;
}

std::optional<Part> PartOf(std::string_view path) {
  constexpr std::string_view kOf = "-of-";
  constexpr size_t kTail = 1 + kDigits + kOf.size() + kDigits;
  if (!path.ends_with(kGgufExtension)) return std::nullopt;
  path.remove_suffix(kGgufExtension.size());
  if (path.size() < kTail) return std::nullopt;
  const std::string_view tail = path.substr(path.size() - kTail);
  const auto index = FiveDigits(tail.substr(1, kDigits));
  const auto count = FiveDigits(tail.substr(kTail - kDigits));
  if (tail[0] != '-' || tail.substr(1 + kDigits, kOf.size()) != kOf || !index || !count) return std::nullopt;
  return Part{std::string(path.substr(0, path.size() - kTail)), *index, *count};
}

std::string PathOf(const Part& part, int index) {
  return fmt::format("{}-{:05}-of-{:05}{}", part.base, index, part.count, kGgufExtension);
}

/// Architectures of files that lie beside a model and are none of their own: towers, heads that draft.
bool IsBesideModel(std::string_view architecture) {
  for (const std::string_view word : {"clip", "dflash", "eagle3", "gemma4-assistant", "gemma4_assistant"}) {
    if (architecture == word) return true;
  }
  return false;
}

/// Whether a file is a text model as far as its head says. What can't be read counts as one, so that its error is seen.
bool MayBeTextModel(const std::string& path) {
  constexpr std::string_view kMagic = "GGUF";
  const absl::StatusOr<MappedFile> file = MappedFile::Open(path);
  if (!file.ok()) return true;
  const auto bytes = file->bytes();
  const std::string_view begin(reinterpret_cast<const char*>(bytes.data()),
                               std::min(bytes.size(), kMagic.size()));
  if (begin != kMagic) return true;
  const absl::StatusOr<GgufHeader> header = ParseGguf(bytes, path);
  if (!header.ok()) return true;
  const auto architecture = header->metadata.find("general.architecture");
  if (architecture == header->metadata.end()) return true;
  if (IsBesideModel(architecture->second.as_string().value_or(""))) return false;
  // A head for multi-token prediction alone has no first layer.
  return std::ranges::any_of(header->tensors,
                             [](const GgufTensor& tensor) { return tensor.name.starts_with("blk.0."); }) ||
         header->metadata.contains("split.count");
}

/// Leaves out what is no text model, and a file that is another one under a second name.
void KeepTextModels(std::vector<std::string>* models) {
  std::vector<std::string> kept;
  for (const std::string& path : *models) {
    std::error_code error;
    const auto same = [&](const std::string& other) {
      return std::filesystem::equivalent(path, other, error) && !error;
    };
    if (std::ranges::any_of(kept, same)) continue;
    if (MayBeTextModel(path)) {
      kept.push_back(path);
    } else {
      LogInfo("checkpoint: {}: not used, as it is no text model", path);
    }
  }
  if (!kept.empty()) *models = std::move(kept);
}

}  // namespace

absl::StatusOr<std::vector<std::string>> GgufFiles(const std::string& path) {
  const std::optional<Part> part = PartOf(path);
  if (!part) return std::vector{path};
  if (part->index < 1 || part->index > part->count || part->count > kPartsMax) {
    return InvalidArgument("checkpoint: {}: expected part 1 to {} of a split GGUF, found part {}", path,
                           part->count, part->index);
  }
  std::vector<std::string> files;
  for (int i = 1; i <= part->count; ++i) files.push_back(PathOf(*part, i));
  return files;
}

absl::StatusOr<std::optional<std::string>> GgufInFolder(const std::string& folder) {
  namespace fs = std::filesystem;
  std::vector<std::string> models;
  std::error_code error;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    const std::string path = at->path().string();
    if (!path.ends_with(kGgufExtension)) continue;
    const std::optional<Part> part = PartOf(path);
    models.push_back(part ? PathOf(*part, 1) : path);
  }
  std::ranges::sort(models);
  models.erase(std::ranges::unique(models).begin(), models.end());
  if (models.size() > 1) KeepTextModels(&models);
  if (models.empty()) return std::optional<std::string>();
  if (models.size() == 1) return std::optional(models.front());
  return InvalidArgument(
      "checkpoint: {}: expected one GGUF model, found {}: {} and others. Name the file itself.", folder,
      models.size(), fs::path(models.front()).filename().string());
}

}  // namespace shoal
