#include <nlohmann/json.hpp>

#include "app/command.h"
#include "app/progress.h"
#include "app/tokenizer_assets.h"
#include "base/file.h"
#include "base/status.h"
#include "measure/evaluation.h"
#include "plan/rounding.h"

namespace shoal {
namespace {

struct EvalFlags {
  std::string model;
  std::string reference;
  std::string reference_activations;
  std::string reference_kv_dtype;
  std::string text;
  int64_t window = 512;
  int64_t tokens = 0;
  bool json = false;
  bool layers = false;
  ComputeFlags compute;
  PlacementFlags placement;
};

/// A text longer than this would take days.
constexpr int64_t kTextBytesMax = 256 << 20;

/// A model ready for steps, alone or on the nodes of a placement, in this process.
struct Running {
  std::unique_ptr<LocalCluster> cluster;
  std::unique_ptr<PipelineEngine> engine;

  ~Running() {
    if (cluster != nullptr) cluster->close(*engine, Cancelled("done"));
  }
};

/// What is run: the model of the flags, or what it is compared with.
struct Side {
  std::string activations;
  std::string kv_dtype;
  std::string wire;  ///< As PlacementFlags::wire.
  const char* what;  ///< Beside the progress of loading.
};

absl::Status Start(const OpenedModel& model, const EvalFlags& flags, const Side& side, LayerHook hook,
                   Running* running) {
  ComputeFlags compute = flags.compute;
  compute.activations = side.activations;
  compute.kv_dtype = side.kv_dtype;
  PlacementFlags placement = flags.placement;
  placement.wire = side.wire;
  ASSIGN_OR_RETURN(LocalCluster::Options options, LocalOptions(model, placement, compute, "inproc"));
  options.hook = std::move(hook);
  options.limits = LimitsFor(model.spec, options.plan, {flags.window, 1}, flags.window);
  ProgressBar bar(side.what);
  options.progress = [&bar](int64_t done, int64_t total) { bar.update(done, total); };
  ASSIGN_OR_RETURN(running->cluster, LocalCluster::Load(std::move(options)));
  running->engine = std::make_unique<PipelineEngine>(kLocalLiveness);
  return running->cluster->open(running->cluster->plan(), *running->engine);
}

std::string NameOfLayer(int64_t layer) { return layer < 0 ? "embedding" : std::to_string(layer); }

/// layers: nullptr where nobody asked.
void Print(const EvalFlags& flags, const Evaluation& result, const LayerErrors* layers) {
  const bool compared = result.divergence.rows() > 0;
  if (flags.json) {
    nlohmann::ordered_json out = {{"tokens", result.model.tokens()},
                                  {"nll", result.model.mean_nll()},
                                  {"perplexity", result.model.perplexity()}};
    if (compared) {
      out["reference_perplexity"] = result.reference.perplexity();
      out["mean_kl"] = result.divergence.mean_kl();
      out["max_kl"] = result.divergence.max_kl();
      out["top1"] = result.divergence.top1();
    }
    for (int64_t i = -1; layers != nullptr && i < layers->layers(); ++i) {
      const double error = layers->relative_rms(LayerId{static_cast<int32_t>(i)});
      out["layers"].push_back({{"layer", NameOfLayer(i)}, {"relative_rms", error}});
    }
    fmt::print("{}\n", out.dump(2));
    return;
  }
  fmt::print("perplexity {:.4f} over {} tokens\n", result.model.perplexity(), result.model.tokens());
  if (!compared) return;
  fmt::print("reference  {:.4f}\nmean KL    {:.3e} nats (largest {:.3e})\ntop-1      {:.2f} %\n",
             result.reference.perplexity(), result.divergence.mean_kl(), result.divergence.max_kl(),
             100 * result.divergence.top1());
  if (layers == nullptr) return;
  fmt::print("\nafter layer  relative rms error\n");
  for (int64_t i = -1; i < layers->layers(); ++i) {
    fmt::print("{:>11}  {:.3e}\n", NameOfLayer(i), layers->relative_rms(LayerId{static_cast<int32_t>(i)}));
  }
}

/// Whether rows of the placement are rounded between its nodes.
absl::StatusOr<bool> RoundsRows(const OpenedModel& model, const EvalFlags& flags) {
  ASSIGN_OR_RETURN(const LocalCluster::Options options,
                   LocalOptions(model, flags.placement, flags.compute, "inproc"));
  const Plan& plan = options.plan;
  const bool rounds = !RoundingsOf(plan).empty();
  if (!rounds && plan.wire_dtype != Plan::WireDtype::kExact) {
    return InvalidArgument(
        "eval: --wire {}: no row travels in this placement, so nothing is rounded; give --split 2,2,2, say, "
        "or --plan",
        Name(plan.wire_dtype));
  }
  return rounds;
}

absl::Status Eval(const EvalFlags& flags) {
  ASSIGN_OR_RETURN(const std::string text, ReadTextFile(flags.text, kTextBytesMax));
  ASSIGN_OR_RETURN(const OpenedModel model, OpenModel(flags.model));
  ASSIGN_OR_RETURN(const Tokenizer tokenizer, LoadTokenizer(*model.checkpoint));
  ASSIGN_OR_RETURN(std::vector<int32_t> ids,
                   tokenizer.encode(text, {.add_special = true, .parse_special = true}));
  if (flags.tokens > 0 && std::ssize(ids) > flags.tokens) ids.resize(static_cast<size_t>(flags.tokens));

  ASSIGN_OR_RETURN(const bool rounds, RoundsRows(model, flags));
  const bool compared = rounds || !flags.reference.empty() || !flags.reference_activations.empty() ||
                        !flags.reference_kv_dtype.empty();
  if (flags.layers && !compared) {
    return InvalidArgument(
        "eval: --layers: errors are against a reference; give --reference, --reference-activations or "
        "--reference-kv-dtype");
  }
  LayerErrors layers(flags.layers ? model.spec.layer_count() : 0);
  LayerHook hook;
  LayerHook reference_hook;
  if (flags.layers) {
    hook = [&layers](LayerId layer, MatView<const float> x) { layers.add_model(layer, x); };
    reference_hook = [&layers](LayerId layer, MatView<const float> x) { layers.add_reference(layer, x); };
  }
  Running running;
  RETURN_IF_ERROR(Start(model, flags,
                        {flags.compute.activations, flags.compute.kv_dtype, flags.placement.wire, "loading"},
                        std::move(hook), &running));
  Running reference;
  if (compared) {
    ASSIGN_OR_RETURN(const OpenedModel other,
                     OpenModel(flags.reference.empty() ? flags.model : flags.reference));
    if (flags.layers &&
        (other.spec.width != model.spec.width || other.spec.layer_count() != layers.layers())) {
      return InvalidArgument("eval: --layers: expected a reference of {} layers of width {}, found {} of {}",
                             layers.layers(), model.spec.width, other.spec.layer_count(), other.spec.width);
    }
    // Alone, the rounding of rows, or of the cache, is what is measured.
    std::string activations = flags.reference_activations;
    if (activations.empty()) activations = flags.reference.empty() ? flags.compute.activations : "f32";
    const std::string& kv_dtype =
        flags.reference_kv_dtype.empty() ? flags.compute.kv_dtype : flags.reference_kv_dtype;
    RETURN_IF_ERROR(Start(other, flags, {activations, kv_dtype, "exact", "loading the reference"},
                          std::move(reference_hook), &reference));
  }
  absl::StatusOr<Evaluation> result;
  {
    ProgressBar bar("evaluating");
    result = EvaluateText(*running.engine, reference.engine.get(), ids, flags.window,
                          flags.layers ? &layers : nullptr,
                          [&bar](int64_t done, int64_t total) { bar.update(done, total); });
  }
  RETURN_IF_ERROR(result.status());
  Print(flags, *result, flags.layers ? &layers : nullptr);
  return absl::OkStatus();
}

}  // namespace

Command AddEvalCommand(Flags root) {
  auto flags = std::make_shared<EvalFlags>();
  Flags app = root.add_subcommand(
      "eval", "Perplexity of a text, and how far the model's distributions are from a reference's");
  app.add_option("--model", flags->model, "Model folder, or a GGUF file").required();
  app.add_option("--text", flags->text, "File of text, as the model was trained on").required();
  app.add_option("--reference", flags->reference,
                 "Model to compare with, computed with f32 activations: the unquantized one, say");
  app.add_option(
      "--reference-activations", flags->reference_activations,
      "int8 or f32 (default; with --wire alone as the model): how the reference is computed; alone: the same "
      "model. Its rows travel exactly, so that with --wire f16 or q8 their rounding is measured");
  app.add_option(
      "--reference-kv-dtype", flags->reference_kv_dtype,
      "The cache of the reference, by default that of the model (--kv-dtype); alone: the same model");
  app.add_option("--window", flags->window, "Tokens of each chunk of the text (default 512)")
      .range(2, 1 << 20);
  app.add_option("--tokens", flags->tokens, "At most so many tokens of the text").range(2, 1 << 30);
  app.add_flag("--layers", flags->layers,
               "With a reference: how far the rows that leave each layer are from its, as root mean squares");
  app.add_flag("--json", flags->json, "For scripts");
  flags->compute.add_to(app);
  flags->placement.add_to(app, false);
  return {app, [flags] { return Eval(*flags); }};
}

}  // namespace shoal
