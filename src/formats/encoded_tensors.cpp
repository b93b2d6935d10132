#include "formats/encoded_tensors.h"

#include <algorithm>
#include <map>
#include <set>

#include "base/status.h"
#include "formats/strict_json.h"

namespace shoal {
namespace {

/// Whether a dimension is 0: nothing is encoded then, whatever the other dimensions are.
bool IsEmpty(const TensorInfo& tensor) { return std::ranges::find(tensor.shape, 0) != tensor.shape.end(); }

/// Replaces the tensors of encoded weights in a checkpoint's table.
class Folder {
 public:
  Folder(const ModelConfig& config, const std::function<std::string(int file)>& file_name,
         std::vector<TensorInfo>* tensors)
      : config_(config), file_name_(file_name), tensors_(tensors) {
    for (size_t i = 0; i < tensors->size(); ++i) index_[(*tensors)[i].name] = i;
  }

  absl::Status fold() {
    ASSIGN_OR_RETURN(const auto given, config_.optional_object("quantization_config"));
    ASSIGN_OR_RETURN(const ModelConfig nothing, ModelConfig::Parse("{}", config_.file()));
    const ModelConfig& quantization = given ? *given : nothing;
    ASSIGN_OR_RETURN(const auto method, quantization.optional_string("quant_method"));
    for (size_t i = 0; i < tensors_->size(); ++i) {
      const std::string& name = (*tensors_)[i].name;
      const DType dtype = (*tensors_)[i].dtype;
      absl::Status status;
      if (dtype == DType::kU8 && name.ends_with(".scales")) {
        status = fold_microscaled(name.substr(0, name.size() - 7));
      } else if (dtype == DType::kU8 && name.ends_with("_blocks")) {
        status = fold_blocks(name.substr(0, name.size() - 7));
      } else if (dtype == DType::kF8E4M3 && name.ends_with(".weight")) {
        status = fold_fp8(name.substr(0, name.size() - 7));
      } else if (name.ends_with(".qweight")) {
        status = fold_integers(name.substr(0, name.size() - 8), method.value_or(""), quantization);
      } else if (name.ends_with(".weight_packed")) {
        status = fold_packed(name.substr(0, name.size() - 14), quantization);
      }
      RETURN_IF_ERROR(status);
    }
    std::erase_if(*tensors_, [&](const TensorInfo& tensor) { return folded_.contains(tensor.name); });
    for (TensorInfo& tensor : made_) tensors_->push_back(std::move(tensor));
    std::ranges::sort(*tensors_, {}, &TensorInfo::name);
    return absl::OkStatus();
  }

 private:
  const TensorInfo* find(const std::string& name) const {
    const auto found = index_.find(name);
    return found == index_.end() ? nullptr : &(*tensors_)[found->second];
  }
  std::string where(const TensorInfo& tensor) const {
    return fmt::format("checkpoint: tensor '{}' in {}", Printable(tensor.name, 200), file_name_(tensor.file));
  }
  /// The tensor (scales, zeros) that belongs to an encoded one, checked for dtype and shape.
  absl::StatusOr<const TensorInfo*> part(const TensorInfo& of, const std::string& name,
                                         std::span<const DType> dtypes,
                                         const std::vector<int64_t>& shape) const {
    const TensorInfo* found = find(name);
    if (found != nullptr && std::ranges::find(dtypes, found->dtype) != dtypes.end() &&
        found->shape == shape) {
      RETURN_IF_ERROR(together(of, *found));
      return found;
    }
    return InvalidArgument("{}: expected beside it '{}', {} [{}], found {}", where(of), name,
                           DTypeName(dtypes[0]), fmt::join(shape, ", "),
                           found == nullptr ? "none" : DescribeTensor(*found));
  }
  /// A shard holds the same matrices of an encoded tensor and of its scales and zeros.
  absl::Status together(const TensorInfo& codes, const TensorInfo& beside) const {
    if ((codes.file < 0) == (beside.file < 0) && codes.held == beside.held) return absl::OkStatus();
    return InvalidArgument(
        "{}: expected the same part of it as of '{}' beside it, found another; make the shard again",
        where(codes), beside.name);
  }
  void make(const std::string& name, const TensorInfo& codes, BlockType type, std::vector<int64_t> shape,
            EncodingTensors parts) {
    parts.codes_name = codes.name;
    made_.push_back({.name = name,
                     .dtype = codes.dtype,
                     .shape = std::move(shape),
                     .bytes = codes.bytes,
                     .file = codes.file,
                     .blocks = type,
                     .parts = std::move(parts),
                     .held = codes.held});
    folded_.insert(codes.name);
  }
  static TensorPlace place(const TensorInfo& tensor) {
    return {.file = tensor.file, .bytes = tensor.bytes, .dtype = tensor.dtype};
  }

  absl::Status fold_microscaled(const std::string& base);
  absl::Status fold_blocks(const std::string& base);
  absl::Status fold_fp8(const std::string& base);
  absl::Status fold_integers(const std::string& base, const std::string& method,
                             const ModelConfig& quantization);
  absl::Status fold_packed(const std::string& base, const ModelConfig& quantization);

  const ModelConfig& config_;
  const std::function<std::string(int file)>& file_name_;
  std::vector<TensorInfo>* tensors_;
  std::map<std::string, size_t> index_;
  std::set<std::string> folded_;
  std::vector<TensorInfo> made_;
};

/// MLX: u32 words of 4- or 8-bit floats, one byte of scale per 16 or 32 columns, no biases.
absl::Status Folder::fold_microscaled(const std::string& base) {
  const TensorInfo* words = find(base + ".weight");
  const TensorInfo& scales = *find(base + ".scales");
  if (words == nullptr || words->dtype != DType::kU32 || words->shape.size() < 2 || IsEmpty(*words) ||
      words->shape.size() != scales.shape.size() || find(base + ".biases") != nullptr) {
    return InvalidArgument(
        "{}: scales of one byte: expected '{}.weight', u32 of as many dimensions, and no biases, found "
        "{}",
        where(scales), base, words == nullptr ? "no weight" : DescribeTensor(*words));
  }
  struct Mode {
    BlockType type;
    int64_t per_word;
    int64_t group;
  };
  for (const Mode mode : {Mode{BlockType::kMxfp4Words, 8, 32}, Mode{BlockType::kNvfp4Words, 8, 16},
                          Mode{BlockType::kMxfp8Words, 4, 32}}) {
    std::vector<int64_t> shape = words->shape;
    shape.back() *= mode.per_word;
    std::vector<int64_t> groups = shape;
    if (shape.back() % mode.group != 0) continue;
    groups.back() /= mode.group;
    if (scales.shape != groups) continue;
    RETURN_IF_ERROR(together(*words, scales));
    make(base + ".weight", *words, mode.type, std::move(shape), {.scales = place(scales)});
    folded_.insert(scales.name);
    return absl::OkStatus();
  }
  return InvalidArgument(
      "{}: expected a scale per 32 columns (mxfp4, mxfp8) or 16 (nvfp4) for {}, found [{}]", where(scales),
      DescribeTensor(*words), fmt::join(scales.shape, ", "));
}

/// gpt-oss: `<base>_blocks` [E, N, K / 32, 16] and `<base>_scales` [E, N, K / 32].
absl::Status Folder::fold_blocks(const std::string& base) {
  const TensorInfo& blocks = *find(base + "_blocks");
  static constexpr DType kBytes[] = {DType::kU8};
  if (blocks.shape.size() < 3 || blocks.shape.back() != 16 || IsEmpty(blocks)) {
    return InvalidArgument("{}: expected u8 [.., K / 32, 16], found {}", where(blocks),
                           DescribeTensor(blocks));
  }
  std::vector<int64_t> groups = blocks.shape;
  groups.pop_back();
  ASSIGN_OR_RETURN(const TensorInfo* scales, part(blocks, base + "_scales", kBytes, groups));
  std::vector<int64_t> shape = groups;
  shape.back() *= 32;
  make(base + ".weight", blocks, BlockType::kMxfp4Words, std::move(shape), {.scales = place(*scales)});
  folded_.insert(scales->name);
  return absl::OkStatus();
}

/// DeepSeek: e4m3 and an f32 scale per block of weight_block_size, [ceil(N / 128), ceil(K / 128)].
absl::Status Folder::fold_fp8(const std::string& base) {
  const TensorInfo& codes = *find(base + ".weight");
  std::vector<int64_t> block;
  ASSIGN_OR_RETURN(const auto quantization, config_.optional_object("quantization_config"));
  if (quantization) {
    ASSIGN_OR_RETURN(block, quantization->int_list("weight_block_size", kPositive));
  }
  if (block.size() != 2 || codes.shape.size() != 2 || IsEmpty(codes)) {
    return Unimplemented(
        "{}: expected a matrix of e4m3 with 'quantization_config.weight_block_size' [rows, columns] as "
        "DeepSeek has it, "
        "found {} and {} sizes; other scalings of FP8 are not built",
        where(codes), DescribeTensor(codes), block.size());
  }
  static constexpr DType kFloat[] = {DType::kF32};
  const std::vector<int64_t> blocks = {(codes.shape[0] + block[0] - 1) / block[0],
                                       (codes.shape[1] + block[1] - 1) / block[1]};
  ASSIGN_OR_RETURN(const TensorInfo* scales, part(codes, base + ".weight_scale_inv", kFloat, blocks));
  make(codes.name, codes, BlockType::kFp8Blocks, codes.shape,
       {.scales = place(*scales), .group = block[1], .group_rows = block[0]});
  folded_.insert(scales->name);
  return absl::OkStatus();
}

absl::StatusOr<int64_t> ReadGroup(const ModelConfig& quantization) {
  ASSIGN_OR_RETURN(const int64_t bits, quantization.required_int("bits"));
  ASSIGN_OR_RETURN(const int64_t group, quantization.required_int("group_size", {-1, 1 << 24}));
  if (bits != 4 || !IsAffineGroup(group)) {
    return Unimplemented(
        "{}: expected 4 bits in groups of 32, 64 or 128, which have an exact place, found {} bits in groups "
        "of {}. Take "
        "the unquantized model and `shoal convert` it.",
        quantization.where("bits"), bits, group);
  }
  return group;
}

/// GPTQ: qweight i32 [K / 8, N], qzeros i32 [K / G, N / 8], scales f16 [K / G, N], g_idx i32 [K].
/// AWQ: qweight i32 [K, N / 8], qzeros i32 [K / G, N / 8], scales f16 [K / G, N].
absl::Status Folder::fold_integers(const std::string& base, const std::string& method,
                                   const ModelConfig& quantization) {
  const TensorInfo& codes = *find(base + ".qweight");
  const bool awq = method == "awq";
  if ((!awq && method != "gptq") || codes.shape.size() != 2 || codes.dtype != DType::kI32 || IsEmpty(codes)) {
    return Unimplemented(
        "{}: expected i32 of two dimensions and 'quant_method' \"gptq\" or \"awq\", found {} and \"{}\"",
        where(codes), DescribeTensor(codes), method);
  }
  ASSIGN_OR_RETURN(const int64_t group, ReadGroup(quantization));
  ASSIGN_OR_RETURN(const auto order, quantization.optional_bool("desc_act"));
  ASSIGN_OR_RETURN(const auto version, quantization.optional_string(awq ? "version" : "checkpoint_format"));
  if (order.value_or(false)) {
    return Unimplemented(
        "{}: 'desc_act' is true: its groups are no neighbours, which has no exact place. Take the "
        "unquantized model and "
        "`shoal convert` it.",
        where(codes));
  }
  if (awq && version.value_or("gemm") != "gemm" && version.value_or("gemm") != "GEMM") {
    return Unimplemented("{}: expected \"gemm\", found \"{}\"", quantization.where("version"), *version);
  }
  const int64_t cols = awq ? codes.shape[0] : codes.shape[0] * 8;
  const int64_t rows = awq ? codes.shape[1] * 8 : codes.shape[1];
  if (cols % group != 0 || rows % 8 != 0) {
    return InvalidArgument("{}: expected whole groups of {} and rows by eight, found {}", where(codes), group,
                           DescribeTensor(codes));
  }
  static constexpr DType kWords[] = {DType::kI32};
  static constexpr DType kFloats[] = {DType::kF16, DType::kBF16, DType::kF32};
  ASSIGN_OR_RETURN(const TensorInfo* scales, part(codes, base + ".scales", kFloats, {cols / group, rows}));
  ASSIGN_OR_RETURN(const TensorInfo* zeros, part(codes, base + ".qzeros", kWords, {cols / group, rows / 8}));
  make(base + ".weight", codes, awq ? BlockType::kAwq : BlockType::kGptq, {rows, cols},
       {.scales = place(*scales),
        .zeros = place(*zeros),
        .group = group,
        // The first format stored zeros less one.
        .zero_offset = !awq && version.value_or("gptq") != "gptq_v2" ? 1 : 0});
  folded_.insert(scales->name);
  folded_.insert(zeros->name);
  folded_.insert(base + ".g_idx");  // Without desc_act it is k / group.
  return absl::OkStatus();
}

/// compressed-tensors, "pack-quantized": weight_packed i32 [N, K / 8], weight_scale [N, K / G]; symmetric: w
/// = s (q - 8).
absl::Status Folder::fold_packed(const std::string& base, const ModelConfig& quantization) {
  const TensorInfo& codes = *find(base + ".weight_packed");
  const TensorInfo* scales = find(base + ".weight_scale");
  ASSIGN_OR_RETURN(const auto format, quantization.optional_string("format"));
  if (codes.shape.size() != 2 || codes.dtype != DType::kI32 || IsEmpty(codes) || scales == nullptr ||
      scales->shape.size() != 2 || scales->shape[0] != codes.shape[0] || scales->shape[1] < 1 ||
      format.value_or("") != "pack-quantized" || find(base + ".weight_zero_point") != nullptr ||
      find(base + ".weight_g_idx") != nullptr) {
    return Unimplemented(
        "{}: expected symmetric 4-bit \"pack-quantized\" weights, i32 [N, K / 8] with scales [N, K / group], "
        "found {}, "
        "scales {}. Take the unquantized model and `shoal convert` it.",
        where(codes), DescribeTensor(codes), scales == nullptr ? "none" : DescribeTensor(*scales));
  }
  const int64_t cols = codes.shape[1] * 8;
  const int64_t group = cols / scales->shape[1];
  if (!IsFloatWeight(scales->dtype) || group * scales->shape[1] != cols || !IsAffineGroup(group)) {
    return Unimplemented(
        "{}: expected groups of 32, 64 or 128 columns, found {} scales for {} columns. Take the unquantized "
        "model and "
        "`shoal convert` it.",
        where(codes), scales->shape[1], cols);
  }
  RETURN_IF_ERROR(together(codes, *scales));
  make(base + ".weight", codes, BlockType::kPackedInt4, {codes.shape[0], cols},
       {.scales = place(*scales), .group = group});
  folded_.insert(scales->name);
  folded_.insert(base + ".weight_shape");
  return absl::OkStatus();
}

}  // namespace

absl::Status FoldEncodedTensors(const ModelConfig& config,
                                const std::function<std::string(int file)>& file_name,
                                std::vector<TensorInfo>* tensors) {
  return Folder(config, file_name, tensors).fold();
}

}  // namespace shoal
