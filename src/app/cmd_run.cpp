#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <nlohmann/json.hpp>

#include "app/command.h"
#include "app/draft_host.h"
#include "app/progress.h"
#include "app/tokenizer_assets.h"
#include "base/process.h"
#include "base/random.h"
#include "base/status.h"
#include "sched/scheduler.h"
#include "text/chat_template.h"
#include "text/stream_decoder.h"
#include "text/tokenizer.h"

namespace shoal {
namespace {

struct RunFlags {
  std::string model;
  std::string prompt;
  std::string transport = "inproc";
  int64_t max_tokens = 256;
  float temperature = 0;
  float top_p = 1;
  int32_t top_k = 0;
  uint64_t seed = 0;
  bool chat = false;
  bool json = false;
  bool ignore_eos = false;
  ComputeFlags compute;
  PackedCacheFlags cache;
  std::string expert_memory;
  PlacementFlags placement;
  SpeculationFlags speculation;
};

/// Prints pieces as they come, and remembers when they came.
class TerminalSink final : public EventSink {
 public:
  TerminalSink(const Tokenizer& tokenizer, bool print) : decoder_(tokenizer, true), print_(print) {}

  bool on_tokens(int /*choice*/, std::span<const SampledToken> tokens) override {
    const int64_t now_ns = NowNs();
    if (tokens_.empty()) first_ns_ = now_ns;
    last_ns_ = now_ns;
    for (const SampledToken& token : tokens) {
      tokens_.push_back(token.id);
      const auto piece = decoder_.push(token.id);
      if (piece.ok()) show(*piece);
    }
    return true;
  }
  void on_finish(int /*choice*/, FinishReason reason) override {
    const auto rest = decoder_.flush();
    if (rest.ok()) show(*rest);
    end(absl::OkStatus(), reason == FinishReason::kStop ? "stop" : "length");
  }
  void on_error(const absl::Status& status) override { end(status, "error"); }

  absl::Status wait() {
    std::unique_lock lock(mutex_);
    ended_cv_.wait(lock, [this] { return ended_; });  // The request's own deadline ends it.
    return status_;
  }

  const std::vector<int32_t>& tokens() const { return tokens_; }
  const std::string& text() const { return text_; }
  const std::string& finish_reason() const { return reason_; }
  int64_t first_ns() const { return first_ns_; }
  int64_t last_ns() const { return last_ns_; }

 private:
  void show(const std::string& piece) {
    text_ += piece;
    if (!print_) return;
    std::fputs(piece.c_str(), stdout);
    std::fflush(stdout);
  }
  void end(const absl::Status& status, std::string reason) {
    const std::lock_guard lock(mutex_);
    status_ = status;
    reason_ = std::move(reason);
    ended_ = true;
    ended_cv_.notify_all();
  }

  StreamDecoder decoder_;
  const bool print_;
  std::vector<int32_t> tokens_;
  std::string text_;
  std::string reason_;
  int64_t first_ns_ = 0;
  int64_t last_ns_ = 0;
  std::mutex mutex_;
  std::condition_variable ended_cv_;
  bool ended_ = false;
  absl::Status status_;
};

absl::StatusOr<std::vector<int32_t>> EncodePrompt(const RunFlags& flags, const Checkpoint& checkpoint,
                                                  const Tokenizer& tokenizer) {
  if (!flags.chat) return tokenizer.encode_prompt(flags.prompt);
  ASSIGN_OR_RETURN(const ChatTemplate chat, LoadChatTemplate(checkpoint));
  const std::string messages = nlohmann::json::array({{{"role", "user"}, {"content", flags.prompt}}}).dump();
  ASSIGN_OR_RETURN(RenderedPrompt prompt, chat.encode({.messages = messages, .reshape = true}, tokenizer));
  return std::move(prompt.ids);
}

void PrintSummary(const RunFlags& flags, const TerminalSink& sink, size_t prompt_tokens, int64_t started_ns,
                  const LoadStats& load) {
  const double prefill_s = static_cast<double>(sink.first_ns() - started_ns) * 1e-9;
  const double decode_s = static_cast<double>(sink.last_ns() - sink.first_ns()) * 1e-9;
  const auto generated = sink.tokens().size();
  const double prefill_rate = prefill_s > 0 ? static_cast<double>(prompt_tokens) / prefill_s : 0;
  const double decode_rate =
      generated > 1 && decode_s > 0 ? static_cast<double>(generated - 1) / decode_s : 0;
  if (flags.json) {
    const nlohmann::ordered_json out = {{"text", sink.text()},
                                        {"tokens", sink.tokens()},
                                        {"prompt_tokens", prompt_tokens},
                                        {"completion_tokens", generated},
                                        {"finish_reason", sink.finish_reason()},
                                        {"time_to_first_token_s", prefill_s},
                                        {"prefill_tokens_per_s", prefill_rate},
                                        {"decode_tokens_per_s", decode_rate},
                                        {"load",
                                         {{"packed_bytes", load.bytes},
                                          {"seconds", static_cast<double>(load.ns) * 1e-9},
                                          {"gigabytes_per_s", load.gigabytes_per_second()},
                                          {"from_packed_cache", load.from_cache}}},
                                        {"resident_bytes", ResidentBytes()}};
    fmt::print("{}\n", out.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
    return;
  }
  fmt::print("\n");
  std::fflush(stdout);  // Where both streams are one terminal or file, the summary comes after the text.
  fmt::print(stderr, "loaded {}\n", load.text());
  fmt::print(stderr, "{} prompt tokens at {:.1f}/s, {} tokens at {:.1f}/s, ended by {}\n", prompt_tokens,
             prefill_rate, generated, decode_rate, sink.finish_reason());
}

absl::Status Run(const RunFlags& flags) {
  ASSIGN_OR_RETURN(const OpenedModel model, OpenModel(flags.model));
  ASSIGN_OR_RETURN(const Tokenizer tokenizer, LoadTokenizer(*model.checkpoint));
  RETURN_IF_ERROR(flags.speculation.check(flags.speculation.draft_model));
  std::unique_ptr<DraftHost> draft;
  if (!flags.speculation.draft_model.empty()) {
    ASSIGN_OR_RETURN(
        draft, DraftHost::Open({.folder = flags.speculation.draft_model, .compute = flags.compute}, model,
                               tokenizer));
  }
  GenerationRequest request;
  ASSIGN_OR_RETURN(request.prompt, EncodePrompt(flags, *model.checkpoint, tokenizer));
  ASSIGN_OR_RETURN(LocalCluster::Options options,
                   LocalOptions(model, flags.placement, flags.compute, flags.transport));
  options.plan.mtp = flags.speculation.uses_mtp() && model.facts.mtp.has_value();
  ASSIGN_OR_RETURN(options.packed_cache, flags.cache.open());
  ASSIGN_OR_RETURN(options.expert_memory, ParseExpertMemory(flags.expert_memory));
  const auto prompt_tokens = static_cast<int64_t>(request.prompt.size());
  options.limits = LimitsFor(model.spec, options.plan,
                             {std::min(model.spec.max_positions, prompt_tokens + flags.max_tokens), 1}, 512);
  std::unique_ptr<LocalCluster> cluster;
  {
    ProgressBar bar("loading");
    options.progress = [&bar](int64_t done, int64_t total) { bar.update(done, total); };
    ASSIGN_OR_RETURN(cluster, LocalCluster::Load(std::move(options)));
  }
  if (draft != nullptr) {
    ASSIGN_OR_RETURN(auto packed_cache, flags.cache.open());
    RETURN_IF_ERROR(draft->load(nullptr, std::move(packed_cache)));
  }
  PipelineEngine engine(kLocalLiveness);
  RETURN_IF_ERROR(cluster->open(cluster->plan(), engine));
  request.id = "run";
  request.max_tokens = std::min(flags.max_tokens, model.spec.max_positions - prompt_tokens);
  request.sampling.temperature = flags.temperature;
  request.sampling.top_p = flags.top_p;
  request.sampling.top_k = flags.top_k;
  request.sampling.seed = flags.seed != 0 ? flags.seed : EntropySeed();
  ASSIGN_OR_RETURN(request.eos_ids, LoadEndOfText(*model.checkpoint, tokenizer));
  request.ignore_eos = flags.ignore_eos;
  request.deadline = Deadline::after(std::chrono::hours(24));

  absl::Status ended;
  {
    auto sink = std::make_shared<TerminalSink>(tokenizer, !flags.json);
    Scheduler scheduler(
        engine,
        {.batch = {.draft_max = flags.speculation.tokens_max(), .draft_when = flags.speculation.when()},
         .on_loss = OnLoss::kFail,
         .draft_engine =
             draft == nullptr ? nullptr : &draft->engine()});  // Nobody would open the cluster again.
    const int64_t started_ns = NowNs();
    const auto submitted = scheduler.submit(std::move(request), sink);
    ended = submitted.ok() ? sink->wait() : submitted.status();
    if (ended.ok())
      PrintSummary(flags, *sink, static_cast<size_t>(prompt_tokens), started_ns, cluster->load_stats());
  }
  cluster->close(engine, Cancelled("done"));
  cluster->finish_saving();
  return ended;
}

}  // namespace

Command AddRunCommand(Flags root) {
  auto flags = std::make_shared<RunFlags>();
  Flags app = root.add_subcommand("run", "Generate text in this process, on one node or on several at once");
  app.add_option("--model", flags->model, "Model folder, or a GGUF file").required();
  app.add_option("--prompt", flags->prompt, "Text to continue, or the user's message with --chat").required();
  app.add_flag("--chat", flags->chat, "Put the prompt into the model's chat template");
  app.add_option("--max-tokens", flags->max_tokens, "At most so many tokens (default 256)").range(1, 1 << 30);
  app.add_option("--temperature", flags->temperature, "0 (default): always the likeliest token")
      .range(0.0, 2.0);
  app.add_option("--top-p", flags->top_p, "Share of the probability to draw from").range(0.0, 1.0);
  app.add_option("--top-k", flags->top_k, "How many tokens to draw from; 0: all").range(0, 1 << 30);
  app.add_option("--seed", flags->seed, "Same seed, same text; 0: a new one each time");
  app.add_flag("--ignore-eos", flags->ignore_eos, "Go on after the end-of-text token, for measuring");
  app.add_flag("--json", flags->json, "Print text, ids and rates as JSON");
  app.add_option("--transport", flags->transport,
                 "Between the nodes of a placement: inproc (default) or grpc");
  flags->speculation.add_to(app);
  flags->compute.add_to(app);
  flags->cache.add_to(app);
  AddExpertMemoryOption(app, flags->expert_memory);
  flags->placement.add_to(app, false);
  return {app, [flags] { return Run(*flags); }};
}

}  // namespace shoal
