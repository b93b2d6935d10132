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
      if (name.ends_with(".weight.absmax")) {
        status = Unimplemented(
            "{}: weights of bitsandbytes: their values are rounded to the dtype that the reference computes "
            "in, so "
            "they have no exact place. Take the unquantized model and `shoal convert` it.",
            where((*tensors_)[i]));
      } else if (dtype == DType::kU8 && name.ends_with(".scales")) {
        status = fold_microscaled(name.substr(0, name.size() - 7));
      } else if (dtype == DType::kU8 && name.ends_with("_blocks")) {
        status = fold_blocks(name.substr(0, name.size() - 7));
      } else if (dtype == DType::kF8E4M3 && name.ends_with(".weight")) {
        status = fold_fp8(name.substr(0, name.size() - 7));
      } else if (dtype == DType::kI8 && name.ends_with(".weight")) {
        status = fold_int8(name.substr(0, name.size() - 7));
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
  absl::Status fold_fp8_blocks(const TensorInfo& codes, const std::vector<int64_t>& block);
  absl::Status fold_int8(const std::string& base);
  absl::Status fold_fp4(const TensorInfo& codes, const std::string& base);
  /// The scales of a matrix in rows: one for each, or one for all.
  absl::StatusOr<EncodingTensors> row_scales(const TensorInfo& codes);
  /// What says how activations are quantized, which here they are by themselves.
  void drop_activation_scales(const std::string& base);
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

void Folder::drop_activation_scales(const std::string& base) {
  for (const char* name : {".input_scale", ".input_scale_inv", ".activation_scale", ".input_zero_point"}) {
    if (find(base + name) != nullptr) folded_.insert(base + name);
  }
}

/// compressed-tensors and fbgemm: weight_scale [N, 1], [N] or [1] or []; Mistral: weight_scale_inv [].
absl::StatusOr<EncodingTensors> Folder::row_scales(const TensorInfo& codes) {
  const std::string base = codes.name.substr(0, codes.name.size() - std::string_view(".weight").size());
  const TensorInfo* scales = find(base + ".weight_scale");
  if (scales == nullptr) scales = find(base + ".weight_scale_inv");
  const int64_t count = scales == nullptr ? 0 : ElementCount(scales->shape).value_or(0);
  const int64_t rows = codes.shape[0];
  if (scales == nullptr || !IsFloatWeight(scales->dtype) || (count != rows && count != 1) ||
      (scales->shape.size() > 1 && scales->shape[0] != count)) {
    return Unimplemented(
        "{}: expected beside it '{}.weight_scale' with a float for each of {} rows, or one for all, found "
        "{}. Take the "
        "unquantized model and `shoal convert` it.",
        where(codes), base, rows, scales == nullptr ? "none" : DescribeTensor(*scales));
  }
  if (const TensorInfo* zeros = find(base + ".weight_zero_point")) {
    return Unimplemented(
        "{}: expected none; asymmetric weights are not built. Take the unquantized model and `shoal "
        "convert` it.",
        where(*zeros));
  }
  RETURN_IF_ERROR(together(codes, *scales));
  folded_.insert(scales->name);
  drop_activation_scales(base);
  return EncodingTensors{
      .scales = place(*scales), .group = codes.shape[1], .group_rows = count == 1 ? rows : 1};
}

/// DeepSeek: e4m3 and a scale per block of weight_block_size, [ceil(N / 128), ceil(K / 128)]. Without a block size, the
/// scales of rows.
absl::Status Folder::fold_fp8(const std::string& base) {
  const TensorInfo& codes = *find(base + ".weight");
  if (codes.shape.size() != 2 || IsEmpty(codes)) {
    return Unimplemented("{}: expected a matrix of e4m3, found {}", where(codes), DescribeTensor(codes));
  }
  std::vector<int64_t> block;
  ASSIGN_OR_RETURN(const auto quantization, config_.optional_object("quantization_config"));
  if (quantization) {
    ASSIGN_OR_RETURN(block, quantization->int_list("weight_block_size", kPositive));
  }
  if (block.size() == 2) return fold_fp8_blocks(codes, block);
  ASSIGN_OR_RETURN(EncodingTensors parts, row_scales(codes));
  make(codes.name, codes, BlockType::kFp8Blocks, codes.shape, std::move(parts));
  return absl::OkStatus();
}

/// DeepSeek-V3 calls the scales weight_scale_inv and has floats, DeepSeek-V4 scale, and exponents.
absl::Status Folder::fold_fp8_blocks(const TensorInfo& codes, const std::vector<int64_t>& block) {
  static constexpr DType kScales[] = {DType::kF32, DType::kBF16, DType::kF16, DType::kF8E8M0};
  const std::vector<int64_t> blocks = {(codes.shape[0] + block[0] - 1) / block[0],
                                       (codes.shape[1] + block[1] - 1) / block[1]};
  const std::string usual = codes.name + "_scale_inv";
  const std::string later =
      codes.name.substr(0, codes.name.size() - std::string_view("weight").size()) + "scale";
  const bool is_later = find(usual) == nullptr && find(later) != nullptr;
  ASSIGN_OR_RETURN(const TensorInfo* scales, part(codes, is_later ? later : usual, kScales, blocks));
  make(codes.name, codes, BlockType::kFp8Blocks, codes.shape,
       {.scales = place(*scales), .group = block[1], .group_rows = block[0]});
  folded_.insert(scales->name);
  return absl::OkStatus();
}

/// compressed-tensors, "int-quantized": w = s q with a scale per row or one for all.
absl::Status Folder::fold_int8(const std::string& base) {
  const TensorInfo& codes = *find(base + ".weight");
  if (const TensorInfo* beside = find(base + ".scale"); beside != nullptr && beside->dtype == DType::kF8E8M0)
    return fold_fp4(codes, base);
  if (codes.shape.size() != 2 || IsEmpty(codes) || AffineGroupIn(codes.shape[1]) == 0) {
    return Unimplemented("{}: expected a matrix of int8 whose columns are a multiple of 32, found {}",
                         where(codes), DescribeTensor(codes));
  }
  ASSIGN_OR_RETURN(EncodingTensors parts, row_scales(codes));
  make(codes.name, codes, BlockType::kInt8Rows, codes.shape, std::move(parts));
  return absl::OkStatus();
}

/// DeepSeek-V4's experts: `<base>.weight` i8 [N, K / 2], two e2m1 to a byte, the first in the low nibble, and
/// `<base>.scale` e8m0 [N, K / 32].
absl::Status Folder::fold_fp4(const TensorInfo& codes, const std::string& base) {
  static constexpr DType kExponents[] = {DType::kF8E8M0};
  if (codes.shape.size() != 2 || IsEmpty(codes) || codes.shape[1] % 16 != 0) {
    return InvalidArgument("{}: expected bytes of two e2m1 each, [N, K / 2], K a multiple of 32, found {}",
                           where(codes), DescribeTensor(codes));
  }
  const int64_t rows = codes.shape[0];
  ASSIGN_OR_RETURN(const TensorInfo* scales,
                   part(codes, base + ".scale", kExponents, {rows, codes.shape[1] / 16}));
  make(codes.name, codes, BlockType::kMxfp4Words, {rows, 2 * codes.shape[1]}, {.scales = place(*scales)});
  folded_.insert(scales->name);
  return absl::OkStatus();
}

/// How GPTQ and AWQ store integers.
struct IntFormat {
  int64_t bits = 4;
  int64_t group = 0;  ///< 0: all columns.
};

absl::StatusOr<IntFormat> ReadIntFormat(const ModelConfig& quantization, bool awq) {
  IntFormat format;
  ASSIGN_OR_RETURN(format.bits, quantization.required_int("bits"));
  ASSIGN_OR_RETURN(format.group, quantization.required_int("group_size", {-1, 1 << 24}));
  format.group = std::max<int64_t>(0, format.group);
  const bool bits = format.bits == 4 || (format.bits == 8 && !awq);
  if (bits && (format.group == 0 || AffineGroupIn(format.group) != 0)) return format;
  return Unimplemented(
      "{}: expected 4 bits{} in groups of a multiple of 32, which have an exact place, found {} bits in "
      "groups "
      "of {}. Take the unquantized model and `shoal convert` it.",
      quantization.where("bits"), awq ? "" : " or 8", format.bits, format.group);
}

/// GPTQ: qweight i32 [K / 8, N], qzeros i32 [K / G, N / 8], scales f16 [K / G, N], g_idx i32 [K]; of 8 bits 4 for 8.
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
  ASSIGN_OR_RETURN(const IntFormat format, ReadIntFormat(quantization, awq));
  ASSIGN_OR_RETURN(const auto ordered, quantization.optional_bool("desc_act"));
  ASSIGN_OR_RETURN(const auto version, quantization.optional_string(awq ? "version" : "checkpoint_format"));
  if (awq && version.value_or("gemm") != "gemm" && version.value_or("gemm") != "GEMM") {
    return Unimplemented("{}: expected \"gemm\", found \"{}\"", quantization.where("version"), *version);
  }
  const int64_t per_word = 32 / format.bits;
  const int64_t cols = awq ? codes.shape[0] : codes.shape[0] * per_word;
  const int64_t rows = awq ? codes.shape[1] * per_word : codes.shape[1];
  const int64_t group = format.group == 0 ? cols : format.group;
  if (cols % group != 0 || rows % per_word != 0 || AffineGroupIn(group) == 0) {
    return InvalidArgument("{}: expected whole groups of {} and rows by {}, found {}", where(codes), group,
                           per_word, DescribeTensor(codes));
  }
  static constexpr DType kWords[] = {DType::kI32};
  static constexpr DType kFloats[] = {DType::kF16, DType::kBF16, DType::kF32};
  ASSIGN_OR_RETURN(const TensorInfo* scales, part(codes, base + ".scales", kFloats, {cols / group, rows}));
  ASSIGN_OR_RETURN(const TensorInfo* zeros,
                   part(codes, base + ".qzeros", kWords, {cols / group, rows / per_word}));
  EncodingTensors parts{.scales = place(*scales),
                        .zeros = place(*zeros),
                        .order = std::nullopt,
                        .group = group,
                        // The first format stored zeros less one.
                        .zero_offset = !awq && version.value_or("gptq") != "gptq_v2" ? 1 : 0};
  BlockType type = awq ? BlockType::kAwq : format.bits == 8 ? BlockType::kGptq8 : BlockType::kGptq;
  if (ordered.value_or(false) && !awq) {
    ASSIGN_OR_RETURN(const TensorInfo* order, part(codes, base + ".g_idx", kWords, {cols}));
    parts.order = place(*order);
    type = format.bits == 8 ? BlockType::kGptq8Ordered : BlockType::kGptqOrdered;
  }
  make(base + ".weight", codes, type, {rows, cols}, std::move(parts));
  folded_.insert(scales->name);
  folded_.insert(zeros->name);
  folded_.insert(base + ".g_idx");  // Without desc_act it is k / group.
  return absl::OkStatus();
}

/// The bits of compressed-tensors' packed weights: 4, or what a group of the config says.
absl::StatusOr<int64_t> PackedBits(const ModelConfig& quantization) {
  ASSIGN_OR_RETURN(const auto groups, quantization.optional_object("config_groups"));
  if (!groups) return 4;
  std::optional<int64_t> bits;
  for (const std::string& name : groups->keys()) {
    ASSIGN_OR_RETURN(const auto group, groups->optional_object(name));
    if (!group) continue;
    ASSIGN_OR_RETURN(const auto weights, group->optional_object("weights"));
    if (!weights) continue;
    ASSIGN_OR_RETURN(const auto stated, weights->optional_int("num_bits"));
    const int64_t own = stated.value_or(4);
    if (bits.value_or(own) != own) {
      return Unimplemented("{}: expected the same number as of other groups, {}, found {}",
                           weights->where("num_bits"), *bits, own);
    }
    bits = own;
  }
  return bits.value_or(4);
}

/// compressed-tensors, "pack-quantized": weight_packed i32 [N, K / 8], weight_scale [N, K / G]; symmetric: w
/// = s (q - 8). Of 8 bits: [N, K / 4], w = s (q - 128).
absl::Status Folder::fold_packed(const std::string& base, const ModelConfig& quantization) {
  const TensorInfo& codes = *find(base + ".weight_packed");
  const TensorInfo* scales = find(base + ".weight_scale");
  ASSIGN_OR_RETURN(const auto format, quantization.optional_string("format"));
  ASSIGN_OR_RETURN(const int64_t bits, PackedBits(quantization));
  if (codes.shape.size() != 2 || codes.dtype != DType::kI32 || IsEmpty(codes) || scales == nullptr ||
      scales->shape.size() != 2 || scales->shape[0] != codes.shape[0] || scales->shape[1] < 1 ||
      format.value_or("") != "pack-quantized" || (bits != 4 && bits != 8) ||
      find(base + ".weight_zero_point") != nullptr || find(base + ".weight_g_idx") != nullptr) {
    return Unimplemented(
        "{}: expected symmetric \"pack-quantized\" weights of 4 or 8 bits, i32 words along rows with scales "
        "[N, K / "
        "group], found {}, scales {}, {} bits. Take the unquantized model and `shoal convert` it.",
        where(codes), DescribeTensor(codes), scales == nullptr ? "none" : DescribeTensor(*scales), bits);
  }
  const int64_t cols = codes.shape[1] * (32 / bits);
  const int64_t group = cols / scales->shape[1];
  if (!IsFloatWeight(scales->dtype) || group * scales->shape[1] != cols || AffineGroupIn(group) == 0) {
    return Unimplemented(
        "{}: expected groups of a multiple of 32 columns, found {} scales for {} columns. Take the "
        "unquantized "
        "model and `shoal convert` it.",
        where(codes), scales->shape[1], cols);
  }
  RETURN_IF_ERROR(together(codes, *scales));
  make(base + ".weight", codes, bits == 8 ? BlockType::kPackedInt8 : BlockType::kPackedInt4,
       {codes.shape[0], cols}, {.scales = place(*scales), .group = group});
  folded_.insert(scales->name);
  folded_.insert(base + ".weight_shape");
  drop_activation_scales(base);
  return absl::OkStatus();
}

}  // namespace

absl::Status FoldEncodedTensors(const ModelConfig& config,
                                const std::function<std::string(int file)>& file_name,
                                std::vector<TensorInfo>* tensors) {
  return Folder(config, file_name, tensors).fold();
}

}  // namespace shoal
