// A model's numbers for the planner, and a slice's for the memory check, both from one Footprint.
#pragma once

#include <cstdint>
#include <string>

#include "exec/node_model.h"
#include "models/footprint.h"
#include "models/spec.h"
#include "plan/facts.h"

namespace shoal {

/// `name` is how the user called the model; `hash` is Checkpoint::hash().
ModelFacts MakeModelFacts(std::string name, std::string hash, const ModelSpec& spec, const Footprint& footprint);

/// Packed bytes of a node's share.
int64_t SliceBytes(const ModelSpec& spec, const Footprint& footprint, const NodeSlice& slice);

}  // namespace shoal
