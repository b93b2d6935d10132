#include "models/spec.h"

#include <algorithm>
#include <limits>
#include <string_view>

namespace shoal {
namespace {

void ShowDense(std::string_view role, const DenseSpec& dense, const WeightWalk& walk, int64_t expert = -1) {
  for (const LinearSpec* input : dense.inputs()) walk.linear(role, *input, expert);
  walk.linear(role, dense.down, expert);
  if (!dense.xielu) return;
  for (const WeightRef* scalar :
       {&dense.xielu->alpha_p, &dense.xielu->alpha_n, &dense.xielu->beta, &dense.xielu->eps}) {
    walk.weight(role, *scalar, expert);
  }
}

void ShowFeedForward(const DenseSpec& dense, const WeightWalk& walk) { ShowDense("mlp", dense, walk); }

void ShowFeedForward(const NoFeedForward&, const WeightWalk&) {}

void ShowFeedForward(const MoeSpec& moe, const WeightWalk& walk) {
  walk.norm(moe.router.norm);
  walk.linear("router", moe.router.linear);
  if (moe.router.expert_scales) walk.weight("scale", *moe.router.expert_scales);
  if (moe.router.selection_bias) walk.weight("router", *moe.router.selection_bias);
  if (moe.router.experts_of_token) walk.weight("choice", *moe.router.experts_of_token);
  if (moe.shared) ShowDense("mlp", *moe.shared, walk);
  if (moe.shared_gate) walk.weight("router", *moe.shared_gate);
  if (moe.branch) {
    for (const NormSpec* norm : {&moe.branch->norm, &moe.branch->out_norm, &moe.branch->shared_out_norm}) {
      walk.norm(*norm);
    }
  }
  for (size_t e = 0; e < moe.experts.size(); ++e) {
    ShowDense("expert", moe.experts[e], walk, static_cast<int64_t>(e));
  }
}

void ShowLayer(const LayerSpec& layer, const WeightWalk& walk) {
  walk.norm(layer.mixer_norm);
  std::visit([&](const auto& mixer) { mixer.show_weights(walk); }, layer.mixer);
  walk.norm(layer.mixer_out_norm);
  walk.norm(layer.feed_forward_norm);
  std::visit([&](const auto& feed_forward) { ShowFeedForward(feed_forward, walk); }, layer.feed_forward);
  walk.norm(layer.feed_forward_out_norm);
  if (layer.input) layer.input->show_weights(walk);
  if (layer.output_scale) walk.weight("scale", *layer.output_scale);
  if (layer.altup) layer.altup->show_weights(walk);
  if (layer.hyper) layer.hyper->show_weights(walk);
}

void ShowMtp(const MtpSpec& mtp, const WeightWalk& walk) {
  walk.norm(mtp.embedding_norm);
  walk.norm(mtp.hidden_norm);
  walk.linear("projection", mtp.projection);
  ShowLayer(mtp.layer, walk);
  walk.norm(mtp.norm);
}

}  // namespace

LayerSpec::LayerSpec() = default;
LayerSpec::LayerSpec(const LayerSpec&) = default;
LayerSpec::LayerSpec(LayerSpec&&) noexcept = default;
LayerSpec& LayerSpec::operator=(const LayerSpec&) = default;
LayerSpec& LayerSpec::operator=(LayerSpec&&) noexcept = default;
LayerSpec::~LayerSpec() = default;

ModelSpec::ModelSpec() = default;
ModelSpec::ModelSpec(const ModelSpec&) = default;
ModelSpec::ModelSpec(ModelSpec&&) noexcept = default;
ModelSpec& ModelSpec::operator=(const ModelSpec&) = default;
ModelSpec& ModelSpec::operator=(ModelSpec&&) noexcept = default;
ModelSpec::~ModelSpec() = default;

void ForEachWeight(const ModelSpec& spec, const std::function<void(const WeightUse&)>& visit) {
  const WeightWalk begin(visit, -1, false);
  begin.weight("embedding", spec.embedding);
  begin.norm(spec.embedding_norm);
  if (spec.altup) spec.altup->show_embedding_weights(begin);
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    ShowLayer(spec.layers[i], WeightWalk(visit, static_cast<int64_t>(i), false));
  }
  const WeightWalk end(visit, -1, true);
  if (spec.altup) spec.altup->show_head_weights(end);
  if (spec.hyper) spec.hyper->show_head_weights(end);
  end.norm(spec.final_norm);
  end.linear("head", spec.head);
  if (spec.mtp) ShowMtp(*spec.mtp, WeightWalk::OfMtp(visit));
}

void EditWeights(ModelSpec& spec, const std::function<void(WeightRef&)>& edit) {
  // Safe: the refs are parts of `spec`, which is not const here; only the walk has a const view of it.
  ForEachWeight(spec, [&](const WeightUse& use) { edit(const_cast<WeightRef&>(use.ref)); });
}

int64_t ShortRopePositions(const ModelSpec& spec) {
  int64_t positions = std::numeric_limits<int64_t>::max();
  for (const LayerSpec& layer : spec.layers) {
    const RopeSpec* rope = PositionRopeOf(layer.mixer);
    const auto* both = rope == nullptr ? nullptr : std::get_if<RopeLong>(&rope->scaling);
    if (both != nullptr) positions = std::min(positions, both->original_positions);
  }
  return positions;
}

int64_t VisiblePositions(const ModelSpec& spec) {
  constexpr int64_t kAll = std::numeric_limits<int64_t>::max();
  int64_t positions = 0;
  for (const LayerSpec& layer : spec.layers) {
    const auto* attention = std::get_if<GqaSpec>(&layer.mixer);
    positions = std::max(positions, attention == nullptr ? kAll : attention->visible_positions());
  }
  return positions;
}

const LayerSpec* FindLayer(const ModelSpec& spec, int64_t index) {
  if (index == spec.layer_count() && spec.mtp) return &spec.mtp->layer;
  return index < 0 || index >= spec.layer_count() ? nullptr : &spec.layers[static_cast<size_t>(index)];
}

const MoeSpec* MoeOf(const LayerSpec& layer) { return std::get_if<MoeSpec>(&layer.feed_forward); }

const DenseSpec* DenseOf(const LayerSpec& layer) { return std::get_if<DenseSpec>(&layer.feed_forward); }

std::vector<ExpertId> AllExperts(const LayerSpec& layer) {
  const MoeSpec* moe = MoeOf(layer);
  std::vector<ExpertId> ids(moe == nullptr ? 0 : moe->experts.size());
  for (size_t e = 0; e < ids.size(); ++e) ids[e] = ExpertId{static_cast<int32_t>(e)};
  return ids;
}

bool KeepsState(const ModelSpec& spec) {
  return std::ranges::any_of(spec.layers,
                             [](const LayerSpec& layer) { return CacheShapeOf(layer.mixer).has_states(); });
}

}  // namespace shoal
