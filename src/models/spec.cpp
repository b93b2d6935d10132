#include "models/spec.h"

#include <algorithm>
#include <limits>

namespace shoal {
namespace {

/// Walks the weights of one place of the model.
class Walk {
 public:
  Walk(const std::function<void(const WeightUse&)>& visit, int64_t layer, bool is_head)
      : visit_(visit), layer_(layer), is_head_(is_head) {}

  void weight(std::string_view role, const WeightRef& ref, int64_t expert = -1) const {
    visit_(WeightUse{layer_, expert, role, is_head_, ref});
  }
  void linear(std::string_view role, const LinearSpec& linear, int64_t expert = -1) const {
    weight(role, linear.weight, expert);
    if (linear.bias) weight(role, *linear.bias, expert);
  }
  void dense(std::string_view role, const DenseSpec& dense, int64_t expert = -1) const {
    linear(role, dense.gate, expert);
    linear(role, dense.up, expert);
    linear(role, dense.down, expert);
  }
  void operator()(const GqaSpec& gqa) const {
    for (const LinearSpec* part : {&gqa.q, &gqa.k}) linear("attention", *part);
    if (!gqa.values_from_keys) linear("attention", gqa.v);
    linear("attention", gqa.o);
    if (gqa.q_norm) weight("norm", gqa.q_norm->weight);
    if (gqa.k_norm) weight("norm", gqa.k_norm->weight);
    if (gqa.sinks) weight("attention", *gqa.sinks);
  }
  void operator()(const MlaSpec& mla) const {
    if (mla.q_a) linear("attention", *mla.q_a);
    if (mla.q_norm) weight("norm", mla.q_norm->weight);
    for (const LinearSpec* part : {&mla.q, &mla.kv_a}) linear("attention", *part);
    weight("norm", mla.kv_norm.weight);
    for (const LinearSpec& head : mla.keys) linear("attention", head);
    for (const LinearSpec& head : mla.values) linear("attention", head);
    linear("attention", mla.o);
  }
  void operator()(const GatedDeltaNetSpec& delta) const {
    for (const LinearSpec* part : {&delta.qkv, &delta.z, &delta.b, &delta.a}) linear("attention", *part);
    weight("convolution", delta.conv);
    weight("decay", delta.decay_log);
    weight("decay", delta.step_bias);
    weight("norm", delta.norm.weight);
    linear("attention", delta.o);
  }
  void operator()(const DenseSpec& spec) const { dense("mlp", spec); }
  void operator()(const MoeSpec& moe) const {
    if (moe.router.norm) weight("norm", moe.router.norm->weight);
    linear("router", moe.router.linear);
    if (moe.router.expert_scales) weight("scale", *moe.router.expert_scales);
    if (moe.router.selection_bias) weight("router", *moe.router.selection_bias);
    if (moe.shared) dense("mlp", *moe.shared);
    if (moe.shared_gate) weight("router", *moe.shared_gate);
    if (moe.branch) {
      for (const NormSpec* norm : {&moe.branch->norm, &moe.branch->out_norm, &moe.branch->shared_out_norm}) {
        weight("norm", norm->weight);
      }
    }
    for (size_t e = 0; e < moe.experts.size(); ++e) dense("expert", moe.experts[e], static_cast<int64_t>(e));
  }

 private:
  const std::function<void(const WeightUse&)>& visit_;
  int64_t layer_;
  bool is_head_;
};

}  // namespace

KvLayerShape KvShapeOf(const MixerSpec& mixer) {
  if (const auto* mla = std::get_if<MlaSpec>(&mixer)) {
    return {1, CachedHeadDim(static_cast<int>(mla->latent) + mla->rope_dim)};
  }
  if (const auto* delta = std::get_if<GatedDeltaNetSpec>(&mixer))
    return {.state_values = delta->state_values()};
  const GqaSpec& gqa = std::get<GqaSpec>(mixer);
  return {gqa.kv_heads, CachedHeadDim(gqa.head_dim)};
}

void ForEachWeight(const ModelSpec& spec, const std::function<void(const WeightUse&)>& visit) {
  Walk(visit, -1, false).weight("embedding", spec.embedding);
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    const LayerSpec& layer = spec.layers[i];
    const Walk walk(visit, static_cast<int64_t>(i), false);
    walk.weight("norm", layer.mixer_norm.weight);
    std::visit(walk, layer.mixer);
    if (layer.mixer_out_norm) walk.weight("norm", layer.mixer_out_norm->weight);
    walk.weight("norm", layer.feed_forward_norm.weight);
    std::visit(walk, layer.feed_forward);
    if (layer.feed_forward_out_norm) walk.weight("norm", layer.feed_forward_out_norm->weight);
    if (layer.output_scale) walk.weight("scale", *layer.output_scale);
  }
  const Walk end(visit, -1, true);
  end.weight("norm", spec.final_norm.weight);
  end.linear("head", spec.head);
}

void EditWeights(ModelSpec& spec, const std::function<void(WeightRef&)>& edit) {
  // The refs are parts of `spec`, which is ours to change; only the walk sees them as constant.
  ForEachWeight(spec, [&](const WeightUse& use) { edit(const_cast<WeightRef&>(use.ref)); });
}

int64_t ShortRopePositions(const ModelSpec& spec) {
  int64_t positions = std::numeric_limits<int64_t>::max();
  const auto visit = [&]<typename Mixer>(const Mixer& mixer) {
    if constexpr (requires { mixer.rope; }) {
      const auto* both = std::get_if<RopeLong>(&mixer.rope.scaling);
      if (both != nullptr) positions = std::min(positions, both->original_positions);
    }
  };
  for (const LayerSpec& layer : spec.layers) std::visit(visit, layer.mixer);
  return positions;
}

const MoeSpec* MoeOf(const LayerSpec& layer) { return std::get_if<MoeSpec>(&layer.feed_forward); }

bool KeepsState(const ModelSpec& spec) {
  return std::ranges::any_of(spec.layers,
                             [](const LayerSpec& layer) { return layer.cache == CacheGroup::kState; });
}

}  // namespace shoal
