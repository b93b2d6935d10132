#include <nlohmann/json.hpp>

#include "app/command.h"
#include "app/model_text.h"
#include "app/progress.h"
#include "base/file.h"
#include "base/status.h"
#include "exec/evaluation.h"

namespace shoal {
namespace {

struct EvalFlags {
  std::string model;
  std::string reference;
  std::string reference_activations;
  std::string text;
  int64_t window = 512;
  int64_t tokens = 0;
  bool json = false;
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

absl::Status Start(const OpenedModel& model, const EvalFlags& flags, const std::string& activations,
                   const char* what, Running* running) {
  ComputeFlags compute = flags.compute;
  compute.activations = activations;
  ASSIGN_OR_RETURN(LocalCluster::Options options, LocalOptions(model, flags.placement, compute, "inproc"));
  options.limits = LimitsFor(model.spec, flags.window, flags.window);
  ProgressBar bar(what);
  options.progress = [&bar](int64_t done, int64_t total) { bar.update(done, total); };
  ASSIGN_OR_RETURN(running->cluster, LocalCluster::Load(std::move(options)));
  running->engine = std::make_unique<PipelineEngine>(kLocalLiveness);
  return running->cluster->open(Epoch{1}, *running->engine);
}

void Print(const EvalFlags& flags, const Evaluation& result) {
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
    fmt::print("{}\n", out.dump(2));
    return;
  }
  fmt::print("perplexity {:.4f} over {} tokens\n", result.model.perplexity(), result.model.tokens());
  if (!compared) return;
  fmt::print("reference  {:.4f}\nmean KL    {:.3e} nats (largest {:.3e})\ntop-1      {:.2f} %\n",
             result.reference.perplexity(), result.divergence.mean_kl(), result.divergence.max_kl(),
             100 * result.divergence.top1());
}

absl::Status Eval(const EvalFlags& flags) {
  ASSIGN_OR_RETURN(const std::string text, ReadTextFile(flags.text, kTextBytesMax));
  ASSIGN_OR_RETURN(const OpenedModel model, OpenModel(flags.model));
  ASSIGN_OR_RETURN(const Tokenizer tokenizer, LoadTokenizer(*model.checkpoint));
  ASSIGN_OR_RETURN(std::vector<int32_t> ids,
                   tokenizer.encode(text, {.add_special = true, .parse_special = true}));
  if (flags.tokens > 0 && std::ssize(ids) > flags.tokens) ids.resize(static_cast<size_t>(flags.tokens));

  Running running;
  RETURN_IF_ERROR(Start(model, flags, flags.compute.activations, "loading", &running));
  Running reference;
  const bool compared = !flags.reference.empty() || !flags.reference_activations.empty();
  if (compared) {
    ASSIGN_OR_RETURN(const OpenedModel other,
                     OpenModel(flags.reference.empty() ? flags.model : flags.reference));
    const std::string activations = flags.reference_activations.empty() ? "f32" : flags.reference_activations;
    RETURN_IF_ERROR(Start(other, flags, activations, "loading the reference", &reference));
  }
  absl::StatusOr<Evaluation> result;
  {
    ProgressBar bar("evaluating");
    result = EvaluateText(*running.engine, reference.engine.get(), ids, flags.window,
                          [&bar](int64_t done, int64_t total) { bar.update(done, total); });
  }
  RETURN_IF_ERROR(result.status());
  Print(flags, *result);
  return absl::OkStatus();
}

}  // namespace

Command AddEvalCommand(CLI::App& root) {
  auto flags = std::make_shared<EvalFlags>();
  CLI::App* app = root.add_subcommand(
      "eval", "Perplexity of a text, and how far the model's distributions are from a reference's");
  app->add_option("--model", flags->model, "Model folder, or a GGUF file")->required();
  app->add_option("--text", flags->text, "File of text, as the model was trained on")->required();
  app->add_option("--reference", flags->reference,
                  "Model to compare with, computed with f32 activations: the unquantized one, say");
  app->add_option("--reference-activations", flags->reference_activations,
                  "int8 or f32 (default): how the reference is computed; alone: the same model");
  app->add_option("--window", flags->window, "Tokens of each piece of the text (default 512)")
      ->check(CLI::Range(2, 1 << 20));
  app->add_option("--tokens", flags->tokens, "At most so many tokens of the text")
      ->check(CLI::Range(2, 1 << 30));
  app->add_flag("--json", flags->json, "For scripts");
  flags->compute.add_to(*app);
  flags->placement.add_to(*app, false);
  return {app, [flags] { return Eval(*flags); }};
}

}  // namespace shoal
