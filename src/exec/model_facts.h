// A model folder, opened and measured: its numbers for the planner, and a shard's for the memory check.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "exec/engine.h"
#include "exec/node_model.h"
#include "exec/stage_runner.h"
#include "loading/footprint.h"
#include "models/spec.h"
#include "numeric/dtype.h"
#include "numeric/row_format.h"
#include "plan/facts.h"
#include "plan/plan.h"

namespace shoal {

/// `name` is how the user called the model; `hash` is Checkpoint::hash().
ModelFacts MakeModelFacts(std::string name, std::string hash, const ModelSpec& spec,
                          const Footprint& footprint);

/// Fills in what a row is multiplied with, for predictions of time.
void AddWork(const ResolvedWeights& weights, ModelFacts& facts);

struct OpenedModel {
  std::shared_ptr<const ResolvedWeights> weights;
  std::shared_ptr<const Checkpoint> checkpoint;
  ModelSpec spec;
  Footprint footprint;
  ModelFacts facts;
};
/// Opens a folder and checks every weight of it. `name` is how users call the model; empty: the folder's
/// name. NotFound, InvalidArgument or Unimplemented, as ResolvedWeights::Open.
absl::StatusOr<OpenedModel> OpenModel(const std::string& folder, const std::string& name = "");
/// Of weights that were found already.
OpenedModel MeasureModel(std::shared_ptr<const ResolvedWeights> weights, std::string name);

/// Packed bytes of a node's shard in memory. expert_memory: as BackendLoad's.
int64_t ShardBytes(const ModelSpec& spec, const Footprint& footprint, const NodeShard& shard,
                   int64_t expert_memory = 0);

/// Bytes that a node takes for `next` beside `now`, which it holds: what both have is held once, but for experts that are
/// not all in memory.
int64_t BytesBeside(const ModelSpec& spec, const Footprint& footprint, const NodeShard& now,
                    const NodeShard& next, int64_t expert_memory);

/// The elements of a plan's cache, as numeric/ and kernels/ know them.
DType CacheDTypeOf(Plan::KvDtype dtype);

/// Bytes of the KV cache and of the states of a node with this shard; INT64_MAX where they are more.
int64_t CacheBytes(const ModelFacts& model, const NodeShard& shard, Plan::KvDtype dtype,
                   const StepLimits& limits);

/// How rows of the plan travel between nodes.
RowFormat RowFormatOf(const Plan& plan);

/// CachesKey of what the nodes of a plan cache: of the weights as this node has them, the numerics class, the dtype of
/// the cache, and the activations; where rows are rounded on their way, also of the placement, which then decides bits.
BlockKey CachesKeyOf(const Plan& plan, const NodeModel& model);

/// What a scheduler may count on, of nodes with these limits, which all have the model and the numerics class of
/// this one.
EngineLimits EngineLimitsOf(const Plan& plan, const NodeModel& model, const StepLimits& limits);

/// Whether limits that somebody else chose suit the model, but for the memory that they take. InvalidArgument
/// names the number, and what it may be.
absl::Status CheckLimits(const StepLimits& limits, const ModelSpec& spec);

}  // namespace shoal
