// What several architectures read of a GGUF in the same way.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/status.h"
#include "formats/gguf_architectures.h"

namespace shoal {

const GgufTensor* GgufDraft::tensor(std::string_view name) const {
  const auto found = std::ranges::find(source.tensors, name, &GgufTensor::name);
  return found == source.tensors.end() ? nullptr : &*found;
}

std::vector<bool> GgufDraft::layers_with(std::string_view name) const {
  std::vector<bool> found(static_cast<size_t>(layers));
  for (int64_t i = 0; i < layers; ++i) found[static_cast<size_t>(i)] = has(fmt::format("blk.{}.{}", i, name));
  return found;
}

absl::StatusOr<std::vector<int64_t>> GgufDraft::per_layer(std::string_view key,
                                                          Bounds<int64_t> bounds) const {
  std::vector<int64_t> values;
  const GgufValue* value = keys.find(key);
  if (value == nullptr) return values;
  if (const std::optional<int64_t> one = value->as_int()) {
    values.assign(static_cast<size_t>(layers), *one);
  } else if (std::optional<std::vector<int64_t>> all = value->as_ints(); all && std::ssize(*all) >= layers) {
    values = std::move(*all);
    values.resize(static_cast<size_t>(layers));
  } else {
    return keys.refuse(key, fmt::format("an integer, or one for each of {} layers", layers));
  }
  for (const int64_t number : values) {
    if (number < bounds.min || number > bounds.max)
      return keys.refuse(key, fmt::format("integers from {} to {}", bounds.min, bounds.max));
  }
  return values;
}

absl::StatusOr<int64_t> GgufDraft::of_all_layers(std::string_view key) const {
  ASSIGN_OR_RETURN(const std::vector<int64_t> values, per_layer(key));
  const bool own = std::ranges::count(own_keys, key) > 0;
  size_t first = values.size();  // That has one.
  int64_t number = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i] == 0) continue;
    if (first == values.size()) first = i;
    if (!own && values[i] != values[first]) {
      return Unimplemented(
          "checkpoint: {}: key '{}': expected the same number for all layers, or 0, found {} for layer {} "
          "and {} for "
          "layer {}; layers that differ in it are not built for this architecture",
          keys.file(), keys.full(key), values[first], first, values[i], i);
    }
    number = std::max(number, values[i]);
  }
  return number;
}

absl::Status GgufDraft::add_routed_experts(const char* count_key) {
  RETURN_IF_ERROR(add_experts(count_key));
  ASSIGN_OR_RETURN(config["moe_intermediate_size"], keys.required_int(".expert_feed_forward_length"));
  ASSIGN_OR_RETURN(const auto dense, keys.optional_int(".leading_dense_block_count", kAnyCount));
  config["first_k_dense_replace"] = dense.value_or(0);
  ASSIGN_OR_RETURN(const auto scale, keys.optional_number(".expert_weights_scale"));
  config["routed_scaling_factor"] = scale.value_or(0) == 0 ? 1.0 : *scale;  // 0: not scaled.
  ASSIGN_OR_RETURN(const auto normalized, keys.optional_bool(".expert_weights_norm"));
  config["norm_topk_prob"] = normalized.value_or(false);
  ASSIGN_OR_RETURN(const auto groups, keys.optional_int(".expert_group_count", kAnyCount));
  ASSIGN_OR_RETURN(const auto topk_group, keys.optional_int(".expert_group_used_count", kAnyCount));
  config["n_group"] = std::max<int64_t>(1, groups.value_or(1));
  config["topk_group"] = std::max<int64_t>(1, topk_group.value_or(1));
  return absl::OkStatus();
}

absl::Status GgufDraft::add_shared_experts(const char* count_key) {
  ASSIGN_OR_RETURN(const auto shared, keys.optional_int(".expert_shared_count", kAnyCount));
  config[count_key] = shared.value_or(0);
  return absl::OkStatus();
}

absl::Status GgufDraft::require_sigmoid_scores() const {
  constexpr int64_t kSigmoid = 2;  // LLAMA_EXPERT_GATING_FUNC_TYPE_SIGMOID
  ASSIGN_OR_RETURN(const auto said, keys.optional_int(".expert_gating_func", kAnyCount));
  if (said.value_or(0) == 0 || *said == kSigmoid) return absl::OkStatus();
  return keys.refuse(".expert_gating_func", "2, scores by sigmoid");
}

absl::StatusOr<std::vector<bool>> GgufDraft::add_windows(int64_t usual) {
  constexpr std::string_view kPattern = ".attention.sliding_window_pattern";
  ASSIGN_OR_RETURN(config["sliding_window"], keys.required_int(".attention.sliding_window"));
  std::vector<bool> windowed(static_cast<size_t>(layers));
  const GgufValue* said = keys.find(kPattern);
  if (said != nullptr && said->array) {
    ASSIGN_OR_RETURN(const std::vector<int64_t> flags, per_layer(kPattern, {0, 1}));
    for (size_t i = 0; i < flags.size(); ++i) windowed[i] = flags[i] == 1;
  } else {
    ASSIGN_OR_RETURN(const auto every, keys.optional_int(kPattern));
    for (int64_t i = 0; i < layers; ++i)
      windowed[static_cast<size_t>(i)] = (i + 1) % every.value_or(usual) != 0;
  }
  config["layer_types"] = nlohmann::json::array();
  for (const bool window : windowed)
    config["layer_types"].push_back(window ? "sliding_attention" : "full_attention");
  return windowed;
}

}  // namespace shoal
