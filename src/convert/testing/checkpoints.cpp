#include "convert/testing/checkpoints.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>

#include "base/check.h"
#include "base/random.h"
#include "base/status.h"
#include "convert/synth_model.h"
#include "formats/checkpoint.h"
#include "models/family.h"

namespace shoal {

TempFolder::TempFolder() {
  const auto base = std::filesystem::temp_directory_path();
  path_ = (base / fmt::format("shoal-models-{:016x}", EntropySeed())).string();
  SHOAL_CHECK(std::filesystem::create_directory(path_));
}

TempFolder::~TempFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

const std::string& TinyCheckpoint(std::string_view family, std::optional<AffineFormat> format) {
  static std::map<std::string, std::unique_ptr<TempFolder>> made;
  const std::string key =
      format ? fmt::format("{}-q{}g{}", family, format->bits, format->group) : std::string(family);
  std::unique_ptr<TempFolder>& folder = made[key];
  if (folder == nullptr) {
    folder = std::make_unique<TempFolder>();
    const auto found = FindFamily(family);
    SHOAL_CHECK(found.ok());
    const absl::Status status = SynthesizeModel({.config_json = (*found)->tiny(),
                                                 .out = folder->path(),
                                                 .quantization = format,
                                                 .seed = 11,
                                                 .with_tokenizer = false});
    if (!status.ok()) CheckFailed(__FILE__, __LINE__, Message(status));
  }
  return folder->path();
}

void CopyCheckpoint(const std::string& from, const std::string& folder,
                    const std::function<void(std::vector<EditableTensor>&)>& edit) {
  const auto checkpoint = Checkpoint::Open(from);
  SHOAL_CHECK(checkpoint.ok());
  std::vector<EditableTensor> tensors;
  for (const TensorInfo& info : (*checkpoint)->tensors()) {
    const TensorView view = (*checkpoint)->view(info);
    tensors.push_back({info.name, info.dtype, info.shape, {view.data, view.data + view.bytes}});
  }
  edit(tensors);
  std::vector<SafetensorsWriter::Entry> entries;
  for (const EditableTensor& tensor : tensors) entries.push_back({tensor.name, tensor.dtype, tensor.shape});
  auto writer = SafetensorsWriter::Create(folder + "/model.safetensors", entries);
  SHOAL_CHECK(writer.ok());
  for (const EditableTensor& tensor : tensors) SHOAL_CHECK(writer->append(tensor.bytes).ok());
  SHOAL_CHECK(writer->finish().ok());
  for (const char* name : {"config.json", "generation_config.json"}) {
    if (!std::filesystem::exists(from + "/" + name)) continue;
    std::filesystem::copy_file(from + "/" + name, folder + "/" + name,
                               std::filesystem::copy_options::overwrite_existing);
  }
}

EditableTensor& TensorNamed(std::vector<EditableTensor>& tensors, std::string_view name) {
  const auto found = std::find_if(tensors.begin(), tensors.end(),
                                  [&](const EditableTensor& tensor) { return tensor.name == name; });
  SHOAL_CHECK(found != tensors.end());
  return *found;
}

}  // namespace shoal
