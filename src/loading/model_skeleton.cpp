#include "loading/model_skeleton.h"

#include <algorithm>
#include <set>
#include <utility>

#include "base/file.h"
#include "base/status.h"
#include "formats/content_hash.h"
#include "formats/gguf_files.h"
#include "formats/strict_json.h"

namespace shoal {
namespace {

/// Names of the files that a Checkpoint reads beside those with tensors.
constexpr std::string_view kTexts[] = {"config.json", "generation_config.json",
                                       "model.safetensors.index.json", kShardFile, kOlderShardFile};
constexpr std::string_view kTensorFiles[] = {".safetensors", kGgufExtension};
constexpr int64_t kFileBytesMax = int64_t{1} << 46;
/// Gaps between tensors: padding, and small tensors that are no weights, such as a GGUF's rope factors. Larger ones are
/// tensors that no layer uses.
constexpr int64_t kGapBytesMax = int64_t{1} << 20;
constexpr size_t kNameBytesMax = 255;

bool IsNameOfModelFile(const std::string& name) {
  if (name.empty() || name.size() > kNameBytesMax || name.front() == '.') return false;
  const auto odd = [](char c) { return c == '/' || static_cast<unsigned char>(c) < ' ' || c == 127; };
  if (std::ranges::any_of(name, odd)) return false;
  return std::ranges::find(kTexts, name) != std::end(kTexts) ||
         std::ranges::any_of(kTensorFiles, [&](std::string_view end) { return name.ends_with(end); });
}

absl::Status AddTexts(const std::string& folder, ModelSkeleton& skeleton) {
  for (const std::string_view name : kTexts) {
    absl::StatusOr<std::string> text =
        ReadTextFile(fmt::format("{}/{}", folder, name), kSafetensorsHeaderMax);
    if (absl::IsNotFound(text.status())) continue;
    RETURN_IF_ERROR(text.status());
    skeleton.files.push_back({std::string(name), std::ssize(*text)});
    skeleton.pieces.push_back({static_cast<int32_t>(skeleton.files.size()) - 1, 0, *std::move(text)});
  }
  return absl::OkStatus();
}

/// What lies before, between and behind the tensors.
void AddGaps(const Checkpoint::File& file, std::vector<Range> tensors, ModelSkeleton& skeleton) {
  std::ranges::sort(tensors, {}, &Range::begin);
  const auto size = static_cast<int64_t>(file.bytes.size());
  tensors.push_back({size, size});
  const auto index = static_cast<int32_t>(skeleton.files.size());
  skeleton.files.push_back({std::string(file.name), size});
  int64_t at = 0;
  for (const Range& tensor : tensors) {
    const bool header = at == 0;
    if (tensor.begin > at && (header || tensor.begin - at <= kGapBytesMax)) {
      skeleton.pieces.push_back({index, at,
                                 std::string(reinterpret_cast<const char*>(file.bytes.data()) + at,
                                             static_cast<size_t>(tensor.begin - at))});
    }
    at = std::max(at, tensor.end);
  }
}

}  // namespace

std::string ModelSkeleton::entry() const {
  for (const File& file : files) {
    if (file.name.ends_with(kGgufExtension)) return file.name;
  }
  return "";
}

int64_t ModelSkeleton::bytes() const {
  int64_t sum = 0;
  for (const Piece& piece : pieces) sum += std::ssize(piece.bytes);
  return sum;
}

std::string ModelSkeleton::hash() const {
  std::string text;
  for (const File& file : files) text += fmt::format("{} {}\n", file.name, file.bytes);
  for (const Piece& piece : pieces) {
    text += fmt::format("{} {} {} {}\n", piece.file, piece.begin, piece.bytes.size(),
                        ContentHashHex(piece.bytes));
  }
  return ContentHashHex(text);
}

absl::Status CheckSkeleton(const ModelSkeleton& skeleton) {
  const auto files = std::ssize(skeleton.files);
  if (files == 0 || files > kSkeletonFilesMax) {
    return InvalidArgument("a model's files: expected 1 to {}, got {}", kSkeletonFilesMax, files);
  }
  std::set<std::string_view> names;
  for (const ModelSkeleton::File& file : skeleton.files) {
    if (!IsNameOfModelFile(file.name)) {
      return InvalidArgument(
          "a model's file: expected the plain name of a config, an index, a safetensors or "
          "GGUF file, got '{}'",
          Printable(file.name, 100));
    }
    if (!names.insert(file.name).second)
      return InvalidArgument("a model's file '{}' is there twice", file.name);
    if (file.bytes <= 0 || file.bytes > kFileBytesMax) {
      return InvalidArgument("a model's file '{}': {} bytes make no sense", file.name, file.bytes);
    }
  }
  int64_t left = kSkeletonBytesMax;
  for (const ModelSkeleton::Piece& piece : skeleton.pieces) {
    if (piece.file < 0 || piece.file >= files) {
      return InvalidArgument("a piece of file {}: there are {}", piece.file, files);
    }
    const ModelSkeleton::File& file = skeleton.files[static_cast<size_t>(piece.file)];
    const int64_t bytes = std::ssize(piece.bytes);
    if (bytes > file.bytes || piece.begin < 0 || piece.begin > file.bytes - bytes) {
      return InvalidArgument("a piece of '{}': {} bytes from {} on, of {}", file.name, bytes, piece.begin,
                             file.bytes);
    }
    left -= bytes;
    if (left < 0) {
      return InvalidArgument("a model's headers: expected at most {} bytes, got more", kSkeletonBytesMax);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<ModelSkeleton> SkeletonOf(const Checkpoint& checkpoint) {
  ModelSkeleton skeleton;
  const std::vector<Checkpoint::File> files = checkpoint.files();
  std::vector<std::vector<Range>> tensors(files.size());
  for (const TensorInfo& tensor : checkpoint.stored_tensors()) {
    if (tensor.file >= 0) tensors[static_cast<size_t>(tensor.file)].push_back(tensor.bytes);
  }
  for (size_t i = 0; i < files.size(); ++i) AddGaps(files[i], std::move(tensors[i]), skeleton);
  if (!checkpoint.is_gguf()) RETURN_IF_ERROR(AddTexts(checkpoint.folder(), skeleton));
  const absl::Status sound = CheckSkeleton(skeleton);
  if (!sound.ok()) return ResourceExhausted("{} can't be sent: {}", checkpoint.folder(), Message(sound));
  return skeleton;
}

}  // namespace shoal
