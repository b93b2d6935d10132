// A model that `shoal serve` answers for: its cluster, its scheduler and its APIs.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "api/answer/dialect_output.h"
#include "api/anthropic/api.h"
#include "api/api_keys.h"
#include "api/llamacpp/api.h"
#include "api/models/model_shelf.h"
#include "api/ollama/api.h"
#include "api/ollama/embed_api.h"
#include "api/openai/api.h"
#include "api/openai/embeddings_api.h"
#include "api/openai/responses_api.h"
#include "app/cluster_watch.h"
#include "app/draft_host.h"
#include "app/examination.h"
#include "app/expert_monitor.h"
#include "app/progress.h"
#include "app/serve_flags.h"
#include "app/serving_planner.h"
#include "app/tokenizer_assets.h"
#include "cluster/remote_cluster.h"
#include "cluster/supervisor.h"
#include "plan/model_list.h"
#include "sched/scheduler.h"

namespace shoal {

/// What the models of one server have in common.
struct ServingPlace {
  ClusterKey key;
  std::shared_ptr<ResponseStore> responses;
  std::shared_ptr<AnswerRecords> records;
  std::shared_ptr<ApiKeys> api_keys;  ///< nullptr: everybody may ask.
  /// How long a lost node is waited for before a plan without it; none: until it is back.
  std::optional<Duration> replan_grace;
  std::shared_ptr<MemoryLedger> ledger;    ///< Where there are several models: else nullptr.
  std::shared_ptr<NodeHost> host;          ///< Made by the first.
  std::shared_ptr<JoinDesk> desk;          ///< Where workers join; nullptr: nobody can.
  std::shared_ptr<ByteRate> weights_rate;  ///< Of what is sent of all models' weights.
  std::shared_ptr<Outlets> outlets;        ///< Alerts and traces.
};

/// Of --replan-after: nothing is never.
absl::StatusOr<std::optional<Duration>> ReplanGrace(const std::string& text);

/// Progress bars by member, made when the first bytes are there.
class LoadBars {
 public:
  void update(const std::string& member, int64_t done, int64_t total);

 private:
  std::mutex mutex_;
  std::map<std::string, std::unique_ptr<ProgressBar>> bars_;
};

class ServedModel final : public LoadedModel {
 public:
  /// Opens the model, its tokenizer and its template, and makes everything but a session: start() does that. `flags`
  /// must outlive it. port_offset: added to the port of --listen, if that has one. ResourceExhausted: there is no room
  /// for it.
  static absl::StatusOr<std::shared_ptr<ServedModel>> Create(const ServeFlags& flags,
                                                             const DeclaredModel& declared,
                                                             ServingPlace& place, int port_offset);
  /// stop()s first.
  ~ServedModel() override;

  /// Brings the session up, and keeps it up.
  void start() {
    supervisor_->start();
    experts_->start();
    watch_->start();
  }
  /// Takes no new requests.
  void drain() { service_->drain(); }
  /// What still runs ends with an error, told to its client.
  void stop_requests() { scheduler_->stop(); }
  /// Ends the session. Idempotent.
  void stop();

  const std::string& name() const { return model_.facts.name; }
  SchedulerStats stats() const { return scheduler_->stats(); }
  /// Why the last attempt to bring the session up failed.
  absl::Status last_attempt() const { return supervisor_->last_attempt(); }

  const std::vector<HttpRoute>& routes() const override { return routes_; }
  int requests() const override;
  Metrics& metrics() override { return metrics_; }
  absl::Status engine() const override { return scheduler_->stats().engine; }
  Json openai_entry() const override;
  Json ollama_entry() const override;
  std::optional<Json> ollama_running_entry() const override;

  /// The routes of a model; with nullptr to know which there are, of which those that need no model may be asked.
  static std::vector<HttpRoute> RoutesOf(const ServedModel* model,
                                         const std::shared_ptr<ResponseStore>& responses);

 private:
  explicit ServedModel(const ServeFlags& flags) : flags_(flags) {}
  /// Opens the model; how it is placed.
  absl::StatusOr<Placement> configure(const DeclaredModel& declared, const ServingPlace& place,
                                      int port_offset);
  absl::Status load_text();
  CacheSize asked_cache(const DeclaredModel& declared) const;
  absl::Status open_draft_model(const DeclaredModel& declared, const Placement& placement);
  absl::Status make_planner(const DeclaredModel& declared, const ServingPlace& place, Placement placement);
  /// What the model's template shows, or the flags say, of how it writes reasoning and tool calls.
  absl::Status choose_dialect();
  absl::Status start_cluster(ServingPlace& place);
  /// For the supervisor: the plan that the session is to end for.
  std::optional<Replan> wants_replan();
  /// Whether this process may hold its shard of another plan beside that of the session.
  absl::Status check_beside(const Plan& now, const StepLimits& limits, const NodeShard& next) const;
  /// Whether what runs may be disturbed for a plan that is better since then.
  bool may_disturb(const Replanner::Better& better) const;
  absl::Status start_api(const DeclaredModel& declared, const ServingPlace& place);
  absl::StatusOr<OllamaModel> ollama_model() const;
  LlamaOptions llama_options(const AnswerServiceOptions& service) const;
  absl::Status start_embeddings();
  OpenAiOptions openai_options() const;
  std::vector<LinkTotals> link_totals() const;
  /// What POST /cluster/plan answers.
  absl::StatusOr<std::string> answer_plan(const PlanQuestion& question) const;
  /// What POST /cluster/doctor finds. key: of this node.
  std::vector<Finding> examine(const ClusterKey& key) const;
  /// What GET /cluster/links answers.
  std::string measured_links() const;
  NodeTotals node_totals() const;
  std::vector<LinkSpeed> link_speeds() const;
  std::string node_name(NodeId node) const;

  const ServeFlags& flags_;
  int64_t expert_memory_ = 0;  ///< As BackendLoad's.
  std::shared_ptr<const ExpertStats>
      kept_stats_;      ///< Of --expert-stats, as it was at the start: plans go by these.
  std::string listen_;  ///< As of the flag, or the cluster file.
  std::vector<std::string> model_names_;
  OpenedModel model_;
  std::unique_ptr<ServingPlanner> planner_;
  std::optional<ServedText> text_;
  std::unique_ptr<DraftHost> draft_;  ///< nullptr: none.
  std::optional<DialectOutput> output_;
  LoadBars bars_;
  std::unique_ptr<RemoteCluster> cluster_;
  std::unique_ptr<PipelineEngine> engine_;
  std::unique_ptr<Supervisor> supervisor_;
  std::unique_ptr<ExpertMonitor> experts_;
  std::unique_ptr<ClusterWatch> watch_;
  std::unique_ptr<ClusterDoctor> doctor_;
  Metrics metrics_;
  std::unique_ptr<Scheduler> scheduler_;
  std::unique_ptr<AnswerService> service_;
  std::unique_ptr<OpenAiApi> api_;
  std::unique_ptr<ResponsesApi> responses_;
  std::unique_ptr<AnthropicApi> anthropic_;
  std::unique_ptr<OllamaApi> ollama_;
  std::unique_ptr<LlamaApi> llama_;
  std::unique_ptr<EmbeddingService> embedding_service_;
  std::unique_ptr<EmbeddingsApi> embeddings_;
  std::unique_ptr<OllamaEmbedApi> ollama_embed_;
  std::vector<HttpRoute> routes_;
};

}  // namespace shoal
