// What the subcommands share: how one is declared, the model it opens, the placement its flags describe.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "app/flags.h"
#include "cluster/local_cluster.h"
#include "exec/model_facts.h"
#include "exec/stage_runner.h"
#include "kernels/kernels.h"
#include "kv/disk_store.h"
#include "loading/fetched_models.h"
#include "loading/packed_cache.h"
#include "plan/cost.h"
#include "plan/planner.h"
#include "sched/draft_policy.h"

namespace shoal {

inline constexpr char kShoalVersion[] = "0.1.0";
/// Of the process that coordinates, where no cluster file names it.
inline constexpr char kCoordinatorName[] = "coordinator";

/// A subcommand: its flags are in `app`, and `run` does it.
struct Command {
  Flags app;
  std::function<absl::Status()> run;
};

Command AddRunCommand(Flags root);
Command AddServeCommand(Flags root);
Command AddWorkerCommand(Flags root);
Command AddChatCommand(Flags root);
Command AddInspectCommand(Flags root);
Command AddPlanCommand(Flags root);
Command AddProfileCommand(Flags root);
Command AddLogitsCommand(Flags root);
Command AddSynthCommand(Flags root);
Command AddBenchCommand(Flags root);
Command AddCacheCommand(Flags root);
Command AddConvertCommand(Flags root);
Command AddEvalCommand(Flags root);
Command AddLoadCommand(Flags root);
Command AddTokenizeCommand(Flags root);
Command AddTokenCommand(Flags root);
Command AddCertCommand(Flags root);
Command AddDoctorCommand(Flags root);
Command AddTopCommand(Flags root);

/// Flags that say how to compute.
struct ComputeFlags {
  std::string isa;
  int threads = 0;   ///< 0: one per core, or per CPU of `cpus`.
  std::string cpus;  ///< A list to pin threads to; empty: none.
  std::string activations = "int8";
  std::string kv_dtype = "f16";

  void add_to(Flags app);
  /// Those of add_to() that a node has which follows another's orders: no types.
  void add_machine_flags(Flags app);
  /// The instruction set chosen; errors where it is unknown or not to be had here.
  absl::StatusOr<Isa> chosen_isa() const;
  int chosen_threads() const;
  /// Errors as ParseCpuList.
  absl::StatusOr<std::vector<int>> chosen_cpus() const;
};

/// Where what shoal keeps for a user belongs (the XDG base directory specification); "" where there is no
/// home.
std::string UserCacheFolder();

/// Flags that say where the profile of this machine is kept.
struct ProfileFlags {
  std::string where;  ///< A folder; "off": nothing is measured; empty: below the user's cache folder.

  void add_to(Flags app);
};

/// --speculate.
enum class Speculate : uint8_t { kOff, kWherePays, kAlways };

/// Flags that say what is drafted.
struct SpeculationFlags {
  Speculate speculate = Speculate::kWherePays;
  int draft_max = 16;       ///< As BatchPlannerOptions::draft_max, where there are drafts.
  std::string draft_model;  ///< Folder or GGUF file of a small model that drafts; empty: none.
  bool mtp = true;          ///< Where the checkpoint has a head for multi-token prediction, it drafts.

  void add_to(Flags app);
  /// For PlanRequest.
  bool uses_mtp() const { return mtp && speculate != Speculate::kOff; }
  /// For BatchPlannerOptions.
  int tokens_max() const { return speculate == Speculate::kOff ? 0 : draft_max; }
  DraftWhen when() const { return speculate == Speculate::kAlways ? DraftWhen::kAlways : DraftWhen::kPays; }
  /// InvalidArgument where there is a draft model, of these flags or of a list of models, and nothing is drafted.
  absl::Status check(const std::string& chosen_model) const;
};

/// Flags that say where packed weights are kept for the next start.
struct PackedCacheFlags {
  std::string folder;  ///< "off": nowhere; empty: the user's cache folder.
  std::string limit = "64GiB";

  void add_to(Flags app);
  /// nullptr where it is off, or where the user has no such folder.
  absl::StatusOr<std::shared_ptr<const PackedCache>> open() const;
};

/// Flags that say where blocks of the KV cache are kept.
struct KvDiskFlags {
  std::string size;    ///< Empty, or "0": nowhere.
  std::string folder;  ///< Empty: below the user's cache folder.

  void add_to(Flags app);
  bool chosen() const { return !size.empty() && size != "0"; }
  /// nullptr where it is off, or where the folder can't be had: that is a line in the log. node: the name of this
  /// process, so that several of one machine do not meet. InvalidArgument: not a size.
  absl::StatusOr<std::shared_ptr<DiskStore>> open(const std::string& node) const;
};

/// `name` as part of a path.
std::string AsFolderName(std::string name);

/// Flags that say where weights go that a worker fetches.
struct WeightsCacheFlags {
  std::string folder;  ///< "off": nowhere; empty: below the user's cache folder.
  std::string limit = "256GiB";

  void add_to(Flags app);
  /// nullptr where it is off, or where the folder can't be had: that is a line in the log. node: as KvDiskFlags.
  absl::StatusOr<std::shared_ptr<FetchedModels>> open(const std::string& node) const;
};

/// --expert-memory: what routed experts may take of a node's memory.
void AddExpertMemoryOption(Flags app, std::string& size);
/// 0, for all that there are, where it is empty. InvalidArgument: not a size.
absl::StatusOr<int64_t> ParseExpertMemory(const std::string& size);

/// --weights-rate: bytes per second that this process sends of weights.
void AddWeightsRateOption(Flags app, std::string& rate);
/// 0 where it is empty. InvalidArgument: not a size, or less than 64 KiB.
absl::StatusOr<int64_t> ParseWeightsRate(const std::string& rate);

/// Flags that say who runs what.
struct PlacementFlags {
  std::string workers;  ///< "H:P,H:P"
  std::string cluster;  ///< Path of a cluster file.
  std::string plan;     ///< Path of a plan file.
  std::string strategy;
  std::string proportions;
  std::string objective;  ///< Of the strategy "fastest".
  std::string use_nodes;  ///< Likewise.
  std::string split;
  std::string experts;
  int experts_over = 0;
  std::string split_ffn;  ///< As ParseSegmentRequest; empty: as the cluster file says, else where it pays.
  std::string expert_replicas;  ///< A number, or "hot:SIZE"; empty: as the cluster file says, else none.
  std::string expert_stats;     ///< File or folder with the use of experts; empty: none is kept.
  int local_nodes = 1;          ///< In this process, where nothing above says how many.
  bool coordinator_without_layers = false;
  std::string wire;  ///< Empty: as the plan file or the cluster file says, else exact.

  /// `remote`: --workers and --cluster, too.
  void add_to(Flags app, bool remote);
};

/// What the flags come to.
struct Placement {
  std::vector<NodeFacts> nodes;  ///< Node 0 is the coordinator.
  PlanRequest request;
  std::string plan_file;            ///< Where the plan itself is given.
  std::string expert_stats;         ///< As PlacementFlags.
  std::string model_name;           ///< provider/name of the cluster file, where it says.
  std::string coordinator_address;  ///< Of the cluster file; empty where it is not said.
  bool wire_chosen = false;         ///< By a flag: it goes before what the plan file says.
};
/// Reads files and flags; conflicts are InvalidArgument. `facts_of` fills in what a worker says of itself
/// where neither flag nor file does; may be empty.
absl::StatusOr<Placement> ReadPlacement(const PlacementFlags& flags, const ComputeFlags& compute);
/// Reads the use of the model's experts for the placement's request, if a file is named and good.
void ReadExpertUse(const ModelFacts& model, Placement& placement);
/// The plan for the model, by the planner or from the plan file.
absl::StatusOr<Plan> ResolvePlan(const Placement& placement, const ModelFacts& model);

/// The model on the nodes of a placement, all in this process; limits and progress are left to the caller.
absl::StatusOr<LocalCluster::Options> LocalOptions(const OpenedModel& model, const PlacementFlags& placement,
                                                   const ComputeFlags& compute, const std::string& transport);

/// --kv-positions and --sequences; both 0 where they are not given.
void AddCacheSizeOptions(Flags app, CacheSize& size);

/// How large a cache to have: what is asked for; where that is 0, positions for four contexts and the states
/// of 16 sequences, within bounds and within the memory that nodes with known memory have left beside their
/// weights.
CacheSize DefaultCacheSize(const Plan& plan, const ModelFacts& model, const std::vector<NodeFacts>& nodes,
                           int64_t context, const CacheSize& asked);

/// The limits of a node of `plan` that has room for `cache`.
StepLimits LimitsFor(const ModelSpec& spec, const Plan& plan, const CacheSize& cache, int64_t rows_max);

}  // namespace shoal
