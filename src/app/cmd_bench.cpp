#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <set>

#include "app/bench_report.h"
#include "app/command.h"
#include "app/plan_check.h"
#include "app/progress.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/process.h"
#include "base/status.h"
#include "base/text.h"
#include "convert/synth_model.h"
#include "measure/synthetic_load.h"
#include "sched/batch_planner.h"

namespace shoal {
namespace {

namespace fs = std::filesystem;

/// Where decoding begins without --context: a block, so that attention is there and next to nothing.
constexpr int64_t kShortContext = 32;
/// So many that the median stands still, and they are over in a tenth of a second.
constexpr int kRoundTrips = 1000;
/// Tokens decoded before the clock runs: arenas grow, and routing is traced.
constexpr int64_t kWarmUpTokens = 8;

struct BenchFlags {
  std::string model;
  std::string shape;
  std::string cache;
  std::vector<int64_t> prompts = {512};
  std::vector<int64_t> batches = {1};
  std::vector<int64_t> contexts;
  int64_t gen = 64;
  int runs = 5;
  std::string split;
  int experts_over = 0;
  int nodes = 1;
  std::string transport = "inproc";
  std::string wire = "exact";
  bool roofline = false;
  bool json = false;
  bool check_plan = false;
  PlanCheck check;
  ComputeFlags compute;
  PackedCacheFlags packed_cache;
  std::string expert_memory;
};

absl::StatusOr<std::string> CacheFolder(const BenchFlags& flags) {
  const std::string folder = flags.cache.empty() ? UserCacheFolder() : flags.cache;
  if (folder.empty())
    return FailedPrecondition("--shape: there is no home to keep it in; --cache DIR says where");
  return folder;
}

/// The folder of a named shape with random 4-bit weights; written once, and kept.
absl::StatusOr<std::string> ShapeFolder(const BenchFlags& flags) {
  ASSIGN_OR_RETURN(const std::string cache, CacheFolder(flags));
  const fs::path folder = fs::path(cache) / fmt::format("shape-{}-4bit-g64", flags.shape);
  std::error_code error;
  if (fs::exists(folder / "config.json", error)) return folder.string();
  SynthOptions options;
  ASSIGN_OR_RETURN(options.config_json, SynthPreset(flags.shape));
  options.quantization = AffineFormat{4, 64};
  // Under another name until it is whole: an interrupted writer leaves nothing that looks like a model.
  const fs::path partial = folder.string() + fmt::format(".partial-{}", getpid());
  options.out = partial.string();
  fs::create_directories(folder.parent_path(), error);
  {
    ProgressBar bar("writing " + folder.string());
    RETURN_IF_ERROR(
        SynthesizeModel(options, [&bar](int64_t done, int64_t total) { bar.update(done, total); }));
  }
  fs::rename(partial, folder, error);
  if (error && !fs::exists(folder / "config.json")) {
    return Internal("{}: cannot be renamed to {}: {}", partial.string(), folder.string(), error.message());
  }
  if (error) fs::remove_all(partial, error);  // Another process was first, with the same bytes.
  return folder.string();
}

/// --split gives layers where the numbers add up to the model's, else shares: 1,1 is half each. Where only
/// experts are spread, all layers stay on the first node.
absl::StatusOr<PlacementFlags> PlacementOf(const BenchFlags& flags, const ModelSpec& spec) {
  PlacementFlags placement;
  placement.experts_over = flags.experts_over;
  placement.local_nodes = flags.nodes;
  placement.wire = flags.wire;
  if (flags.split.empty()) {
    if (flags.experts_over > 0) placement.split = std::to_string(spec.layer_count());
    return placement;
  }
  ASSIGN_OR_RETURN(const std::vector<int64_t> parts, ParseSplit(flags.split));
  int64_t sum = 0;
  for (const int64_t part : parts) sum += part;
  if (sum == spec.layer_count()) {
    placement.split = flags.split;
    return placement;
  }
  if (sum == 0)
    return InvalidArgument("--split '{}': expected layers per node, or shares such as 1,1", flags.split);
  for (const int64_t part : parts) {
    placement.proportions += fmt::format("{}{:.9f}", placement.proportions.empty() ? "" : ",",
                                         static_cast<double>(part) / static_cast<double>(sum));
  }
  return placement;
}

/// Layers of each stage: "17,11".
std::string SplitText(const Plan& plan) {
  std::vector<int64_t> counts;
  for (const PlanStage& stage : plan.stages) counts.push_back(stage.layers.size());
  return fmt::format("{}", fmt::join(counts, ","));
}

/// Room in the cache for every load of the flags.
int64_t PositionsNeeded(const BenchFlags& flags) {
  int64_t positions = 0;
  for (const int64_t prompt : flags.prompts) {
    positions = std::max(positions, SyntheticLoad::PrefillPositions(prompt));
  }
  for (const int64_t batch : flags.batches) {
    positions = std::max(positions, SyntheticLoad::DecodePositions(batch, kShortContext, flags.gen));
  }
  for (const int64_t context : flags.contexts) {
    positions = std::max(positions, SyntheticLoad::DecodePositions(1, context, flags.gen));
  }
  return positions;
}

/// Runs loads on a cluster and collects what they gave.
class Bencher {
 public:
  Bencher(const BenchFlags& flags, const RooflineMeter& meter, const LocalCluster& cluster,
          SyntheticLoad& load, const WorkModel& work)
      : flags_(flags), meter_(meter), cluster_(cluster), load_(load), work_(work) {}

  absl::Status run(std::vector<BenchResult>& results) {
    for (const int64_t prompt : flags_.prompts) {
      if (prompt == 0) continue;
      LogInfo("prefill of {} tokens", prompt);
      BenchResult result{.what = "prefill", .prompt = prompt};
      result.bound_threads = threads_at_once(std::ssize(cluster_.plan().stages));
      RETURN_IF_ERROR(measure(result, [&](bool trace) { return load_.prefill(prompt, trace); }));
      results.push_back(std::move(result));
    }
    if (flags_.gen == 0) return absl::OkStatus();
    for (const int64_t batch : flags_.batches) {
      if (batch > 0) RETURN_IF_ERROR(decode(batch, kShortContext, results));
    }
    for (const int64_t context : flags_.contexts) RETURN_IF_ERROR(decode(1, context, results));
    return absl::OkStatus();
  }

 private:
  /// A batch goes as one step, and where there are several stages also as one step for each, which keeps them
  /// all at work.
  absl::Status decode(int64_t batch, int64_t context, std::vector<BenchResult>& results) {
    LogInfo("decoding {} sequences at {} positions", batch, context);
    RETURN_IF_ERROR(load_.fill(batch, context, flags_.gen));
    const auto stages = std::min(std::ssize(cluster_.plan().stages), static_cast<std::ptrdiff_t>(batch));
    for (const int64_t groups : std::set<int64_t>{1, stages}) {
      BenchResult result{
          .what = "decode", .batch = batch, .prompt = context, .context = context, .groups = groups};
      result.bound_threads = threads_at_once(groups);
      RETURN_IF_ERROR(measure(result, [&](bool trace) {
        return load_.decode(trace ? std::min(flags_.gen, kWarmUpTokens) : flags_.gen, groups, trace);
      }));
      results.push_back(std::move(result));
    }
    return absl::OkStatus();
  }

  /// Stages take turns unless several steps are in flight; owners of experts work beside them.
  int threads_at_once(int64_t steps) const {
    const auto nodes = std::ssize(cluster_.plan().nodes);
    const auto stages = std::ssize(cluster_.plan().stages);
    const auto busy = nodes - stages + std::min<int64_t>(steps, stages);
    return static_cast<int>(busy) * threads();
  }
  int threads() const { return flags_.compute.threads; }

  absl::Status measure(BenchResult& result, absl::FunctionRef<absl::StatusOr<LoadRun>(bool trace)> once) {
    ASSIGN_OR_RETURN(const LoadRun warm, once(true));
    result.experts_per_step = warm.size.experts / static_cast<double>(warm.size.steps);
    const auto nodes = std::ssize(cluster_.plan().nodes);
    for (int32_t i = 0; i < nodes; ++i) result.nodes.push_back({cluster_.plan().node(NodeId{i}).name, 0, {}});
    std::vector<double> rates;
    LoadRun last;
    int64_t overhead_ns = 0;
    result.read_bound_gbs = meter_.read_gbs(result.bound_threads);
    for (int run = 0; run < flags_.runs; ++run) {
      const std::vector<StepProfile::Reading> before = profiles();
      ASSIGN_OR_RETURN(last, once(false));
      result.elapsed_ns += last.elapsed_ns();
      rates.push_back(static_cast<double>(last.tokens) * 1e9 / static_cast<double>(last.elapsed_ns()));
      overhead_ns += last.expert_overhead_ns;
      add_breakdown(before, last, result);
      result.read_bound_gbs = std::max(result.read_bound_gbs, meter_.read_gbs(result.bound_threads));
    }
    for (NodeBreakdown& node : result.nodes) node.busy_share /= static_cast<double>(result.elapsed_ns);
    last.size.experts = result.experts_per_step * static_cast<double>(last.size.steps);
    result.steps = last.size.steps;
    if (overhead_ns > 0) {
      const int64_t exchanges = flags_.runs * result.steps * work_.moe_layers();
      result.expert_overhead_us = 1e-3 * static_cast<double>(overhead_ns) / static_cast<double>(exchanges);
    }
    result.tokens = last.tokens;
    result.tokens_per_s = SpreadOf(std::move(rates));
    result.work_per_phase = work_.of(last.size);
    result.work = SumOf(result.work_per_phase);
    return absl::OkStatus();
  }

  void add_breakdown(const std::vector<StepProfile::Reading>& before, LoadRun& run,
                     BenchResult& result) const {
    const std::vector<StepProfile::Reading> after = profiles();
    for (size_t i = 0; i < result.nodes.size(); ++i) {
      NodeBreakdown& node = result.nodes[i];
      node.busy_share += static_cast<double>(run.busy_ns[NodeId{static_cast<int32_t>(i)}]);
      for (size_t p = 0; p < node.phase_ns.size(); ++p) node.phase_ns[p] += after[i].ns[p] - before[i].ns[p];
      // Nodes were idle between the readings and the run.
      node.phase_ns[static_cast<size_t>(StepPhase::kIdle)] -=
          (run.begin_ns - before[i].at_ns) + (after[i].at_ns - run.end_ns);
    }
  }

  std::vector<StepProfile::Reading> profiles() const {
    std::vector<StepProfile::Reading> all;
    for (size_t i = 0; i < cluster_.plan().nodes.size(); ++i) {
      all.push_back(cluster_.profile(NodeId{static_cast<int32_t>(i)})->read());
    }
    return all;
  }

  const BenchFlags& flags_;
  const RooflineMeter& meter_;
  const LocalCluster& cluster_;
  SyntheticLoad& load_;
  const WorkModel& work_;
};

/// GB/s at which all threads together read the model's files, each page once. What a disk takes its time for
/// is told apart so from what loading does: they are in the system's cache when that begins. 0, and nothing
/// read, where they would fill half of the memory.
double FileReadRate(const OpenedModel& model, int64_t memory_bytes, ThreadPool& pool) {
  const Checkpoint& checkpoint = *model.checkpoint;
  if (checkpoint.total_bytes() > memory_bytes / 2) return 0;
  constexpr int64_t kPageBytes = 4096;  // The smallest there is.
  constexpr int64_t kChunkBytes = 4 << 20;
  std::vector<std::span<const std::byte>> chunks;
  for (const TensorInfo& tensor : checkpoint.stored_tensors()) {
    const TensorView view = checkpoint.view(tensor);
    if (view.data == nullptr) continue;  // A shard.
    for (int64_t begin = 0; begin < view.bytes; begin += kChunkBytes) {
      chunks.emplace_back(view.data + begin, static_cast<size_t>(std::min(kChunkBytes, view.bytes - begin)));
    }
  }
  const int64_t begin_ns = NowNs();
  pool.run_ranges(std::ssize(chunks), 1, [&](Range part) {
    for (int64_t i = part.begin; i < part.end; ++i) {
      const auto& chunk = chunks[static_cast<size_t>(i)];
      for (size_t at = 0; at < chunk.size(); at += kPageBytes) {
        (void)*static_cast<const volatile std::byte*>(chunk.data() + at);
      }
      checkpoint.drop(chunk.data(), std::ssize(chunk));
    }
  });
  return static_cast<double>(checkpoint.total_bytes()) / static_cast<double>(NowNs() - begin_ns);
}

/// Memory for the weights of all nodes, asked for once and given back. What a host takes its time for is told
/// apart so from what loading does: the memory is there when that begins.
absl::StatusOr<double> FirstTouchRate(const OpenedModel& model, const LocalCluster::Options& options,
                                      ThreadPool& pool) {
  int64_t bytes = 0;
  const auto nodes = static_cast<int32_t>(options.plan.nodes.size());
  for (int32_t i = 0; i < nodes; ++i) {
    bytes += ShardBytes(model.spec, model.footprint, ShardOf(options.plan, NodeId{i}));
  }
  return MeasureFirstTouchRate(pool, bytes);
}

/// Loads the model, and says in the report what that took: of files and memory that are at hand.
absl::StatusOr<std::unique_ptr<LocalCluster>> MeasureLoading(const OpenedModel& model,
                                                             LocalCluster::Options options,
                                                             BenchReport& report) {
  {
    ThreadPool pool(options.threads_per_node);
    report.file_read_gbs = FileReadRate(model, report.machine.memory_bytes, pool);
    ASSIGN_OR_RETURN(report.first_touch_gbs, FirstTouchRate(model, options, pool));
  }
  const int64_t begin_ns = NowNs();
  const CpuTime begin_cpu = ProcessCpuTime();
  ProgressBar bar("loading");
  options.progress = [&bar](int64_t done, int64_t total) { bar.update(done, total); };
  ASSIGN_OR_RETURN(std::unique_ptr<LocalCluster> cluster, LocalCluster::Load(std::move(options)));
  report.load_s = 1e-9 * static_cast<double>(NowNs() - begin_ns);
  report.load_cpu = ProcessCpuTime() - begin_cpu;
  report.from_packed_cache = cluster->load_stats().from_cache;
  cluster->finish_saving();  // It takes a core and the memory's time, which are not to be missing below.
  return cluster;
}

absl::Status MeasureModel(BenchFlags& flags, const RooflineMeter& meter, BenchReport& report) {
  if (!flags.shape.empty()) {
    ASSIGN_OR_RETURN(flags.model, ShapeFolder(flags));
  }
  ASSIGN_OR_RETURN(const OpenedModel model, OpenModel(flags.model));
  ASSIGN_OR_RETURN(const PlacementFlags placement, PlacementOf(flags, model.spec));
  ASSIGN_OR_RETURN(LocalCluster::Options options,
                   LocalOptions(model, placement, flags.compute, flags.transport));
  const auto nodes = static_cast<int>(options.plan.nodes.size());
  // One per core by default, however many nodes share them.
  if (flags.compute.threads == 0) flags.compute.threads = std::max(1, flags.compute.chosen_threads() / nodes);
  options.threads_per_node = flags.compute.threads;
  // Prompts are cut as a server cuts them.
  constexpr int64_t kRowsPerStep = BatchPlannerOptions{}.rows_per_step;
  const auto stages = static_cast<int>(options.plan.stages.size());
  SyntheticLoad::Options load_options{.chunk_rows = [stages](int64_t rows_left) {
    return PrefillChunkRows(rows_left, stages, kRowsPerStep);
  }};
  load_options.experts = 0;
  for (const LayerFacts& layer : model.facts.layers) {
    load_options.experts = std::max(load_options.experts, layer.experts);
  }
  const int64_t positions = PositionsNeeded(flags);
  const int64_t sequences = std::max<int64_t>(1, std::ranges::max(flags.batches));
  const int64_t states = 2 * sequences;  // SyntheticLoad keeps two rings of each.
  options.limits = LimitsFor(model.spec, options.plan, {positions, states},
                             std::max(kRowsPerStep, load_options.fill_chunk));
  options.profile = true;
  ASSIGN_OR_RETURN(options.packed_cache, flags.packed_cache.open());
  ASSIGN_OR_RETURN(options.expert_memory, ParseExpertMemory(flags.expert_memory));
  report.isa = IsaName(options.isa);

  ASSIGN_OR_RETURN(const std::unique_ptr<LocalCluster> cluster,
                   MeasureLoading(model, std::move(options), report));
  ASSIGN_OR_RETURN(const ActivationMode activations, ParseActivationMode(flags.compute.activations));
  ASSIGN_OR_RETURN(const Plan::KvDtype kv, ParseKvDtype(flags.compute.kv_dtype));
  const WorkModel work(*model.weights, activations, CacheDTypeOf(kv));
  PipelineEngine engine(kLocalLiveness);
  RETURN_IF_ERROR(cluster->open(cluster->plan(), engine));
  SyntheticLoad load(engine, load_options);
  const absl::Status measured = Bencher(flags, meter, *cluster, load, work).run(report.results);
  report.peak_resident_bytes = PeakResidentBytes() - meter.resident_bytes();
  cluster->close(engine, Cancelled("done"));
  RETURN_IF_ERROR(measured);
  if (nodes > 1) {
    ASSIGN_OR_RETURN(std::vector<double> trips,
                     cluster->round_trips_us(Epoch{2}, kRoundTripBytes, kRoundTrips));
    report.round_trip_us = SpreadOf(std::move(trips));
  }

  report.model = model.facts.name;
  report.split = flags.nodes > 1 ? SplitText(cluster->plan()) : flags.split;
  report.transport = flags.transport;
  report.experts_over = flags.experts_over;
  report.threads = flags.compute.threads;
  report.kv_bytes = static_cast<int64_t>(SumOf(work.of({.cached = positions, .states = sequences})).kv_bytes);
  for (int32_t i = 0; i < nodes; ++i) report.weight_bytes += cluster->model(NodeId{i}).bytes();
  return absl::OkStatus();
}

absl::Status Bench(BenchFlags flags) {
  if (flags.check_plan) {
    flags.check.model = flags.model;
    flags.check.runs = flags.runs;
    flags.check.json = flags.json;
    return CheckPlan(flags.check);
  }
  BenchReport report;
  report.machine = ReadTopology();
  ASSIGN_OR_RETURN(const std::vector<int> cpus, flags.compute.chosen_cpus());
  std::set<int> threads = {1, flags.compute.chosen_threads()};
  // Before the model, and all the time, so that it can be told apart from what the model takes.
  RooflineOptions bounds;
  ASSIGN_OR_RETURN(bounds.isa, flags.compute.chosen_isa());
  ASSIGN_OR_RETURN(const RooflineMeter meter,
                   RooflineMeter::Create(flags.compute.chosen_threads(), cpus, bounds));
  if (!flags.roofline) {
    RETURN_IF_ERROR(MeasureModel(flags, meter, report));
    threads = {1};
    for (const BenchResult& result : report.results) threads.insert(result.bound_threads);
  }
  for (const int n : threads) {
    LogInfo("measuring the bounds of {} thread{}", n, n == 1 ? "" : "s");
    report.bounds[n] = meter.measure(n);
  }
  for (const BenchResult& result : report.results) {
    double& read_gbs = report.bounds[result.bound_threads].read_gbs;
    read_gbs = std::max(read_gbs, result.read_bound_gbs);
  }
  Reconcile(report.bounds);
  fmt::print("{}\n", flags.json ? BenchJson(report) : BenchText(report));
  return absl::OkStatus();
}

}  // namespace

Command AddBenchCommand(Flags root) {
  auto flags = std::make_shared<BenchFlags>();
  Flags app = root.add_subcommand(
      "bench", "Measure a model, or a shape with random weights, against the bounds of this machine");
  const Flag model =
      app.add_option("--model", flags->model, "Model folder; with --check-plan: a model's name");
  const Flag shape =
      app.add_option("--shape", flags->shape,
                     "A: Qwen3-1.7B; B: Qwen3-30B-A3B cut to 6 layers; random, 4 bits in groups of 64");
  const Flag roofline =
      app.add_flag("--roofline", flags->roofline, "Only the bounds, of one thread and of --threads");
  model.excludes(shape).excludes(roofline);
  shape.excludes(roofline);
  app.add_option("--cache", flags->cache,
                 "Where the weights of --shape are kept (default: $XDG_CACHE_HOME/shoal, or ~/.cache/shoal)");
  app.add_option("--prompt", flags->prompts, "Tokens of a prefill, or several lengths (default 512); 0: none")
      .delimiter(',')
      .range(0, 1 << 20);
  app.add_option("--gen", flags->gen, "Tokens to decode (default 64); 0: prefill only").range(0, 1 << 16);
  app.add_option(
         "--batch", flags->batches,
         "Sequences decoded together, or several such numbers (default 1); 0: none but those of --context")
      .delimiter(',')
      .range(0, 256);
  app.add_option("--context", flags->contexts, "Decode at so many cached positions, too")
      .delimiter(',')
      .range(1, 1 << 20);
  app.add_option("--runs", flags->runs, "Of each measurement, after one to warm up (default 5)")
      .range(1, 1000);
  const Flag split =
      app.add_option("--split", flags->split,
                     "Layers over several nodes of this process: how many each, or shares such as 1,1");
  app.add_option("--nodes", flags->nodes,
                 "Layers over so many nodes of this process, as a server divides them")
      .range(1, 64)
      .excludes(split);
  app.add_option("--experts-over", flags->experts_over, "Experts over so many nodes, layers on the first")
      .range(1, 64)
      .excludes(split);
  app.add_option("--transport", flags->transport, "Between the nodes: inproc (default) or grpc");
  app.add_option("--wire", flags->wire, "How rows travel between them: exact (default), f16 or q8");
  app.add_flag("--json", flags->json, "For scripts");
  const Flag check = app.add_flag(
      "--check-plan", flags->check_plan,
      "Hold a running, idle cluster to what its plan predicts: tokens/s, time to the first token");
  check.excludes(shape).excludes(roofline);
  app.add_option("--url", flags->check.url, "Its coordinator (default http://127.0.0.1:8000)").needs(check);
  app.add_option("--api-key", flags->check.api_key, "The key that it wants, if any").envname("SHOAL_API_KEY");
  app.add_option("--within", flags->check.within,
                 "Fail where a prediction is further off than so many percent")
      .range(0.1, 1e6)
      .needs(check);
  flags->compute.add_to(app);
  flags->packed_cache.add_to(app);
  AddExpertMemoryOption(app, flags->expert_memory);
  app.require([flags] {
    const bool given = !flags->model.empty() || !flags->shape.empty() || flags->roofline || flags->check_plan;
    return given ? "" : "--model, --shape, --roofline or --check-plan";
  });
  return {app, [flags] { return Bench(*flags); }};
}

}  // namespace shoal
