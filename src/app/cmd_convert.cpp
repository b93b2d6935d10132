#include <algorithm>

#include "app/command.h"
#include "app/progress.h"
#include "base/file.h"
#include "base/status.h"
#include "base/text.h"
#include "convert/convert.h"
#include "formats/gguf_files.h"
#include "plan/cluster_file.h"

namespace shoal {
namespace {

struct ConvertFlags {
  std::string model;
  std::string out;
  std::string quant;
  std::string shard_for;
  std::string shard = "4GiB";
  int jobs = 0;
};

/// The plan of a plan file, of what `shoal plan --json` printed, or of a cluster file.
absl::StatusOr<Plan> ReadPlanFor(const std::string& path, const OpenedModel& model) {
  PlacementFlags flags;
  (IsClusterFile(path) ? flags.cluster : flags.plan) = path;
  ASSIGN_OR_RETURN(Placement placement, ReadPlacement(flags, {}));
  placement.request.mtp = true;  // A shard has what its node may be asked to hold.
  ASSIGN_OR_RETURN(Plan plan, ResolvePlan(placement, model.facts));
  if (!placement.model_name.empty()) plan.model_name = placement.model_name;
  return plan;
}

/// A node's or model's name as a folder's: names may have slashes, and be made of dots.
std::string FolderName(std::string name) {
  std::ranges::replace(name, '/', '_');
  return name.empty() || name.find_first_not_of('.') == std::string::npos ? "_" : name;
}

/// The name of all shards' folders: what workers look for below their model roots.
std::string ModelFolder(const std::string& name) {
  std::string last = name.substr(name.rfind('/') + 1);
  if (last.ends_with(kGgufExtension)) last.resize(last.size() - std::string_view(kGgufExtension).size());
  return FolderName(last);
}

absl::StatusOr<std::vector<ConvertShard>> ShardsOf(const Plan& plan, const std::string& out) {
  std::vector<ConvertShard> shards;
  for (size_t i = 0; i < plan.nodes.size(); ++i) {
    const std::string& name = plan.nodes[i].name;
    NodeShard held = ShardOf(plan, NodeId{static_cast<int32_t>(i)});
    ConvertShard shard{.out = fmt::format("{}/{}/{}", out, FolderName(name), ModelFolder(plan.model_name)),
                       .node = name,
                       .holds = held.summary(),
                       .has = {},
                       .text = i == 0};  // Only the coordinator speaks.
    for (const ConvertShard& other : shards) {
      if (other.out != shard.out) continue;
      return InvalidArgument(
          "convert: nodes '{}' and '{}' would share the folder {}; name them differently in the plan",
          other.node, name, shard.out);
    }
    shard.has = [held = std::move(held)](const WeightUse& use) { return held.holds(use); };
    shards.push_back(std::move(shard));
  }
  return shards;
}

/// The plan for the model that the shards are of, beside them: `serve --plan` of it asks no worker for more.
absl::Status WritePlan(Plan plan, const std::string& out, const ConvertShard& shard) {
  ASSIGN_OR_RETURN(const OpenedModel made, OpenModel(shard.out));
  plan.model_name = made.facts.name;
  plan.model_hash = made.facts.hash;
  return WriteTextFile(out + "/plan.json", PlanToJson(plan));
}

void Print(const ConvertFlags& flags, const ConvertOptions& options, const ConvertReport& report) {
  const FolderReport all = report.sum();
  std::vector<std::string> parts = {FormatBytes(all.bytes)};
  if (report.parameters > 0 && options.shards.empty()) {
    const double bits = 8.0 * static_cast<double>(all.bytes) / static_cast<double>(report.parameters);
    parts.push_back(fmt::format("{:.2f} bits per weight", bits));
  }
  std::string text = fmt::format("{}: {}", flags.out, Join(parts, ", "));
  std::vector<std::string> kinds;
  for (const auto& [format, count] : report.matrices)
    kinds.push_back(fmt::format("{} matrices {}", count, format));
  if (!kinds.empty()) text += "; " + Join(kinds, ", ");
  if (all.files_kept > 0) text += fmt::format("; {} of {} files were there", all.files_kept, all.files);
  fmt::print("{}\n", text);
  for (size_t i = 0; i < options.shards.size(); ++i) {
    fmt::print("  {}: {}, {}\n", options.shards[i].out, options.shards[i].holds,
               FormatBytes(report.folders[i].bytes));
  }
  if (options.shards.empty()) return;
  fmt::print(
      "Copy what is in a node's folder below its --model-root; then: shoal serve --model {} --plan "
      "{}/plan.json\n",
      options.shards.front().out, flags.out);
}

absl::Status Convert(const ConvertFlags& flags) {
  ConvertOptions options{.out = flags.out};
  const bool shards = !flags.shard_for.empty();
  if (flags.quant.empty() && !shards)
    return InvalidArgument("convert: expected --quant, --shard-for PLAN, or both");
  ASSIGN_OR_RETURN(options.format, ParseConvertFormat(flags.quant.empty() ? "keep" : flags.quant));
  ASSIGN_OR_RETURN(options.file_bytes_max, ParseBytes(flags.shard));
  options.threads = ComputeFlags{.threads = flags.jobs}.chosen_threads();
  ASSIGN_OR_RETURN(const OpenedModel model, OpenModel(flags.model));
  Plan plan;
  if (shards) {
    ASSIGN_OR_RETURN(plan, ReadPlanFor(flags.shard_for, model));
    ASSIGN_OR_RETURN(options.shards, ShardsOf(plan, flags.out));
  }
  absl::StatusOr<ConvertReport> report;
  {
    ProgressBar bar("converting");
    options.progress = [&bar](int64_t done, int64_t total) { bar.update(done, total); };
    report = ConvertModel(*model.weights, options);
  }
  RETURN_IF_ERROR(report.status());
  if (shards) RETURN_IF_ERROR(WritePlan(std::move(plan), flags.out, options.shards.front()));
  Print(flags, options, *report);
  return absl::OkStatus();
}

}  // namespace

Command AddConvertCommand(Flags root) {
  auto flags = std::make_shared<ConvertFlags>();
  Flags app = root.add_subcommand("convert",
                                  "Write a model as an MLX folder, quantized or bf16, or as a folder for "
                                  "each node; cut off, it goes on where it was");
  app.add_option("--model", flags->model, "Model folder, or a GGUF file").required();
  app.add_option("--out", flags->out, "Folder to write").required();
  app.add_option(
      "--quant", flags->quant,
      "affine-4-g64, affine-8-g64 (2 to 8 bits, groups of 32, 64 or 128), mixed, bf16, or keep: what a GGUF "
      "has, or, with --shard-for, any model (default there)");
  app.add_option(
      "--shard-for", flags->shard_for,
      "Plan: what `shoal plan --json` prints, or a cluster file. Writes OUT/NODE/MODEL with what the "
      "node needs, for each node, and OUT/plan.json");
  app.add_option("--jobs", flags->jobs, "Threads (default: one per core)").range(1, 1024);
  app.add_option("--shard", flags->shard, "Largest file of weights (default 4GiB)");
  return {app, [flags] { return Convert(*flags); }};
}

}  // namespace shoal
