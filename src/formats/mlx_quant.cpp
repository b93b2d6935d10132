#include "formats/mlx_quant.h"

#include <algorithm>

#include "base/check.h"
#include "base/status.h"
#include "base/text.h"

namespace shoal {
namespace {

constexpr int kKnownBits[] = {2, 3, 4, 5, 6, 8};
constexpr int kKnownGroups[] = {16, 32, 64, 128};

/// bits, group_size and mode of one object.
absl::StatusOr<std::optional<AffineFormat>> FormatFrom(const ModelConfig& object) {
  ASSIGN_OR_RETURN(const auto mode, object.optional_string("mode"));
  // Tensors of these modes show what they are by their scales alone (encoded_tensors.h).
  if (mode && (*mode == "mxfp4" || *mode == "nvfp4" || *mode == "mxfp8"))
    return std::optional<AffineFormat>();
  if (mode && *mode != "affine") {
    return InvalidArgument(
        "{}: '{}' is not supported: expected 'affine', 'mxfp4', 'nvfp4' or 'mxfp8'. Convert the model with "
        "one of them.",
        object.where("mode"), *mode);
  }
  ASSIGN_OR_RETURN(const int64_t bits, object.required_int("bits"));
  ASSIGN_OR_RETURN(const int64_t group, object.required_int("group_size"));
  if (!IsAffineBits(bits)) {
    return InvalidArgument("{}: expected one of {}, found {}", object.where("bits"),
                           fmt::join(kKnownBits, ", "), bits);
  }
  if (!IsAffineForm(bits, group)) {
    return InvalidArgument("{}: expected one of {} (16 with 2, 3 or 6 bits), found {}",
                           object.where("group_size"), fmt::join(kKnownGroups, ", "), group);
  }
  return std::optional(AffineFormat{static_cast<int>(bits), static_cast<int>(group)});
}

/// "(4-bit, D=2048, 8 per word)"; a width that does not divide 32 has no whole number of codes per word.
std::string DescribeWords(AffineFormat format, int64_t cols) {
  if (32 % format.bits != 0) return fmt::format("({}-bit, D={}, one bit stream per row)", format.bits, cols);
  return fmt::format("({}-bit, D={}, {} per word)", format.bits, cols, 32 / format.bits);
}

/// Why the words are of another length than the config says; "" where no other width explains them.
std::string ExplainWords(AffineFormat format, int64_t cols, int64_t found_words) {
  for (const int bits : kKnownBits) {
    if (bits != format.bits && cols * bits == found_words * 32) {
      return fmt::format(
          ". {} words hold D={} at {} bits: config.json \"quantization\" says bits={}. Fix the config or "
          "convert again.",
          found_words, cols, bits, format.bits);
    }
  }
  return "";
}

std::string ExplainScales(AffineFormat format, int64_t cols, int64_t found_groups) {
  for (const int group : kKnownGroups) {
    if (group != format.group && found_groups * group == cols) {
      return fmt::format(
          ". {} scales hold D={} in groups of {}: config.json \"quantization\" says group_size={}. Fix the "
          "config or convert again.",
          found_groups, cols, group, format.group);
    }
  }
  return "";
}

std::vector<int64_t> Stacked(const MatrixShape& shape, int64_t last) {
  if (shape.experts == 0) return {shape.rows, last};
  return {shape.experts, shape.rows, last};
}

absl::StatusOr<AffineFormat> FormatOnDisk(const Checkpoint& checkpoint, const Quantization& quantization,
                                          std::string_view base_name, const MatrixShape& shape) {
  const std::optional<AffineFormat> format = quantization.for_tensor(base_name);
  if (!format) {
    return InvalidArgument(
        "checkpoint: tensor '{}.scales' says that it is quantized, but config.json \"quantization\" {}: "
        "expected bits and group_size for it in {}",
        base_name, quantization.present() ? "says false for it" : "is missing", checkpoint.folder());
  }
  if (shape.cols % AffineSpan(format->group) != 0) {
    return InvalidArgument(
        "checkpoint: tensor '{}': D={} is not a multiple of the group size {} that config.json "
        "\"quantization\" says{}",
        base_name, shape.cols, format->group, format->group == 16 ? ", two of which stand together" : "");
  }
  return *format;
}

}  // namespace

absl::StatusOr<Quantization> Quantization::FromConfig(const ModelConfig& config) {
  Quantization result;
  const char* key = config.has("quantization") ? "quantization" : "quantization_config";
  ASSIGN_OR_RETURN(const auto object, config.optional_object(key));
  if (!object) return result;
  ASSIGN_OR_RETURN(const auto method, object->optional_string("quant_method"));
  if (method) {
    constexpr std::string_view kMethods[] = {"fp8", "gptq", "awq", "compressed-tensors", "mxfp4"};
    if (std::ranges::find(kMethods, *method) != std::end(kMethods)) return result;  // encoded_tensors.h
    return InvalidArgument(
        "{}: {} is not supported: expected MLX quantization (bits, group_size), or one of {}. Take the "
        "unquantized model "
        "and `shoal convert` it.",
        object->where("quant_method"), object->excerpt("quant_method"), fmt::join(kMethods, ", "));
  }
  ASSIGN_OR_RETURN(result.default_, FormatFrom(*object));
  for (const std::string& name : object->keys()) {
    if (name == "bits" || name == "group_size" || name == "mode") continue;
    // An override is {bits, group_size} or a bool (mlx_lm writes what its quant_predicate answered).
    if (const auto own = object->optional_object(name); own.ok() && own->has_value()) {
      ASSIGN_OR_RETURN(result.overrides_[name], FormatFrom(**own));
      continue;
    }
    const auto flag = object->optional_bool(name);
    if (!flag.ok() || !flag->has_value()) {
      const std::string nearest = NearestWord(name, {"bits", "group_size", "mode"});
      return InvalidArgument(
          "{}: expected bits, group_size, mode, or an override (an object or false) for a tensor, found {}{}",
          object->where(name), object->excerpt(name),
          nearest.empty() ? "" : fmt::format(" (nearest key: '{}')", nearest));
    }
    result.overrides_[name] = **flag ? result.default_ : std::nullopt;
  }
  return result;
}

std::optional<AffineFormat> Quantization::for_tensor(std::string_view base_name) const {
  const auto found = overrides_.find(base_name);
  return found == overrides_.end() ? default_ : found->second;
}

bool IsQuantized(const Checkpoint& checkpoint, std::string_view base_name) {
  return checkpoint.has(fmt::format("{}.scales", base_name));
}

absl::StatusOr<AffineView> ViewAffine(const Checkpoint& checkpoint, const Quantization& quantization,
                                      std::string_view base_name, const MatrixShape& shape) {
  SHOAL_CHECK(shape.rows > 0 && shape.cols > 0 && shape.expert >= 0 && shape.expert <= shape.experts);
  SHOAL_CHECK(shape.experts == 0 || shape.expert < shape.experts);
  ASSIGN_OR_RETURN(const AffineFormat format, FormatOnDisk(checkpoint, quantization, base_name, shape));
  const std::string weight = fmt::format("{}.weight", base_name);
  const std::string scales = fmt::format("{}.scales", base_name);
  const std::string biases = fmt::format("{}.biases", base_name);

  static constexpr DType kWords[] = {DType::kU32};
  const std::vector<int64_t> words_shape = Stacked(shape, shape.cols * format.bits / 32);
  const auto words_view = checkpoint.view(weight, kWords, words_shape);
  if (!words_view.ok()) {
    const TensorInfo* info = checkpoint.find(weight);
    if (info == nullptr || info->shape.size() != words_shape.size()) return words_view.status();
    return InvalidArgument("{} {}{}", Message(words_view.status()), DescribeWords(format, shape.cols),
                           ExplainWords(format, shape.cols, info->shape.back()));
  }
  const std::vector<int64_t> groups_shape = Stacked(shape, shape.cols / format.group);
  const auto scales_view = checkpoint.view(scales, kFloatWeights, groups_shape);
  if (!scales_view.ok()) {
    const TensorInfo* info = checkpoint.find(scales);
    if (info == nullptr || info->shape.size() != groups_shape.size()) return scales_view.status();
    return InvalidArgument("{}{}", Message(scales_view.status()),
                           ExplainScales(format, shape.cols, info->shape.back()));
  }
  const DType scale_dtype[] = {scales_view->dtype};
  RETURN_IF_ERROR(checkpoint.view(biases, scale_dtype, groups_shape).status());

  AffineView view{.scale_dtype = scales_view->dtype,
                  .rows = shape.rows,
                  .cols = shape.cols,
                  .bits = format.bits,
                  .group = format.group};
  const auto at = [&](const std::string& name) {
    return checkpoint.matrix(*checkpoint.find(name), shape.experts, shape.expert);
  };
  view.words = at(weight);
  view.scales = at(scales);
  view.biases = at(biases);
  return view;
}

AffineBytes BytesOf(const AffineView& view) {
  return {view.rows * view.words_per_row() * 4,
          view.rows * view.groups_per_row() * DTypeBytes(view.scale_dtype)};
}

}  // namespace shoal
