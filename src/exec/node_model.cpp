#include "exec/node_model.h"

#include <utility>

#include "base/status.h"

namespace shoal {

NodeSlice SliceOf(const Plan& plan, NodeId node) {
  NodeSlice slice;
  slice.layers = plan.layers_of(node);
  slice.embed = plan.first_node() == node;
  slice.head = plan.last_node() == node;
  slice.experts.resize(static_cast<size_t>(plan.layers()));
  for (int32_t layer = 0; layer < plan.layers(); ++layer) {
    slice.experts[static_cast<size_t>(layer)] = plan.experts_held(node, LayerId{layer});
  }
  return slice;
}

absl::StatusOr<std::unique_ptr<NodeModel>> NodeModel::Load(std::shared_ptr<const Checkpoint> checkpoint,
                                                           ModelSpec spec, NodeSlice slice, ThreadPool& pool,
                                                           const LoadProgress& progress) {
  std::unique_ptr<NodeModel> model(new NodeModel);
  model->checkpoint_ = std::move(checkpoint);
  model->spec_ = std::move(spec);
  model->slice_ = std::move(slice);
  if (!model->slice_.layers.empty()) {
    const StageOptions options{model->slice_.layers, model->slice_.embed, model->slice_.head};
    ASSIGN_OR_RETURN(model->stage_, Stage::Load(*model->checkpoint_, model->spec_, options, pool, progress));
  }
  ASSIGN_OR_RETURN(model->experts_, ExpertBank::Load(*model->checkpoint_, model->spec_, model->slice_.experts,
                                                     pool, progress));
  return model;
}

}  // namespace shoal
