// The cluster file (.json, .yaml, .yml): devices, model, sharding. Examples: deploy/examples/.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "plan/facts.h"
#include "plan/launch_keys.h"
#include "plan/planner.h"

namespace shoal {

enum class ConfigSyntax { kJson, kYaml };
/// Of a path that ends with .json, .yaml or .yml; nothing for any other.
std::optional<ConfigSyntax> SyntaxOf(std::string_view path);

struct ClusterFile {
  /// The coordinator first, then the workers in the order of the file. The coordinator's address may be
  /// empty.
  std::vector<NodeFacts> nodes;
  std::string model_name;      ///< Empty if the file has no "model".
  std::string model_provider;  ///< "mlx-community"; empty if not given.
  /// The "sharding" section, with its lists in the order of `nodes`.
  PlanRequest request;
  LaunchKeys launch;  ///< For `shoal up`; its devices are in the order of `nodes`.
};

/// Parses a cluster file. Keys (* required):
///   devices*                 a list of
///     device_id*             name, unique
///     role*                  "coordinator" (exactly one) or "worker"
///     hostname, port         the address it listens on; required for workers; both or neither for the
///                            coordinator
///     holds_layers           true or false, default true
///     holds_experts          true or false, default true
///     capabilities
///       memory_gb            in 2^30 bytes, as memory is sold
///       compute              relative speed; default gpu_cores, else cpu_cores
///       gpu_cores, cpu_cores
///       read_gbs, int8_gops, f32_gflops
///                            instead of what the node measured of itself, as in ThreadRates
///       device               a text for people
///     and those of launch_keys.h: ssh, workdir, binary, model_root, env, flags
///   model
///     name*, provider
///   sharding
///     strategy               as in planner.h; default "fastest", or what the lists below imply
///     objective, use_nodes   as --objective and --use-nodes
///     wire                   as --wire: exact (default), f16, q8
///     custom_proportions     one per device
///     layers                 layers per device
///     experts                a text as for --experts, or {strategy*, over_nodes, seed, replicas,
///                            lists: {device_id: "0-3,7"}}
///     split_ffn              as --split-ffn: all, off, or device ids with segments ("mini1=3,mini2=1")
///   launch                   as launch_keys.h
/// A file has at most 1 MiB and is nested at most 16 deep. YAML anchors, aliases and tags are refused.
/// Returns InvalidArgument, which names the place ("devices[1].capabilities.memory_g (line 7)"), what was
/// expected and what was found; for an unknown key also the nearest known key.
absl::StatusOr<ClusterFile> ParseClusterFile(std::string_view text, ConfigSyntax syntax);

/// ParseClusterFile of a file, whose extension gives the syntax. Returns NotFound if there is no such file,
/// and the errors of ParseClusterFile after the path. text: also what was read; may be nullptr.
absl::StatusOr<ClusterFile> ReadClusterFile(const std::string& path, std::string* text = nullptr);

/// Whether a file is a cluster file rather than a plan file, by its extension, or by its content if it is
/// JSON. False if it cannot be read.
bool IsClusterFile(const std::string& path);

}  // namespace shoal
