// What two shards of a model have in common.
#pragma once

#include "exec/node_model.h"

namespace shoal {

/// What both have: of a node that holds them at the same time, it is held once.
NodeShard Common(const NodeShard& a, const NodeShard& b);

}  // namespace shoal
