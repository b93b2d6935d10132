#include "convert/convert.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <mutex>
#include <nlohmann/json.hpp>

#include "base/status.h"
#include "base/text.h"
#include "convert/affine_quantize.h"
#include "convert/job.h"
#include "convert/keep.h"
#include "convert/model_folder.h"
#include "convert/shards.h"
#include "cpu/pool.h"
#include "formats/content_hash.h"
#include "formats/safetensors.h"
#include "loading/weight_loader.h"
#include "models/stored_form.h"
#include "numeric/transcendental.h"

namespace shoal {
namespace {

using Json = nlohmann::json;

constexpr int64_t kSlabBytes = int64_t{4} << 20;  ///< f32 values per thread between two writes.
constexpr AffineFormat kRouterFormat{
    8, 64};  ///< As mlx-lm quantizes routers: a wrong expert costs more than bits.
constexpr AffineFormat kMixedUsual{4, 64};
constexpr AffineFormat kMixedOuter{6, 64};  ///< Embedding and head: every token goes through them.

using Job = ConvertJob;

/// The stack in which mlx-lm looks for a weight that is stored alone; nullptr where it is in one already or
/// has none.
const WeightSource* PlaceInStack(const WeightRef& ref, const WeightSource& from) {
  const auto is_stack = [](const WeightSource& source) {
    return source.stack > 0 && source.rows.empty() && !source.strided && source.written;
  };
  if (is_stack(from)) return nullptr;
  const auto found = std::ranges::find_if(ref.sources, is_stack);
  return found == ref.sources.end() ? nullptr : &*found;
}

/// Whether a weight is a vector that is stored in another shape, such as the taps of a convolution.
bool IsReshapedVector(const WeightRef& ref, const WeightSource& from) {
  if (ref.shape.size() != 1 || !from.strided) return false;
  const WeightSource::StridedView& view = *from.strided;
  return view.offset == 0 && view.col_stride == 1 && ElementCount(view.stored_shape) == ref.elements();
}

/// Where a folder of mlx-lm's layout has a weight that is no stack: `from` where the two layouts agree. A place that only
/// a GGUF has gives way to the hub's, where that holds the weight alone.
const WeightSource& PlaceInLayout(const WeightRef& ref, const WeightSource& from) {
  const auto found = std::ranges::find_if(
      ref.sources, [](const WeightSource& source) { return !source.only_with.empty() && source.stack == 0; });
  if (found != ref.sources.end()) return *found;
  if (from.written) return from;
  const WeightSource* alone = nullptr;
  for (const WeightSource& source : ref.sources) {
    if (!source.written || source.stack > 0 || !source.rows.empty()) continue;
    if (source.strided && !IsReshapedVector(ref, source)) continue;
    if (source.base == from.base) return source;  // Names of one layout.
    if (alone == nullptr) alone = &source;
  }
  return alone == nullptr ? from : *alone;
}

/// The whole of the tensor of which a weight is a part.
WeightRef WholeOf(const WeightRef& ref, const WeightSource& from) {
  WeightRef whole = ref;
  whole.sources = {from};
  WeightSource& source = whole.sources.front();
  if (from.strided) {
    whole.shape = from.strided->stored_shape;
    source.strided.reset();
  } else if (!from.rows.empty()) {
    whole.shape.front() = from.stored_rows;
    source.rows = {};
    source.stored_rows = 0;
    source.row_interval = 1;
    source.row_run = 1;
  }
  return whole;
}

/// The tensors that a converted model has, each once.
class Inventory {
 public:
  /// keeps: values must come back to the bit.
  Inventory(const ResolvedWeights& weights, const std::vector<ConvertShard>& shards, bool keeps)
      : weights_(weights), shards_(shards), keeps_(keeps) {}

  absl::StatusOr<std::vector<Job>> collect() {
    for (const ResolvedWeight& weight : weights_.all()) RETURN_IF_ERROR(add(weight.use, weight.stored));
    return std::move(jobs_);
  }

 private:
  absl::Status add(const WeightUse& use, const StoredWeight& found) {
    const WeightSource& from = *found.source;
    const WeightSource* stack = PlaceInStack(use.ref, from);
    const bool reshaped = IsReshapedVector(use.ref, from);
    if (stack == nullptr && !reshaped && from.strided && from.strided->stored_shape.size() > 2) {
      return Unimplemented(
          "convert: tensor '{}' in {}: it is taken apart while it is read, and this family has no place for "
          "its "
          "parts; convert with mlx_lm.convert",
          from.name(), weights_.checkpoint().folder());
    }
    const WeightSource& to = stack == nullptr ? place(use.ref, from) : *stack;
    const std::string name = to.name();
    const Nodes needed = NodesThatNeed(use, shards_);
    const auto [seen, is_new] = seen_.try_emplace({name, to.index});
    if (is_new) {
      // What goes to a stack is taken as it is used; else a part of a tensor stands for the whole, written
      // once.
      const bool is_part = &to == &from && !reshaped && (from.strided || !from.rows.empty());
      StoredWeight part = found;
      if (is_part) {
        ASSIGN_OR_RETURN(part, weights_.finder()->find(refs_.emplace_back(WholeOf(use.ref, from))));
      }
      ASSIGN_OR_RETURN(seen->second, new_part(use.role, to, std::move(part)));
    }
    Job& job = jobs_[seen->second.first];
    if (reshaped) job.vector_shape = to.strided->stored_shape;
    if (job.vector) job.add = from.offset - to.offset;
    job.log = from.suffix == kMinusExpSuffix && to.suffix != kMinusExpSuffix;
    const TensorInfo* tensor = weights_.checkpoint().find(from.name());
    if (found.is_vector && tensor != nullptr && tensor->shape.empty())
      job.vector_shape.emplace();  // A scalar.
    job.floats = job.floats || (from.strided && &to == &from) || IsFloatRouter(use);
    Add(needed, job.needed[seen->second.second]);
    return absl::OkStatus();
  }

  /// PlaceInLayout, unless numbers would be computed on the way there.
  const WeightSource& place(const WeightRef& ref, const WeightSource& from) const {
    const WeightSource& to = PlaceInLayout(ref, from);
    const bool computed =
        to.offset != from.offset || (from.suffix == kMinusExpSuffix) != (to.suffix == kMinusExpSuffix);
    return keeps_ && computed ? from : to;
  }

  bool IsFloatRouter(const WeightUse& use) const {
    if (use.role != "router") return false;
    const ModelSpec& spec = weights_.spec();
    const MoeSpec* moe = MoeOf(use.is_mtp ? spec.mtp->layer : spec.layers[static_cast<size_t>(use.layer)]);
    return moe->router.kept_float;
  }

  /// Adds a part to the job of its name. Returns the job, and which of its parts it is.
  absl::StatusOr<std::pair<size_t, size_t>> new_part(std::string_view role, const WeightSource& to,
                                                     StoredWeight part) {
    const std::string name = to.name();
    const auto [at, is_new] = places_.try_emplace(name, jobs_.size());
    if (is_new) {
      Job& job = jobs_.emplace_back();
      job.base = to.base;
      job.suffix = to.suffix;
      job.role = role;
      job.stacked = to.stack > 0;
      job.vector = part.is_vector;
    }
    Job& job = jobs_[at->second];
    if (job.stacked && to.index != std::ssize(job.parts)) {
      return InvalidArgument("convert: '{}': expected matrix {} of the stack, found {}", name,
                             job.parts.size(), to.index);
    }
    job.parts.push_back(std::move(part));
    job.needed.emplace_back();
    return std::pair(at->second, job.parts.size() - 1);
  }

  const ResolvedWeights& weights_;
  const std::vector<ConvertShard>& shards_;
  const bool keeps_;
  std::deque<WeightRef>
      refs_;  // Stored weights point into their refs; a member of the caller, as the jobs are.
  std::map<std::pair<std::string, int64_t>, std::pair<size_t, size_t>> seen_;
  std::map<std::string, size_t> places_;
  std::vector<Job> jobs_;
};

/// Reads rows of a job's tensor, counted over the whole stack.
absl::Status ReadRows(const WeightLoader& loader, const Job& job, Range rows, float* out) {
  for (int64_t row = rows.begin; row < rows.end;) {
    const StoredWeight& part = job.parts[static_cast<size_t>(row / job.rows())];
    const int64_t first = row % job.rows();
    const Range here{first, std::min(job.rows(), first + rows.end - row)};
    RETURN_IF_ERROR(loader.read_rows(part, here, out));
    for (int64_t i = 0; job.add != 0 && i < here.size() * job.cols(); ++i) out[i] += job.add;
    for (int64_t i = 0; job.log && i < here.size() * job.cols(); ++i)
      out[i] = static_cast<float>(Log(-out[i]));
    out += here.size() * job.cols();
    row += here.size();
  }
  return absl::OkStatus();
}

/// Runs `work` over parts of the rows on all threads; the first error.
absl::Status InParts(ThreadPool& pool, int64_t rows, const std::function<absl::Status(Range)>& work) {
  std::mutex mutex;
  absl::Status first;
  pool.run_ranges(rows, 1, [&](Range part) {
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
absl::StatusOr<double> RelativeError(const WeightLoader& loader, const Job& job, AffineFormat format,
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
      RETURN_IF_ERROR(ReadRows(loader, job, {at, at + 1}, row.data()));
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
  return !job.vector && !job.floats && job.suffix == "weight" && job.cols() % format.group == 0;
}

/// Tensors that lose more at 4 bits than most do get 6, or 8 where 6 still lose more than 4 do elsewhere.
/// Weights of one distribution lose the same share whatever their size, so a tensor above the median has
/// outliers in its groups.
absl::Status ChooseMixed(const WeightLoader& loader, ThreadPool& pool, std::vector<Job>& jobs) {
  constexpr double kMuch = 1.1;  // Times the median.
  std::vector<std::pair<double, Job*>> measured;
  for (Job& job : jobs) {
    if (!Quantizable(job, kMixedUsual) || job.role == "router") continue;
    ASSIGN_OR_RETURN(const double error, RelativeError(loader, job, kMixedUsual, pool));
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
    ASSIGN_OR_RETURN(const double at_six, RelativeError(loader, *job, *job->format, pool));
    if (at_six > median) job->format = AffineFormat{8, 64};
  }
  return absl::OkStatus();
}

/// Whether a vector loses nothing as `dtype`: a GGUF stores norms as f32 that were bf16.
absl::StatusOr<bool> HoldsVector(const WeightLoader& loader, const Job& job, DType dtype) {
  std::vector<float> values(static_cast<size_t>(job.rows_total() * job.cols()));
  RETURN_IF_ERROR(ReadRows(loader, job, {0, job.rows_total()}, values.data()));
  return std::ranges::all_of(values, [dtype](float value) {
    return (dtype == DType::kF16 ? F16ToF32(F32ToF16(value)) : BF16ToF32(F32ToBF16(value))) == value;
  });
}

absl::Status ChooseFormats(const WeightLoader& loader, const ConvertFormat& format, ThreadPool& pool,
                           std::vector<Job>& jobs) {
  // Half floats stay what they are; quantized and f32 sources become bf16.
  const StoredWeight& first = jobs.front().parts.front();
  const bool half = format.kind != ConvertFormat::Kind::kFloat && !first.format.affine() &&
                    first.blocks.type == BlockType::kNone && first.format.dtype == DType::kF16;
  const DType dtype = half ? DType::kF16 : DType::kBF16;
  for (Job& job : jobs) {
    job.dtype = dtype;
    if (job.vector) {
      ASSIGN_OR_RETURN(const bool holds, HoldsVector(loader, job, dtype));
      const DType stored = job.parts.front().format.dtype;
      const bool ids = stored == DType::kI64 || stored == DType::kI32;
      if (!holds) job.dtype = job.add != 0 || job.log || ids ? DType::kF32 : stored;
    } else if (format.kind != ConvertFormat::Kind::kFloat) {
      const AffineFormat wanted = job.role == "router" ? kRouterFormat : format.affine;
      if (Quantizable(job, wanted)) job.format = wanted;
    }
  }
  if (format.kind != ConvertFormat::Kind::kMixed) return absl::OkStatus();
  return ChooseMixed(loader, pool, jobs);
}

/// Reads, quantizes and hands on the bytes of jobs.
class Writer {
 public:
  Writer(const WeightLoader& loader, ThreadPool& pool) : loader_(loader), pool_(pool) {}

  absl::Status write(const Job& job, AppendBytes append) {
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
        DecodedRows decoded;
        for (int64_t i = part.begin; i < part.end; ++i) {
          if (job.codes) {
            const int64_t at = (begin + i) * scale_bytes;
            RETURN_IF_ERROR(read_codes(job, begin + i, decoded));
            const AffineView view = decoded.affine();
            std::memcpy(words.data() + i * row_bytes, view.words, static_cast<size_t>(row_bytes));
            std::memcpy(scales.data() + at, view.scales, static_cast<size_t>(scale_bytes));
            std::memcpy(biases.data() + at, view.biases, static_cast<size_t>(scale_bytes));
            continue;
          }
          RETURN_IF_ERROR(ReadRows(loader_, job, {begin + i, begin + i + 1}, row.data()));
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
      RETURN_IF_ERROR(append(std::span(words).first(static_cast<size_t>(count * row_bytes))));
    }
    for (const StoredWeight& part : job.parts) loader_.drop(part);
    RETURN_IF_ERROR(append(scales));
    return append(biases);
  }

 private:
  absl::Status read_codes(const Job& job, int64_t row, DecodedRows& decoded) const {
    return loader_.read_block_row(job.parts[static_cast<size_t>(row / job.rows())], row % job.rows(),
                                  decoded);
  }

  const WeightLoader& loader_;
  ThreadPool& pool_;
};

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

TensorGroup PartOf(Writer& writer, Job job) {
  TensorGroup part{.entries = job.entries(), .write = {}};
  part.write = [&writer, job = std::move(job)](AppendBytes append) { return writer.write(job, append); };
  return part;
}

/// What a shard has of the jobs, and which matrices of their stacks.
void TakeShard(const std::vector<Job>& jobs, size_t shard, Writer& writer, FolderContents& contents,
               Shard& table) {
  for (const Job& job : jobs) {
    Job mine = job;
    mine.parts.clear();
    std::vector<int64_t> held;
    for (size_t i = 0; i < job.parts.size(); ++i) {
      if (!job.needed[i][shard]) continue;
      mine.parts.push_back(job.parts[i]);
      held.push_back(static_cast<int64_t>(i));
    }
    if (held.empty()) continue;
    if (held.size() < job.parts.size()) {
      for (const auto& entry : mine.entries()) table.stacks[entry.name] = held;
    }
    contents.parts.push_back(PartOf(writer, std::move(mine)));
  }
}

}  // namespace

FolderReport ConvertReport::sum() const {
  FolderReport all;
  for (const FolderReport& folder : folders) {
    all.bytes += folder.bytes;
    all.files += folder.files;
    all.files_kept += folder.files_kept;
  }
  return all;
}

absl::StatusOr<ConvertFormat> ParseConvertFormat(std::string_view text) {
  if (text == "keep") return ConvertFormat{.kind = ConvertFormat::Kind::kKeep};
  if (text == "bf16") return ConvertFormat{.kind = ConvertFormat::Kind::kFloat};
  if (text == "mixed") return ConvertFormat{.kind = ConvertFormat::Kind::kMixed, .affine = kMixedUsual};
  for (const int bits : {2, 3, 4, 5, 6, 8}) {
    for (const int group : {32, 64, 128}) {
      if (text == fmt::format("affine-{}-g{}", bits, group)) return ConvertFormat{.affine = {bits, group}};
    }
  }
  return InvalidArgument(
      "--quant '{}': expected bf16, mixed, keep (of a GGUF, or with --shard-for), or affine-BITS-gGROUP with "
      "2, "
      "3, 4, 5, 6 or 8 bits and groups of 32, 64 or 128, such as affine-4-g64",
      text);
}

absl::StatusOr<ConvertReport> ConvertModel(const ResolvedWeights& weights, const ConvertOptions& options) {
  const Checkpoint& checkpoint = weights.checkpoint();
  if (const Shard* shard = checkpoint.shard()) {
    return FailedPrecondition("convert: {}: it is the shard of node '{}' ({}); give the whole model",
                              checkpoint.folder(), shard->node, shard->holds);
  }
  const bool keeps = options.format.kind == ConvertFormat::Kind::kKeep;
  if (keeps && !checkpoint.is_gguf()) {
    if (options.shards.empty()) {
      return InvalidArgument("--quant keep: it would be a copy; it is for a GGUF, or for --shard-for PLAN");
    }
    FolderRun run(checkpoint, options.file_bytes_max, options.progress);
    ConvertReport report;
    ASSIGN_OR_RETURN(report.folders, CopyShards(weights, options.shards, run));
    return report;
  }
  ThreadPool pool(options.threads);
  const WeightLoader loader(weights);
  Inventory inventory(weights, options.shards, keeps);
  ASSIGN_OR_RETURN(std::vector<Job> jobs, inventory.collect());
  ConvertFormat format = options.format;
  if (keeps) {
    RETURN_IF_ERROR(KeepFormats(jobs, checkpoint.folder()));
    const std::optional<AffineFormat> usual = UsualFormat(jobs);
    format = usual ? ConvertFormat{.affine = *usual} : ConvertFormat{.kind = ConvertFormat::Kind::kFloat};
  } else {
    RETURN_IF_ERROR(ChooseFormats(loader, format, pool, jobs));
  }

  ConvertReport report;
  std::string formats;
  std::vector<SafetensorsWriter::Entry> all;
  for (const Job& job : jobs) {
    formats += fmt::format("\n{} {} {}", job.base, job.suffix, job.format_name());
    std::ranges::move(job.entries(), std::back_inserter(all));
    if (job.vector) continue;
    report.parameters += job.rows_total() * job.cols();
    ++report.matrices[job.format_name()];
  }
  const std::string config = ConfigText(checkpoint, jobs, format);
  Writer writer(loader, pool);
  FolderRun run(checkpoint, options.file_bytes_max, options.progress);
  for (size_t i = 0; i < options.shards.size(); ++i) {
    FolderContents contents = FolderOf(options.shards[i], config);
    Shard table = TableOf(options.shards[i], all);
    TakeShard(jobs, i, writer, contents, table);
    contents.shard = std::move(table);
    run.add(std::move(contents));
  }
  if (options.shards.empty()) {
    FolderContents contents{
        .out = options.out, .parts = {}, .config_json = config, .shard = std::nullopt, .identity = {}};
    for (const Job& job : jobs) contents.parts.push_back(PartOf(writer, job));
    run.add(std::move(contents));
  }
  ASSIGN_OR_RETURN(report.folders, run.write(formats));
  return report;
}

}  // namespace shoal
