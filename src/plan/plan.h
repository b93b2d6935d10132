// A plan: which node runs which layers, which nodes hold which experts, and how rows travel. It is a value:
// built by MakePlan (planner.h) or read from a plan file, validated once, sent to every node as JSON, printed
// by `shoal plan`. It holds no sockets and no weights.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
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
  std::string address;  ///< HOST:PORT; empty: in the coordinator's process.
  bool operator==(const PlanNode&) const = default;
};

/// One stage of the pipeline: `node` runs `layers`.
struct PlanStage {
  NodeId node;
  Range layers;
  bool operator==(const PlanStage&) const = default;
};

/// The nodes that hold an expert. The owner answers requests for it; the replicas hold copies, ascending,
/// without the owner.
struct ExpertHolders {
  NodeId owner;
  std::vector<NodeId> replicas;
  bool held_by(NodeId node) const;
  bool operator==(const ExpertHolders&) const = default;
};

struct Plan {
  /// How rows travel between stages, to experts and back: exactly, as f32 (and sums as integers), or rounded: as f16,
  /// or as int8 with scales. Rounded rows make bits depend on the placement. The formats of numeric/row_format.h, under
  /// the same names and numbers (exec/model_facts.h).
  enum class WireDtype : uint8_t { kExact, kF16, kQ8 };
  /// Activations of quantized matmuls: int8 per group, or f32 (slow; an oracle for tests).
  enum class Activations : uint8_t { kInt8, kF32 };
  /// Elements of the cache; q8: int8 with a scale per position, head and 64 dimensions.
  enum class KvDtype : uint8_t { kF16, kBF16, kF32, kQ8 };

  Epoch epoch{1};
  std::string model_name;
  std::string model_hash;  ///< Empty in a hand-written plan; then it is not compared.
  WireDtype wire_dtype = WireDtype::kExact;
  Activations activations = Activations::kInt8;
  KvDtype kv_dtype = KvDtype::kF16;
  bool mtp =
      false;  ///< The last stage holds the model's head for multi-token prediction, and drafts with it.

  std::vector<PlanNode> nodes;                      ///< By NodeId; node 0 is the coordinator.
  std::vector<PlanStage> stages;                    ///< In pipeline order; a node has at most one.
  std::vector<std::vector<ExpertHolders>> experts;  ///< [L][E]; an empty row for a dense layer.
  /// [L][segments]: who holds each segment of a layer's dense feed-forward or shared expert (compute/segments.h); an empty
  /// row for a layer where that is whole, on the node that runs it. Empty: all are.
  std::vector<std::vector<NodeId>> segments;
  std::vector<std::string> notes;  ///< The planner's reasons, a sentence each.

  static constexpr NodeId kCoordinator{0};

  int64_t layers() const { return static_cast<int64_t>(experts.size()); }
  const PlanNode& node(NodeId id) const { return nodes[static_cast<size_t>(id.value)]; }

  /// The layers that `node` runs; empty if it has no stage.
  Range layers_of(NodeId node) const;
  /// The index in `stages` of the node's stage.
  std::optional<int> stage_of(NodeId node) const;
  /// The node that runs `layer`. CHECKs that 0 <= layer < L and that a stage runs it.
  NodeId node_of(LayerId layer) const;
  NodeId first_node() const { return stages.front().node; }
  NodeId last_node() const { return stages.back().node; }
  std::optional<NodeId> find_node(std::string_view name) const;

  const ExpertHolders& holders(LayerId layer, ExpertId expert) const {
    return experts[static_cast<size_t>(layer.value)][static_cast<size_t>(expert.value)];
  }
  /// The experts of `layer` that `node` holds as owner or replica, ascending.
  std::vector<ExpertId> experts_held(NodeId node, LayerId layer) const;
  /// The nodes that own experts of `layer`, except the one that runs it, ascending: a step may have to ask
  /// them.
  std::vector<NodeId> remote_owners(LayerId layer) const;
  /// By segment; empty where the layer's feed-forward is whole.
  std::span<const NodeId> segment_owners(LayerId layer) const {
    const auto i = static_cast<size_t>(layer.value);
    return i < segments.size() ? std::span<const NodeId>(segments[i]) : std::span<const NodeId>();
  }
  /// The segments of `layer` that `node` holds, ascending.
  std::vector<int32_t> segments_held(NodeId node, LayerId layer) const;
  /// The nodes that hold segments of `layer`, except the one that runs it, ascending: every step asks all of them, twice.
  std::vector<NodeId> remote_segment_holders(LayerId layer) const;

  bool operator==(const Plan&) const = default;
};

std::string_view Name(Plan::WireDtype dtype);          ///< "exact", "f16", "q8": the values of --wire.
std::string_view Name(Plan::Activations activations);  ///< "int8", "f32": the values of --activations.
std::string_view Name(Plan::KvDtype dtype);  ///< "f16", "bf16", "f32", "q8": the values of --kv-dtype.
/// Return InvalidArgument, which lists the known words, for any other text.
absl::StatusOr<Plan::WireDtype> ParseWireDtype(
    std::string_view text);  ///< "f32", as plan files say, is exact.
absl::StatusOr<Plan::Activations> ParseActivations(std::string_view text);
absl::StatusOr<Plan::KvDtype> ParseKvDtype(std::string_view text);

/// Checks that the plan is consistent in itself: 1 to 4096 nodes with legal, unique names and unique
/// addresses; stages tile [0, L) in order, none of them empty, at most one per node; owners and replicas are
/// nodes, replicas ascending and distinct; so are holders of segments, with exact rows only. Returns InvalidArgument, which names what is wrong.
absl::Status Validate(const Plan& plan);

/// Validate(plan), and checks that the plan is for this model: as many layers, every (layer, expert) owned, segments of
/// dense layers alone and no more than these can have,
/// a head for multi-token prediction if the plan uses it, the same hash if both have one. Returns FailedPrecondition if
/// the hashes differ, otherwise InvalidArgument with the layer, expected and got.
absl::Status Validate(const Plan& plan, const ModelFacts& model);

/// The text of a plan file: stable and readable, with names instead of node ids. PlanFromJson reads it back
/// to an equal plan.
std::string PlanToJson(const Plan& plan);

/// Reads a plan file of at most 16 MiB, or the plan in a report of `shoal plan --json`, and validates it.
/// Returns InvalidArgument, which names the place ("stages[1].layers"), what was expected and what was found;
/// for an unknown key also the nearest known key.
absl::StatusOr<Plan> PlanFromJson(std::string_view text);

/// PlanFromJson of a file. Returns NotFound if there is no such file.
absl::StatusOr<Plan> ReadPlanFile(const std::string& path);

}  // namespace shoal
