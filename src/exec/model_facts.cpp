#include "exec/model_facts.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "base/status.h"

namespace shoal {

ModelFacts MakeModelFacts(std::string name, std::string hash, const ModelSpec& spec,
                          const Footprint& footprint) {
  ModelFacts facts;
  facts.name = std::move(name);
  facts.hash = std::move(hash);
  facts.hidden = spec.width;
  facts.embed_bytes = footprint.embedding.packed;
  facts.head_bytes = footprint.head.packed;
  facts.tied_head = spec.tied_head;
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    const LayerFootprint& layer = footprint.layers[i];
    LayerFacts out;
    out.bytes = layer.fixed.packed;
    out.experts = static_cast<int32_t>(layer.experts.size());
    for (const WeightBytes& expert : layer.experts)
      out.expert_bytes = std::max(out.expert_bytes, expert.packed);
    out.kv_values_per_position = layer.cached_values_per_position;
    out.state_bytes = layer.state_values * int64_t{sizeof(float)};
    facts.layers.push_back(out);
    if (const MoeSpec* moe = MoeOf(spec.layers[i])) facts.top_k = std::max(facts.top_k, moe->top_k);
  }
  return facts;
}

absl::StatusOr<OpenedModel> OpenModel(const std::string& folder, const std::string& name) {
  OpenedModel model;
  ASSIGN_OR_RETURN(model.weights, ResolvedWeights::Open(folder));
  model.checkpoint = model.weights->shared_checkpoint();
  model.spec = model.weights->spec();
  model.footprint = MeasureFootprint(*model.weights);
  std::string shown = name;
  if (shown.empty()) {
    std::error_code ignored;
    shown = std::filesystem::weakly_canonical(folder, ignored).filename().string();
  }
  model.facts = MakeModelFacts(shown, model.checkpoint->hash(), model.spec, model.footprint);
  return model;
}

int64_t SliceBytes(const ModelSpec& spec, const Footprint& footprint, const NodeSlice& slice) {
  int64_t bytes = slice.embed ? footprint.embedding.packed : 0;
  if (slice.head && !(slice.embed && spec.tied_head)) bytes += footprint.head.packed;
  for (size_t i = 0; i < footprint.layers.size(); ++i) {
    const LayerFootprint& layer = footprint.layers[i];
    if (slice.layers.contains(static_cast<int64_t>(i))) bytes += layer.fixed.packed;
    for (const ExpertId expert : slice.experts[i])
      bytes += layer.experts[static_cast<size_t>(expert.value)].packed;
  }
  return bytes;
}

}  // namespace shoal
