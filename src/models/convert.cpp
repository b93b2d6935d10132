#include "models/convert.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <nlohmann/json.hpp>
#include <set>

#include "base/status.h"
#include "base/text.h"
#include "cpu/pool.h"
#include "models/weight_reader.h"
#include "weights/affine_quantize.h"
#include "weights/content_hash.h"
#include "weights/mapped_file.h"

namespace shoal {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr char kIdentityKey[] =
    "shoal_convert";  ///< In a file's metadata: from what and to what it was written.
constexpr int64_t kSlabBytes = int64_t{4} << 20;  ///< f32 values per thread between two writes.
constexpr AffineFormat kRouterFormat{
    8, 64};  ///< As mlx-lm quantizes routers: a wrong expert costs more than bits.
constexpr AffineFormat kMixedUsual{4, 64};
constexpr AffineFormat kMixedOuter{6, 64};  ///< Embedding and head: every token goes through them.

/// A tensor of the new folder: one matrix, a stack of them, or a vector.
struct Job {
  std::string base;
  std::string suffix;
  std::string role;
  std::vector<StoredWeight> parts;  ///< As many as the stack has; one where there is none.
  bool stacked = false;
  bool vector = false;
  std::optional<AffineFormat> format;  ///< nullopt: `dtype`.
  DType dtype = DType::kBF16;          ///< Of the elements, or of scales and biases.

  int64_t rows() const { return parts.front().rows; }
  int64_t cols() const { return parts.front().cols; }
  int64_t rows_total() const { return rows() * std::ssize(parts); }

  std::vector<SafetensorsWriter::Entry> entries() const {
    const auto shape = [this](int64_t last) {
      std::vector<int64_t> result;
      if (stacked) result.push_back(std::ssize(parts));
      if (!vector) result.push_back(rows());
      result.push_back(last);
      return result;
    };
    if (!format) return {{base + "." + suffix, dtype, shape(cols())}};
    const std::vector<int64_t> groups = shape(cols() / format->group);
    return {{base + ".weight", DType::kU32, shape(cols() * format->bits / 32)},
            {base + ".scales", dtype, groups},
            {base + ".biases", dtype, groups}};
  }
  int64_t bytes() const {
    int64_t sum = 0;
    for (const auto& entry : entries()) sum += *ElementCount(entry.shape) * DTypeBytes(entry.dtype);
    return sum;
  }
  std::string format_name() const {
    if (!format) return std::string(DTypeName(dtype));
    return fmt::format("{}-bit groups of {}", format->bits, format->group);
  }
};

/// The tensors of a model as they lie in its checkpoint, each once.
class Inventory {
 public:
  Inventory(const ModelSpec& spec, const WeightReader& reader) : spec_(spec), reader_(reader) {}

  absl::StatusOr<std::vector<Job>> collect() {
    absl::Status status;
    ForEachWeight(spec_, [&](const WeightUse& use) {
      if (status.ok() && !(use.role == "head" && spec_.tied_head)) status = add(use);
    });
    RETURN_IF_ERROR(status);
    return std::move(jobs_);
  }

 private:
  absl::Status add(const WeightUse& use) {
    ASSIGN_OR_RETURN(const StoredWeight found, reader_.find(use.ref));
    const WeightSource& from = *found.source;
    if (found.spread()) {
      return Unimplemented(
          "convert: tensor '{}' in {}: its heads or columns are taken apart while it is read, which is not "
          "converted yet; convert with mlx_lm.convert",
          from.name(), reader_.checkpoint().folder());
    }
    // A slice of a fused tensor stands for the whole of it, which is written once.
    WeightRef& whole = refs_.emplace_back(use.ref);
    whole.sources = {from};
    if (!from.rows.empty()) {
      whole.shape.front() = from.stored_rows;
      whole.sources.front().rows = {};
      whole.sources.front().stored_rows = 0;
    }
    // Experts that lie one by one go where the family would find them stacked.
    WeightSource to = from;
    const auto stacked = std::ranges::find_if(
        use.ref.sources, [](const WeightSource& other) { return other.stack > 0 && other.rows.empty(); });
    if (from.stack == 0 && from.rows.empty() && stacked != use.ref.sources.end()) to = *stacked;
    const std::string name = to.name();
    const std::string key = fmt::format("{}[{}]", name, to.index);
    if (!seen_.insert(key).second) return absl::OkStatus();
    auto [at, is_new] = places_.try_emplace(name, jobs_.size());
    if (is_new) {
      Job& job = jobs_.emplace_back();
      job.base = to.base;
      job.suffix = to.suffix;
      job.role = use.role;
      job.stacked = to.stack > 0;
      job.vector = whole.shape.size() == 1;
    }
    Job& job = jobs_[at->second];
    if (job.stacked && to.index != std::ssize(job.parts)) {
      return InvalidArgument("convert: '{}': expected matrix {} of the stack, found {}", name,
                             job.parts.size(), to.index);
    }
    ASSIGN_OR_RETURN(StoredWeight weight, reader_.find(whole));
    job.parts.push_back(std::move(weight));
    return absl::OkStatus();
  }

  const ModelSpec& spec_;
  const WeightReader& reader_;
  std::deque<WeightRef>
      refs_;  // Stored weights point into their refs; a member of the caller, as the jobs are.
  std::set<std::string> seen_;
  std::map<std::string, size_t> places_;
  std::vector<Job> jobs_;
};

/// Reads rows of a job's tensor, counted over the whole stack.
absl::Status ReadRows(const WeightReader& reader, const Job& job, Range rows, float* out) {
  for (int64_t row = rows.begin; row < rows.end;) {
    const StoredWeight& part = job.parts[static_cast<size_t>(row / job.rows())];
    const int64_t first = row % job.rows();
    const Range here{first, std::min(job.rows(), first + rows.end - row)};
    RETURN_IF_ERROR(reader.read_rows(part, here, out));
    out += here.size() * job.cols();
    row += here.size();
  }
  return absl::OkStatus();
}

/// Runs `work` over parts of the rows on all threads; the first error.
absl::Status InParts(ThreadPool& pool, int64_t rows, const std::function<absl::Status(Range)>& work) {
  std::mutex mutex;
  absl::Status first;
  pool.run_parts(rows, 1, [&](Range part) {
    const absl::Status status = work(part);
    const std::lock_guard lock(mutex);
    if (first.ok()) first = status;
  });
  return first;
}

absl::Status CheckFinite(const Job& job, std::span<const float> values) {
  const auto bad = std::ranges::find_if_not(values, [](float value) { return std::isfinite(value); });
  if (bad == values.end()) return absl::OkStatus();
  return InvalidArgument("convert: tensor '{}.{}': expected finite numbers, found {}", job.base, job.suffix,
                         *bad);
}

void StoreElements(std::span<const float> values, DType dtype, std::byte* out) {
  for (const float value : values) {
    if (dtype == DType::kF32) {
      std::memcpy(out, &value, 4);
    } else {
      const uint16_t bits = dtype == DType::kF16 ? F32ToF16(value) : F32ToBF16(value);
      std::memcpy(out, &bits, 2);
    }
    out += DTypeBytes(dtype);
  }
}

/// Root of the squared error of quantizing over the squares of the weights, over rows spread evenly.
absl::StatusOr<double> RelativeError(const WeightReader& reader, const Job& job, AffineFormat format,
                                     ThreadPool& pool) {
  constexpr int64_t kRowsMax = 512;
  const int64_t total = job.rows_total();
  const int64_t count = std::min(total, kRowsMax);
  std::mutex mutex;
  double error = 0;
  double norm = 0;
  const auto work = [&](Range part) -> absl::Status {
    std::vector<float> row(static_cast<size_t>(job.cols()));
    std::vector<std::byte> words(row.size() * static_cast<size_t>(format.bits) / 8);
    std::vector<std::byte> scales(row.size() / static_cast<size_t>(format.group) * 4);
    std::vector<std::byte> biases(scales.size());
    double part_error = 0;
    double part_norm = 0;
    for (int64_t i = part.begin; i < part.end; ++i) {
      const int64_t at = i * total / count;
      RETURN_IF_ERROR(ReadRows(reader, job, {at, at + 1}, row.data()));
      RETURN_IF_ERROR(CheckFinite(job, row));
      QuantizeAffineRow(row, format, job.dtype, {words.data(), scales.data(), biases.data()});
      const AffineView view{.words = words.data(),
                            .scales = scales.data(),
                            .biases = biases.data(),
                            .scale_dtype = job.dtype,
                            .rows = 1,
                            .cols = job.cols(),
                            .bits = format.bits,
                            .group = format.group};
      for (int64_t col = 0; col < job.cols(); ++col) {
        const double value = row[static_cast<size_t>(col)];
        const double difference = value - AffineValue(view, 0, col);
        part_error += difference * difference;
        part_norm += value * value;
      }
    }
    const std::lock_guard lock(mutex);
    error += part_error;
    norm += part_norm;
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(InParts(pool, count, work));
  return norm > 0 ? std::sqrt(error / norm) : 0.0;
}

bool Quantizable(const Job& job, AffineFormat format) {
  return !job.vector && job.suffix == "weight" && job.cols() % format.group == 0;
}

/// Tensors that lose more at 4 bits than most do get 6, or 8 where 6 still lose more than 4 do elsewhere.
/// Weights of one distribution lose alike whatever their size, so what stands out has outliers in its groups.
absl::Status ChooseMixed(const WeightReader& reader, ThreadPool& pool, std::vector<Job>& jobs) {
  constexpr double kMuch = 1.1;  // Times the median.
  std::vector<std::pair<double, Job*>> measured;
  for (Job& job : jobs) {
    if (!Quantizable(job, kMixedUsual) || job.role == "router") continue;
    ASSIGN_OR_RETURN(const double error, RelativeError(reader, job, kMixedUsual, pool));
    measured.emplace_back(error, &job);
  }
  if (measured.empty()) return absl::OkStatus();
  std::vector<double> errors;
  for (const auto& [error, job] : measured) errors.push_back(error);
  std::ranges::nth_element(errors, errors.begin() + std::ssize(errors) / 2);
  const double median = errors[errors.size() / 2];
  for (const auto& [error, job] : measured) {
    const bool outer = job->role == "embedding" || job->role == "head";
    job->format = outer ? kMixedOuter : kMixedUsual;
    if (error <= kMuch * median) continue;
    job->format = AffineFormat{6, 64};
    ASSIGN_OR_RETURN(const double at_six, RelativeError(reader, *job, *job->format, pool));
    if (at_six > median) job->format = AffineFormat{8, 64};
  }
  return absl::OkStatus();
}

/// Whether a vector loses nothing as `dtype`: a GGUF stores norms as f32 that were bf16.
absl::StatusOr<bool> HoldsVector(const WeightReader& reader, const Job& job, DType dtype) {
  std::vector<float> values(static_cast<size_t>(job.rows_total() * job.cols()));
  RETURN_IF_ERROR(ReadRows(reader, job, {0, job.rows_total()}, values.data()));
  return std::ranges::all_of(values, [dtype](float value) {
    return (dtype == DType::kF16 ? F16ToF32(F32ToF16(value)) : BF16ToF32(F32ToBF16(value))) == value;
  });
}

absl::Status ChooseFormats(const WeightReader& reader, const ConvertFormat& format, ThreadPool& pool,
                           std::vector<Job>& jobs) {
  // Half floats stay what they are; quantized and f32 sources become bf16.
  const StoredWeight& first = jobs.front().parts.front();
  const bool half = format.kind != ConvertFormat::Kind::kFloat && !first.format.affine() &&
                    first.blocks.type == BlockType::kNone && first.format.dtype == DType::kF16;
  const DType dtype = half ? DType::kF16 : DType::kBF16;
  for (Job& job : jobs) {
    job.dtype = dtype;
    if (job.vector) {
      ASSIGN_OR_RETURN(const bool holds, HoldsVector(reader, job, dtype));
      if (!holds) job.dtype = job.parts.front().format.dtype;
    } else if (format.kind != ConvertFormat::Kind::kFloat) {
      const AffineFormat wanted = job.role == "router" ? kRouterFormat : format.affine;
      if (Quantizable(job, wanted)) job.format = wanted;
    }
  }
  if (format.kind != ConvertFormat::Kind::kMixed) return absl::OkStatus();
  return ChooseMixed(reader, pool, jobs);
}

/// Writes the tensors of one file.
class Writer {
 public:
  Writer(const WeightReader& reader, ThreadPool& pool, const ConvertOptions& options, int64_t total)
      : reader_(reader), pool_(pool), options_(options), total_(total) {}

  absl::Status write(const Job& job, SafetensorsWriter& file) {
    const int64_t row_bytes =
        job.format ? job.cols() * job.format->bits / 8 : job.cols() * DTypeBytes(job.dtype);
    const int64_t scale_bytes = job.format ? job.cols() / job.format->group * DTypeBytes(job.dtype) : 0;
    const int64_t slab =
        std::clamp<int64_t>(kSlabBytes * pool_.threads() / (job.cols() * 4), 1, job.rows_total());
    std::vector<std::byte> words(static_cast<size_t>(slab * row_bytes));
    std::vector<std::byte> scales(static_cast<size_t>(job.rows_total() * scale_bytes));
    std::vector<std::byte> biases(scales.size());
    for (int64_t begin = 0; begin < job.rows_total(); begin += slab) {
      const int64_t count = std::min(slab, job.rows_total() - begin);
      const auto quantize = [&](Range part) -> absl::Status {
        std::vector<float> row(static_cast<size_t>(job.cols()));
        for (int64_t i = part.begin; i < part.end; ++i) {
          RETURN_IF_ERROR(ReadRows(reader_, job, {begin + i, begin + i + 1}, row.data()));
          RETURN_IF_ERROR(CheckFinite(job, row));
          std::byte* out = words.data() + i * row_bytes;
          if (!job.format) {
            StoreElements(row, job.dtype, out);
            continue;
          }
          const int64_t at = (begin + i) * scale_bytes;
          QuantizeAffineRow(row, *job.format, job.dtype, {out, scales.data() + at, biases.data() + at});
        }
        return absl::OkStatus();
      };
      RETURN_IF_ERROR(InParts(pool_, count, quantize));
      RETURN_IF_ERROR(append(std::span(words).first(static_cast<size_t>(count * row_bytes)), file));
    }
    for (const StoredWeight& part : job.parts) reader_.drop(part);
    RETURN_IF_ERROR(append(scales, file));
    return append(biases, file);
  }
  void skip(int64_t bytes) {
    done_ += bytes;
    if (options_.progress) options_.progress(done_, total_);
  }

 private:
  absl::Status append(std::span<const std::byte> bytes, SafetensorsWriter& file) {
    RETURN_IF_ERROR(file.append(bytes));
    skip(static_cast<int64_t>(bytes.size()));
    return absl::OkStatus();
  }

  const WeightReader& reader_;
  ThreadPool& pool_;
  const ConvertOptions& options_;
  const int64_t total_;
  int64_t done_ = 0;
};

/// One file of weights, to be.
struct Shard {
  std::string name;
  std::vector<const Job*> jobs;
  int64_t bytes = 0;

  std::vector<SafetensorsWriter::Entry> entries() const {
    std::vector<SafetensorsWriter::Entry> all;
    for (const Job* job : jobs) std::ranges::copy(job->entries(), std::back_inserter(all));
    return all;
  }
};

std::vector<Shard> CutIntoShards(const std::vector<Job>& jobs, int64_t shard_bytes) {
  std::vector<Shard> shards(1);
  for (const Job& job : jobs) {
    if (!shards.back().jobs.empty() && shards.back().bytes + job.bytes() > shard_bytes) shards.emplace_back();
    shards.back().jobs.push_back(&job);
    shards.back().bytes += job.bytes();
  }
  for (size_t i = 0; i < shards.size(); ++i) {
    shards[i].name = shards.size() == 1
                         ? "model.safetensors"
                         : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
  }
  return shards;
}

/// Whether the file is there, whole, and was written from the same source to the same formats.
bool IsWritten(const std::string& path, const Shard& shard, const std::string& identity) {
  const auto file = MappedFile::Open(path);
  if (!file.ok()) return false;
  const auto header = ParseSafetensorsHeader(file->bytes(), shard.name);
  if (!header.ok()) return false;
  const auto found = header->metadata.find(kIdentityKey);
  const auto entries = shard.entries();
  if (found == header->metadata.end() || found->second != identity) return false;
  return std::ranges::equal(header->tensors, entries,
                            [](const TensorInfo& a, const SafetensorsWriter::Entry& b) {
                              return a.name == b.name && a.dtype == b.dtype && a.shape == b.shape;
                            });
}

/// Written under another name first: nobody sees half a file.
absl::Status WriteText(const std::string& path, std::string_view text) {
  const std::string partial = path + ".partial";
  std::ofstream file(partial, std::ios::binary);
  file << text << '\n';
  file.close();
  std::error_code error;
  if (file) fs::rename(partial, path, error);
  if (!file || error) return ResourceExhausted("cannot write {}: {}", path, error.message());
  return absl::OkStatus();
}

std::string ConfigText(const Checkpoint& checkpoint, const std::vector<Job>& jobs,
                       const ConvertFormat& format) {
  Json config = Json::parse(checkpoint.config().canonical());
  config.erase("quantization");
  config.erase("quantization_config");
  config.erase("dtype");
  config["torch_dtype"] = jobs.front().dtype == DType::kF16 ? "float16" : "bfloat16";
  if (format.kind == ConvertFormat::Kind::kFloat) return config.dump(2);
  Json quantization = {{"group_size", format.affine.group}, {"bits", format.affine.bits}, {"mode", "affine"}};
  for (const Job& job : jobs) {
    if (job.vector || job.suffix != "weight" || job.format == format.affine) continue;
    if (job.format) {
      quantization[job.base] = {{"group_size", job.format->group}, {"bits", job.format->bits}};
    } else {
      quantization[job.base] = false;
    }
  }
  config["quantization"] = quantization;
  config["quantization_config"] = quantization;  // Where transformers looks for it.
  return config.dump(2);
}

/// What a folder has beside weights and config.
absl::Status WriteSideFiles(const Checkpoint& checkpoint, const std::string& out) {
  if (checkpoint.is_gguf()) {
    const GenerationConfig& generation = checkpoint.generation();
    Json json = {{"eos_token_id", generation.eos_token_ids}};
    if (generation.bos_token_id) json["bos_token_id"] = *generation.bos_token_id;
    if (generation.pad_token_id) json["pad_token_id"] = *generation.pad_token_id;
    RETURN_IF_ERROR(WriteText(out + "/generation_config.json", json.dump(2)));
    ASSIGN_OR_RETURN(const GgufText text, checkpoint.gguf_text());
    RETURN_IF_ERROR(WriteText(out + "/tokenizer.json", text.tokenizer_json));
    return WriteText(out + "/tokenizer_config.json", text.tokenizer_config_json);
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
absl::Status PrepareFolder(const Checkpoint& checkpoint, const std::string& out, const Shard& first,
                           const std::string& identity) {
  std::error_code error;
  if (fs::equivalent(out, checkpoint.folder(), error)) {
    return FailedPrecondition("convert: --out {}: it is the source itself; name another folder", out);
  }
  if (fs::exists(out + "/config.json", error) && !IsWritten(out + "/" + first.name, first, identity)) {
    return FailedPrecondition(
        "convert: --out {}: expected a new folder, or one where this conversion was cut off; found another "
        "model "
        "(config.json). Name another folder, or delete it.",
        out);
  }
  fs::create_directories(out, error);
  if (error) return ResourceExhausted("convert: --out {}: cannot be made: {}", out, error.message());
  return absl::OkStatus();
}

absl::Status WriteIndex(const std::vector<Shard>& shards, const std::string& out, int64_t bytes) {
  Json map = Json::object();
  for (const Shard& shard : shards) {
    for (const auto& entry : shard.entries()) map[entry.name] = shard.name;
  }
  const Json index = {{"metadata", {{"total_size", bytes}}}, {"weight_map", std::move(map)}};
  return WriteText(out + "/model.safetensors.index.json", index.dump(2));
}

}  // namespace

absl::StatusOr<ConvertFormat> ParseConvertFormat(std::string_view text) {
  if (text == "bf16") return ConvertFormat{.kind = ConvertFormat::Kind::kFloat};
  if (text == "mixed") return ConvertFormat{.kind = ConvertFormat::Kind::kMixed, .affine = kMixedUsual};
  for (const int bits : {2, 3, 4, 5, 6, 8}) {
    for (const int group : {32, 64, 128}) {
      if (text == fmt::format("affine-{}-g{}", bits, group)) return ConvertFormat{.affine = {bits, group}};
    }
  }
  return InvalidArgument(
      "--quant '{}': expected bf16, mixed, or affine-BITS-gGROUP with 2, 3, 4, 5, 6 or 8 bits and groups of "
      "32, 64 or "
      "128, such as affine-4-g64",
      text);
}

absl::StatusOr<ConvertReport> ConvertModel(const Checkpoint& checkpoint, const ModelSpec& spec,
                                           const ConvertOptions& options) {
  ASSIGN_OR_RETURN(const WeightReader reader, WeightReader::Create(checkpoint));
  ThreadPool pool(options.threads);
  Inventory inventory(spec, reader);
  ASSIGN_OR_RETURN(std::vector<Job> jobs, inventory.collect());
  RETURN_IF_ERROR(ChooseFormats(reader, options.format, pool, jobs));

  const std::vector<Shard> shards = CutIntoShards(jobs, options.shard_bytes);
  ConvertReport report{.shards = std::ssize(shards)};
  std::string formats;
  for (const Job& job : jobs) {
    report.bytes += job.bytes();
    formats += fmt::format("\n{} {} {}", job.base, job.suffix, job.format_name());
    if (job.vector) continue;
    report.parameters += job.rows_total() * job.cols();
    ++report.matrices[job.format_name()];
  }
  const std::string identity = ContentHashHex(checkpoint.content_identity() + formats);
  RETURN_IF_ERROR(PrepareFolder(checkpoint, options.out, shards.front(), identity));

  Writer writer(reader, pool, options, report.bytes);
  for (const Shard& shard : shards) {
    const std::string path = options.out + "/" + shard.name;
    if (IsWritten(path, shard, identity)) {
      ++report.shards_kept;
      writer.skip(shard.bytes);
      continue;
    }
    ASSIGN_OR_RETURN(
        SafetensorsWriter file,
        SafetensorsWriter::Create(path, shard.entries(), {{"format", "mlx"}, {kIdentityKey, identity}}));
    for (const Job* job : shard.jobs) RETURN_IF_ERROR(writer.write(*job, file));
    RETURN_IF_ERROR(file.finish());
  }
  if (shards.size() > 1) RETURN_IF_ERROR(WriteIndex(shards, options.out, report.bytes));
  RETURN_IF_ERROR(WriteSideFiles(checkpoint, options.out));
  RETURN_IF_ERROR(WriteText(options.out + "/config.json", ConfigText(checkpoint, jobs, options.format)));
  return report;
}

}  // namespace shoal
