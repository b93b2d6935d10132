#include "loading/packed_unit.h"

#include <fmt/format.h>

namespace shoal {

std::string PackedUnit::text() const {
  switch (kind) {
    case Kind::kNone:
      return "nothing";
    case Kind::kEmbedding:
      return "embedding";
    case Kind::kHead:
      return "head";
    case Kind::kMtp:
      return "MTP head";
    case Kind::kLayer:
      return fmt::format("layer {}", layer);
    case Kind::kExperts:
      return fmt::format("experts [{}, {}) of layer {}", block * kExpertsPerUnit,
                         (block + 1) * kExpertsPerUnit, layer);
    case Kind::kSegment:
      return fmt::format("segment {} of {} of layer {}", block, of, layer);
  }
  return "";
}

PackedUnit UnitOf(const WeightUse& use, bool tied_head) {
  using enum PackedUnit::Kind;
  if (use.is_mtp) return {.kind = kMtp};
  if (use.layer < 0) return {.kind = use.is_head && !tied_head ? kHead : kEmbedding};
  if (use.expert < 0) return {.kind = kLayer, .layer = use.layer};
  return {.kind = kExperts, .layer = use.layer, .block = use.expert / kExpertsPerUnit};
}

}  // namespace shoal
