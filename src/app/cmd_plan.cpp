#include <cstdio>
#include <optional>

#include "app/cluster_status.h"
#include "app/command.h"
#include "app/profile_store.h"
#include "app/tls_flags.h"
#include "base/log.h"
#include "base/status.h"
#include "cluster/link_table.h"
#include "numeric/version.h"
#include "plan/compare.h"
#include "plan/cost.h"

namespace shoal {
namespace {

constexpr int64_t kDescribeMs = 2000;
constexpr int64_t kLinksMs = 5000;

struct PlanFlags {
  std::string model;
  bool json = false;
  CacheSize cache_size;
  std::string memory;
  std::string expert_memory;
  ClusterKeyFlags key;
  ComputeFlags compute;
  ProfileFlags profile;
  PlacementFlags placement;
};

/// With workers to ask, plans from what they say, as `shoal serve` does; those that are not up are planned
/// for unseen.
absl::Status ConsiderWorkers(const PlanFlags& flags, Placement& placement) {
  if (flags.placement.workers.empty() && flags.placement.cluster.empty()) {
    // Of several nodes nobody says where they are; a single one is this machine.
    if (placement.nodes.size() == 1 && flags.placement.plan.empty())
      placement.nodes[0].rates = RatesOfThisMachine(flags.compute, flags.profile);
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const ClusterKey key, flags.key.read(placement.nodes[0].name));
  RETURN_IF_ERROR(DescribeThisNode(placement, flags.compute, flags.memory,
                                   placement.nodes.size() > 1 ? &flags.profile : nullptr));
  std::vector<MemberAddress> addresses;
  for (const NodeFacts& node : placement.nodes) {
    addresses.push_back({node.name, addresses.empty() ? "" : node.address});
  }
  Members members(addresses, key, true, CpuNumericsClass());
  const absl::Status asked = members.describe(Deadline::after_ms(kDescribeMs));
  ApplyFacts(members.status(), placement.nodes);
  LinkTable links;
  links.measure(members, Deadline::after_ms(kLinksMs));
  placement.request.links = links.links(members);
  if (!asked.ok())
    LogWarning("{}: its memory and speed are taken as unknown where nothing is declared", Message(asked));
  return absl::OkStatus();
}

/// Of this node: what its experts may take, and how fast its disk is where that was measured.
absl::Status ConsiderDisk(const PlanFlags& flags, Placement& placement) {
  NodeFacts& own = placement.nodes[0];
  ASSIGN_OR_RETURN(own.expert_memory_bytes, ParseExpertMemory(flags.expert_memory));
  if (own.expert_memory_bytes == 0 || flags.profile.where == "off") return absl::OkStatus();
  const absl::StatusOr<KeptProfile> kept = ProfileThisMachine(flags.compute, flags.profile, false);
  if (kept.ok()) own.disk_mbs = kept->profile.disk_mbs;
  return absl::OkStatus();
}

absl::Status ShowPlan(const PlanFlags& flags) {
  ASSIGN_OR_RETURN(Placement placement, ReadPlacement(flags.placement, flags.compute));
  RETURN_IF_ERROR(ConsiderWorkers(flags, placement));
  RETURN_IF_ERROR(ConsiderDisk(flags, placement));
  ASSIGN_OR_RETURN(const OpenedModel model, OpenModel(flags.model, placement.model_name));
  ReadExpertUse(model.facts, placement);
  placement.request.kv_positions = flags.cache_size.positions;
  placement.request.sequences = flags.cache_size.sequences;
  ASSIGN_OR_RETURN(const Plan plan, ResolvePlan(placement, model.facts));
  const CacheSize cache =
      DefaultCacheSize(plan, model.facts, placement.nodes, model.spec.max_positions, flags.cache_size);
  const Comparison comparison = CompareStrategies(model.facts, placement.nodes, placement.request, plan);
  const std::string text =
      flags.json ? PlanReportJson(plan, model.facts, cache, comparison, placement.nodes)
                 : PlanReport(plan, model.facts, cache, placement.nodes) + ComparisonText(comparison);
  std::fputs(text.c_str(), stdout);
  if (!text.ends_with('\n')) std::fputc('\n', stdout);
  return absl::OkStatus();
}

}  // namespace

Command AddPlanCommand(Flags root) {
  auto flags = std::make_shared<PlanFlags>();
  Flags app = root.add_subcommand("plan", "Show who would hold what, bytes per node, messages per token");
  app.add_option("--model", flags->model, "Model folder").required();
  app.add_flag("--json", flags->json, "For scripts; the \"plan\" in it is a plan file");
  AddCacheSizeOptions(app, flags->cache_size);
  app.add_option("--memory", flags->memory, "This node's memory for weights and cache, such as 8GiB");
  AddExpertMemoryOption(app, flags->expert_memory);
  flags->key.add_to(app);
  flags->compute.add_to(app);
  flags->profile.add_to(app);
  flags->placement.add_to(app, true);
  return {app, [flags] { return ShowPlan(*flags); }};
}

}  // namespace shoal
