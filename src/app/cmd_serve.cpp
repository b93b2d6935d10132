#include <cstdio>
#include <map>
#include <thread>

#include "api/answer/dialect_output.h"
#include "api/anthropic/api.h"
#include "api/api_keys.h"
#include "api/http/server.h"
#include "api/metrics.h"
#include "api/ollama/api.h"
#include "api/openai/api.h"
#include "api/openai/responses_api.h"
#include "app/cluster_status.h"
#include "app/command.h"
#include "app/progress.h"
#include "app/serving_planner.h"
#include "app/signals.h"
#include "app/tokenizer_assets.h"
#include "base/exposure.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "cluster/model_locator.h"
#include "cluster/remote_cluster.h"
#include "cluster/supervisor.h"
#include "kv/block_pool.h"
#include "sched/scheduler.h"

namespace shoal {
namespace {

struct ServeFlags {
  std::string model;
  std::vector<std::string> model_roots;
  std::string served_name;
  std::vector<std::string> hosts = {"localhost"};
  int port = 8000;
  int connections = 4096;
  std::vector<std::string> cors_origins;
  std::string api_key_file;
  std::string api_key;
  bool open_metrics = false;
  std::string listen;
  std::string memory;
  std::string key_file;
  bool insecure = false;
  CacheSize cache_size;
  int rows_per_step = 256;
  int queue = 1024;
  double request_timeout_s = 600;
  double drain_timeout_s = 8;  ///< Docker kills ten seconds after SIGTERM.
  double liveness_timeout_s = 7;
  double wait_s = 0;
  OnLoss on_loss = OnLoss::kResume;
  bool prefix_cache = true;
  std::string tool_parser = "auto";
  std::string reasoning_parser = "auto";
  ComputeFlags compute;
  PackedCacheFlags cache;
  PlacementFlags placement;
};

constexpr int64_t kKeyFileBytesMax = 1 << 20;
constexpr Duration kFlushTimeout = std::chrono::seconds(2);  ///< For clients to take their last bytes.
constexpr Duration kClusterStopMax = std::chrono::seconds(3);
constexpr Duration kDescribeTimeout = std::chrono::seconds(2);

Duration Seconds(double seconds) {
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
}

/// Progress bars by member, made when the first bytes are there.
class LoadBars {
 public:
  void update(const std::string& member, int64_t done, int64_t total) {
    const std::lock_guard lock(mutex_);
    std::unique_ptr<ProgressBar>& bar = bars_[member];
    if (bar == nullptr) bar = std::make_unique<ProgressBar>("loading on " + member);
    bar->update(done, total);
    if (done == total) bars_.erase(member);
  }

 private:
  std::mutex mutex_;
  std::map<std::string, std::unique_ptr<ProgressBar>> bars_;
};

absl::StatusOr<std::string> ModelFolder(const ServeFlags& flags, const Placement& placement) {
  if (!flags.model.empty()) return flags.model;
  if (placement.model_name.empty()) {
    return InvalidArgument(
        "serve: which model? Give --model DIR, or a cluster file with \"model\" and --model-root DIR");
  }
  if (flags.model_roots.empty()) {
    return InvalidArgument(
        "serve: the cluster file names '{}'; give --model-root DIR to find it under, or --model DIR",
        placement.model_name);
  }
  return FindModel(flags.model_roots, placement.model_name);
}

/// Everything a server is made of, in the order in which it is built; it is torn down in the reverse.
class Server {
 public:
  explicit Server(const ServeFlags& flags) : flags_(flags) {}

  absl::Status start() {
    RETURN_IF_ERROR(configure());
    RETURN_IF_ERROR(load_text());
    RETURN_IF_ERROR(start_cluster());
    RETURN_IF_ERROR(start_api());
    supervisor_->start();
    return absl::OkStatus();
  }

  void stop() {
    if (api_ != nullptr) drain();
    UnblockStopSignals();
    ExitWithin(kFlushTimeout + kClusterStopMax);    // Weights may be loading, and a handler may be slow.
    if (scheduler_ != nullptr) scheduler_->stop();  // What still runs ends with an error, told to its client.
    if (http_ != nullptr) http_->stop(kFlushTimeout);
    if (supervisor_ != nullptr) supervisor_->stop();
  }

 private:
  absl::Status configure();
  absl::Status load_text();
  /// What the model's template shows, or the flags say, of how it writes reasoning and tool calls.
  absl::Status choose_dialect();
  absl::Status start_cluster();
  absl::Status start_api();
  absl::Status start_http();
  absl::StatusOr<OllamaModel> ollama_model() const;
  /// Takes no new requests, and lets those in progress end, for a while or until another signal comes.
  void drain();
  std::vector<LinkTotals> link_totals() const;
  std::string node_name(NodeId node) const;

  const ServeFlags& flags_;
  std::optional<KeyAuth> key_;
  std::string listen_;  ///< As of the flag, or the cluster file.
  std::vector<std::string> model_names_;
  OpenedModel model_;
  std::unique_ptr<ServingPlanner> planner_;
  std::optional<ServedText> text_;
  std::optional<DialectOutput> output_;
  LoadBars bars_;
  std::unique_ptr<RemoteCluster> cluster_;
  std::unique_ptr<PipelineEngine> engine_;
  std::unique_ptr<Supervisor> supervisor_;
  Metrics metrics_;
  std::unique_ptr<Scheduler> scheduler_;
  std::unique_ptr<AnswerService> service_;
  std::unique_ptr<OpenAiApi> api_;
  std::unique_ptr<ResponsesApi> responses_;
  std::unique_ptr<AnthropicApi> anthropic_;
  std::unique_ptr<OllamaApi> ollama_;
  std::unique_ptr<ApiKeys> api_keys_;  ///< nullptr: everybody may ask.
  std::unique_ptr<HttpServer> http_;
};

absl::Status Server::configure() {
  if (!flags_.key_file.empty()) {
    ASSIGN_OR_RETURN(key_, KeyAuth::from_file(flags_.key_file));
  }
  ASSIGN_OR_RETURN(Placement placement, ReadPlacement(flags_.placement, flags_.compute));
  if (flags_.placement.workers.empty() && flags_.placement.cluster.empty() && flags_.placement.plan.empty() &&
      placement.nodes.size() > 1) {
    return InvalidArgument(
        "serve: a placement over {} nodes needs --workers or --cluster; this process is one node",
        placement.nodes.size());
  }
  RETURN_IF_ERROR(DescribeThisNode(placement, flags_.compute, flags_.memory));
  listen_ = flags_.listen.empty() ? placement.coordinator_address : flags_.listen;
  ASSIGN_OR_RETURN(const std::string folder, ModelFolder(flags_, placement));
  model_names_ = ModelNames(folder, placement.model_name);
  ASSIGN_OR_RETURN(model_,
                   OpenModel(folder, flags_.served_name.empty() ? placement.model_name : flags_.served_name));
  for (const auto& [what, count] : model_.footprint.ignored_tensors) {
    LogInfo("{}: {} tensors of {} are ignored", model_.facts.name, count, what);
  }
  // A node may be asked for as many rows as one step has.
  ASSIGN_OR_RETURN(planner_, ServingPlanner::Create({.placement = std::move(placement),
                                                     .model = model_.facts,
                                                     .spec = model_.spec,
                                                     .cache = flags_.cache_size,
                                                     .rows_per_step = flags_.rows_per_step}));
  return absl::OkStatus();
}

absl::Status Server::load_text() {
  ASSIGN_OR_RETURN(Tokenizer tokenizer, LoadTokenizer(*model_.checkpoint));
  absl::StatusOr<ChatTemplate> chat = LoadChatTemplate(*model_.checkpoint);
  if (!chat.ok() && chat.status().code() != absl::StatusCode::kNotFound) return chat.status();
  text_.emplace(ServedText{std::move(tokenizer), std::nullopt});
  if (chat.ok()) {
    text_->chat.emplace(std::move(*chat));
  } else {
    LogWarning("{}: /v1/chat/completions will be refused", Message(chat.status()));
  }
  return choose_dialect();
}

absl::Status Server::choose_dialect() {
  Dialect recognized;
  if (text_->chat.has_value()) {
    recognized = RecognizeDialect(text_->chat->source(), [this](std::string_view name) {
      return text_->tokenizer.token_id(name).has_value();
    });
  }
  auto chosen = ChooseDialect(recognized, flags_.tool_parser, flags_.reasoning_parser);
  if (!chosen.ok()) return Annotate(chosen.status(), "serve");
  LogInfo("tool calls are read as '{}', reasoning as '{}'", chosen->tools, chosen->reasoning);
  output_.emplace(*std::move(chosen), text_->tokenizer);
  return absl::OkStatus();
}

absl::Status Server::start_cluster() {
  const Duration timeout = Seconds(flags_.liveness_timeout_s);
  RemoteCluster::Options options;
  options.weights = model_.weights;
  options.members = planner_->members();
  options.adopt_names = planner_->adopts_names();
  options.limits = [this](const Plan& plan) { return planner_->limits(plan); };
  options.model_names = model_names_;
  options.listen = listen_;
  options.threads = flags_.compute.chosen_threads();
  ASSIGN_OR_RETURN(options.cpus, flags_.compute.chosen_cpus());
  ASSIGN_OR_RETURN(options.packed_cache, flags_.cache.open());
  ASSIGN_OR_RETURN(options.isa, flags_.compute.chosen_isa());
  // The asker names the owner before the coordinator gives the asker up.
  options.expert_timeout = std::max<Duration>(timeout - std::chrono::seconds(1), timeout / 2);
  options.key = key_;
  options.insecure = flags_.insecure;
  options.progress = [this](const std::string& member, int64_t done, int64_t total) {
    bars_.update(member, done, total);
  };
  const bool alone = options.members.size() == 1;
  ASSIGN_OR_RETURN(cluster_, RemoteCluster::Start(std::move(options)));
  engine_ = std::make_unique<PipelineEngine>(alone ? kLocalLiveness
                                                   : LivenessLimits{std::chrono::seconds(1), timeout});
  supervisor_ = std::make_unique<Supervisor>(*cluster_, *engine_, [this] {
    return planner_->make_plan(cluster_->members(), Deadline::after(kDescribeTimeout));
  });
  return absl::OkStatus();
}

std::vector<LinkTotals> Server::link_totals() const {
  std::vector<LinkTotals> totals;
  const std::string own = cluster_->members().self().name();
  for (const auto& [name, link] : cluster_->link_stats()) {
    if (name == own) continue;  // To itself nothing travels.
    totals.push_back(
        {own, name, static_cast<int64_t>(link.bytes_sent), static_cast<int64_t>(link.frames_sent)});
    totals.push_back(
        {name, own, static_cast<int64_t>(link.bytes_received), static_cast<int64_t>(link.frames_received)});
  }
  return totals;
}

std::string Server::node_name(NodeId node) const {
  const std::shared_ptr<const Plan> plan = supervisor_->plan();
  const bool known =
      plan != nullptr && node.value >= 0 && static_cast<size_t>(node.value) < plan->nodes.size();
  return known ? plan->node(node).name : fmt::format("{}", node);
}

absl::Status Server::start_api() {
  SchedulerOptions scheduling;
  scheduling.batch.rows_per_step = flags_.rows_per_step;
  scheduling.batch.prefix_cache = flags_.prefix_cache;
  scheduling.queue_max = flags_.queue;
  scheduling.on_loss = flags_.on_loss;
  scheduling.on_step = [this](const StepObservation& step) { metrics_.observe_step(step); };
  scheduler_ = std::make_unique<Scheduler>(*engine_, std::move(scheduling));
  metrics_.set_sources({[this] { return scheduler_->stats(); }, [this] { return link_totals(); },
                        [this](NodeId node) { return node_name(node); }});
  AnswerServiceOptions service;
  service.model_names = {model_.facts.name};
  service.vocabulary = static_cast<int32_t>(model_.spec.vocabulary);
  ASSIGN_OR_RETURN(service.eos_ids, LoadEndOfText(*model_.checkpoint, text_->tokenizer));
  const GenerationConfig& generation = model_.checkpoint->generation();
  service.sampling = {generation.temperature,
                      generation.top_p,
                      generation.min_p,
                      generation.top_k,
                      generation.repetition_penalty,
                      !generation.do_sample.value_or(true)};
  service.request_deadline = Seconds(flags_.request_timeout_s);
  service.chat_format = [this](const ChatRequest& chat, std::string_view prompt) {
    return output_->format(chat, prompt);
  };
  if (text_->chat.has_value()) {
    service.answer_format = [this](std::string_view prompt) {
      return AnswerFormatOf(output_->dialect(), text_->chat->source(), prompt);
    };
  }
  service_ = std::make_unique<AnswerService>(std::move(service), *text_, *scheduler_, metrics_);
  OpenAiOptions options;
  options.cluster_status = [this] {
    return ClusterStatusJson(*cluster_, *engine_, supervisor_->plan().get(), model_, planner_->nodes());
  };
  options.load_progress = [this] { return cluster_->load_progress(); };
  api_ = std::make_unique<OpenAiApi>(std::move(options), *service_, *scheduler_, metrics_);

  responses_ = std::make_unique<ResponsesApi>(*service_);
  anthropic_ = std::make_unique<AnthropicApi>(*service_);
  ASSIGN_OR_RETURN(OllamaModel ollama, ollama_model());
  ollama_ = std::make_unique<OllamaApi>(std::move(ollama), *service_);
  return start_http();
}

absl::StatusOr<std::unique_ptr<ApiKeys>> OpenApiKeys(const ServeFlags& flags) {
  std::vector<ApiKey> keys;
  if (!flags.api_key_file.empty()) {
    ASSIGN_OR_RETURN(const std::string text, ReadTextFile(flags.api_key_file, kKeyFileBytesMax));
    ASSIGN_OR_RETURN(keys, ParseApiKeys(text, flags.api_key_file));
  }
  if (!flags.api_key.empty()) {
    ASSIGN_OR_RETURN(const std::vector<ApiKey> one, ParseApiKeys(flags.api_key, "--api-key"));
    keys.insert(keys.end(), one.begin(), one.end());
  }
  if (keys.empty()) return nullptr;
  return std::make_unique<ApiKeys>(std::move(keys));
}

absl::Status Server::start_http() {
  ASSIGN_OR_RETURN(api_keys_, OpenApiKeys(flags_));
  HttpServerOptions http;
  http.hosts = flags_.hosts;
  http.port = flags_.port;
  http.connections_max = flags_.connections;
  http.connections_per_address_max = flags_.connections - flags_.connections / 8;
  http.cors_origins = flags_.cors_origins;
  if (api_keys_ != nullptr) {
    http.admit = [this](const HttpRequest& request) { return api_keys_->admit(request); };
  }
  http.error_body = &OpenAiApi::ErrorBodyOf;
  http.on_response = [this](const std::string& route, int status) { metrics_.count_response(route, status); };
  std::vector<HttpRoute> routes = api_->routes();
  for (const auto& more : {responses_->routes(), anthropic_->routes(), ollama_->routes()}) {
    routes.insert(routes.end(), more.begin(), more.end());
  }
  for (HttpRoute& route : routes) {
    route.open = route.path == "/health" || (flags_.open_metrics && route.path == "/metrics");
  }
  ASSIGN_OR_RETURN(http_, HttpServer::Start(std::move(http), std::move(routes)));
  std::vector<std::string> addresses;
  for (const std::string& host : flags_.hosts) {
    addresses.push_back("http://" + HostPort{host, http_->port()}.to_string());
    if (api_keys_ != nullptr || IsLoopback(host)) continue;
    LogWarning(
        "http: '{}' can be reached from other machines, and without --api-key-file anybody there may ask",
        host);
  }
  LogInfo("{} is open; '{}' is served when the cluster is up", Join(addresses, ", "), model_.facts.name);
  return absl::OkStatus();
}

absl::StatusOr<OllamaModel> Server::ollama_model() const {
  const Checkpoint& checkpoint = *model_.checkpoint;
  ASSIGN_OR_RETURN(const auto type, checkpoint.config().optional_string("model_type"));
  return OllamaModel{.architecture = type.value_or("unknown"),
                     .format = checkpoint.is_gguf() ? "gguf" : "safetensors",
                     .digest = checkpoint.hash(),
                     .bytes = checkpoint.total_bytes(),
                     .context = [this] { return scheduler_->stats().limits.context; }};
}

void Server::drain() {
  service_->drain();
  const Deadline deadline = Deadline::after(Seconds(flags_.drain_timeout_s));
  while (!deadline.expired()) {
    const SchedulerStats stats = scheduler_->stats();
    if (stats.running + stats.waiting == 0) return;
    if (StopSignalWithin(Deadline::min(deadline, Deadline::after_ms(20)))) break;
  }
  const SchedulerStats stats = scheduler_->stats();
  if (stats.running + stats.waiting > 0) LogWarning("ending {} requests", stats.running + stats.waiting);
}

absl::Status Serve(const ServeFlags& flags) {
  BlockStopSignals();
  SetThreadLogName("coordinator", 0);
  Server server(flags);
  const absl::Status started = server.start();
  if (started.ok()) {
    WaitForStopSignal();
    LogInfo("stopping");
  }
  server.stop();
  return started;
}

}  // namespace

Command AddServeCommand(Flags root) {
  auto flags = std::make_shared<ServeFlags>();
  Flags app =
      root.add_subcommand("serve", "Coordinate a cluster (or this machine alone) and speak the OpenAI API");
  app.add_option("--model", flags->model, "Model folder");
  app.add_option("--model-root", flags->model_roots, "Where to find the cluster file's model; repeatable");
  app.add_option("--served-model-name", flags->served_name,
                 "The model's name in the API (default: its folder's)");
  app.add_option("--host", flags->hosts,
                 "Addresses of the HTTP API, separated by commas (default localhost, of IPv4 and IPv6)")
      .delimiter(',');
  app.add_option("--port", flags->port, "Port of the HTTP API (default 8000; 0 picks one)").range(0, 65535);
  app.add_option("--connections", flags->connections,
                 "HTTP connections at once, seven eighths of them from one address (default 4096)")
      .range(16, 1000000);
  app.add_option(
         "--cors-origins", flags->cors_origins,
         "Web pages that may use the API: origins separated by commas, with * for any characters but /, or "
         "* for all (default: none)")
      .delimiter(',');
  app.add_option("--api-key-file", flags->api_key_file,
                 "File with keys, one a line, of which clients must send one: KEY [name=NAME] [concurrent=N] "
                 "[per-minute=N]");
  app.add_option("--api-key", flags->api_key,
                 "One such key; better in the environment, where others don't see it")
      .envname("SHOAL_API_KEY");
  app.add_flag("--open-metrics", flags->open_metrics, "Answer /metrics without a key, as /health");
  app.add_option("--listen", flags->listen,
                 "HOST:PORT where workers reach this process (default: found by itself)");
  app.add_option("--memory", flags->memory, "This node's memory for weights and cache, such as 8GiB");
  app.add_option("--key-file", flags->key_file, "File with the cluster's key; all nodes need the same");
  app.add_flag("--insecure", flags->insecure,
               "Work with nodes beyond this machine without a key: whoever reaches their ports may use them");
  AddCacheSizeOptions(app, flags->cache_size);
  app.add_option("--rows-per-step", flags->rows_per_step, "Tokens computed in one step at most (default 256)")
      .range(1, 4096);
  app.add_option("--queue", flags->queue, "Requests that may wait; more get 429 (default 1024)")
      .range(1, 100000);
  app.add_option("--request-timeout", flags->request_timeout_s,
                 "Seconds that one request may take (default 600)")
      .range(0.1, 86400.0);
  app.add_option(
         "--drain-timeout", flags->drain_timeout_s,
         "Seconds for running requests to end after SIGTERM (default 8); a second signal ends at once")
      .range(0.0, 86400.0);
  app.add_option("--liveness-timeout,--silence", flags->liveness_timeout_s,
                 "Seconds without a heartbeat after which a node is lost (default 7)")
      .range(1.0, 3600.0);
  app.add_choice(
      "--on-loss", flags->on_loss, {{"fail", OnLoss::kFail}, {"resume", OnLoss::kResume}},
      "When a node is lost, requests that have begun resume once the cluster is back, each until its "
      "--request-timeout (default), or fail");
  app.add_choice(
      "--prefix-cache", flags->prefix_cache, {{"off", false}, {"on", true}},
      "Keep the KV blocks of requests that have ended, for those that begin alike: on (default) or off");
  app.add_option(
      "--tool-parser", flags->tool_parser,
      "How the model writes calls of tools: a format's name, none, or auto: as its chat template shows "
      "(default)");
  app.add_option("--reasoning-parser", flags->reasoning_parser,
                 "How the model marks its reasoning: a format's name, none, or auto (default)");
  app.add_option("--wait", flags->wait_s,
                 "Obsolete and ignored: workers are waited for as long as it takes, with the port open")
      .range(0.0, 86400.0);
  flags->compute.add_to(app);
  flags->cache.add_to(app);
  flags->placement.add_to(app, true);
  return {app, [flags] { return Serve(*flags); }};
}

}  // namespace shoal
