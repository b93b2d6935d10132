#include "formats/gguf_model.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/status.h"
#include "formats/gguf_architectures.h"
#include "formats/gguf_text.h"
#include "formats/safetensors.h"
#include "formats/strict_json.h"

namespace shoal {
namespace {

constexpr GgufStem kOutside[] = {
    {"token_embd", "model.embed_tokens"}, {"output_norm", "model.norm"}, {"output", "lm_head"}};

/// "blk.7.attn_q.weight" -> 7, "attn_q", none, ".weight"; "blk.7.ffn_up.3.weight" -> 7, "ffn_up", "3".
struct SplitName {
  int64_t layer = -1;
  std::string_view stem;
  std::string_view expert;  ///< Digits; empty: none.
  std::string_view suffix;  ///< ".weight", ".bias" or none.
};

/// A number of at most six digits.
std::optional<int64_t> SmallNumber(std::string_view digits) {
  if (digits.empty() || digits.size() > 6) return std::nullopt;
  int64_t value = 0;
  for (const char c : digits) {
    if (c < '0' || c > '9') return std::nullopt;
    value = 10 * value + (c - '0');
  }
  return value;
}

std::optional<SplitName> SplitTensorName(std::string_view name) {
  SplitName split;
  split.stem = name;
  for (const std::string_view suffix : {".weight", ".bias"}) {
    if (!name.ends_with(suffix)) continue;
    split.suffix = suffix;
    split.stem.remove_suffix(suffix.size());
  }
  if (!split.stem.starts_with("blk.")) return split;
  split.stem.remove_prefix(4);
  const size_t end = split.stem.find('.');
  const std::optional<int64_t> layer = SmallNumber(split.stem.substr(0, end));
  if (end == std::string_view::npos || !layer) return std::nullopt;
  split.layer = *layer;
  split.stem.remove_prefix(end + 1);
  const size_t number = split.stem.rfind('.');
  if (number == std::string_view::npos || !SmallNumber(split.stem.substr(number + 1))) return split;
  split.expert = split.stem.substr(number + 1);
  split.stem = split.stem.substr(0, number);
  return split;
}

/// The shape on the hub; empty where it is the same.
std::vector<int64_t> HubShape(GgufStem::Shape shape, const GgufTensor& tensor) {
  const std::vector<int64_t>& here = tensor.shape;
  switch (shape) {
    case StemShape::kRow:
      if (here.size() == 1) return {1, here[0]};
      break;
    case StemShape::kTaps:
    case StemShape::kMlxTaps:
      if (here.size() >= 2 && here.back() > 0 && tensor.blocks == BlockType::kNone) {
        const int64_t channels = *ElementCount(here) / here.back();
        if (shape == StemShape::kTaps) return {channels, 1, here.back()};
        return {channels, here.back(), 1};
      }
      break;
    case StemShape::kVector:
      if (here.size() > 1 && tensor.blocks == BlockType::kNone) return {*ElementCount(here)};
      break;
    case StemShape::kSame:
      break;
  }
  return {};
}

/// The name below its layer.
std::string NameOf(const GgufStem& stem, const SplitName& split) {
  std::string hub(stem.hub);
  if (stem.kind == StemKind::kWholeName) return hub;
  if (stem.kind == StemKind::kEach) hub.replace(hub.find('*'), 1, split.expert);
  return hub + std::string(split.suffix);
}

/// In which order the tensor has value heads. It says so only where they fill it.
absl::StatusOr<TiledHeads> OrderOf(const GgufDraft& draft, const GgufStem& stem, const GgufTensor& tensor) {
  const GgufValueHeads& heads = draft.value_heads;
  if (stem.tiled == StemTiled::kNothing || heads.groups == 0) return TiledHeads{};
  TiledHeads tiled{.groups = heads.groups, .per_group = heads.per_group, .size = heads.value_dim};
  if (stem.tiled == StemTiled::kSingle) tiled.size = 1;
  if (stem.tiled == StemTiled::kLastRows) tiled.begin = heads.before;
  tiled.columns = stem.tiled == StemTiled::kColumns;
  const bool taps = stem.shape == StemShape::kMlxTaps;
  const int64_t found = tiled.columns ? tensor.shape.back()
                        : taps        ? *ElementCount(tensor.shape) / tensor.shape.back()
                                      : tensor.shape.front();
  if (found != tiled.end()) {
    return InvalidArgument(
        "checkpoint: tensor '{}' in {}: expected {} {} ({} value heads of {} behind {}), found [{}]",
        tensor.name, draft.keys.file(), tiled.end(), tiled.columns ? "columns" : "rows or elements",
        tiled.heads(), tiled.size, tiled.begin, fmt::join(tensor.shape, ", "));
  }
  if (taps) {  // It is one vector.
    tiled.size *= tensor.shape.back();
    tiled.begin *= tensor.shape.back();
  }
  return tiled;
}

absl::StatusOr<GgufName> HubName(const GgufDraft& draft, std::string_view architecture,
                                 const GgufTensor& tensor) {
  if (tensor.name == kGgufRopeFactors || tensor.name == kGgufRopeLong || tensor.name == kGgufRopeShort)
    return GgufName{};
  const std::optional<SplitName> split = SplitTensorName(tensor.name);
  if (split && split->layer >= draft.layers && split->layer < draft.blocks) return GgufName{};
  const std::span<const GgufStem> stems = split && split->layer >= 0 ? draft.stems : draft.outside;
  const auto fits = [&](const GgufStem& stem) {
    return stem.gguf == split->stem && (stem.kind == StemKind::kEach) == !split->expert.empty() &&
           (stem.kind == StemKind::kWholeName || !split->suffix.empty());
  };
  const auto stem = split ? std::ranges::find_if(stems, fits) : stems.end();
  if (stem == stems.end()) {
    // An unknown tensor might change the arithmetic, so it is refused and not ignored.
    return Unimplemented(
        "checkpoint: tensor '{}' in {}: expected the tensors of architecture '{}', found one that "
        "is not built",
        Printable(tensor.name, 200), draft.keys.file(), architecture);
  }
  GgufName result;
  if (!draft.wrapper.empty()) result.name = "language_model.";
  if (split->layer >= 0) result.name += fmt::format("{}{}.", draft.layer_prefix, split->layer);
  result.name += NameOf(*stem, *split);
  if (draft.norms_plus_one && split->stem.ends_with("norm")) {
    result.name.replace(result.name.rfind('.') + 1, std::string::npos, kGgufOnePlus);
  }
  result.shape = HubShape(stem->shape, tensor);
  ASSIGN_OR_RETURN(result.tiled, OrderOf(draft, *stem, tensor));
  if (split->stem == "attn_q") result.permuted_heads = draft.permuted_q;
  if (split->stem == "attn_k") result.permuted_heads = draft.permuted_k;
  if (result.permuted_heads > 0 && tensor.shape[0] % (2 * result.permuted_heads) != 0) {
    return InvalidArgument(
        "checkpoint: tensor '{}' in {}: expected a multiple of {} rows for {} heads, found [{}]", tensor.name,
        draft.keys.file(), 2 * result.permuted_heads, result.permuted_heads, fmt::join(tensor.shape, ", "));
  }
  return result;
}

}  // namespace

absl::StatusOr<GgufModel> ModelOfGguf(const GgufSource& source, std::string_view file_name) {
  const GgufKeys general(source.metadata, "", file_name);
  ASSIGN_OR_RETURN(const std::string_view architecture, general.required_string("general.architecture"));
  const std::span<const GgufArchitecture> all = GgufArchitectures();
  const auto known = std::ranges::find(all, architecture, &GgufArchitecture::name);
  if (known == all.end()) {
    std::vector<std::string_view> names;
    for (const GgufArchitecture& each : all) names.push_back(each.name);
    return Unimplemented("checkpoint: {}: architecture '{}' is not built for GGUF; known: {}", file_name,
                         Printable(architecture, 60), fmt::join(names, ", "));
  }
  nlohmann::json config;
  GgufDraft draft{.keys = GgufKeys(source.metadata, std::string(architecture), file_name),
                  .source = source,
                  .config = config,
                  .stems = {},
                  .outside = {std::begin(kOutside), std::end(kOutside)},
                  .numbers = {}};
  RETURN_IF_ERROR(known->build(draft));
  RETURN_IF_ERROR(AddTokenIds(general, &config));
  GgufModel model;
  if (!draft.wrapper.empty()) config = {{"model_type", draft.wrapper}, {"text_config", std::move(config)}};
  model.config_json = config.dump();
  model.numbers = std::move(draft.numbers);
  for (const GgufTensor& tensor : source.tensors) {
    ASSIGN_OR_RETURN(GgufName name, HubName(draft, architecture, tensor));
    model.names.push_back(std::move(name));
  }
  return model;
}

}  // namespace shoal
