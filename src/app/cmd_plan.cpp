#include <cstdio>

#include "app/command.h"
#include "base/status.h"
#include "plan/cost.h"

namespace shoal {
namespace {

struct PlanFlags {
  std::string model;
  bool json = false;
  int64_t kv_positions = 0;
  ComputeFlags compute;
  PlacementFlags placement;
};

absl::Status ShowPlan(const PlanFlags& flags) {
  ASSIGN_OR_RETURN(const Placement placement, ReadPlacement(flags.placement, flags.compute));
  ASSIGN_OR_RETURN(const OpenedModel model, OpenModel(flags.model, placement.model_name));
  ASSIGN_OR_RETURN(const Plan plan, ResolvePlan(placement, model.facts));
  const int64_t positions = flags.kv_positions > 0 ? flags.kv_positions
                                                   : DefaultKvPositions(plan, model.facts, placement.nodes,
                                                                        model.spec.max_positions);
  const std::string text =
      flags.json ? PlanReportJson(plan, model.facts, positions) : PlanReport(plan, model.facts, positions);
  std::fputs(text.c_str(), stdout);
  if (!text.ends_with('\n')) std::fputc('\n', stdout);
  return absl::OkStatus();
}

}  // namespace

Command AddPlanCommand(CLI::App& root) {
  auto flags = std::make_shared<PlanFlags>();
  CLI::App* app = root.add_subcommand("plan", "Show who would hold what, bytes per node, messages per token");
  app->add_option("--model", flags->model, "Model folder")->required();
  app->add_flag("--json", flags->json, "For scripts; the \"plan\" in it is a plan file");
  app->add_option("--kv-positions", flags->kv_positions,
                  "Positions of the KV cache (default: as `shoal serve`)")
      ->check(CLI::Range(1, 1 << 30));
  flags->compute.add_to(*app);
  flags->placement.add_to(*app, true);
  return {app, [flags] { return ShowPlan(*flags); }};
}

}  // namespace shoal
