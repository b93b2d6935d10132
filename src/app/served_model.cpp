#include "app/served_model.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <ranges>
#include <utility>

#include "absl/strings/charconv.h"
#include "app/cluster_logs.h"
#include "app/cluster_status.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "cluster/model_locator.h"
#include "kv/block_pool.h"

namespace shoal {
namespace {

/// From the end of the grace to a session without the node, if its part is quickly loaded.
constexpr Duration kReplanTakes = std::chrono::seconds(5);
constexpr Duration kDescribeTimeout = std::chrono::seconds(2);
/// Of POST /cluster/doctor, whose links carry requests meanwhile.
constexpr Duration kDoctorMax = std::chrono::seconds(30);
constexpr int64_t kDoctorLinkBytes = 1 << 20;
constexpr Duration kAskOutTimeout = std::chrono::milliseconds(500);  // Meanwhile a loss goes unnoticed.

absl::StatusOr<std::string> ModelFolder(const ServeFlags& flags, const DeclaredModel& declared,
                                        const Placement& placement) {
  if (!declared.path.empty()) return declared.path;
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

/// The flags' placement, as far as the model has none of its own.
PlacementFlags PlacementOf(const ServeFlags& flags, const DeclaredModel& declared) {
  PlacementFlags placement = flags.placement;
  if (!declared.cluster.empty()) {
    placement.cluster = declared.cluster;
    placement.workers.clear();
  }
  if (!declared.plan.empty()) placement.plan = declared.plan;
  if (!declared.strategy.empty()) placement.strategy = declared.strategy;
  if (!declared.split.empty()) placement.split = declared.split;
  if (!declared.experts.empty()) placement.experts = declared.experts;
  return placement;
}

/// HOST:PORT with another port, unless the system picks it.
absl::StatusOr<std::string> WithPortOffset(const std::string& listen, int offset) {
  if (listen.empty() || offset == 0) return listen;
  ASSIGN_OR_RETURN(HostPort address, ParseHostPort(listen));
  if (address.port != 0) address.port += offset;
  return address.to_string();
}

}  // namespace

absl::StatusOr<std::optional<Duration>> ReplanGrace(const std::string& text) {
  if (text == "never") return std::nullopt;
  double seconds = -1;
  const auto [end, error] = absl::from_chars(text.data(), text.data() + text.size(), seconds);
  if (error != std::errc() || end != text.data() + text.size() || !(seconds >= 0) || seconds > 1e6) {
    return InvalidArgument("--replan-after '{}': expected seconds, 0 to 1000000, or never", text);
  }
  return FromSeconds(seconds);
}

void LoadBars::update(const std::string& member, int64_t done, int64_t total) {
  const std::lock_guard lock(mutex_);
  std::unique_ptr<ProgressBar>& bar = bars_[member];
  if (bar == nullptr) bar = std::make_unique<ProgressBar>("loading on " + member);
  bar->update(done, total);
  if (done == total) bars_.erase(member);
}

absl::StatusOr<std::shared_ptr<ServedModel>> ServedModel::Create(const ServeFlags& flags,
                                                                 const DeclaredModel& declared,
                                                                 ServingPlace& place, int port_offset) {
  std::shared_ptr<ServedModel> model(new ServedModel(flags));
  ASSIGN_OR_RETURN(Placement placement, model->configure(declared, place, port_offset));
  RETURN_IF_ERROR(model->load_text());
  RETURN_IF_ERROR(model->open_draft_model(declared, placement));
  RETURN_IF_ERROR(model->make_planner(declared, place, std::move(placement)));
  RETURN_IF_ERROR(model->start_cluster(place));
  RETURN_IF_ERROR(model->start_api(declared, place));
  return model;
}

ServedModel::~ServedModel() {
  if (scheduler_ != nullptr) scheduler_->stop();
  stop();
}

void ServedModel::stop() {
  if (watch_ != nullptr) watch_->stop();
  if (experts_ != nullptr) experts_->stop();  // Nodes that are still there tell the last of it.
  if (supervisor_ != nullptr) supervisor_->stop();
}

int ServedModel::requests() const {
  const SchedulerStats stats = scheduler_->stats();
  return stats.running + stats.waiting;
}

Json ServedModel::openai_entry() const { return api_->entry(); }
Json ServedModel::ollama_entry() const { return ollama_->entry(); }
std::optional<Json> ServedModel::ollama_running_entry() const { return ollama_->running_entry(); }

std::vector<HttpRoute> ServedModel::RoutesOf(const ServedModel* model,
                                             const std::shared_ptr<ResponseStore>& responses) {
  const auto api = [model](const auto member) { return model == nullptr ? nullptr : (model->*member).get(); };
  std::vector<HttpRoute> routes;
  for (const auto& some :
       {OpenAiApi::RoutesOf(api(&ServedModel::api_)),
        ResponsesApi::RoutesOf(api(&ServedModel::responses_), responses),
        AnthropicApi::RoutesOf(api(&ServedModel::anthropic_)),
        OllamaApi::RoutesOf(api(&ServedModel::ollama_)), LlamaApi::RoutesOf(api(&ServedModel::llama_)),
        EmbeddingsApi::RoutesOf(api(&ServedModel::embeddings_)),
        OllamaEmbedApi::RoutesOf(api(&ServedModel::ollama_embed_))}) {
    routes.insert(routes.end(), some.begin(), some.end());
  }
  return routes;
}

absl::StatusOr<Placement> ServedModel::configure(const DeclaredModel& declared, const ServingPlace& place,
                                                 int port_offset) {
  const PlacementFlags chosen = PlacementOf(flags_, declared);
  ASSIGN_OR_RETURN(Placement placement, ReadPlacement(chosen, flags_.compute));
  const bool joins = place.desk != nullptr;
  const bool declares_nobody = chosen.workers.empty() && chosen.cluster.empty() && chosen.plan.empty();
  if (declares_nobody && placement.nodes.size() > 1) {
    if (!joins) {
      return InvalidArgument(
          "serve: a placement over {} nodes needs --workers, --cluster or --join-listen; this process is one "
          "node",
          placement.nodes.size());
    }
    placement.nodes.resize(1);  // The others are yet to join.
  }
  // Nobody chose a strategy: that of workers that are declared, not that of nodes within one process.
  if (declares_nobody && joins && chosen.strategy.empty() &&
      placement.request.strategy == LayerStrategy::kBalanced)
    placement.request.strategy = LayerStrategy::kFastest;
  RETURN_IF_ERROR(DescribeThisNode(placement, flags_.compute, flags_.memory,
                                   placement.nodes.size() > 1 || joins ? &flags_.profile : nullptr));
  ASSIGN_OR_RETURN(expert_memory_, ParseExpertMemory(flags_.expert_memory));
  placement.nodes[0].expert_memory_bytes = expert_memory_;
  ASSIGN_OR_RETURN(
      listen_,
      WithPortOffset(flags_.listen.empty() ? placement.coordinator_address : flags_.listen, port_offset));
  ASSIGN_OR_RETURN(const std::string folder, ModelFolder(flags_, declared, placement));
  model_names_ = ModelNames(folder, placement.model_name);
  ASSIGN_OR_RETURN(model_, OpenModel(folder, declared.name.empty() ? placement.model_name : declared.name));
  for (const auto& [what, count] : model_.footprint.ignored_tensors) {
    LogInfo("{}: {} tensors of {} are ignored", model_.facts.name, count, what);
  }
  ReadExpertUse(model_.facts, placement);
  kept_stats_ = placement.request.experts.stats;
  placement.request.mtp = flags_.speculation.uses_mtp();
  if (model_.facts.mtp.has_value()) {
    LogInfo("{}: its head for multi-token prediction ({}) {}", model_.facts.name,
            FormatBytes(model_.facts.mtp->bytes),
            placement.request.mtp ? "drafts, on the last stage" : "is left out, as asked");
  }
  return placement;
}

CacheSize ServedModel::asked_cache(const DeclaredModel& declared) const {
  CacheSize cache = flags_.cache_size;
  if (declared.kv_positions > 0) cache.positions = declared.kv_positions;
  if (declared.sequences > 0) cache.sequences = declared.sequences;
  return cache;
}

absl::Status ServedModel::open_draft_model(const DeclaredModel& declared, const Placement& placement) {
  const std::string& folder =
      declared.draft_model.empty() ? flags_.speculation.draft_model : declared.draft_model;
  RETURN_IF_ERROR(flags_.speculation.check(folder));
  if (folder.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(draft_, DraftHost::Open({.folder = folder,
                                            .compute = flags_.compute,
                                            .kv_positions = asked_cache(declared).positions,
                                            .memory_bytes = placement.nodes[0].memory_bytes},
                                           model_, text_->tokenizer));
  return absl::OkStatus();
}

absl::Status ServedModel::make_planner(const DeclaredModel& declared, const ServingPlace& place,
                                       Placement placement) {
  // This process tells fine-tunes of one model from each other; workers go by config and tensors.
  const std::string identity = placement.nodes.size() == 1 && place.desk == nullptr
                                   ? model_.checkpoint->content_identity()
                                   : model_.facts.hash;
  ASSIGN_OR_RETURN(const int64_t kv_buddy_max, ParseKvBuddy(flags_.kv_buddy));
  // A node may be asked for as many rows as one step has.
  ASSIGN_OR_RETURN(planner_, ServingPlanner::Create({.placement = std::move(placement),
                                                     .model = model_.facts,
                                                     .spec = model_.spec,
                                                     .cache = asked_cache(declared),
                                                     .rows_per_step = flags_.rows_per_step,
                                                     .ledger = place.ledger,
                                                     .beside_bytes = draft_ == nullptr ? 0 : draft_->bytes(),
                                                     .identity = identity,
                                                     .attendance = {.grace = place.replan_grace},
                                                     .replan_as = flags_.replan_as,
                                                     .desk = place.desk,
                                                     .kv_buddy_max = kv_buddy_max,
                                                     .await_ranks = flags_.await_ranks}));
  return absl::OkStatus();
}

absl::Status ServedModel::load_text() {
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

absl::Status ServedModel::choose_dialect() {
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

absl::Status ServedModel::start_cluster(ServingPlace& place) {
  const Duration timeout = FromSeconds(flags_.liveness_timeout_s);
  RemoteCluster::Options options;
  options.weights = model_.weights;
  options.members = planner_->members();
  options.adopt_names = planner_->adopts_names();
  options.limits = [this](const Plan& plan) { return planner_->limits(plan); };
  options.buddies = [this](const Plan& plan, const StepLimits&, const std::vector<bool>& lost) {
    return planner_->buddies(plan, lost);
  };
  options.opens = [this](const Plan& plan) { planner_->opens(plan); };
  options.model_names = model_names_;
  options.listen = listen_;
  // The asker names the owner before the coordinator gives the asker up.
  options.expert_timeout = std::max<Duration>(timeout - std::chrono::milliseconds(500), timeout / 2);
  options.key = place.key;
  options.insecure = flags_.insecure;
  options.take_over = flags_.take_over;
  options.send_weights = !flags_.no_send_weights;
  options.weights_rate = place.weights_rate;
  options.check_beside = [this](const Plan& now, const StepLimits& limits, const NodeShard& next) {
    return check_beside(now, limits, next);
  };
  options.progress = [this](const std::string& member, int64_t done, int64_t total) {
    bars_.update(member, done, total);
  };
  if (place.host == nullptr) {
    options.threads = flags_.compute.chosen_threads();
    ASSIGN_OR_RETURN(options.cpus, flags_.compute.chosen_cpus());
    ASSIGN_OR_RETURN(options.isa, flags_.compute.chosen_isa());
    ASSIGN_OR_RETURN(options.packed_cache, flags_.cache.open());
    options.expert_memory = expert_memory_;
    ASSIGN_OR_RETURN(options.kv_disk, flags_.kv_disk.open(options.members.front().name));
    place.host = RemoteCluster::MakeHost(options);
  }
  if (draft_ != nullptr) RETURN_IF_ERROR(draft_->load(place.host, nullptr));
  options.host = place.host;
  const bool alone = options.members.size() == 1 && place.desk == nullptr;
  ASSIGN_OR_RETURN(cluster_, RemoteCluster::Start(std::move(options)));
  engine_ = std::make_unique<PipelineEngine>(alone ? kLocalLiveness
                                                   : LivenessLimits{std::chrono::seconds(1), timeout});
  supervisor_ = std::make_unique<Supervisor>(
      *cluster_, *engine_,
      [this] { return planner_->make_plan(cluster_->members(), Deadline::after(kDescribeTimeout)); },
      RetryPauses(), [this] { return wants_replan(); }, [this] { return planner_->next_grace_end(); });
  experts_ = std::make_unique<ExpertMonitor>(ExpertMonitor::Options{
      .model = model_.facts,
      .path = ExpertStatsPath(flags_.placement.expert_stats, model_.facts),
      .kept = std::move(kept_stats_),
      .take = [this](Deadline deadline) { return cluster_->take_expert_use(deadline); },
      .plan = [this] { return supervisor_->plan(); }});
  doctor_ = std::make_unique<ClusterDoctor>([this, key = place.key] { return examine(key); });
  watch_ = std::make_unique<ClusterWatch>(
      [this] { return LookAt(cluster_->members(), *engine_, *supervisor_, planner_->left_out()); },
      [this, outlets = place.outlets](const std::vector<ClusterEvent>& events) {
        for (const ClusterEvent& event : events) metrics_.count_event(event.kind);
        outlets->alert(name(), events);
      });
  return absl::OkStatus();
}

// Requests that run pause for it, so it waits for them, but not for ever; those that a loss would end are left alone.
bool ServedModel::may_disturb(const Replanner::Better& better) const {
  if (requests() == 0 || better.at_once) return true;
  if (flags_.on_loss != OnLoss::kResume) return false;
  return better.ordered || Clock::now() - better.since >= FromSeconds(flags_.rejoin_wait_s);
}

std::optional<Replan> ServedModel::wants_replan() {
  auto better = planner_->better_plan(cluster_->members(), Deadline::after(kAskOutTimeout));
  if (!better.has_value()) return std::nullopt;
  Replan replan{.why = better->why, .plan = better->plan};
  replan.turn = [this, better = *better] {
    // Nodes may have come or gone while others loaded, or while requests are waited for.
    const auto now = planner_->better_plan(cluster_->members(), Deadline::after(kAskOutTimeout));
    // Or somebody asked for yet another plan.
    if (!now.has_value() || now->in != better.in || now->orders != better.orders) return Replan::Turn::kDrop;
    return may_disturb(*now) ? Replan::Turn::kGo : Replan::Turn::kWait;
  };
  replan.adopt = [this, better = *better] { planner_->adopt(better); };
  return replan;
}

absl::Status ServedModel::check_beside(const Plan& now, const StepLimits& limits,
                                       const NodeShard& next) const {
  const NodeShard held = ShardOf(now, Plan::kCoordinator);
  const int64_t more = BytesBeside(model_.spec, model_.footprint, held, next, expert_memory_);
  const int64_t all = ShardBytes(model_.spec, model_.footprint, held, expert_memory_) +
                      CacheBytes(model_.facts, held, now.kv_dtype, limits) + more;
  const int64_t memory = planner_->own_memory();
  if (memory <= 0 || all <= memory) return absl::OkStatus();  // 0: unknown.
  return ResourceExhausted(
      "beside what the session has, {} more of weights do not fit: {} in all, it may use {} (--memory)",
      FormatBytes(more), FormatBytes(all), FormatBytes(memory));
}

NodeTotals ServedModel::node_totals() const {
  const NodeHost::NodeReport report = cluster_->own_report();
  NodeTotals totals{.buddies = {.copies = report.copies.places,
                                .bytes = report.copies.bytes,
                                .evicted = report.copies.evicted,
                                .restored = cluster_->restored()},
                    .expert_tiers = report.expert_tier.value_or(ExpertTierStats{})};
  const std::string own = cluster_->members().self().name();
  const bool serves = engine_->state().status.ok();
  for (const MemberStatus& member : cluster_->status(Deadline::after(kDescribeTimeout))) {
    totals.up.push_back({member.name, member.name == own ? serves : member.state == MemberState::kUp});
    if (!member.facts.has_value()) continue;
    for (const PeerLink& link : member.facts->links) {
      if (link.to != own)
        totals.links.push_back({member.name, link.to, link.bytes_sent, link.frames_sent, link.bytes_waiting});
    }
    totals.buddies.copies += member.facts->copies;
    totals.buddies.bytes += member.facts->copies_bytes;
    totals.buddies.evicted += member.facts->copies_evicted;
    totals.buddies.sent_bytes += member.facts->copied_bytes;
    totals.expert_tiers = totals.expert_tiers + member.facts->expert_tier.value_or(ExpertTierStats{});
  }
  return totals;
}

std::vector<LinkTotals> ServedModel::link_totals() const {
  std::vector<LinkTotals> totals;
  const std::string own = cluster_->members().self().name();
  for (const auto& [name, link] : cluster_->link_stats()) {
    if (name == own) continue;  // To itself nothing travels.
    totals.push_back({own, name, static_cast<int64_t>(link.bytes_sent),
                      static_cast<int64_t>(link.frames_sent), static_cast<int64_t>(link.bytes_waiting)});
    totals.push_back(
        {name, own, static_cast<int64_t>(link.bytes_received), static_cast<int64_t>(link.frames_received)});
  }
  return totals;
}

std::vector<LinkSpeed> ServedModel::link_speeds() const {
  constexpr double kMicro = 1e-6;
  constexpr double kMega = 1e6;
  std::vector<LinkSpeed> speeds;
  for (const LinkFacts& link : planner_->links(cluster_->members()))
    speeds.push_back({link.a, link.b, link.rtt_us * kMicro, link.mbs * kMega});
  return speeds;
}

std::string ServedModel::node_name(NodeId node) const {
  const std::shared_ptr<const Plan> plan = supervisor_->plan();
  const bool known =
      plan != nullptr && node.value >= 0 && static_cast<size_t>(node.value) < plan->nodes.size();
  return known ? plan->node(node).name : fmt::format("{}", node);
}

absl::Status ServedModel::start_api(const DeclaredModel& declared, const ServingPlace& place) {
  SchedulerOptions scheduling;
  scheduling.batch.rows_per_step = flags_.rows_per_step;
  scheduling.batch.prefix_cache = flags_.prefix_cache;
  scheduling.batch.target_itl = FromSeconds(flags_.target_itl_ms / 1000);
  scheduling.batch.draft_max = flags_.speculation.tokens_max();
  scheduling.batch.draft_when = flags_.speculation.when();
  if (draft_ != nullptr) scheduling.draft_engine = &draft_->engine();
  scheduling.queue_max = flags_.queue;
  scheduling.on_loss = flags_.on_loss;
  // One that comes while a node is away is there when the others do its part.
  if (place.replan_grace.has_value()) {
    scheduling.engine_wait = std::max(scheduling.engine_wait, *place.replan_grace + kReplanTakes);
  }
  scheduling.on_step = [this](const StepObservation& step) { metrics_.observe_step(step); };
  scheduling.tell_steps = place.outlets->tracer() != nullptr;
  scheduler_ = std::make_unique<Scheduler>(*engine_, std::move(scheduling));
  metrics_.set_sources(
      {[this] { return scheduler_->stats(); }, [this] { return link_totals(); },
       [this] { return node_totals(); }, [this](NodeId node) { return node_name(node); },
       [this] { return static_cast<int>(planner_->left_out().size()); },
       [this] {
         const ExpertRowCounts counts = experts_->totals();
         return ExpertTotals{counts.rows, counts.rows_local, counts.rows_sent, counts.messages};
       },
       [this] { return link_speeds(); }});
  AnswerServiceOptions service;
  service.model_names = {model_.facts.name};
  service.model_names.insert(service.model_names.end(), declared.aliases.begin(), declared.aliases.end());
  service.vocabulary = static_cast<int32_t>(model_.spec.vocabulary);
  ASSIGN_OR_RETURN(service.eos_ids, LoadEndOfText(*model_.checkpoint, text_->tokenizer));
  const GenerationConfig& generation = model_.checkpoint->generation();
  service.sampling = {generation.temperature,
                      generation.top_p,
                      generation.min_p,
                      generation.top_k,
                      generation.repetition_penalty,
                      !generation.do_sample.value_or(true)};
  service.request_deadline = FromSeconds(flags_.request_timeout_s);
  service.caller_priority = [keys = place.api_keys](const std::string& caller) {
    if (keys == nullptr) return CallerPriority{};  // Nobody is told from another.
    const int priority = keys->priority_of(caller);
    return CallerPriority{.usual = priority, .best = priority};
  };
  service.records = place.records;
  service.tracer = place.outlets->tracer();
  service.node_name = [this](NodeId node) { return node_name(node); };
  service.chat_format = [this](const ChatRequest& chat, std::string_view prompt) {
    return output_->format(chat, prompt);
  };
  if (text_->chat.has_value()) {
    service.answer_format = [this](std::string_view prompt) {
      return AnswerFormatOf(output_->dialect(), text_->chat->source(), prompt);
    };
  }
  LlamaOptions llama = llama_options(service);
  service_ = std::make_unique<AnswerService>(std::move(service), *text_, *scheduler_, metrics_);
  api_ = std::make_unique<OpenAiApi>(openai_options(), *service_, *scheduler_, metrics_);

  responses_ = std::make_unique<ResponsesApi>(*service_, place.responses);
  anthropic_ = std::make_unique<AnthropicApi>(*service_);
  ASSIGN_OR_RETURN(OllamaModel ollama, ollama_model());
  ollama_ = std::make_unique<OllamaApi>(std::move(ollama), *service_);
  llama_ = std::make_unique<LlamaApi>(std::move(llama), *service_, *scheduler_);
  RETURN_IF_ERROR(start_embeddings());
  routes_ = RoutesOf(this, place.responses);
  return absl::OkStatus();
}

OpenAiOptions ServedModel::openai_options() const {
  OpenAiOptions options;
  options.cluster_status = [this] {
    const auto plan = supervisor_->plan();
    return ClusterStatusJson(
        *cluster_, *engine_, plan.get(), model_,
        {planner_->nodes(), planner_->left_out(), supervisor_->move(),
         planner_->predicted(cluster_->members(), plan.get()), planner_->links(cluster_->members())});
  };
  options.cluster_events = [this](int64_t after) { return watch_->events_json(after); };
  options.cluster_links = [this] { return measured_links(); };
  options.cluster_plan = [this](const PlanQuestion& question) { return answer_plan(question); };
  options.cluster_logs = [this](const LogQuestion& question) {
    return ClusterLogsJson(cluster_->members(), question, Deadline::after(kDescribeTimeout));
  };
  options.cluster_doctor = [this](bool now) -> absl::StatusOr<std::string> {
    return now ? doctor_->run() : doctor_->last();
  };
  options.cluster_experts = [this] { return experts_->report(); };
  options.load_progress = [this] { return cluster_->load_progress(); };
  options.nodes_out = [this] {
    std::vector<std::string> names;
    for (const LeftOutMember& member : planner_->left_out()) names.push_back(member.name);
    return names;
  };
  options.drain = [this](const std::string& node, bool drained) {
    return planner_->drain(cluster_->members(), node, drained);
  };
  options.trained_context = model_.spec.max_positions;
  options.width = model_.spec.width;
  return options;
}

absl::StatusOr<std::string> ServedModel::answer_plan(const PlanQuestion& question) const {
  Members& members = cluster_->members();
  std::shared_ptr<const Plan> plan = supervisor_->plan();
  if (question.apply && question.layers.empty()) {  // As the server was asked: not what is in force now.
    ASSIGN_OR_RETURN(Plan usual, planner_->usual_plan(members));
    plan = std::make_shared<const Plan>(std::move(usual));
  }
  ASSIGN_OR_RETURN(std::string answer,
                   AnswerPlanQuestion(question, planner_->ground(members, Deadline::after(kDescribeTimeout)),
                                      plan.get(), model_));
  // Last: what is refused has changed nothing.
  if (question.apply) RETURN_IF_ERROR(planner_->order_layers(members, question.layers));
  return answer;
}

std::vector<Finding> ServedModel::examine(const ClusterKey& key) const {
  const std::string here = cluster_->members().self().name();
  const Engine::State state = engine_->state();
  std::vector<Finding> findings = {
      {here, "session", state.status.ok() ? CheckResult::kOk : CheckResult::kWrong,
       state.status.ok() ? fmt::format("session {} is up", state.generation) : Message(state.status),
       state.status.ok() ? "" : "see below what the nodes lack"}};
  for (Finding& finding : ExamineHere(here)) findings.push_back(std::move(finding));
  if (key.tls != nullptr) findings.push_back(CheckCertificate(here, key.tls->facts(), UnixSeconds()));
  Examination task{.here = here,
                   .key = key,
                   .model_names = model_names_,
                   .model_hash = model_.facts.hash,
                   .workers = {},
                   .link_bytes = kDoctorLinkBytes,
                   .deadline = Deadline::after(kDoctorMax)};
  for (const auto& member : cluster_->members().all()) {
    if (!member->is_self()) task.workers.push_back({member->name(), member->address()});
  }
  for (Finding& finding : ExamineWorkers(task)) findings.push_back(std::move(finding));
  return findings;
}

std::string ServedModel::measured_links() const {
  planner_->measure_links(cluster_->members(), Deadline::after(kDescribeTimeout));
  Json out;
  out["links"] = LinksJson(planner_->links(cluster_->members()));
  return DumpJson(out);
}

absl::StatusOr<OllamaModel> ServedModel::ollama_model() const {
  const Checkpoint& checkpoint = *model_.checkpoint;
  ASSIGN_OR_RETURN(const auto type, checkpoint.config().optional_string("model_type"));
  return OllamaModel{.architecture = type.value_or("unknown"),
                     .format = checkpoint.is_gguf() ? "gguf" : "safetensors",
                     .digest = checkpoint.hash(),
                     .bytes = checkpoint.total_bytes(),
                     .context = [this] { return scheduler_->stats().limits.context; }};
}

absl::Status ServedModel::start_embeddings() {
  EmbeddingOptions options{.pool = flags_.pooling, .width = model_.spec.width};
  if (options.pool == Pool::kNone) {
    ASSIGN_OR_RETURN(options.pool, StatedPooling(*model_.checkpoint));
  }
  if (options.pool == Pool::kNone) options.pool = Pool::kLast;
  options.request_deadline = FromSeconds(flags_.request_timeout_s);
  embedding_service_ = std::make_unique<EmbeddingService>(options, *service_, *scheduler_, metrics_);
  embeddings_ = std::make_unique<EmbeddingsApi>(*embedding_service_);
  ollama_embed_ = std::make_unique<OllamaEmbedApi>(*embedding_service_);
  return absl::OkStatus();
}

LlamaOptions ServedModel::llama_options(const AnswerServiceOptions& service) const {
  const Tokenizer& tokenizer = text_->tokenizer;
  const auto name_of = [&](const std::vector<int32_t>& ids) {
    return ids.empty() ? std::string() : tokenizer.token_name(ids.front()).value_or("");
  };
  LlamaOptions options;
  options.build = std::string("shoal ") + kShoalVersion;
  options.model_path = model_.checkpoint->folder();
  if (text_->chat.has_value()) options.chat_template = text_->chat->source();
  options.bos_token = name_of(tokenizer.encode("", {.add_special = true}).value_or(std::vector<int32_t>()));
  options.eos_token = name_of(service.eos_ids);
  options.sampling = service.sampling;
  options.sequences_max = std::min(BatchPlannerOptions{}.sequences_max, flags_.rows_per_step);
  return options;
}

}  // namespace shoal
