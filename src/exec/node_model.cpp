#include "exec/node_model.h"

#include <utility>

#include "base/clock.h"
#include "base/status.h"
#include "base/text.h"

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

LoadStats& LoadStats::operator+=(const LoadStats& other) {
  bytes += other.bytes;
  ns += other.ns;
  return *this;
}

double LoadStats::gigabytes_per_second() const {
  return ns > 0 ? static_cast<double>(bytes) / static_cast<double>(ns) : 0;
}

std::string LoadStats::text() const {
  return fmt::format("{} in {:.2f} s, {:.2f} GB/s", FormatBytes(bytes), static_cast<double>(ns) * 1e-9,
                     gigabytes_per_second());
}

absl::StatusOr<std::unique_ptr<NodeModel>> NodeModel::Load(std::shared_ptr<const Checkpoint> checkpoint,
                                                           ModelSpec spec, NodeSlice slice, ThreadPool& pool,
                                                           const LoadProgress& progress) {
  const int64_t started_ns = NowNs();
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
  model->load_stats_ = {.bytes = model->bytes(), .ns = NowNs() - started_ns};
  return model;
}

}  // namespace shoal
