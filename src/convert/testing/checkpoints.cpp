#include "convert/testing/checkpoints.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <set>

#include "base/check.h"
#include "base/random.h"
#include "base/status.h"
#include "convert/synth_model.h"
#include "formats/checkpoint.h"
#include "formats/config.h"
#include "harness/sweep.h"
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

namespace {

/// Made once; edit: of config.json.
const std::string& Synthesized(std::string_view family, std::optional<AffineFormat> format,
                               std::string_view more_keys) {
  static std::map<std::string, std::unique_ptr<TempFolder>> made;
  const std::string kind = format ? fmt::format("q{}g{}", format->bits, format->group) : "plain";
  std::unique_ptr<TempFolder>& folder = made[fmt::format("{} {} {}", family, kind, more_keys)];
  if (folder == nullptr) {
    folder = std::make_unique<TempFolder>();
    const auto found = FindFamily(family);
    SHOAL_CHECK(found.ok());
    std::string config = (*found)->tiny();
    const size_t nested = config.find("\"text_config\"");
    config.insert(config.find('{', nested == std::string::npos ? 0 : nested) + 1, more_keys);
    const absl::Status status = SynthesizeModel({.config_json = config,
                                                 .out = folder->path(),
                                                 .quantization = format,
                                                 .seed = 11,
                                                 .with_tokenizer = false});
    if (!status.ok()) CheckFailed(__FILE__, __LINE__, Message(status));
  }
  return folder->path();
}

/// Row NextInChain(t) of the head is the embedding of t.
void MakeChainHead(std::vector<EditableTensor>& tensors) {
  const EditableTensor& embedding = TensorNamed(tensors, "model.embed_tokens.weight");
  EditableTensor& head = TensorNamed(tensors, "lm_head.weight");
  const auto rows = static_cast<int32_t>(embedding.shape[0]);
  const auto width = static_cast<std::ptrdiff_t>(embedding.bytes.size()) / rows;
  for (int32_t t = 0; t < rows; ++t)
    std::copy_n(embedding.bytes.begin() + t * width, width, head.bytes.begin() + NextInChain(t) * width);
}

/// The embedding's half of what it multiplies, as it is.
void MakePassThrough(EditableTensor& projection) {
  SHOAL_CHECK(projection.dtype == DType::kBF16);
  std::ranges::fill(projection.bytes, std::byte{0});
  for (int64_t row = 0; row < projection.shape[0]; ++row) {
    constexpr uint16_t kOne = 0x3f80;
    std::memcpy(projection.bytes.data() + 2 * (row * projection.shape[1] + row), &kOne, sizeof(kOne));
  }
}

std::vector<std::string> NamesOf(const std::function<bool(const Family&)>& is_wanted) {
  std::vector<std::string> names;
  for (const Family* family : Families()) {
    if (is_wanted(*family)) names.emplace_back(family->model_type);
  }
  return names;
}

}  // namespace

const std::string& TinyCheckpoint(std::string_view family, std::optional<AffineFormat> format) {
  return Synthesized(family, format, "");
}

const std::string& MtpCheckpoint(std::string_view family, std::optional<AffineFormat> format) {
  return Synthesized(family, format, R"("num_nextn_predict_layers": 1, "mtp_num_hidden_layers": 1,)");
}

int32_t NextInChain(int32_t token) {
  constexpr int32_t kTinyVocabulary = 331;  // Prime, so that any step gives one cycle.
  return (token + 61) % kTinyVocabulary;
}

const std::string& MtpChainCheckpoint(std::string_view family) {
  static std::map<std::string, std::unique_ptr<TempFolder>> made;
  std::unique_ptr<TempFolder>& folder = made[std::string(family)];
  if (folder != nullptr) return folder->path();
  folder = std::make_unique<TempFolder>();
  CopyCheckpoint(MtpCheckpoint(family), folder->path(), [](std::vector<EditableTensor>& tensors) {
    for (EditableTensor& tensor : tensors) {
      const auto is = [&](const char* name) { return tensor.name.ends_with(name); };
      const bool adds = is(".o_proj.weight") || is(".out_proj.weight") || is(".down_proj.weight");
      if (adds) std::ranges::fill(tensor.bytes, std::byte{0});
      if (is(".eh_proj.weight") || is("mtp.fc.weight")) MakePassThrough(tensor);
    }
    MakeChainHead(tensors);
  });
  return folder->path();
}

std::vector<std::string> FamiliesToSweep() {
  return NamesOf([](const Family& family) { return SweepsAllFamilies() || family.like.empty(); });
}

std::vector<std::string> FamiliesPerAttention() {
  return {"qwen3", "gemma3_text", "gpt_oss", "gemma2", "llama4", "deepseek_v3", "qwen3_next"};
}

std::vector<std::string> FamiliesPerCache() {
  if (SweepsAllFamilies()) return FamiliesToSweep();
  return {"qwen3_moe",   "gemma3_text", "gpt_oss",       "gemma4_text", "gemma3n",     "llama4",
          "phi3",        "deepseek_v3", "longcat_flash", "deepseek_v4", "glm_moe_dsa", "minimax_m3_vl",
          "qwen3_5_moe", "kimi_linear", "lfm2_moe",      "nemotron_h",  "falcon_h1",   "jamba"};
}

std::vector<std::string> FamiliesPerExperts() {
  if (!SweepsAllFamilies()) {
    return {"qwen3_moe",  "qwen2_moe",  "deepseek_v3",      "gpt_oss",       "gemma4_text", "llama4",
            "nemotron_h", "granitemoe", "granitemoehybrid", "longcat_flash", "deepseek_v4", "minimax_m3_vl"};
  }
  std::vector<std::string> names = FamiliesToSweep();
  std::erase_if(names, [](const std::string& name) {
    const Family& family = **FindFamily(name);
    const ModelSpec spec = *family.spec(*ModelConfig::Parse(family.tiny(), "tiny"));
    return std::ranges::none_of(spec.layers, [](const LayerSpec& layer) { return MoeOf(layer) != nullptr; });
  });
  return names;
}

std::vector<std::string> FamiliesOfEachKind() {
  if (SweepsAllFamilies()) return FamiliesToSweep();
  std::set<std::string> names = {"llama"};
  for (const auto& kind : {FamiliesPerAttention(), FamiliesPerCache(), FamiliesPerExperts()}) {
    names.insert(kind.begin(), kind.end());
  }
  return {names.begin(), names.end()};
}

std::vector<std::string> RenamedFamilies() {
  const std::vector<std::string> swept = FamiliesToSweep();
  return NamesOf([&](const Family& family) { return std::ranges::count(swept, family.model_type) == 0; });
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
