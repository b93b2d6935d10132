#include "cluster/cache_move.h"

#include <algorithm>
#include <variant>

#include "base/status.h"

namespace shoal {

std::optional<std::vector<LayerSupply>> LayerSupplies(const Plan& last, const Plan& next,
                                                      const std::vector<bool>& there,
                                                      const std::vector<NodeId>& buddies) {
  const auto is_there = [&](NodeId node) { return there[static_cast<size_t>(node.value)]; };
  std::vector<LayerSupply> supplies;
  for (const PlanStage& to : next.stages) {
    for (const PlanStage& from : last.stages) {
      const Range both{std::max(to.layers.begin, from.layers.begin),
                       std::min(to.layers.end, from.layers.end)};
      if (both.empty()) continue;
      const bool stays = last.node(from.node).name == next.node(to.node).name;
      if (is_there(from.node)) {
        if (!stays) supplies.push_back({to.node, from.node, both});
        continue;
      }
      const NodeId buddy = buddies[static_cast<size_t>(from.node.value)];
      if (buddy.value < 0 || !is_there(buddy)) return std::nullopt;
      supplies.push_back({to.node, from.node, both, buddy});
    }
  }
  return supplies;
}

CacheIntake::CacheIntake(NodeSession& session, const CacheRequest& request, std::span<const Range> layers,
                         absl::FunctionRef<KvLayerShape(LayerId)> shape_of)
    : session_(session), identity_(request.identity) {
  for (const Range& range : layers) {
    for (int64_t i = range.begin; i < range.end; ++i) {
      const LayerId layer{static_cast<int32_t>(i)};
      const KvLayerShape shape = shape_of(layer);
      if (shape.has_blocks()) blocks_.layers.emplace(layer, blocks_.layers.size());
      if (shape.has_states()) states_.layers.emplace(layer, states_.layers.size());
    }
  }
  for (size_t i = 0; i < request.places.size(); ++i) {
    const CachedPlace& one = request.places[i];
    Kind& kind = std::holds_alternative<SlotId>(one.place) ? states_ : blocks_;
    const size_t lacks = kind.layers.size();
    kind.places.emplace(one.key, Wanted{i, one, std::vector<bool>(lacks), lacks});
  }
}

absl::Status CacheIntake::take(std::span<const std::byte> images) {
  while (!images.empty()) {
    ASSIGN_OR_RETURN(const ImageView view, ParseImage(images));
    Kind& kind = view.is_state ? states_ : blocks_;
    const auto found = kind.places.find(view.id.key);
    const auto layer = kind.layers.find(view.layer);
    if (found == kind.places.end() || layer == kind.layers.end()) {
      return FailedPrecondition("cache: an image came that nobody asked for");
    }
    Wanted& wanted = found->second;
    const ImageId id{identity_, wanted.place.key, wanted.place.position};
    ASSIGN_OR_RETURN(const int64_t bytes, session_.import_image(view.layer, wanted.place.place, id, images));
    if (!wanted.came[layer->second]) --wanted.lacks;
    wanted.came[layer->second] = true;
    if (view.is_state && wanted.lacks == 0) {
      session_.set_state_position(std::get<SlotId>(wanted.place.place), wanted.place.position);
    }
    bytes_ += bytes;
    images = images.subspan(static_cast<size_t>(bytes));
  }
  return absl::OkStatus();
}

std::vector<int32_t> CacheIntake::missing() const {
  std::vector<int32_t> missing;
  for (const Kind* kind : {&blocks_, &states_}) {
    for (const auto& [key, wanted] : kind->places) {
      if (wanted.lacks > 0) missing.push_back(static_cast<int32_t>(wanted.index));
    }
  }
  std::ranges::sort(missing);
  return missing;
}

}  // namespace shoal
