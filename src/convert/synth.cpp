#include "convert/synth.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

#include "base/check.h"
#include "base/file.h"
#include "base/range.h"
#include "base/status.h"
#include "convert/synth_tensors.h"
#include "convert/synth_tokenizer.h"
#include "convert/synth_values.h"
#include "formats/safetensors.h"
#include "formats/strict_json.h"

namespace shoal {
namespace {

using Json = nlohmann::ordered_json;
using Kind = SynthTensor::Kind;

constexpr int64_t kBlockBytes = 16 << 20;
constexpr AffineFormat kRouterFormat{.bits = 8, .group = 64};

/// What a tensor is written as, and in which file.
struct Job {
  SynthTensor tensor;
  std::optional<AffineFormat> format;  ///< nullopt: plain.
  std::vector<SafetensorsWriter::Entry> entries;
  int64_t bytes = 0;
};

Job MakeJob(SynthTensor tensor, const SynthOptions& options) {
  Job job;
  const bool is_matrix = tensor.kind == Kind::kMatrix || tensor.kind == Kind::kRouter;
  if (is_matrix && options.quantization && tensor.suffix == "weight") {
    const AffineFormat format = tensor.kind == Kind::kRouter ? kRouterFormat : *options.quantization;
    if (tensor.cols % format.group == 0) job.format = format;
  }
  std::vector<int64_t> shape;
  if (tensor.experts > 0) shape.push_back(tensor.experts);
  if (is_matrix) shape.push_back(tensor.rows);
  shape.push_back(tensor.cols);
  if (!tensor.shape.empty()) shape = tensor.shape;
  const std::string name = tensor.name();
  if (job.format) {
    std::vector<int64_t> groups = shape;
    shape.back() = tensor.cols * job.format->bits / 32;
    groups.back() = tensor.cols / job.format->group;
    job.entries = {{name, DType::kU32, shape},
                   {tensor.base + ".scales", options.dtype, groups},
                   {tensor.base + ".biases", options.dtype, groups}};
  } else {
    job.entries = {{name, tensor.choices > 0 ? DType::kF32 : options.dtype, shape}};
  }
  for (const auto& entry : job.entries) job.bytes += *ElementCount(entry.shape) * DTypeBytes(entry.dtype);
  job.tensor = std::move(tensor);
  return job;
}

/// fn(begin, end) over parts of [0, rows), one thread each.
template <class Fn>
void ForParts(int64_t rows, const Fn& fn) {
  const int parts = static_cast<int>(std::clamp<int64_t>(std::thread::hardware_concurrency(), 1, 8));
  std::vector<std::jthread> threads;
  for (int i = 1; i < parts; ++i) {
    threads.emplace_back([&fn, part = StaticRange(rows, 1, i, parts)] { fn(part); });
  }
  fn(StaticRange(rows, 1, 0, parts));
}

/// Writes the tensors of one file.
class TensorWriter {
 public:
  TensorWriter(const SynthOptions& options, const ProgressFn& progress, int64_t total)
      : options_(options), progress_(progress), total_(total) {}

  absl::Status write(const Job& job, SafetensorsWriter* file) {
    const SynthTensor& tensor = job.tensor;
    if (tensor.choices > 0) return write_choices(tensor, file);
    std::vector<RandomMatrix> matrices;
    for (const std::string& seed : tensor.seeds) {
      // A bias shares its base name with its matrix.
      const std::string name = tensor.suffix == "weight" ? seed : seed + "." + tensor.suffix;
      matrices.emplace_back(options_.seed, name, tensor.mean, tensor.deviation, options_.dtype);
    }
    const int64_t rows_each = std::max<int64_t>(1, tensor.rows);
    return job.format ? write_quantized(job, matrices, rows_each, file)
                      : write_plain(job, matrices, rows_each, file);
  }

 private:
  /// Neighbouring rows begin a few ids apart, so that all ids occur alike.
  absl::Status write_choices(const SynthTensor& tensor, SafetensorsWriter* file) {
    constexpr int64_t kStep = 5;
    std::vector<float> ids(static_cast<size_t>(tensor.cols));
    const int64_t per_row = tensor.shape.back();
    for (int64_t i = 0; i < tensor.cols; ++i) {
      ids[static_cast<size_t>(i)] = static_cast<float>((i / per_row * kStep + i % per_row) % tensor.choices);
    }
    return append(std::as_bytes(std::span(ids)), file);
  }

  absl::Status write_plain(const Job& job, const std::vector<RandomMatrix>& matrices, int64_t rows_each,
                           SafetensorsWriter* file) {
    const int64_t cols = job.tensor.cols;
    const int64_t row_bytes = cols * DTypeBytes(options_.dtype);
    const int64_t rows = rows_each * static_cast<int64_t>(matrices.size());
    const int64_t block_rows = std::clamp<int64_t>(kBlockBytes / row_bytes, 1, rows);
    std::vector<std::byte> block(static_cast<size_t>(block_rows * row_bytes));
    for (int64_t begin = 0; begin < rows; begin += block_rows) {
      const int64_t count = std::min(block_rows, rows - begin);
      ForParts(count, [&](Range part) {
        std::vector<float> values(static_cast<size_t>(cols));
        for (int64_t i = part.begin; i < part.end; ++i) {
          const int64_t row = begin + i;
          matrices[row / rows_each].fill_row(row % rows_each, values);
          StoreFloats(values, options_.dtype, block.data() + i * row_bytes);
        }
      });
      RETURN_IF_ERROR(append(std::span(block).first(static_cast<size_t>(count * row_bytes)), file));
    }
    return absl::OkStatus();
  }

  /// Words first, block by block; scales and biases are a small part and wait in memory until their turn.
  absl::Status write_quantized(const Job& job, const std::vector<RandomMatrix>& matrices, int64_t rows_each,
                               SafetensorsWriter* file) {
    const int64_t cols = job.tensor.cols;
    const int64_t row_bytes = cols * job.format->bits / 8;
    const int64_t scale_bytes = cols / job.format->group * DTypeBytes(options_.dtype);
    const int64_t rows = rows_each * static_cast<int64_t>(matrices.size());
    const int64_t block_rows = std::clamp<int64_t>(kBlockBytes / row_bytes, 1, rows);
    std::vector<std::byte> block(static_cast<size_t>(block_rows * row_bytes));
    std::vector<std::byte> scales(static_cast<size_t>(rows * scale_bytes));
    std::vector<std::byte> biases(scales.size());
    for (int64_t begin = 0; begin < rows; begin += block_rows) {
      const int64_t count = std::min(block_rows, rows - begin);
      ForParts(count, [&](Range part) {
        std::vector<float> values(static_cast<size_t>(cols));
        for (int64_t i = part.begin; i < part.end; ++i) {
          const int64_t row = begin + i;
          matrices[row / rows_each].fill_row(row % rows_each, values);
          QuantizeRow(values, *job.format, options_.dtype,
                      {block.data() + i * row_bytes, scales.data() + row * scale_bytes,
                       biases.data() + row * scale_bytes});
        }
      });
      RETURN_IF_ERROR(append(std::span(block).first(static_cast<size_t>(count * row_bytes)), file));
    }
    RETURN_IF_ERROR(append(scales, file));
    return append(biases, file);
  }

  absl::Status append(std::span<const std::byte> bytes, SafetensorsWriter* file) {
    RETURN_IF_ERROR(file->append(bytes));
    done_ += static_cast<int64_t>(bytes.size());
    if (progress_) progress_(done_, total_);
    return absl::OkStatus();
  }

  const SynthOptions& options_;
  const ProgressFn& progress_;
  int64_t total_;
  int64_t done_ = 0;
};

/// Consecutive jobs, each list for one file.
std::vector<std::vector<const Job*>> SplitIntoFiles(const std::vector<Job>& jobs, int64_t file_bytes_max) {
  std::vector<std::vector<const Job*>> files(1);
  int64_t bytes = 0;
  for (const Job& job : jobs) {
    if (!files.back().empty() && bytes + job.bytes > file_bytes_max) {
      files.emplace_back();
      bytes = 0;
    }
    files.back().push_back(&job);
    bytes += job.bytes;
  }
  return files;
}

absl::Status WriteTensors(const SynthOptions& options, const std::vector<Job>& jobs,
                          const ProgressFn& progress) {
  int64_t total = 0;
  for (const Job& job : jobs) total += job.bytes;
  TensorWriter writer(options, progress, total);
  nlohmann::json weight_map = nlohmann::json::object();
  const auto files = SplitIntoFiles(jobs, options.file_bytes_max);
  for (size_t i = 0; i < files.size(); ++i) {
    const std::string name = files.size() == 1
                                 ? "model.safetensors"
                                 : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, files.size());
    std::vector<SafetensorsWriter::Entry> entries;
    for (const Job* job : files[i]) entries.insert(entries.end(), job->entries.begin(), job->entries.end());
    for (const auto& entry : entries) weight_map[entry.name] = name;
    ASSIGN_OR_RETURN(SafetensorsWriter file,
                     SafetensorsWriter::Create(options.out + "/" + name, entries,
                                               {{"format", options.quantization ? "mlx" : "pt"}}));
    for (const Job* job : files[i]) RETURN_IF_ERROR(writer.write(*job, &file));
    RETURN_IF_ERROR(file.finish());
  }
  if (files.size() == 1) return absl::OkStatus();
  const nlohmann::json index = {{"metadata", {{"total_size", total}}}, {"weight_map", std::move(weight_map)}};
  return WriteTextFile(options.out + "/model.safetensors.index.json", index.dump(2));
}

/// The given config with what the options change.
Json FinalConfig(const Json& given, const SynthOptions& options, const std::vector<Job>& jobs) {
  Json config = given;
  config["torch_dtype"] = options.dtype == DType::kBF16  ? "bfloat16"
                          : options.dtype == DType::kF16 ? "float16"
                                                         : "float32";
  if (options.with_tokenizer) {
    config["bos_token_id"] = kSynthEndOfText;
    config["eos_token_id"] = kSynthTurnEnd;
  }
  config.erase("quantization");
  config.erase("quantization_config");
  if (!options.quantization) return config;
  Json quantization = {
      {"group_size", options.quantization->group}, {"bits", options.quantization->bits}, {"mode", "affine"}};
  for (const Job& job : jobs) {
    if (job.format && *job.format != *options.quantization) {
      quantization[job.tensor.base] = {{"group_size", job.format->group}, {"bits", job.format->bits}};
    }
  }
  config["quantization"] = quantization;
  config["quantization_config"] = quantization;
  return config;
}

absl::Status WriteTexts(const SynthOptions& options, const Json& config, int64_t vocab) {
  const std::string folder = options.out + "/";
  Json generation = Json::object();
  for (const char* key : {"bos_token_id", "eos_token_id"}) {
    if (config.contains(key)) generation[key] = config[key];
  }
  generation["do_sample"] = false;
  RETURN_IF_ERROR(WriteTextFile(folder + "generation_config.json", generation.dump(2)));
  if (options.with_tokenizer) {
    RETURN_IF_ERROR(WriteTextFile(folder + "tokenizer.json", SynthTokenizerJson(vocab)));
    RETURN_IF_ERROR(WriteTextFile(folder + "tokenizer_config.json", SynthTokenizerConfigJson()));
  }
  return WriteTextFile(folder + "config.json",
                       config.dump(2));  // Last: without it the folder is no checkpoint.
}

absl::Status CheckOptions(const SynthOptions& options) {
  if (!IsFloatWeight(options.dtype)) {
    return InvalidArgument("synth: dtype: expected bf16, f16 or f32, found {}", DTypeName(options.dtype));
  }
  if (options.quantization &&
      (!IsAffineBits(options.quantization->bits) || !IsMlxGroup(options.quantization->group))) {
    return InvalidArgument(
        "synth: expected bits of 2, 3, 4, 5, 6 or 8 in groups of 32, 64 or 128, found bits={} group={}",
        options.quantization->bits, options.quantization->group);
  }
  if (options.layers && (*options.layers < 1 || *options.layers > 10000)) {
    return InvalidArgument("synth: layers: expected 1 to 10000, found {}", *options.layers);
  }
  if (options.file_bytes_max < 1)
    return InvalidArgument("synth: shard bytes: expected at least 1, found {}", options.file_bytes_max);
  return absl::OkStatus();
}

absl::Status MakeFolder(const std::string& path) {
  namespace fs = std::filesystem;
  std::error_code error;
  fs::create_directories(path, error);
  if (error || !fs::is_directory(path, error))
    return Unavailable("synth: cannot make the folder {}: {}", path, error.message());
  if (!fs::is_empty(path, error) || error) {
    return FailedPrecondition("synth: {} is not empty: expected a new or an empty folder", path);
  }
  return absl::OkStatus();
}

// clang-format off
constexpr char kShapeA[] = R"({
  "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "attention_bias": false, "head_dim": 128,
  "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 6144, "max_position_embeddings": 40960,
  "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8, "rms_norm_eps": 1e-06,
  "rope_scaling": null, "rope_theta": 1000000, "sliding_window": null, "tie_word_embeddings": true,
  "use_sliding_window": false, "vocab_size": 151936})";

constexpr char kShapeB[] = R"({
  "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "attention_bias": false,
  "decoder_sparse_step": 1, "head_dim": 128, "hidden_act": "silu", "hidden_size": 2048,
  "intermediate_size": 6144, "max_position_embeddings": 40960, "mlp_only_layers": [],
  "moe_intermediate_size": 768, "norm_topk_prob": true, "num_attention_heads": 32, "num_experts": 128,
  "num_experts_per_tok": 8, "num_hidden_layers": 6, "num_key_value_heads": 4, "rms_norm_eps": 1e-06,
  "rope_scaling": null, "rope_theta": 1000000, "sliding_window": null, "tie_word_embeddings": false,
  "use_sliding_window": false, "vocab_size": 151936})";
// clang-format on

}  // namespace

absl::Status Synthesize(const SynthOptions& options, const ListTensorsFn& list, const ProgressFn& progress) {
  RETURN_IF_ERROR(CheckOptions(options));
  nlohmann::json
      checked;  // The strict reader for its errors, then the ordered one to keep the keys in their places.
  RETURN_IF_ERROR(ParseStrictJson(options.config_json, "config.json", &checked));
  if (!checked.is_object())
    return InvalidArgument("config.json: expected a JSON object, found {}", JsonExcerpt(checked));
  Json json = Json::parse(options.config_json);
  Json& text = json.contains("text_config") && json["text_config"].is_object() ? json["text_config"] : json;
  if (options.layers) text["num_hidden_layers"] = *options.layers;

  ASSIGN_OR_RETURN(const ModelConfig config, ModelConfig::Parse(json.dump(), "config.json"));
  ASSIGN_OR_RETURN(std::vector<SynthTensor> tensors, list(config, options.quantization.has_value()));
  // Models of text and images keep what is said of the text apart.
  ASSIGN_OR_RETURN(const std::optional<ModelConfig> of_text, config.optional_object("text_config"));
  const ModelConfig& sizes = of_text ? *of_text : config;
  ASSIGN_OR_RETURN(const int64_t vocab, sizes.required_int("vocab_size"));
  if (options.with_tokenizer && vocab < kSynthVocabMin) {
    return InvalidArgument("{}: expected at least {} (256 bytes and 3 special tokens), found {}",
                           sizes.where("vocab_size"), kSynthVocabMin, vocab);
  }
  std::vector<Job> jobs;
  for (SynthTensor& tensor : tensors) jobs.push_back(MakeJob(std::move(tensor), options));
  RETURN_IF_ERROR(MakeFolder(options.out));
  RETURN_IF_ERROR(WriteTensors(options, jobs, progress));
  return WriteTexts(options, FinalConfig(json, options, jobs), vocab);
}

absl::StatusOr<std::string> SynthPreset(std::string_view name) {
  if (name == "A") return std::string(kShapeA);
  if (name == "B") return std::string(kShapeB);
  return InvalidArgument("synth: shape '{}': expected A (Qwen3-1.7B) or B (Qwen3-30B-A3B cut to 6 layers)",
                         name);
}

}  // namespace shoal
