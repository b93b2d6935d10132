// What Mixtral and its relatives have in common: experts below block_sparse_moe on the hub.
#pragma once

#include <string>

#include "models/spec.h"

namespace shoal {

/// Where transformers 5 has the router and its selection bias of experts that the hub has below block_sparse_moe:
/// `<layer>.mlp.<router>` and `<layer>.mlp`. Its experts are fused (MoeAt knows that place).
void PlaceRouterBelowMlp(const std::string& layer, const char* router, MoeSpec& moe);

}  // namespace shoal
