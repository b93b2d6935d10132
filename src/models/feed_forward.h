// Which kind of feed-forward a layer has, beside MoeOf (spec.h).
#pragma once

#include <variant>

#include "models/spec.h"

namespace shoal {

/// The feed-forward of a layer without experts, or nullptr.
inline const DenseSpec* DenseOf(const LayerSpec& layer) {
  return std::get_if<DenseSpec>(&layer.feed_forward);
}

}  // namespace shoal
