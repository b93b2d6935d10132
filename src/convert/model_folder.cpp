#include "convert/model_folder.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/status.h"
#include "base/text.h"
#include "formats/mapped_file.h"

namespace shoal {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

/// One file of weights, to be.
struct WeightFile {
  std::string name;
  std::vector<const TensorGroup*> parts;
  int64_t bytes = 0;

  std::vector<SafetensorsWriter::Entry> entries() const {
    std::vector<SafetensorsWriter::Entry> all;
    for (const TensorGroup* part : parts) std::ranges::copy(part->entries, std::back_inserter(all));
    return all;
  }
};

std::vector<WeightFile> CutIntoFiles(const std::vector<TensorGroup>& parts, int64_t file_bytes_max) {
  std::vector<WeightFile> weight_files(1);
  for (const TensorGroup& part : parts) {
    const int64_t bytes = part.bytes();
    if (!weight_files.back().parts.empty() && weight_files.back().bytes + bytes > file_bytes_max)
      weight_files.emplace_back();
    weight_files.back().parts.push_back(&part);
    weight_files.back().bytes += bytes;
  }
  for (size_t i = 0; i < weight_files.size(); ++i) {
    weight_files[i].name = weight_files.size() == 1
                               ? "model.safetensors"
                               : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, weight_files.size());
  }
  return weight_files;
}

/// Whether the file is there, whole, and was written from the same source to the same formats.
bool IsWritten(const std::string& path, const WeightFile& weights, const std::string& identity) {
  const auto file = MappedFile::Open(path);
  if (!file.ok()) return false;
  const auto header = ParseSafetensorsHeader(file->bytes(), weights.name);
  if (!header.ok()) return false;
  const auto found = header->metadata.find(kConversionKey);
  if (found == header->metadata.end() || found->second != identity) return false;
  const auto same = [](const auto& a, const auto& b) {
    return a.name == b.name && a.dtype == b.dtype && a.shape == b.shape;
  };
  return std::ranges::equal(header->tensors, weights.entries(), same);
}

/// What a folder has beside weights and config.
absl::Status WriteTextFiles(const Checkpoint& checkpoint, const std::string& out) {
  if (checkpoint.is_gguf()) {
    const GenerationConfig& generation = checkpoint.generation();
    Json json = {{"eos_token_id", generation.eos_token_ids}};
    if (generation.bos_token_id) json["bos_token_id"] = *generation.bos_token_id;
    if (generation.pad_token_id) json["pad_token_id"] = *generation.pad_token_id;
    RETURN_IF_ERROR(WriteTextFile(out + "/generation_config.json", json.dump(2)));
    ASSIGN_OR_RETURN(const GgufText text, checkpoint.gguf_text());
    RETURN_IF_ERROR(WriteTextFile(out + "/tokenizer.json", text.tokenizer_json));
    return WriteTextFile(out + "/tokenizer_config.json", text.tokenizer_config_json);
  }
  for (const fs::directory_entry& entry : fs::directory_iterator(checkpoint.folder())) {
    const std::string name = entry.path().filename().string();
    const std::string extension = entry.path().extension().string();
    const bool text =
        extension == ".json" || extension == ".jinja" || extension == ".txt" || name == "tokenizer.model";
    if (!text || name == "config.json" || name.ends_with(".index.json")) continue;
    std::error_code error;
    fs::copy_file(entry.path(), fs::path(out) / name, fs::copy_options::overwrite_existing, error);
    if (error) return ResourceExhausted("cannot write {}/{}: {}", out, name, error.message());
  }
  return absl::OkStatus();
}

/// Makes the folder; refuses one in which writing would destroy a model.
absl::Status PrepareFolder(const Checkpoint& checkpoint, const FolderContents& contents,
                           const WeightFile& first) {
  const std::string& out = contents.out;
  std::error_code error;
  if (fs::equivalent(out, checkpoint.folder(), error)) {
    return FailedPrecondition("convert: --out {}: it is the source itself; name another folder", out);
  }
  if (fs::exists(out + "/config.json", error) &&
      !IsWritten(out + "/" + first.name, first, contents.identity)) {
    return FailedPrecondition(
        "convert: --out {}: expected a new folder, or one where this conversion was cut off; found another "
        "model (config.json). Name another folder, or delete it.",
        out);
  }
  fs::create_directories(out, error);
  if (error) return ResourceExhausted("convert: --out {}: cannot be made: {}", out, error.message());
  return absl::OkStatus();
}

absl::Status WriteIndex(const std::vector<WeightFile>& weight_files, const std::string& out, int64_t bytes) {
  Json map = Json::object();
  for (const WeightFile& weights : weight_files) {
    for (const auto& entry : weights.entries()) map[entry.name] = weights.name;
  }
  const Json index = {{"metadata", {{"total_size", bytes}}}, {"weight_map", std::move(map)}};
  return WriteTextFile(out + "/model.safetensors.index.json", index.dump(2));
}

}  // namespace

int64_t TensorGroup::bytes() const {
  int64_t sum = 0;
  for (const auto& entry : entries) sum += *ElementCount(entry.shape) * DTypeBytes(entry.dtype);
  return sum;
}

absl::StatusOr<FolderReport> WriteModelFolder(const Checkpoint& source, const FolderContents& contents,
                                              int64_t file_bytes_max,
                                              const std::function<void(int64_t bytes)>& progress) {
  const std::vector<WeightFile> weight_files = CutIntoFiles(contents.parts, file_bytes_max);
  RETURN_IF_ERROR(PrepareFolder(source, contents, weight_files.front()));
  FolderReport report{.files = std::ssize(weight_files)};
  for (const WeightFile& weights : weight_files) {
    report.bytes += weights.bytes;
    const std::string path = contents.out + "/" + weights.name;
    if (IsWritten(path, weights, contents.identity)) {
      ++report.files_kept;
      progress(weights.bytes);
      continue;
    }
    ASSIGN_OR_RETURN(SafetensorsWriter file,
                     SafetensorsWriter::Create(path, weights.entries(),
                                               {{"format", "mlx"}, {kConversionKey, contents.identity}}));
    const auto append = [&](std::span<const std::byte> bytes) -> absl::Status {
      RETURN_IF_ERROR(file.append(bytes));
      progress(static_cast<int64_t>(bytes.size()));
      return absl::OkStatus();
    };
    for (const TensorGroup* part : weights.parts) RETURN_IF_ERROR(part->write(append));
    RETURN_IF_ERROR(file.finish());
  }
  if (weight_files.size() > 1) RETURN_IF_ERROR(WriteIndex(weight_files, contents.out, report.bytes));
  if (contents.text) RETURN_IF_ERROR(WriteTextFiles(source, contents.out));
  if (contents.shard) {
    Shard shard = *contents.shard;
    shard.id = contents.identity;
    RETURN_IF_ERROR(WriteTextFile(fmt::format("{}/{}", contents.out, kShardFile), ShardText(shard)));
  }
  RETURN_IF_ERROR(WriteTextFile(contents.out + "/config.json", contents.config_json));
  return report;
}

}  // namespace shoal
