// The cluster file (.json, .yaml, .yml): devices, model, sharding. Examples: deploy/examples/.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "plan/facts.h"
#include "plan/planner.h"

namespace shoal {

enum class ConfigSyntax { kJson, kYaml };

struct ClusterFile {
  /// The coordinator first, then the workers in the order of the file. The coordinator's address may be
  /// empty.
  std::vector<NodeFacts> nodes;
  std::string model_name;      ///< Empty where the file has no "model".
  std::string model_provider;  ///< "mlx-community"; empty where not said.
  /// The "sharding" section, its lists brought into the order of `nodes`.
  PlanRequest request;
};

/// Keys (those marked * are required):
///   devices*: list of
///     device_id*: name, unique · hostname, port: where it listens (* for workers; both or neither for the
///     coordinator) · role*: "coordinator" (exactly one) or "worker" · holds_layers, holds_experts:
///     true/false, default true · capabilities: memory_gb (of 2^30 bytes, as memory is sold) · gpu_cores ·
///     cpu_cores · compute (relative speed; default gpu_cores,
///       else cpu_cores) · device (text for people)
///   model: name*, provider
///   sharding: strategy (planner.h; default "balanced", or what the lists below imply) · custom_proportions:
///   one per device ·
///     layers: layers per device · experts: a text as for --experts, or {strategy*, over_nodes, seed,
///     replicas, lists: {device_id: "0-3,7"}}
/// InvalidArgument names the place ("devices[1].capabilities.memory_g (line 7)"), what was expected and what
/// is there; unknown keys come with the nearest known one. YAML anchors, aliases and tags are refused. At
/// most 1 MiB, nested 16 deep.
absl::StatusOr<ClusterFile> ParseClusterFile(std::string_view text, ConfigSyntax syntax);

/// ParseClusterFile of a file, its syntax by its extension. NotFound where it cannot be read; errors start
/// with the path.
absl::StatusOr<ClusterFile> ReadClusterFile(const std::string& path);

/// Whether a file that may be a plan, too, describes a cluster: by its extension, or as JSON by what it says.
/// False where it cannot be read.
bool IsClusterFile(const std::string& path);

}  // namespace shoal
