#include <cstdio>
#include <filesystem>
#include <thread>

#include "api/api_keys.h"
#include "api/audit_log.h"
#include "api/http/https.h"
#include "api/http/server.h"
#include "api/metrics.h"
#include "api/models/models_api.h"
#include "api/page.h"
#include "app/command.h"
#include "app/page_files.h"
#include "app/serve_flags.h"
#include "app/served_model.h"
#include "app/signals.h"
#include "base/exposure.h"
#include "base/file.h"
#include "base/log.h"
#include "base/log_name.h"
#include "base/status.h"
#include "base/text.h"
#include "cluster/addresses.h"
#include "cluster/model_locator.h"
#include "cluster/publisher.h"
#include "numeric/version.h"
#include "plan/cluster_file.h"
#include "plan/model_list.h"

namespace shoal {
namespace {

constexpr int64_t kKeyFileBytesMax = 1 << 20;
constexpr Duration kFlushTimeout = std::chrono::seconds(2);  ///< For clients to take their last bytes.
constexpr Duration kClusterStopMax = std::chrono::seconds(3);
constexpr Duration kLoadPoll = std::chrono::milliseconds(20);
/// How long a model that is loaded on demand waits for a node that is away, from when others might do its part.
constexpr Duration kNodePatience = std::chrono::seconds(10);

absl::StatusOr<std::shared_ptr<ApiKeys>> OpenApiKeys(const ServeFlags& flags) {
  std::vector<ApiKey> keys;
  if (!flags.api_key_file.empty()) {
    ASSIGN_OR_RETURN(const std::string text, ReadTextFile(flags.api_key_file, kKeyFileBytesMax));
    ASSIGN_OR_RETURN(keys, ParseApiKeys(text, flags.api_key_file));
    const auto plain = std::ranges::count(keys, false, &ApiKey::hashed);
    if (plain > 0) {
      LogWarning(
          "{}: {} of {} keys are written in plain; keep their digests in their place: printf %s KEY | "
          "sha256sum, written as "
          "sha256:DIGEST, or make others with: shoal token api-key",
          flags.api_key_file, plain, keys.size());
    }
  }
  if (!flags.api_key.empty()) {
    ASSIGN_OR_RETURN(const std::vector<ApiKey> one, ParseApiKeys(flags.api_key, "--api-key", "api-key"));
    keys.insert(keys.end(), one.begin(), one.end());
  }
  if (keys.empty()) return nullptr;
  return std::make_shared<ApiKeys>(std::move(keys));
}

/// What --model says: "DIR" or "NAME=DIR".
DeclaredModel DeclaredBy(const std::string& flag) {
  const size_t equals = flag.find('=');
  const bool named = equals != std::string::npos && flag.find('/') > equals && !std::filesystem::exists(flag);
  DeclaredModel model{.path = named ? flag.substr(equals + 1) : flag, .at_start = true};
  model.name = named ? flag.substr(0, equals) : NameOfModel(model.path);
  return model;
}

absl::StatusOr<std::vector<DeclaredModel>> ListedModels(const std::string& list) {
  std::error_code ignored;
  if (!std::filesystem::is_directory(list, ignored)) return ReadModelList(list);
  std::vector<absl::Status> refused;
  ASSIGN_OR_RETURN(const std::vector<LocatedModel> found, ListModels(list, refused));
  for (const absl::Status& why : refused) LogWarning("--models: {}", Message(why));
  if (found.empty())
    return NotFound("--models {}: no folder with a config.json and no GGUF file in it", list);
  std::vector<DeclaredModel> models;
  for (const LocatedModel& one : found) models.push_back({.name = one.name, .path = one.folder});
  return models;
}

int64_t BytesIn(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::is_directory(path, error)) {
    const auto bytes = std::filesystem::file_size(path, error);
    return error ? 0 : static_cast<int64_t>(bytes);
  }
  int64_t sum = 0;
  for (const auto& file : std::filesystem::directory_iterator(path, error)) {
    const auto bytes = file.is_regular_file(error) ? file.file_size(error) : 0;
    if (!error) sum += static_cast<int64_t>(bytes);
  }
  return sum;
}

/// The addresses at which others reach a listener.
std::vector<std::string> ReachedAt(const HostPort& listen) {
  if (listen.host != "0.0.0.0" && listen.host != "::") return {listen.to_string()};
  std::vector<std::string> list;
  for (const std::string& host : OwnAddresses()) list.push_back(HostPort{host, listen.port}.to_string());
  return list;
}

/// Of this node in its log, and to workers that join. What is wrong with a file is said later.
std::string NodeName(const ServeFlags& flags) {
  if (!flags.placement.plan.empty()) {
    const auto plan = ReadPlanFile(flags.placement.plan);
    if (plan.ok() && !plan->nodes.empty()) return plan->nodes.front().name;
  }
  if (flags.placement.cluster.empty()) return kCoordinatorName;
  const auto file = ReadClusterFile(flags.placement.cluster);
  return file.ok() ? file->nodes.front().name : kCoordinatorName;
}

/// One model, which is up as long as the server is; or several, on a shelf.
class Server {
 public:
  Server(const ServeFlags& flags, std::string name) : flags_(flags), name_(std::move(name)) {}

  absl::Status start() {
    if (flags_.kv_disk.chosen() && !flags_.prefix_cache) {
      return InvalidArgument(
          "serve: --kv-disk keeps what the prefix cache holds: leave out --prefix-cache off");
    }
    ASSIGN_OR_RETURN(const int64_t kv_buddy, ParseKvBuddy(flags_.kv_buddy));
    if (kv_buddy > 0 && !flags_.prefix_cache) {
      return InvalidArgument(
          "serve: --kv-buddy copies what the prefix cache holds: leave out --prefix-cache off");
    }
    ASSIGN_OR_RETURN(place_.key, flags_.key.read(name_));
    if (place_.key.tls != nullptr) RETURN_IF_ERROR(place_.key.tls->check_name(name_));
    ASSIGN_OR_RETURN(place_.api_keys, OpenApiKeys(flags_));
    ASSIGN_OR_RETURN(place_.outlets, Outlets::Open(flags_.outlets, name_));
    ASSIGN_OR_RETURN(const int64_t weights_rate, ParseWeightsRate(flags_.weights_rate));
    place_.weights_rate = std::make_shared<ByteRate>(weights_rate);
    ASSIGN_OR_RETURN(place_.replan_grace, ReplanGrace(flags_.replan_after));
    RETURN_IF_ERROR(open_desk());
    place_.responses = ResponsesApi::MakeStore();
    ASSIGN_OR_RETURN(place_.records, AnswerRecords::Open({.folder = flags_.answers_dir}));
    RETURN_IF_ERROR(declare_models());
    std::vector<HttpRoute> routes;
    if (several()) {
      RETURN_IF_ERROR(make_shelf());
      routes = models_api_->routes();
    } else {
      ASSIGN_OR_RETURN(model_, ServedModel::Create(flags_, declared_.front(), place_, 0));
      routes = model_->routes();
    }
    RETURN_IF_ERROR(start_http(std::move(routes)));
    if (several()) {
      shelf_->start();
    } else {
      model_->start();
    }
    return absl::OkStatus();
  }

  /// What is wrong with new files leaves the old ones in use.
  void reload() {
    const auto renew = [](const absl::Status& status, std::string_view what) {
      if (status.ok()) return LogInfo("SIGHUP: {} is read again", what);
      LogError("SIGHUP: {} stays as it was: {}", what, Message(status));
    };
    if (https_ != nullptr) renew(https_->reload(), "the certificate of the HTTPS port");
    if (audit_ != nullptr) renew(audit_->reopen(), "the audit log");
    if (place_.key.tls != nullptr) renew(place_.key.tls->reload(), "the certificate of this node");
  }

  void stop() {
    if (http_ != nullptr) drain();
    UnblockStopSignals();
    ExitWithin(kFlushTimeout + kClusterStopMax);  // Weights may be loading, and a handler may be slow.
    if (shelf_ != nullptr) shelf_->stop();
    const auto models = loaded();
    for (const auto& model : models) model->stop_requests();
    if (http_ != nullptr) http_->stop(kFlushTimeout);
    for (const auto& model : models) model->stop();
    if (place_.outlets != nullptr) place_.outlets->stop(kFlushTimeout);
  }

 private:
  bool several() const { return declared_.size() > 1 || !flags_.model_list.empty(); }
  absl::Status open_desk();
  absl::Status declare_models();
  absl::Status make_shelf();
  absl::StatusOr<std::shared_ptr<LoadedModel>> load(size_t index, const std::stop_token& stop);
  absl::Status open_https(HttpServerOptions& http);
  absl::Status start_http(std::vector<HttpRoute> routes);
  std::vector<std::shared_ptr<ServedModel>> loaded() const;
  /// Takes no new requests, and lets those in progress end, for a while or until another signal comes.
  void drain();

  const ServeFlags& flags_;
  const std::string name_;  ///< Of this node.
  ServingPlace place_;
  std::unique_ptr<Publisher> publisher_;  ///< Of --registry.
  std::vector<DeclaredModel> declared_;
  std::shared_ptr<ServedModel> model_;  ///< Of one; else nullptr.
  std::unique_ptr<ModelShelf> shelf_;   ///< Of several; else nullptr.
  Metrics metrics_;                     ///< Of several: what is counted beside the models.
  std::unique_ptr<ModelsApi> models_api_;
  std::shared_ptr<HttpsCertificate> https_;  ///< nullptr: the port speaks HTTP.
  std::unique_ptr<AuditLog> audit_;          ///< nullptr: nobody asks for one.
  std::unique_ptr<HttpServer> http_;
};

absl::Status Server::open_desk() {
  if (flags_.await_ranks > 0 && flags_.join_listen.empty()) {
    return InvalidArgument("serve: --await-ranks {} needs --join-listen: nobody can join",
                           flags_.await_ranks);
  }
  if (flags_.join_listen.empty()) {
    if (flags_.registry.empty()) return absl::OkStatus();
    return InvalidArgument("serve: --registry says where workers join: give --join-listen HOST:PORT, too");
  }
  ASSIGN_OR_RETURN(std::optional<CertifiedKey> authority, flags_.key.authority(place_.key));
  ASSIGN_OR_RETURN(place_.desk, JoinDesk::Start({.name = name_,
                                                 .listen = flags_.join_listen,
                                                 .numerics_class = CpuNumericsClass(),
                                                 .key = place_.key,
                                                 .insecure = flags_.insecure,
                                                 .rules = {},
                                                 .authority = std::move(authority),
                                                 .ask = {}}));
  ASSIGN_OR_RETURN(HostPort at, ParseHostPort(flags_.join_listen));
  at.port = place_.desk->port();
  LogInfo("workers join at {}: shoal worker --join HOST:{}", at.to_string(), at.port);
  if (flags_.registry.empty()) return absl::OkStatus();
  auto registry = OpenRegistry(flags_.registry);
  if (!registry.ok()) return Annotate(registry.status(), "serve --registry");
  publisher_ = std::make_unique<Publisher>(*std::move(registry), [at] {
    return Rendezvous{HostPort{HostName(), at.port}.to_string(), ReachedAt(at)};
  });
  return absl::OkStatus();
}

absl::Status Server::declare_models() {
  for (const std::string& flag : flags_.models) declared_.push_back(DeclaredBy(flag));
  if (!flags_.model_list.empty()) {
    ASSIGN_OR_RETURN(std::vector<DeclaredModel> listed, ListedModels(flags_.model_list));
    std::ranges::move(listed, std::back_inserter(declared_));
  }
  if (several()) {
    if (!flags_.speculation.draft_model.empty()) {
      return InvalidArgument(
          "serve: --draft-model is for one model; say draft_model for each in a file of --models");
    }
    if (!flags_.served_name.empty()) {
      return InvalidArgument("serve: --served-model-name is for one model; write --model NAME=DIR");
    }
    return Annotate(CheckNames(declared_), "serve");
  }
  // The name of one model may be the cluster file's.
  if (declared_.empty()) declared_.emplace_back();
  DeclaredModel& only = declared_.front();
  if (!flags_.served_name.empty()) {
    only.name = flags_.served_name;
  } else if (only.name == NameOfModel(only.path)) {
    only.name.clear();
  }
  return absl::OkStatus();
}

/// What is wrong with the flags of all models is said at the start, not when the first is loaded.
absl::Status CheckFlags(const ServeFlags& flags, int64_t models) {
  RETURN_IF_ERROR(ReadPlacement(flags.placement, flags.compute).status());
  RETURN_IF_ERROR(flags.compute.chosen_isa().status());
  RETURN_IF_ERROR(flags.compute.chosen_cpus().status());
  if (!flags.listen.empty()) {
    ASSIGN_OR_RETURN(const HostPort listen, ParseHostPort(flags.listen));
    if (listen.port + models - 1 > 65535) {
      return InvalidArgument(
          "serve: --listen {}: each of the {} models listens on a port of its own from this one on, which "
          "must end "
          "at 65535",
          flags.listen, models);
    }
  }
  RETURN_IF_ERROR(ParseExpertMemory(flags.expert_memory).status());
  if (flags.memory.empty()) return absl::OkStatus();
  return ParseBytes(flags.memory).status();
}

absl::Status Server::make_shelf() {
  const std::string& stats = flags_.placement.expert_stats;
  if (std::error_code ignored; !stats.empty() && !std::filesystem::is_directory(stats, ignored)) {
    return InvalidArgument(
        "serve: --expert-stats {}: with several models it must be a folder, which is there", stats);
  }
  RETURN_IF_ERROR(CheckFlags(flags_, std::ssize(declared_)));
  place_.ledger = std::make_shared<MemoryLedger>();
  ModelShelf::Options options;
  for (const DeclaredModel& model : declared_) {
    options.models.push_back({model.name, model.aliases, model.at_start, model.pinned,
                              BytesIn(model.path) + BytesIn(model.draft_model)});
  }
  options.load = [this](size_t index, const std::stop_token& stop) { return load(index, stop); };
  options.waiting_max = flags_.queue;
  options.waits_at_most = FromSeconds(flags_.request_timeout_s);
  options.idle_max = FromSeconds(flags_.model_idle_s);
  shelf_ = std::make_unique<ModelShelf>(std::move(options));
  const bool first_is_default = !flags_.models.empty() || declared_.size() == 1;
  models_api_ = std::make_unique<ModelsApi>(
      ModelsApiOptions{.model_routes = ServedModel::RoutesOf(nullptr, place_.responses),
                       .default_model = first_is_default ? std::optional<size_t>(0) : std::nullopt,
                       .metrics = &metrics_},
      *shelf_);
  return absl::OkStatus();
}

// Until its session is up, or can't be: a node that is away may come back soon.
absl::StatusOr<std::shared_ptr<LoadedModel>> Server::load(size_t index, const std::stop_token& stop) {
  ASSIGN_OR_RETURN(const std::shared_ptr<ServedModel> model,
                   ServedModel::Create(flags_, declared_[index], place_, static_cast<int>(index)));
  model->start();
  std::optional<Deadline> patience;
  while (!stop.stop_requested()) {
    if (model->engine().ok()) return model;
    const absl::Status attempt = model->last_attempt();
    if (absl::IsUnavailable(attempt) || absl::IsDeadlineExceeded(attempt)) {
      if (!patience.has_value())
        patience = Deadline::after(place_.replan_grace.value_or(Duration()) + kNodePatience);
      if (patience->expired()) return attempt;
    } else if (!attempt.ok()) {
      return attempt;
    }
    std::this_thread::sleep_for(kLoadPoll);
  }
  return Cancelled("the server is shutting down");
}

absl::Status Server::open_https(HttpServerOptions& http) {
  if (flags_.tls_certificate.empty()) return absl::OkStatus();
  if (flags_.tls_key.empty())
    return InvalidArgument("serve: --tls-cert {} needs --tls-key FILE", flags_.tls_certificate);
  auto https = HttpsCertificate::Load({flags_.tls_certificate, flags_.tls_key});
  if (!https.ok()) return Annotate(https.status(), "serve --tls-cert");
  http.tls = https_ = *std::move(https);
  return absl::OkStatus();
}

absl::Status Server::start_http(std::vector<HttpRoute> routes) {
  HttpServerOptions http;
  RETURN_IF_ERROR(open_https(http));
  if (!flags_.audit_log.empty()) {
    ASSIGN_OR_RETURN(audit_, AuditLog::Open(flags_.audit_log));
    http.on_admin = [log = audit_.get()](const AdminCall& call) {
      if (call.subject.changes) log->record(call);
    };
  }
  http.hosts = flags_.hosts;
  http.port = flags_.port;
  http.connections_max = flags_.connections;
  http.connections_per_address_max = flags_.connections - flags_.connections / 8;
  http.cors_origins = flags_.cors_origins;
  if (place_.api_keys != nullptr) {
    http.admit = [keys = place_.api_keys](const HttpRequest& request) { return keys->admit(request); };
  }
  http.error_body = &OpenAiApi::ErrorBodyOf;
  Metrics& metrics = several() ? metrics_ : model_->metrics();
  metrics.set_outboxes([outlets = place_.outlets] { return outlets->counts(); });
  http.on_response = [&metrics](const std::string& route, int status) {
    metrics.count_response(route, status);
  };
  for (HttpRoute& route : routes) {
    route.open = route.path == "/health" || (flags_.open_metrics && route.path == "/metrics");
    route.admin =
        route.method == "POST" && (route.path.starts_with("/cluster/") || route.path.starts_with("/models/"));
  }
  if (!flags_.no_ui) {
    // Nothing of the cluster is in these files: what they show they ask for, with a key.
    for (HttpRoute& route : PageRoutes(BuiltInPage())) routes.push_back(std::move(route));
  }
  ASSIGN_OR_RETURN(http_, HttpServer::Start(std::move(http), std::move(routes)));
  std::vector<std::string> addresses;
  for (const std::string& host : flags_.hosts) {
    addresses.push_back((https_ == nullptr ? "http://" : "https://") +
                        HostPort{host, http_->port()}.to_string());
    if (place_.api_keys != nullptr || IsLoopback(host)) continue;
    LogWarning(
        "http: '{}' can be reached from other machines, and without --api-key-file anybody there may ask",
        host);
  }
  if (several()) {
    LogInfo("{} is open; {} models are served", Join(addresses, ", "), declared_.size());
  } else {
    LogInfo("{} is open; '{}' is served when the cluster is up", Join(addresses, ", "), model_->name());
  }
  return absl::OkStatus();
}

std::vector<std::shared_ptr<ServedModel>> Server::loaded() const {
  if (model_ != nullptr) return {model_};
  std::vector<std::shared_ptr<ServedModel>> models;
  for (size_t i = 0; shelf_ != nullptr && i < shelf_->size(); ++i) {
    if (auto model = shelf_->loaded(i)) models.push_back(std::static_pointer_cast<ServedModel>(model));
  }
  return models;
}

void Server::drain() {
  const auto models = loaded();
  for (const auto& model : models) model->drain();
  const auto left = [&models] {
    int sum = 0;
    for (const auto& model : models) sum += model->requests();
    return sum;
  };
  const Deadline deadline = Deadline::after(FromSeconds(flags_.drain_timeout_s));
  while (!deadline.expired()) {
    if (left() == 0) return;
    if (StopSignalWithin(Deadline::min(deadline, Deadline::after_ms(20)))) break;
  }
  if (const int count = left(); count > 0) LogWarning("ending {} requests", count);
}

absl::Status Serve(const ServeFlags& flags) {
  BlockStopSignals();
  if (!flags.tls_certificate.empty() || !flags.audit_log.empty() || !flags.key.tls_dir.empty())
    BlockReloadSignal();
  const std::string name = NodeName(flags);
  SetProcessLogName(name, 0);
  SetThreadLogName(name, 0);
  Server server(flags, name);
  const absl::Status started = server.start();
  if (started.ok()) {
    WaitForStopSignal([&server] { server.reload(); });
    LogInfo("stopping");
  }
  server.stop();
  return started;
}

void AddModelOptions(Flags app, ServeFlags& flags) {
  app.add_option(
      "--model", flags.models,
      "Model folder or GGUF file, or NAME=FOLDER; repeatable: all are loaded at the start, as far as "
      "there is memory");
  app.add_option(
      "--models", flags.model_list,
      "Folder with models, which are loaded when they are asked for, or a file (.yaml, .json) that "
      "lists models with what each gets");
  app.add_option(
         "--model-idle", flags.model_idle_s,
         "Of several models: seconds after which one that nobody asks for is unloaded (default 0: only "
         "where another needs its memory)")
      .range(0.0, 1e7);
  app.add_option("--model-root", flags.model_roots, "Where to find the cluster file's model; repeatable");
  app.add_option("--served-model-name", flags.served_name,
                 "The model's name in the API (default: its folder's)");
}

void AddHttpOptions(Flags app, ServeFlags& flags) {
  app.add_option("--host", flags.hosts,
                 "Addresses of the HTTP API, separated by commas (default localhost, of IPv4 and IPv6)")
      .delimiter(',');
  app.add_option("--port", flags.port, "Port of the HTTP API (default 8000; 0 picks one)").range(0, 65535);
  app.add_option("--connections", flags.connections,
                 "HTTP connections at once, seven eighths of them from one address (default 4096)")
      .range(16, 1000000);
  app.add_option(
         "--cors-origins", flags.cors_origins,
         "Web pages that may use the API: origins separated by commas, with * for any characters but /, or "
         "* for all (default: none)")
      .delimiter(',');
  app.add_option("--api-key-file", flags.api_key_file,
                 "File with keys, one a line, of which clients must send one: sha256:DIGEST [name=NAME] "
                 "[concurrent=N] [per-minute=N] [priority=N]; shoal token api-key makes them");
  app.add_option("--api-key", flags.api_key,
                 "One such key; better in the environment, where others don't see it")
      .envname("SHOAL_API_KEY");
  app.add_option("--answers-dir", flags.answers_dir,
                 "Folder where answers to requests with an Idempotency-Key outlive this process");
  const Flag certificate = app.add_option(
      "--tls-cert", flags.tls_certificate,
      "PEM file: the HTTP port speaks HTTPS with this certificate, which SIGHUP has it read again");
  app.add_option("--tls-key", flags.tls_key, "PEM file with the key of --tls-cert").needs(certificate);
  app.add_option(
      "--audit-log", flags.audit_log,
      "File to which each admin call (drain, load, unload) adds a line of JSON; SIGHUP opens it anew");
  app.add_flag("--no-ui", flags.no_ui, "No page for people at /: only the API");
  app.add_flag("--open-metrics", flags.open_metrics, "Answer /metrics without a key, as /health");
}

void AddSchedulingOptions(Flags app, ServeFlags& flags) {
  app.add_option("--rows-per-step", flags.rows_per_step, "Tokens computed in one step at most (default 256)")
      .range(1, 4096);
  app.add_option(
         "--target-itl", flags.target_itl_ms,
         "Milliseconds between two tokens of a stream that prompts of others keep to, in smaller chunks "
         "(default 0: no target)")
      .range(0.0, 60000.0);
  app.add_option("--queue", flags.queue, "Requests that may wait; more get 429 (default 1024)")
      .range(1, 100000);
}

/// How what the model writes is read.
void AddOutputOptions(Flags app, ServeFlags& flags) {
  app.add_option(
      "--tool-parser", flags.tool_parser,
      "How the model writes calls of tools: a format's name, none, or auto: as its chat template shows "
      "(default)");
  app.add_option("--reasoning-parser", flags.reasoning_parser,
                 "How the model marks its reasoning: a format's name, none, or auto (default)");
  app.add_choice(
      "--pooling", flags.pooling, {{"auto", Pool::kNone}, {"last", Pool::kLast}, {"mean", Pool::kMean}},
      "What makes the embedding of a text: its last token's row, the mean of all rows, or auto: as the "
      "model's files say, else last (default)");
}

void AddLossOptions(Flags app, ServeFlags& flags) {
  app.add_choice(
      "--on-loss", flags.on_loss, {{"fail", OnLoss::kFail}, {"resume", OnLoss::kResume}},
      "When a node is lost, requests that have begun resume once the cluster is back, each until its "
      "--request-timeout (default), or fail");
  app.add_option("--replan-after", flags.replan_after,
                 "Seconds that a lost node is waited for before the others do its part, where they have room "
                 "(default 15), or never");
  app.add_choice(
      "--replan-as", flags.replan_as, {{"asked", ReplanAs::kAsked}, {"balanced", ReplanAs::kBalanced}},
      "What a split, a list of experts or a plan file that names a lost node becomes: as asked, it waits for "
      "the node (default); balanced");
  app.add_option("--rejoin-wait", flags.rejoin_wait_s,
                 "Seconds that running requests go on before they pause to take a node in again (default 30)")
      .range(0.0, 86400.0);
}

}  // namespace

Command AddServeCommand(Flags root) {
  auto flags = std::make_shared<ServeFlags>();
  Flags app =
      root.add_subcommand("serve", "Coordinate a cluster (or this machine alone) and speak the OpenAI API");
  AddModelOptions(app, *flags);
  AddHttpOptions(app, *flags);
  flags->outlets.add_to(app);
  app.add_option("--listen", flags->listen,
                 "HOST:PORT where workers reach this process (default: found by itself)");
  app.add_option(
      "--join-listen", flags->join_listen,
      "HOST:PORT where workers join while the server runs: shoal worker --join (default: nowhere)");
  app.add_option(
      "--registry", flags->registry,
      "Where workers that join find this process: dns-sd (the local network) or etcd://HOST:PORT/PREFIX");
  app.add_option("--await-ranks", flags->await_ranks,
                 "Serve only when workers of the ranks 1 to so many have joined; later losses are as any "
                 "(shoal ring)")
      .range(0, 4095);
  app.add_option("--memory", flags->memory, "This node's memory for weights and cache, such as 8GiB");
  AddExpertMemoryOption(app, flags->expert_memory);
  flags->key.add_to(app);
  app.add_flag("--insecure", flags->insecure,
               "Work with nodes beyond this machine without key or certificate: whoever reaches their ports "
               "may use them");
  app.add_flag("--no-send-weights", flags->no_send_weights,
               "Workers without the model's files get none from here");
  AddWeightsRateOption(app, flags->weights_rate);
  app.add_flag("--take-over", flags->take_over,
               "Take workers that serve another coordinator with this model; without it they refuse");
  AddCacheSizeOptions(app, flags->cache_size);
  AddSchedulingOptions(app, *flags);
  app.add_option("--request-timeout", flags->request_timeout_s,
                 "Seconds that one request may take (default 600)")
      .range(0.1, 86400.0);
  app.add_option(
         "--drain-timeout", flags->drain_timeout_s,
         "Seconds for running requests to end after SIGTERM (default 8); a second signal ends at once")
      .range(0.0, 86400.0);
  app.add_option("--liveness-timeout,--silence", flags->liveness_timeout_s,
                 "Seconds without a sign of progress after which a node is lost (default 4.5)")
      .range(1.0, 3600.0);
  AddLossOptions(app, *flags);
  app.add_choice(
      "--prefix-cache", flags->prefix_cache, {{"off", false}, {"on", true}},
      "Keep the KV blocks of requests that have ended, for those that begin alike: on (default) or off");
  flags->speculation.add_to(app);
  AddOutputOptions(app, *flags);
  app.add_option("--wait", flags->wait_s,
                 "Obsolete and ignored: workers are waited for as long as it takes, with the port open")
      .range(0.0, 86400.0);
  flags->compute.add_to(app);
  flags->profile.add_to(app);
  flags->cache.add_to(app);
  flags->kv_disk.add_to(app);
  app.add_option(
         "--kv-buddy", flags->kv_buddy,
         "Keep copies of what each worker with layers caches on another node, up to so many bytes, such as "
         "8GiB, or auto: as much as it caches. The loss of such a worker then costs no prefill. They take "
         "memory that the plan leaves, and some of the network (default: off)")
      .envname("SHOAL_KV_BUDDY");
  flags->placement.add_to(app, true);
  return {app, [flags] { return Serve(*flags); }};
}

}  // namespace shoal
