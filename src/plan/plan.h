// Who runs which layers, who holds which experts, how rows travel. A value: built by MakePlan (planner.h) or
// read from a plan file, validated once, sent to every node as JSON, printed by `shoal plan`. It holds no
// sockets and no weights.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "base/range.h"
#include "base/status.h"
#include "plan/facts.h"

namespace shoal {

struct PlanNode {
  std::string name;
  std::string address;  ///< HOST:PORT; empty = in the coordinator's process.
  bool operator==(const PlanNode&) const = default;
};

/// One hop of the pipeline: `node` runs `layers`.
struct PlanStage {
  NodeId node;
  Range layers;
  bool operator==(const PlanStage&) const = default;
};

/// Who holds an expert. `owner` answers for it; `replicas` hold copies, ascending, without the owner.
struct ExpertHolders {
  NodeId owner;
  std::vector<NodeId> replicas;
  bool operator==(const ExpertHolders&) const = default;
};

struct Plan {
  /// How rows travel between stages and experts. f32 is lossless; no other is offered so far.
  enum class WireDtype : uint8_t { kF32 };
  /// Activations of quantized matmuls: int8 per group, or f32 (the slow oracle).
  enum class Activations : uint8_t { kInt8, kF32 };
  enum class KvDtype : uint8_t { kF16, kBF16, kF32 };

  Epoch epoch{1};
  std::string model_name;
  std::string model_hash;  ///< Empty in a hand-written plan: not compared.
  WireDtype wire_dtype = WireDtype::kF32;
  Activations activations = Activations::kInt8;
  KvDtype kv_dtype = KvDtype::kF16;

  std::vector<PlanNode> nodes;                      ///< Index = NodeId; node 0 is the coordinator.
  std::vector<PlanStage> stages;                    ///< In pipeline order; a node has at most one.
  std::vector<std::vector<ExpertHolders>> experts;  ///< [L][E]; an empty row for a dense layer.
  std::vector<std::string> notes;                   ///< Why it is so, a sentence each.

  static constexpr NodeId kCoordinator{0};

  int64_t layers() const { return static_cast<int64_t>(experts.size()); }
  const PlanNode& node(NodeId id) const { return nodes[static_cast<size_t>(id.value)]; }

  /// The layers that `node` runs; empty where it has no stage.
  Range layers_of(NodeId node) const;
  /// Index in `stages` of the node's stage.
  std::optional<int> stage_of(NodeId node) const;
  /// The node that runs `layer`. The plan is valid and 0 <= layer < L (CHECKed).
  NodeId node_of(LayerId layer) const;
  NodeId first_node() const { return stages.front().node; }
  NodeId last_node() const { return stages.back().node; }
  std::optional<NodeId> find_node(std::string_view name) const;

  const ExpertHolders& holders(LayerId layer, ExpertId expert) const {
    return experts[static_cast<size_t>(layer.value)][static_cast<size_t>(expert.value)];
  }
  /// Experts of `layer` that `node` holds as owner or replica, ascending.
  std::vector<ExpertId> experts_held(NodeId node, LayerId layer) const;
  /// Nodes other than the one that runs `layer` that own experts of it, ascending: whom a step may have to
  /// ask.
  std::vector<NodeId> remote_owners(LayerId layer) const;

  bool operator==(const Plan&) const = default;
};

std::string_view Name(Plan::WireDtype dtype);
std::string_view Name(Plan::Activations activations);  ///< "int8", "f32": the words of --activations.
std::string_view Name(Plan::KvDtype dtype);            ///< "f16", "bf16", "f32": the words of --kv-dtype.
/// InvalidArgument lists the words known.
absl::StatusOr<Plan::WireDtype> ParseWireDtype(std::string_view text);
absl::StatusOr<Plan::Activations> ParseActivations(std::string_view text);
absl::StatusOr<Plan::KvDtype> ParseKvDtype(std::string_view text);
int Bytes(Plan::KvDtype dtype);

/// Whether the plan makes sense by itself: 1 to 4096 nodes with legal, unique names and unique addresses;
/// stages tile [0, L) in order, without gaps or empty ones, at most one per node; owners and replicas are
/// nodes, replicas ascending and distinct. InvalidArgument says which part is wrong.
absl::Status Validate(const Plan& plan);

/// As Validate(plan), and that it is a plan for this model: as many layers, every (layer, expert) owned, the
/// same hash where both have one. InvalidArgument names layer or hash, expected and got; FailedPrecondition
/// for another model's plan.
absl::Status Validate(const Plan& plan, const ModelFacts& model);

/// The plan file: stable, pretty, names instead of numbers. Read back by PlanFromJson to an equal plan.
std::string PlanToJson(const Plan& plan);

/// Reads a plan file and validates it by itself. InvalidArgument names the place ("stages[1].layers"), what
/// was expected and what is there; unknown keys come with the nearest known one. At most 16 MiB of text.
/// Of a report of `shoal plan --json`, the plan in it.
absl::StatusOr<Plan> PlanFromJson(std::string_view text);

/// PlanFromJson of a file. NotFound where it cannot be read.
absl::StatusOr<Plan> ReadPlanFile(const std::string& path);

}  // namespace shoal
