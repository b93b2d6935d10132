#include "cluster/cache_move.h"

#include <algorithm>
#include <variant>

#include "base/status.h"

namespace shoal {

std::vector<LayerMove> LayerMoves(const Plan& last, const Plan& next) {
  std::vector<LayerMove> moves;
  for (const PlanStage& to : next.stages) {
    for (const PlanStage& from : last.stages) {
      const Range both{std::max(to.layers.begin, from.layers.begin),
                       std::min(to.layers.end, from.layers.end)};
      if (both.empty() || last.node(from.node).name == next.node(to.node).name) continue;
      moves.push_back({from.node, to.node, both});
    }
  }
  return moves;
}

CacheIntake::CacheIntake(NodeSession& session, const BlockKey& identity, std::span<const CachedPlace> places)
    : session_(session), identity_(identity) {
  for (const CachedPlace& one : places) {
    (std::holds_alternative<SlotId>(one.place) ? states_ : blocks_).emplace(one.key, one.place);
  }
}

absl::Status CacheIntake::take(std::span<const std::byte> images) {
  while (!images.empty()) {
    ASSIGN_OR_RETURN(const ImageView view, ParseImage(images));
    const auto& places = view.is_state ? states_ : blocks_;
    const auto found = places.find(view.id.key);
    if (found == places.end()) return FailedPrecondition("cache: an image came that nobody asked for");
    ASSIGN_OR_RETURN(
        const int64_t bytes,
        session_.import_image(view.layer, found->second, {identity_, view.id.key, view.id.position}, images));
    if (view.is_state) session_.set_state_position(std::get<SlotId>(found->second), view.id.position);
    Came& came = came_[view.layer];
    ++(view.is_state ? came.states : came.blocks);
    bytes_ += bytes;
    images = images.subspan(static_cast<size_t>(bytes));
  }
  return absl::OkStatus();
}

// A layer has places of one kind.
bool CacheIntake::has_all(Range layers) const {
  for (int64_t layer = layers.begin; layer < layers.end; ++layer) {
    const auto came = came_.find(LayerId{static_cast<int32_t>(layer)});
    if (came == came_.end()) return false;
    if (came->second.blocks != std::ssize(blocks_) && came->second.states != std::ssize(states_))
      return false;
  }
  return true;
}

}  // namespace shoal
