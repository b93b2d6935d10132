#include <algorithm>

#include "app/command.h"
#include "app/expert_monitor.h"
#include "base/status.h"
#include "base/text.h"
#include "cpu/topology.h"
#include "kv/block_pool.h"
#include "plan/cluster_file.h"
#include "plan/cost.h"
#include "plan/rounding.h"

namespace shoal {
namespace {

/// Nodes of a placement in one process: as many as the split or the experts need.
std::vector<NodeFacts> LocalNodes(size_t count) {
  std::vector<NodeFacts> nodes = {{.name = kCoordinatorName}};
  for (size_t i = 1; i < count; ++i) nodes.push_back({.name = fmt::format("node-{}", i)});
  return nodes;
}

absl::Status ApplyFlags(const PlacementFlags& flags, PlanRequest& request) {
  if (!flags.strategy.empty()) {
    ASSIGN_OR_RETURN(request.strategy, ParseLayerStrategy(flags.strategy));
  }
  if (!flags.proportions.empty()) {
    request.strategy = LayerStrategy::kCustom;
    request.proportions.clear();
    for (const std::string& part : Split(flags.proportions, ',')) {
      try {
        request.proportions.push_back(std::stod(part));
      } catch (const std::exception&) {
        return InvalidArgument("--proportions '{}': expected numbers such as 0.7,0.3", flags.proportions);
      }
    }
  }
  if (!flags.split.empty()) {
    request.strategy = LayerStrategy::kSplit;
    ASSIGN_OR_RETURN(request.split, ParseSplit(flags.split));
  }
  if (!flags.objective.empty()) {
    ASSIGN_OR_RETURN(request.objective, ParseObjective(flags.objective));
  }
  if (!flags.use_nodes.empty()) {
    ASSIGN_OR_RETURN(request.node_use, ParseNodeUse(flags.use_nodes));
  }
  if (!flags.experts.empty()) {
    ASSIGN_OR_RETURN(request.experts, ParseExpertRequest(flags.experts));
  }
  if (flags.experts_over > 0) {
    if (request.experts.strategy == ExpertStrategy::kWithLayer)
      request.experts.strategy = ExpertStrategy::kContiguous;
    request.experts.over_nodes = flags.experts_over;
    request.experts.asked = true;
  }
  if (!flags.expert_replicas.empty())
    RETURN_IF_ERROR(ParseExpertReplicas(flags.expert_replicas, request.experts));
  if (!flags.split_ffn.empty()) {
    ASSIGN_OR_RETURN(request.segments, ParseSegmentRequest(flags.split_ffn));
  }
  if (!flags.wire.empty()) {
    ASSIGN_OR_RETURN(request.wire_dtype, ParseWireDtype(flags.wire));
  }
  if (flags.coordinator_without_layers) request.coordinator_holds_layers = false;
  return absl::OkStatus();
}

}  // namespace

void ComputeFlags::add_machine_flags(Flags app) {
  app.add_option(
         "--isa", isa,
         "Instruction set of the kernels: reference, avx2, avx-vnni, avx512, amx; on ARM reference, neon, "
         "neon-dotprod, neon-i8mm (default: the fastest here)")
      .envname("SHOAL_ISA");
  app.add_option("--threads", threads, "Threads per node (default: one per core, or per CPU of --cpus)")
      .range(1, 1024);
  app.add_option("--cpus", cpus,
                 "CPUs that the threads stay on, such as 0-3,8 (default: wherever the system puts them)");
}

void SpeculationFlags::add_to(Flags app) {
  app.add_choice(
      "--speculate", speculate,
      {{"lookup", Speculate::kWherePays}, {"off", Speculate::kOff}, {"always", Speculate::kAlways}},
      "Verify several tokens in one step, drafted from what the text repeats and by --draft-model, where "
      "that "
      "is faster; the text stays the same: lookup (default), off, or always, to measure drafts that don't "
      "pay");
  app.add_option("--draft-max", draft_max, "Tokens drafted for one request in one step at most (default 16)")
      .range(1, 128);
  app.add_option("--draft-model", draft_model,
                 "Folder or GGUF file of a small model with the same tokenizer, which drafts tokens in this "
                 "process where that is faster");
  app.add_choice(
      "--mtp", mtp, {{"on", true}, {"off", false}},
      "Whether the checkpoint's own head for multi-token prediction drafts, if it has one: on (default), or "
      "off, which saves its memory");
}

absl::Status SpeculationFlags::check(const std::string& chosen_model) const {
  if (chosen_model.empty() || speculate != Speculate::kOff) return absl::OkStatus();
  return InvalidArgument("--draft-model {}: nothing is drafted with --speculate off; leave out one of them",
                         chosen_model);
}

void ComputeFlags::add_to(Flags app) {
  add_machine_flags(app);
  app.add_option("--activations", activations, "int8: quantized per group (default); f32: exact and slow");
  app.add_option("--kv-dtype", kv_dtype,
                 "Type of the KV cache: f16 (default), bf16, f32, q8 (half the memory)");
}

absl::StatusOr<Isa> ComputeFlags::chosen_isa() const { return ChooseIsa(isa); }

int ComputeFlags::chosen_threads() const {
  if (threads > 0) return threads;
  const auto pinned = chosen_cpus();
  if (pinned.ok() && !pinned->empty()) return static_cast<int>(pinned->size());
  return std::max(1, ReadTopology().cores);
}

absl::StatusOr<std::vector<int>> ComputeFlags::chosen_cpus() const {
  if (cpus.empty()) return std::vector<int>{};
  absl::StatusOr<std::vector<int>> list = ParseCpuList(cpus);
  if (!list.ok()) return Annotate(list.status(), "--cpus");
  return list;
}

void PlacementFlags::add_to(Flags app, bool remote) {
  if (remote) {
    const Flag list =
        app.add_option("--workers", workers, "Addresses of the workers: HOST:PORT,HOST:PORT,...");
    app.add_option("--cluster", cluster, "Cluster file (.json, .yaml): devices, model, sharding")
        .excludes(list);
    app.add_flag("--coordinator-without-layers", coordinator_without_layers,
                 "The coordinator only coordinates");
  }
  const Flag file = app.add_option("--plan", plan, "Plan file, as `shoal plan --json` prints under \"plan\"");
  app.add_option("--strategy", strategy,
                 "How layers are shared out: uniform, memory, compute, balanced, custom, split, fastest "
                 "(default: the best "
                 "prediction where all nodes are measured, else balanced)")
      .excludes(file);
  app.add_option(
         "--objective", objective,
         "What --strategy fastest makes best: throughput (of 16 streams, default), latency (of one), ttft")
      .excludes(file);
  app.add_option(
         "--use-nodes", use_nodes,
         "Whom --strategy fastest gives layers: all (default), or best: only those that make it faster")
      .excludes(file);
  app.add_option("--proportions", proportions, "Shares of the nodes for --strategy custom: 0.7,0.3")
      .excludes(file);
  app.add_option("--split", split, "Layers per node, the coordinator first: 3,2,1").excludes(file);
  app.add_option("--experts", experts,
                 "Who holds experts: with_layer (default), contiguous[:N], round_robin[:N], by_load[:N], "
                 "by_locality[:N] (both as --expert-stats says), random:SEED, explicit:0-3;4-7")
      .excludes(file);
  app.add_option("--experts-over", experts_over, "Spread the experts evenly over so many nodes")
      .excludes(file)
      .range(1, 4096);
  app.add_option(
         "--split-ffn", split_ffn,
         "Who shares each dense feed-forward and shared expert: names of nodes (a,b), with segments of each "
         "(a=3,b=1), all, or off; default: all where a layer is too large for any plan, or where it is "
         "predicted to be faster")
      .excludes(file);
  app.add_option(
      "--wire", wire,
      "How rows travel between nodes: exact (default); f16 or q8 in a half or a quarter of the bytes, for "
      "slow links: bits then depend on the placement, and `shoal eval --wire` measures the loss");
  app.add_option(
         "--expert-replicas", expert_replicas,
         "Further nodes that hold each expert: they share its rows, and take over when one is lost. Or "
         "hot:SIZE: copies of the experts that --expert-stats shows most rows of, SIZE per node at most")
      .excludes(file);
  app.add_option(
         "--expert-stats", expert_stats,
         "File with the use of the model's experts, or a folder with one for each model: plans read it, and "
         "`serve` keeps it up to date")
      .envname("SHOAL_EXPERT_STATS");
}

absl::StatusOr<Placement> ReadPlacement(const PlacementFlags& flags, const ComputeFlags& compute) {
  Placement placement;
  placement.plan_file = flags.plan;
  placement.expert_stats = flags.expert_stats;
  placement.request.strategy = LayerStrategy::kFastest;
  if (!flags.cluster.empty()) {
    ASSIGN_OR_RETURN(ClusterFile file, ReadClusterFile(flags.cluster));
    placement.nodes = std::move(file.nodes);
    placement.request = std::move(file.request);
    placement.coordinator_address = placement.nodes[0].address;
    if (!file.model_name.empty()) {
      placement.model_name =
          file.model_provider.empty() ? file.model_name : file.model_provider + "/" + file.model_name;
    }
  } else if (!flags.workers.empty()) {
    placement.nodes.push_back({.name = kCoordinatorName});
    for (const std::string& address : Split(flags.workers, ',')) {
      ASSIGN_OR_RETURN(const HostPort parsed, ParseHostPort(address));
      placement.nodes.push_back({.name = address, .address = parsed.to_string()});
    }
  } else {
    const size_t by_split = flags.split.empty() ? 1 : Split(flags.split, ',').size();
    const size_t by_shares = flags.proportions.empty() ? 1 : Split(flags.proportions, ',').size();
    const bool named = !flags.split_ffn.empty() && flags.split_ffn != "all" && flags.split_ffn != "off";
    const size_t by_segments = named ? Split(flags.split_ffn, ',').size() : 1;
    placement.request.strategy = LayerStrategy::kBalanced;
    placement.nodes =
        LocalNodes(std::max({by_split, by_shares, by_segments, static_cast<size_t>(flags.experts_over),
                             static_cast<size_t>(flags.local_nodes)}));
  }
  RETURN_IF_ERROR(ApplyFlags(flags, placement.request));
  placement.wire_chosen = !flags.wire.empty();
  // Nodes that were named without layers (experts only) need not be counted out in the split.
  if (placement.request.strategy == LayerStrategy::kSplit &&
      placement.request.split.size() < placement.nodes.size()) {
    placement.request.split.resize(placement.nodes.size());
  }
  ASSIGN_OR_RETURN(placement.request.activations, ParseActivations(compute.activations));
  ASSIGN_OR_RETURN(placement.request.kv_dtype, ParseKvDtype(compute.kv_dtype));
  return placement;
}

void ReadExpertUse(const ModelFacts& model, Placement& placement) {
  placement.request.experts.stats = ReadKeptStats(ExpertStatsPath(placement.expert_stats, model), model);
}

absl::StatusOr<Plan> ResolvePlan(const Placement& placement, const ModelFacts& model) {
  if (placement.plan_file.empty()) return MakePlan(model, placement.nodes, placement.request);
  ASSIGN_OR_RETURN(Plan plan, ReadPlanFile(placement.plan_file));
  plan.activations = placement.request.activations;
  plan.kv_dtype = placement.request.kv_dtype;
  plan.mtp = placement.request.uses_mtp(model);
  if (placement.wire_chosen) plan.wire_dtype = placement.request.wire_dtype;
  NoteRounding(plan);
  RETURN_IF_ERROR(Annotate(Validate(plan, model), placement.plan_file));
  return plan;
}

absl::StatusOr<LocalCluster::Options> LocalOptions(const OpenedModel& model, const PlacementFlags& placement,
                                                   const ComputeFlags& compute,
                                                   const std::string& transport) {
  ASSIGN_OR_RETURN(Placement placed, ReadPlacement(placement, compute));
  ReadExpertUse(model.facts, placed);
  LocalCluster::Options options;
  ASSIGN_OR_RETURN(options.plan, ResolvePlan(placed, model.facts));
  ASSIGN_OR_RETURN(options.isa, compute.chosen_isa());
  ASSIGN_OR_RETURN(options.transport, ParseTransportKind(transport));
  options.weights = model.weights;
  options.threads_per_node = compute.chosen_threads();
  ASSIGN_OR_RETURN(options.cpus, compute.chosen_cpus());
  return options;
}

void AddCacheSizeOptions(Flags app, CacheSize& size) {
  app.add_option("--kv-positions", size.positions,
                 "Positions of the KV cache over all sequences (default: by memory)")
      .range(1, 1 << 30);
  app.add_option(
         "--sequences", size.sequences,
         "Sequences that run at once of a model with recurrent layers, whose states take memory whatever "
         "their length (default: 16, or fewer by memory)")
      .range(1, 1 << 16);
}

CacheSize DefaultCacheSize(const Plan& plan, const ModelFacts& model, const std::vector<NodeFacts>& nodes,
                           int64_t context, const CacheSize& asked) {
  constexpr int64_t kSequences = 16;
  CacheSize size = asked;
  if (asked.positions == 0) {
    size.positions = std::clamp<int64_t>(4 * context, 4096, std::max<int64_t>(65536, context));
  }
  if (asked.sequences == 0) size.sequences = kSequences;
  // Of one block, and of one sequence's states.
  const std::vector<NodeCost> costs = NodeCosts(plan, model, {kBlockPositions, 1}, nodes);
  const auto for_each_room = [&](auto visit) {
    for (const NodeFacts& node : nodes) {
      const std::optional<NodeId> id =
          plan.find_node(node.name);  // Nodes without a shard are not in the plan.
      if (!id.has_value() || node.memory_bytes <= 0) continue;
      const NodeCost& cost = costs[static_cast<size_t>(id->value)];
      visit(cost, std::max<int64_t>(node.memory_bytes - cost.weight_bytes() - kProcessBytes, 0));
    }
  };
  // States get a quarter of the room at most, and one sequence its own whatever becomes of the rest.
  for_each_room([&](const NodeCost& cost, int64_t room) {
    if (cost.state_bytes == 0 || asked.sequences > 0) return;
    size.sequences = std::clamp<int64_t>(room / 4 / cost.state_bytes, 1, size.sequences);
  });
  for_each_room([&](const NodeCost& cost, int64_t room) {
    if (cost.kv_bytes == 0 || asked.positions > 0) return;
    const int64_t left = std::max<int64_t>(room - size.sequences * cost.state_bytes, 0);
    size.positions = std::min(size.positions, left / cost.kv_bytes * kBlockPositions);
  });
  size.positions = std::max<int64_t>(size.positions, kBlockPositions);
  return size;
}

StepLimits LimitsFor(const ModelSpec& spec, const Plan& plan, const CacheSize& cache, int64_t rows_max) {
  const int64_t slots =
      KeepsState(spec) ? StateSlotsPerSequence(std::ssize(plan.stages)) * cache.sequences : 0;
  return {spec.max_positions, spec.vocabulary, static_cast<int32_t>(BlocksFor(cache.positions)), rows_max,
          static_cast<int32_t>(slots)};
}

}  // namespace shoal
