// Llama 4, text only. Reference: transformers models/llama4/modeling_llama4.py.
#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/families/common/family_moe.h"
#include "models/family.h"
#include "numeric/transcendental.h"

namespace shoal::families {
namespace {

/// Of Llama4TextConfig: what configs may leave out.
constexpr char kDefaults[] =
    R"({"rope_theta": 500000.0, "attention_bias": false, "tie_word_embeddings": false,
  "use_qk_norm": true, "no_rope_layer_interval": 4, "interleave_moe_layer_step": 1, "floor_scale": 8192,
  "attn_scale": 0.1, "attn_temperature_tuning": true})";

/// attn_temperature_tuning: true, or a number that is not 0, as in configs of the first release.
absl::StatusOr<bool> ReadTuning(const ModelConfig& text) {
  constexpr char kKey[] = "attn_temperature_tuning";
  const absl::StatusOr<bool> flag = text.required_bool(kKey);
  if (flag.ok()) return flag;
  ASSIGN_OR_RETURN(const int64_t number, text.required_int(kKey, kAnyCount));
  return number != 0;
}

/// Which layers have rope: no_rope_layers (1 = rope), else all but every no_rope_layer_interval-th.
absl::StatusOr<std::vector<bool>> ReadRotating(const ModelConfig& text, int64_t layers) {
  std::vector<bool> rotating(static_cast<size_t>(layers));
  ASSIGN_OR_RETURN(const std::vector<int64_t> flags, text.int_list("no_rope_layers", {0, 1}));
  ASSIGN_OR_RETURN(const int64_t interval, text.required_int("no_rope_layer_interval"));
  if (!flags.empty() && std::ssize(flags) < layers) {
    return InvalidArgument("{}: expected one for each of {} layers, found {}", text.where("no_rope_layers"),
                           layers, flags.size());
  }
  for (int64_t i = 0; i < layers; ++i) {
    const auto at = static_cast<size_t>(i);
    rotating[at] = flags.empty() ? (i + 1) % interval != 0 : flags[at] == 1;
  }
  return rotating;
}

/// The chunk of each layer's attention, nullopt where it sees everything: by layer_types where the config has them, else
/// attention_chunk_size in layers with rope.
absl::StatusOr<std::vector<std::optional<int64_t>>> ReadChunks(const ModelConfig& text,
                                                               const std::vector<bool>& rotating) {
  std::vector<std::optional<int64_t>> chunks(rotating.size());
  // The reference has 8192 where the key is absent, and no chunks where it is null; configs always have it.
  ASSIGN_OR_RETURN(const std::optional<int64_t> size, text.optional_int("attention_chunk_size"));
  ASSIGN_OR_RETURN(const std::vector<std::string> types, text.string_list("layer_types"));
  if (!types.empty() && types.size() < chunks.size()) {
    return InvalidArgument("{}: expected one for each of {} layers, found {}", text.where("layer_types"),
                           chunks.size(), types.size());
  }
  for (size_t i = 0; i < chunks.size(); ++i) {
    if (types.empty() ? rotating[i] : types[i] == "chunked_attention") chunks[i] = size;
    if (types.empty() || types[i] == "chunked_attention" || types[i] == "full_attention") continue;
    return Unimplemented("{}: expected \"chunked_attention\" or \"full_attention\", found \"{}\"",
                         text.where("layer_types"), types[i]);
  }
  return chunks;
}

struct Llama4Attention {
  AttentionSettings usual;
  std::vector<bool> rotating;
  std::vector<std::optional<int64_t>> chunks;
  std::optional<NormSpec> norm;  ///< Of queries and keys of layers with rope, behind it.
  QueryTemperature temperature;  ///< Of layers without rope.
};

absl::StatusOr<Llama4Attention> ReadAttention(const ModelConfig& text, const DecoderSizes& sizes) {
  Llama4Attention attention;
  ASSIGN_OR_RETURN(attention.usual.head_dim, ReadHeadDimOrShare(text, sizes));
  ASSIGN_OR_RETURN(attention.usual.rope, ReadRope(text, attention.usual.head_dim));
  attention.usual.rope.pairing = RopePairing::kInterleaved;
  ASSIGN_OR_RETURN(attention.usual.qkv_bias, text.required_bool("attention_bias"));
  attention.usual.o_bias = attention.usual.qkv_bias;
  ASSIGN_OR_RETURN(attention.rotating, ReadRotating(text, sizes.layers));
  ASSIGN_OR_RETURN(attention.chunks, ReadChunks(text, attention.rotating));
  ASSIGN_OR_RETURN(const bool norm, text.required_bool("use_qk_norm"));
  if (norm) {
    attention.norm =
        NormSpec{.weight = {.shape = {attention.usual.head_dim}, .sources = {}}, .eps = sizes.eps};
  }
  ASSIGN_OR_RETURN(const bool tuned, ReadTuning(text));
  if (!tuned) return attention;
  ASSIGN_OR_RETURN(attention.temperature.beta, text.required_number("attn_scale", {0.0, 1e3}));
  ASSIGN_OR_RETURN(attention.temperature.interval, text.required_int("floor_scale"));
  attention.temperature.shift = 1;
  return attention;
}

/// Which layers have experts: moe_layers, else every interleave_moe_layer_step-th.
absl::StatusOr<std::vector<bool>> ReadMoeLayers(const ModelConfig& text, int64_t layers) {
  std::vector<bool> sparse(static_cast<size_t>(layers));
  ASSIGN_OR_RETURN(const std::vector<int64_t> named, text.int_list("moe_layers", {0, layers - 1}));
  ASSIGN_OR_RETURN(const int64_t step, text.required_int("interleave_moe_layer_step", kAnyCount));
  for (const int64_t layer : named) sparse[static_cast<size_t>(layer)] = true;
  if (text.has("moe_layers") || step == 0) return sparse;
  for (int64_t i = step - 1; i < layers; i += step) sparse[static_cast<size_t>(i)] = true;
  return sparse;
}

/// The hub has the experts as two stacks of transposed matrices, gate_up_proj [E, D, 2F] and down_proj [E, F, D]; MLX
/// has three.
MoeSpec ExpertsAt(const std::string& base, int64_t width, const MoeSettings& parts) {
  MoeSpec moe = MoeAt(base, width, parts, {.stacks = ".experts"});
  moe.router.linear = LinearAt(base + ".router", parts.experts, width, false);
  moe.shared = DenseAt(base + ".shared_expert", width, parts.width, false);
  moe.weights_scale_inputs = true;
  for (int64_t e = 0; e < parts.experts; ++e) {
    DenseSpec& expert = moe.experts[static_cast<size_t>(e)];
    const auto transposed = [&](LinearSpec& linear, const char* name, int64_t first, int64_t stored) {
      WeightSource& hub = linear.weight.sources[0] = {
          .base = base + ".experts", .suffix = name, .stack = parts.experts, .index = e, .written = false};
      hub.strided = WeightSource::StridedView{.stored_shape = {parts.experts, linear.weight.shape[1], stored},
                                              .offset = first,
                                              .row_stride = 1,
                                              .col_stride = stored};
    };
    transposed(expert.gate, "gate_up_proj", 0, 2 * parts.width);
    transposed(expert.up, "gate_up_proj", parts.width, 2 * parts.width);
    transposed(expert.down, "down_proj", 0, width);
  }
  return moe;
}

absl::StatusOr<MoeSettings> ReadLlama4Experts(const ModelConfig& text, const DecoderSizes& sizes) {
  ASSIGN_OR_RETURN(MoeSettings experts,
                   ReadExperts(text, sizes, {.experts = "num_local_experts", .width = "intermediate_size"}));
  experts.scores = RouteScores::kLogits;
  experts.weighting = RouteWeights::kSigmoid;
  if (experts.top_k == 1) return experts;
  return Unimplemented(
      "{}: expected 1, found {}; an expert's weight multiplies its input, which is built for one "
      "expert a token",
      text.where("num_experts_per_tok"), experts.top_k);
}

absl::StatusOr<ModelSpec> Spec(const ModelConfig& stated) {
  const ModelConfig text = stated.with_defaults(kDefaults);
  RETURN_IF_ERROR(RequireActivation(text, "hidden_act", "silu"));
  ASSIGN_OR_RETURN(DecoderSizes sizes, ReadDecoderSizes(text));
  // Scout states 10,485,760 positions: it is served as far as the angles of rope are exact.
  sizes.max_positions = std::min(sizes.max_positions, static_cast<int64_t>(kTrigArgumentMax));
  ASSIGN_OR_RETURN(const Llama4Attention attention, ReadAttention(text, sizes));
  ASSIGN_OR_RETURN(const MoeSettings experts, ReadLlama4Experts(text, sizes));
  ASSIGN_OR_RETURN(const std::vector<bool> sparse, ReadMoeLayers(text, sizes.layers));
  ASSIGN_OR_RETURN(const int64_t ffn, text.required_int("intermediate_size_mlp"));
  const auto mixer = [&](int64_t layer, const std::string& base) -> MixerSpec {
    const auto at = static_cast<size_t>(layer);
    GqaSpec gqa = GqaAt(base + ".self_attn", sizes, attention.usual);
    gqa.chunk = attention.chunks[at];
    if (attention.rotating[at]) {
      gqa.q_norm = gqa.k_norm = attention.norm;
      gqa.norm_behind_rope = true;
    } else {
      gqa.rope = {};
      gqa.temperature = attention.temperature;
    }
    return gqa;
  };
  const auto feed_forward = [&](int64_t layer, const std::string& base) -> FeedForwardSpec {
    if (sparse[static_cast<size_t>(layer)]) return ExpertsAt(base + ".feed_forward", sizes.width, experts);
    return DenseAt(base + ".feed_forward", sizes.width, ffn, false);
  };
  return DecoderOf("llama4_text", sizes, mixer, feed_forward);
}

std::string Tiny() {
  return TinyConfig("llama4_text", R"("intermediate_size": 320,
  "intermediate_size_mlp": 384, "num_key_value_heads": 2, "head_dim": 28, "hidden_act": "silu",
  "num_local_experts": 13, "num_experts_per_tok": 1, "interleave_moe_layer_step": 2, "use_qk_norm": true,
  "no_rope_layers": [1, 1, 0, 1, 1, 1, 0], "attention_chunk_size": 33, "attn_temperature_tuning": true,
  "floor_scale": 16, "attn_scale": 0.1, "attention_bias": false, "tie_word_embeddings": false,
  "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64}, "rope_theta": 500000.0)");
}

}  // namespace

extern const Family llama4_text;
constinit const Family llama4_text = {"llama4_text", &Spec, &Tiny, "llama4"};

}  // namespace shoal::families
