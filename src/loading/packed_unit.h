// What of a model one file of the packed cache holds: small enough that a node whose shard changes packs only
// what is new, and large enough that files, and the cost of opening and syncing them, stay few
// (docs/decisions/0007).
#pragma once

#include <compare>
#include <cstdint>
#include <string>

#include "models/spec.h"

namespace shoal {

/// Experts of a layer whose matrices are kept in one file.
inline constexpr int kExpertsPerUnit = 8;

struct PackedUnit {
  enum class Kind : uint8_t {
    kNone,       ///< Not kept.
    kEmbedding,  ///< The table, also where it is the head.
    kHead,
    kMtp,      ///< All of ModelSpec::mtp, routed experts included.
    kLayer,    ///< All of a layer but its routed experts.
    kExperts,  ///< Routed experts [block * kExpertsPerUnit, (block + 1) * kExpertsPerUnit) of a layer: those of
               ///< them that nodes on this machine have held.
    kSegment,  ///< Segment `block` of `of` of a layer's dense feed-forward or shared expert.
  };
  Kind kind = Kind::kNone;
  int64_t layer = -1;
  int64_t block = 0;
  int64_t of = 0;

  auto operator<=>(const PackedUnit&) const = default;
  /// "layer 3", "experts [8, 16) of layer 3".
  std::string text() const;
};

PackedUnit UnitOf(const WeightUse& use, bool tied_head);

}  // namespace shoal
