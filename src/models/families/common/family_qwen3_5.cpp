#include "models/families/common/family_qwen3_5.h"

#include <fmt/format.h>

#include <iterator>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"
#include "models/families/common/family_mamba.h"
#include "models/families/common/family_moe.h"
#include "models/families/common/nested_text_config.h"
#include "models/reference_defaults.h"

namespace shoal {
namespace {

/// Which layers attend; the others are gated delta layers.
absl::StatusOr<std::vector<bool>> ReadAttending(const ModelConfig& text, int64_t layers) {
  std::vector<bool> attending(static_cast<size_t>(layers));
  ASSIGN_OR_RETURN(const std::vector<std::string> types, text.string_list("layer_types"));
  if (types.empty()) {
    ASSIGN_OR_RETURN(const int64_t interval, text.required_int("full_attention_interval"));
    for (int64_t i = 0; i < layers; ++i) attending[static_cast<size_t>(i)] = (i + 1) % interval == 0;
    return attending;
  }
  if (types.size() < attending.size()) {
    return InvalidArgument("{}: expected one for each of {} layers, found {}", text.where("layer_types"),
                           layers, types.size());
  }
  for (size_t i = 0; i < attending.size(); ++i) {
    attending[i] = types[i] == "full_attention";
    if (attending[i] || types[i] == "linear_attention") continue;
    return Unimplemented("{}: expected \"full_attention\" or \"linear_attention\", found \"{}\"",
                         text.where("layer_types"), types[i]);
  }
  return attending;
}

/// What a config says of its gated delta layers; tensors are named by DeltaAt.
absl::StatusOr<GatedDeltaNetSpec> ReadDelta(const ModelConfig& text) {
  constexpr Bounds<int64_t> kHeads{1, 1 << 12};
  constexpr Bounds<int64_t> kDims{1, 1 << 12};
  constexpr Bounds<int64_t> kTaps{1, 64};
  ASSIGN_OR_RETURN(const int64_t key_heads, text.required_int("linear_num_key_heads", kHeads));
  ASSIGN_OR_RETURN(const int64_t value_heads, text.required_int("linear_num_value_heads", kHeads));
  ASSIGN_OR_RETURN(const int64_t key_dim, text.required_int("linear_key_head_dim", kDims));
  ASSIGN_OR_RETURN(const int64_t value_dim, text.required_int("linear_value_head_dim", kDims));
  ASSIGN_OR_RETURN(const int64_t taps, text.required_int("linear_conv_kernel_dim", kTaps));
  if (value_heads % key_heads != 0) {
    return InvalidArgument("{}: expected a multiple of linear_num_key_heads = {}, found {}",
                           text.where("linear_num_value_heads"), key_heads, value_heads);
  }
  RETURN_IF_ERROR(RequireIfPresent(text, "mamba_ssm_dtype", "float32"));
  GatedDeltaNetSpec delta;
  delta.key_heads = static_cast<int>(key_heads);
  delta.value_heads = static_cast<int>(value_heads);
  delta.key_dim = static_cast<int>(key_dim);
  delta.value_dim = static_cast<int>(value_dim);
  delta.conv_width = static_cast<int>(taps);
  return delta;
}

/// The projections of the rows, each a tensor or rows of one.
void AddProjections(const std::string& base, int64_t width, GatedDeltaNetSpec& delta) {
  const int64_t keys = int64_t{delta.key_heads} * delta.key_dim;
  const int64_t values = int64_t{delta.value_heads} * delta.value_dim;
  const auto part = [&](int64_t begin, int64_t rows) {
    return PartOf(base + ".in_proj_qkv", delta.channels(), begin, rows, width);
  };
  delta.q = part(0, keys);
  delta.k = part(keys, keys);
  delta.v = part(2 * keys, values);
  delta.z = LinearAt(base + ".in_proj_z", values, width, false);
  delta.b = LinearAt(base + ".in_proj_b", delta.value_heads, width, false);
  delta.a = LinearAt(base + ".in_proj_a", delta.value_heads, width, false);
}

/// The same of tensors in which each key head has its rows together: query, key, values, gates z of the value heads that
/// it serves; and their b, their a.
void AddProjectionsByHead(const std::string& base, int64_t width, GatedDeltaNetSpec& delta) {
  const int64_t heads = delta.key_heads;
  const auto part = [&](const char* name, int64_t head_rows, int64_t begin, int64_t run) {
    LinearSpec linear = PartOf(base + name, heads * head_rows, begin, heads * run, width);
    WeightSource& source = linear.weight.sources[0];
    source.rows.end = begin + (heads - 1) * head_rows + run;
    source.row_interval = head_rows;
    source.row_run = run;
    return linear;
  };
  const int64_t served = delta.value_heads / heads;
  const int64_t values = served * delta.value_dim;
  const int64_t head_rows = 2 * delta.key_dim + 2 * values;
  delta.q = part(".in_proj_qkvz", head_rows, 0, delta.key_dim);
  delta.k = part(".in_proj_qkvz", head_rows, delta.key_dim, delta.key_dim);
  delta.v = part(".in_proj_qkvz", head_rows, 2 * delta.key_dim, values);
  delta.z = part(".in_proj_qkvz", head_rows, 2 * delta.key_dim + values, values);
  delta.b = part(".in_proj_ba", 2 * served, 0, served);
  delta.a = part(".in_proj_ba", 2 * served, served, served);
  // A GGUF has queries, keys, values and gates as Qwen3.5's folders do.
  GatedDeltaNetSpec apart = delta;
  AddProjections(base, width, apart);
  for (const auto member :
       {&GatedDeltaNetSpec::q, &GatedDeltaNetSpec::k, &GatedDeltaNetSpec::v, &GatedDeltaNetSpec::z}) {
    WeightSource& source = (delta.*member).weight.sources.emplace_back((apart.*member).weight.sources[0]);
    source.written = false;
  }
}

GatedDeltaNetSpec DeltaAt(const std::string& base, const DecoderSizes& sizes, Qwen35Place place,
                          GatedDeltaNetSpec delta) {
  const int64_t values = int64_t{delta.value_heads} * delta.value_dim;
  if (place == Qwen35Place::kNext) {
    AddProjectionsByHead(base, sizes.width, delta);
  } else {
    AddProjections(base, sizes.width, delta);
  }
  WeightRef& conv = delta.conv.emplace_back(
      WeightRef{.shape = {delta.channels() * delta.conv_width}, .sources = {{.base = base + ".conv1d"}}});
  conv.sources[0].strided = WeightSource::StridedView{
      .stored_shape = {delta.channels(), 1, delta.conv_width}, .offset = 0, .row_stride = 0, .col_stride = 1};
  delta.decay_log = DecayLogAt(base, delta.value_heads);
  delta.step_bias = {.shape = {delta.value_heads}, .sources = {{.base = base, .suffix = "dt_bias"}}};
  delta.norm = NormAt(base + ".norm", delta.value_dim, sizes.eps);
  delta.o = LinearAt(base + ".out_proj", sizes.width, values, false);
  return delta;
}

/// Norms of rows and heads are stored as w of 1 + w, those of gated delta outputs as they are.
bool IsZeroCentred(const std::string& base) {
  for (const char* name : {"model.norm", "mtp.norm", ".pre_fc_norm_embedding", ".pre_fc_norm_hidden",
                           ".input_layernorm", ".post_attention_layernorm", ".q_norm", ".k_norm"}) {
    if (base.ends_with(name)) return true;
  }
  return false;
}

/// mlx-lm stores 1 + w for norms, and the convolution's taps as [channels, taps, 1].
void AsStored(WeightSource& place, bool by_mlx) {
  if (!by_mlx) {
    if (IsZeroCentred(place.base)) place.offset = 1;
    return;
  }
  place.mlx = true;
  if (place.strided) std::swap(place.strided->stored_shape[1], place.strided->stored_shape[2]);
}

absl::Status RefuseUnbuilt(const ModelConfig& text) {
  RETURN_IF_ERROR(RequireActivation(text, "hidden_act", "silu"));
  ASSIGN_OR_RETURN(const std::optional<bool> gate, text.optional_bool("attn_output_gate"));
  if (!gate.value_or(true)) {
    return Unimplemented("{}: expected true, found false; the reference of this family has the gate always",
                         text.where("attn_output_gate"));
  }
  return absl::OkStatus();
}

absl::StatusOr<AttentionSettings> ReadAttention(const ModelConfig& text, Qwen35Place place) {
  AttentionSettings attention{.norm = QkNorm::kPerHead};
  ASSIGN_OR_RETURN(attention.head_dim, ReadHeadDim(text));
  ModelConfig rope = text;
  if (place != Qwen35Place::kNext || text.has("rope_parameters")) {
    ASSIGN_OR_RETURN(rope, text.required_object("rope_parameters"));
  }
  RETURN_IF_ERROR(rope.required_number("partial_rotary_factor", {0, 1}).status());
  ASSIGN_OR_RETURN(const int rotary, ReadRotaryDims(text, attention.head_dim));
  // mrope_section deals out frequencies to time, height and width of images, which agree wherever text is.
  ASSIGN_OR_RETURN(attention.rope, ReadRope(text, rotary));
  ASSIGN_OR_RETURN(attention.qkv_bias, ReadLateFlag(text, "attention_bias"));
  attention.o_bias = attention.qkv_bias;
  return attention;
}

// Source: what vLLM's and SGLang's models of this head compute; transformers leaves its tensors out.
absl::Status AddQwen35Mtp(const Qwen35Parts& parts, const MakeFeedForward& feed_forward, ModelSpec& spec) {
  const bool is_next = parts.place == Qwen35Place::kNext;
  ASSIGN_OR_RETURN(
      const std::optional<int64_t> heads,
      parts.text.optional_int(is_next ? "num_nextn_predict_layers" : "mtp_num_hidden_layers", kAnyCount));
  ASSIGN_OR_RETURN(const bool own_embedding, ReadLateFlag(parts.text, "mtp_use_dedicated_embeddings"));
  if (heads.value_or(is_next ? 1 : 0) == 0 || own_embedding) return absl::OkStatus();
  const DecoderSizes& sizes = parts.sizes;
  MtpSpec& mtp = spec.mtp.emplace();
  mtp.embedding_norm = NormAt("mtp.pre_fc_norm_embedding", sizes.width, sizes.eps);
  mtp.hidden_norm = NormAt("mtp.pre_fc_norm_hidden", sizes.width, sizes.eps);
  mtp.projection = LinearAt("mtp.fc", sizes.width, 2 * sizes.width, false);
  mtp.layer = LayerAt(sizes.layers, "mtp.layers.0", sizes, parts.mixer, feed_forward);
  mtp.norm = NormAt("mtp.norm", sizes.width, sizes.eps);
  return absl::OkStatus();
}

/// A tensor that MLX folders have, and the hub doesn't: a stack of experts.
std::string MarkOfMlx(const ModelSpec& spec) {
  for (const LayerSpec& layer : spec.layers) {
    const MoeSpec* moe = MoeOf(layer);
    if (moe == nullptr) continue;
    for (const WeightSource& source : moe->experts[0].up.weight.sources) {
      if (source.stack > 0) return source.name();
    }
  }
  return "";
}

/// The same names in both: MLX folders have norms and convolutions as AsStored says.
void PlaceNext(ModelSpec& spec) {
  const std::string mark = MarkOfMlx(spec);
  EditWeights(spec, [&](WeightRef& ref) {
    WeightSource mlx = ref.sources[0];
    AsStored(ref.sources[0], false);
    if (mark.empty() || (!mlx.strided && ref.sources[0].offset == 0)) return;
    AsStored(mlx, true);
    mlx.only_with = mark;
    ref.sources.push_back(std::move(mlx));
  });
}

/// From the names of DecoderOf to those of checkpoints.
void PlaceQwen35(Qwen35Place place, ModelSpec& spec) {
  if (place == Qwen35Place::kNested) {
    PlaceBelowLanguageModel(spec, NestedNames::kModelLanguageModel, AsStored);
    spec.ignored_tensors = {{"model.visual.", "the vision tower"}, {"vision_tower.", "the vision tower"}};
  } else if (place == Qwen35Place::kNext) {
    PlaceNext(spec);
  } else {
    EditWeights(spec, [](WeightRef& ref) {
      for (WeightSource& source : ref.sources) AsStored(source, false);
    });
  }
  for (const char* prefix : {"mtp.", "language_model.mtp."}) {
    spec.ignored_tensors.emplace_back(prefix, "unused heads for multi-token prediction");
  }
}

}  // namespace

absl::StatusOr<Qwen35Parts> ReadQwen35(const ModelConfig& config, Qwen35Place place) {
  ModelConfig text = config;
  std::optional<bool> tied_when_silent = false;
  if (place == Qwen35Place::kNested) {
    ASSIGN_OR_RETURN(text, config.required_object("text_config"));
    ASSIGN_OR_RETURN(tied_when_silent, config.optional_bool("tie_word_embeddings"));
    ASSIGN_OR_RETURN(const std::optional<std::string> type, text.optional_string("model_type"));
    if (tied_when_silent)
      text = text.with_defaults(fmt::format(R"({{"tie_word_embeddings": {}}})", *tied_when_silent));
    ASSIGN_OR_RETURN(text, WithReferenceDefaults(text, type.value_or("")));
  }
  RETURN_IF_ERROR(RefuseUnbuilt(text));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(text, tied_when_silent));
  ASSIGN_OR_RETURN(std::vector<bool> attending, ReadAttending(text, sizes.layers));
  ASSIGN_OR_RETURN(const AttentionSettings attention, ReadAttention(text, place));
  ASSIGN_OR_RETURN(const GatedDeltaNetSpec delta, ReadDelta(text));
  MakeMixer mixer = [sizes, place, attending = std::move(attending), attention, delta](
                        int64_t layer, const std::string& base) -> MixerSpec {
    const bool attends = layer >= std::ssize(attending) || attending[static_cast<size_t>(layer)];
    if (!attends) return DeltaAt(base + ".linear_attn", sizes, place, delta);
    GqaSpec gqa = GqaAt(base + ".self_attn", sizes, attention);
    const int64_t rows = int64_t{2} * sizes.heads * attention.head_dim;
    gqa.q = LinearAt(base + ".self_attn.q_proj", rows, sizes.width, attention.qkv_bias);
    gqa.output_gate = true;
    return gqa;
  };
  return Qwen35Parts{.text = std::move(text), .place = place, .sizes = sizes, .mixer = std::move(mixer)};
}

absl::StatusOr<MakeFeedForward> ReadQwen35Experts(const Qwen35Parts& parts) {
  const ModelConfig& text = parts.text;
  ASSIGN_OR_RETURN(const std::vector<int64_t> dense, text.int_list("mlp_only_layers"));
  if (!dense.empty()) {
    return Unimplemented("{}: expected [], found {}; the reference of this family has experts in every layer",
                         text.where("mlp_only_layers"), text.excerpt("mlp_only_layers"));
  }
  ASSIGN_OR_RETURN(MoeSettings experts, ReadExperts(text, parts.sizes));
  experts.weighting = RouteWeights::kRenormalized;
  ASSIGN_OR_RETURN(const int64_t shared, text.required_int("shared_expert_intermediate_size"));
  return MakeFeedForward(
      [experts, shared, width = parts.sizes.width](int64_t, const std::string& base) -> FeedForwardSpec {
        MoeSpec moe = MoeAt(base + ".mlp", width, experts);
        FuseExperts(base + ".mlp", experts, moe);
        moe.shared = DenseAt(base + ".mlp.shared_expert", width, shared, false);
        moe.shared_gate = MatrixAt(base + ".mlp.shared_expert_gate", 1, width);
        return moe;
      });
}

absl::StatusOr<ModelSpec> MakeQwen35(std::string model_type, const Qwen35Parts& parts,
                                     const MakeFeedForward& feed_forward) {
  ModelSpec spec = DecoderOf(std::move(model_type), parts.sizes, parts.mixer, feed_forward);
  RETURN_IF_ERROR(AddQwen35Mtp(parts, feed_forward, spec));
  PlaceQwen35(parts.place, spec);
  return spec;
}

std::string TinyQwen35(std::string_view model_type, std::string_view feed_forward_keys) {
  return TinyConfig(model_type, fmt::format(R"("num_key_value_heads": 1, "head_dim": 24, "hidden_act": "silu",
  "attn_output_gate": true, "attention_bias": false, "full_attention_interval": 3,
  "layer_types": ["linear_attention", "linear_attention", "full_attention", "linear_attention",
    "linear_attention", "full_attention", "linear_attention"],
  "linear_conv_kernel_dim": 4, "linear_key_head_dim": 12, "linear_value_head_dim": 20,
  "linear_num_key_heads": 4, "linear_num_value_heads": 16, "mamba_ssm_dtype": "float32",
  {}, "tie_word_embeddings": false,
  "rope_parameters": {{"rope_type": "default", "rope_theta": 10000000.0, "partial_rotary_factor": 0.25,
    "mrope_section": [1, 1, 1], "mrope_interleaved": true}})",
                                            feed_forward_keys));
}

}  // namespace shoal
