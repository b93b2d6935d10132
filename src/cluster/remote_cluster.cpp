#include "cluster/remote_cluster.h"

#include <algorithm>
#include <iterator>
#include <set>
#include <utility>

#include "base/exposure.h"
#include "base/log.h"
#include "base/random.h"
#include "base/status.h"
#include "base/text.h"
#include "cluster/addresses.h"
#include "compute/cpu_backend.h"
#include "exec/model_facts.h"
#include "numeric/version.h"

namespace shoal {
namespace {

constexpr int64_t kDescribeMs = 2000;
constexpr int64_t kOpenMs = 8000;  // Longer than a worker's own wait for its peers.
constexpr int64_t kConnectMs = 5000;
constexpr int64_t kDialMs = 1500;      // Of links that are opened while a session goes on, as at a worker.
constexpr int64_t kDialCallMs = 4000;  // That, and a worker's wait for its turn.
constexpr int64_t kCloseMs = 1000;
constexpr int64_t kCloseLostMs = 200;  // It is not expected to answer, and the next session waits for this.
constexpr Duration kCheckTimeout = std::chrono::seconds(4);
constexpr int64_t kPrepareMs =
    86'400'000;  // Large models over slow links; a dead worker is found by keep-alive.

/// A wildcard is a fine place to listen, but nobody can dial it.
bool IsWildcard(const std::string& host) { return host == "0.0.0.0" || host == "::"; }

/// Of a member to which an error happened: gone, or there but of no use.
MemberState StateAfter(const absl::Status& error) {
  const bool gone = absl::IsUnavailable(error) || absl::IsDeadlineExceeded(error);
  return gone ? MemberState::kLost : MemberState::kFailed;
}

}  // namespace

RemoteCluster::RemoteCluster(Options options)
    : options_(std::move(options)),
      members_(options_.members, options_.key, options_.adopt_names, CpuNumericsClass()),
      host_(options_.host != nullptr ? options_.host : MakeHost(options_)),
      shelf_(options_.weights_rate),
      weights_service_(shelf_, options_.key),
      own_node_{options_.members.front().name, options_.weights->checkpoint().content_identity()},
      session_base_(EntropySeed() << 32),
      instance_(EntropySeed() | 1),  // Not 0.
      probes_(instance_, options_.key),
      cache_service_(*this, options_.key) {
  if (options_.send_weights) shelf_.put(options_.weights->shared_checkpoint());
}

// Others may use the host: only what is this cluster's goes.
RemoteCluster::~RemoteCluster() { host_->drop(own_node()); }

std::shared_ptr<NodeHost> RemoteCluster::MakeHost(const Options& options) {
  const CpuBackend::Options cpu{options.isa, options.threads, options.cpus};
  return std::make_shared<NodeHost>(NodeHost::Options{
      .make_backend = [cpu](const HostedNode&) { return std::make_unique<CpuBackend>(cpu); },
      .packed_cache = options.packed_cache,
      .expert_memory = options.expert_memory,
      .kv_disk = options.kv_disk});
}

NodeHost::NodeReport RemoteCluster::own_report() const {
  for (NodeHost::NodeReport& report : host_->report()) {
    if (report.node == own_node()) return std::move(report);
  }
  return {};
}

absl::StatusOr<std::unique_ptr<RemoteCluster>> RemoteCluster::Start(Options options) {
  std::unique_ptr<RemoteCluster> cluster(new RemoteCluster(std::move(options)));
  const Options& o = cluster->options_;
  if (o.key.tls != nullptr) RETURN_IF_ERROR(o.key.tls->check_name(cluster->members_.self().name()));
  if (o.listen.empty()) {
    // It will listen at the address towards its workers.
    for (const MemberAddress& member : o.members) {
      if (member.address.empty()) continue;
      ASSIGN_OR_RETURN(const HostPort worker, ParseHostPort(member.address));
      RETURN_IF_ERROR(
          CheckExposure({"serve, towards its worker", worker.host, o.key.has_value(), o.insecure}));
    }
    return cluster;
  }
  ASSIGN_OR_RETURN(const HostPort listen, ParseHostPort(o.listen));
  RETURN_IF_ERROR(cluster->start_endpoint(listen));
  cluster->dialled_at_is_told_ = !IsWildcard(listen.host);
  if (cluster->dialled_at_is_told_)
    cluster->own_address_ = HostPort{listen.host, cluster->endpoint_->port()}.to_string();
  return cluster;
}

absl::Status RemoteCluster::start_endpoint(const HostPort& listen) {
  RETURN_IF_ERROR(
      CheckExposure({"serve --listen", listen.host, options_.key.has_value(), options_.insecure}));
  GrpcOptions grpc;
  grpc.listen = listen.to_string();
  grpc.name = members_.self().name();
  grpc.key = options_.key;
  grpc.services = {probes_.service(), weights_service_.service(), cache_service_.service()};
  ASSIGN_OR_RETURN(endpoint_, GrpcEndpoint::start(std::move(grpc)));
  return absl::OkStatus();
}

// A worker's name may not resolve before its machine is up, so this is part of every attempt. No session is open now.
absl::StatusOr<std::string> RemoteCluster::HostTowards(const Plan& plan) {
  std::string host = "127.0.0.1";
  for (const PlanNode& node : plan.nodes) {
    if (node.address.empty()) continue;
    ASSIGN_OR_RETURN(const HostPort worker, ParseHostPort(node.address));
    ASSIGN_OR_RETURN(host, LocalAddressTowards(worker.host, worker.port));
    if (!IsLoopback(host))
      break;  // Workers on other machines reach no loopback address, those on this one any.
  }
  return host;
}

absl::Status RemoteCluster::listen_towards(const Plan& plan) {
  if (dialled_at_is_told_) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::string host, HostTowards(plan));
  if (endpoint_ == nullptr || (options_.listen.empty() && host != listens_on_)) {
    endpoint_.reset();
    RETURN_IF_ERROR(start_endpoint(HostPort{host, 0}));
    listens_on_ = host;
  }
  own_address_ = HostPort{host, endpoint_->port()}.to_string();
  return absl::OkStatus();
}

absl::StatusOr<std::string> RemoteCluster::address_towards(const Plan& next) const {
  if (dialled_at_is_told_) return own_address_;
  ASSIGN_OR_RETURN(const std::string host, HostTowards(next));
  if (endpoint_ == nullptr || (options_.listen.empty() && host != listens_on_)) {
    return ResourceExhausted("this process listens elsewhere than at {}, for the session", host);
  }
  return HostPort{host, endpoint_->port()}.to_string();
}

std::vector<PeerToCheck> RemoteCluster::peers_of(const Session& session) const {
  std::vector<PeerToCheck> peers;
  for (size_t i = 0; i < session.members.size(); ++i) {
    const PlanNode& node = session.plan.nodes[i];
    const MemberStatus status = session.members[i]->status();
    const uint64_t worker = status.facts.has_value() ? status.facts->instance : 0;
    peers.push_back({node.name, node.address, session.members[i]->is_self() ? instance_ : worker});
  }
  return peers;
}

// Weights take long to load: that two nodes don't reach each other is said before.
absl::Status RemoteCluster::check_links(const Session& session) {
  const std::vector<PeerToCheck> peers = peers_of(session);
  if (peers.size() < 2 || peers == links_checked_) return absl::OkStatus();
  std::vector<bool> known;
  for (const PeerToCheck& peer : peers)
    known.push_back(std::ranges::find(links_checked_, peer) != links_checked_.end());
  const std::vector<absl::Status> found =
      ForEachMember(session.members, [&](size_t index, Member& member) -> absl::Status {
        if (member.is_self()) return absl::OkStatus();  // It has asked them all just now.
        return check_links_of(member, peers[index], NewLinks(peers, index, known));
      });
  RETURN_IF_ERROR(AllErrors(found));
  links_checked_ = peers;
  return absl::OkStatus();
}

std::vector<PeerToCheck> NewLinks(const std::vector<PeerToCheck>& peers, size_t from,
                                  const std::vector<bool>& known) {
  std::vector<PeerToCheck> links;
  for (size_t i = 0; i < peers.size(); ++i) {
    if (i != from && !(known[from] && known[i])) links.push_back(peers[i]);
  }
  return links;
}

absl::Status RemoteCluster::check_links_of(Member& member, const PeerToCheck& from,
                                           std::vector<PeerToCheck> peers) {
  if (peers.empty()) return absl::OkStatus();
  const PeerCheck check{.peers = std::move(peers), .timeout = kCheckTimeout};
  ASSIGN_OR_RETURN(const std::vector<PeerResult> results, member.client()->check_peers(check));
  for (size_t i = 0; i < results.size(); ++i) {
    if (results[i].status.ok()) continue;
    const PeerToCheck& to = check.peers[i];
    return Unavailable(
        "node '{}' at {} does not reach node '{}' at {}: {}. Give '{}' an address that all nodes reach, or "
        "open its "
        "port for them",
        from.name, from.address, to.name, to.address, Message(results[i].status), to.name);
  }
  return absl::OkStatus();
}

absl::StatusOr<MemberList> RemoteCluster::members_of(const Plan& plan) const {
  RETURN_IF_ERROR(Validate(plan));
  MemberList list;
  for (const PlanNode& node : plan.nodes) {
    std::shared_ptr<Member> member = members_.find(node.name);
    if (member == nullptr || member->is_self() != list.empty()) {
      return FailedPrecondition("the plan's node {} is '{}', expected {}", list.size(), node.name,
                                list.empty() ? "the coordinator" : "one of its workers");
    }
    list.push_back(std::move(member));
  }
  return list;
}

void RemoteCluster::report(Member& member, int64_t done, int64_t total) const {
  member.note_loading(done, total);
  if (options_.progress) options_.progress(member.name(), done, total);
}

absl::StatusOr<int64_t> RemoteCluster::prepare(const Session& session, NodeId node, Member& member,
                                               bool beside) {
  const PrepareOrder order{session.plan,
                           node,
                           options_.model_names,
                           options_.weights->checkpoint().hash(),
                           member.samples(*options_.weights, ShardOf(session.plan, node)),
                           session.limits,
                           giver(),
                           options_.send_weights ? options_.weights->checkpoint().content_identity() : "",
                           beside};
  return member.client()->prepare(
      order, [&](int64_t done, int64_t total) { report(member, done, total); },
      Deadline::after_ms(kPrepareMs));
}

absl::Status RemoteCluster::prepare_own(const Session& session) {
  NodeShard shard = ShardOf(session.plan, NodeId{0});
  if (host_->holds(own_node(), shard)) return absl::OkStatus();
  host_->trim_kept(own_node(), shard.layers, session.limits);
  Member& self = members_.self();
  self.note(MemberState::kLoading, absl::OkStatus());
  const absl::Status loaded = host_->load(own_node(), options_.weights, std::move(shard),
                                          [&](int64_t done, int64_t total) { report(self, done, total); });
  self.note(loaded.ok() ? MemberState::kReady : MemberState::kFailed, loaded);
  return Annotate(loaded, fmt::format("node '{}'", self.name()));
}

absl::Status RemoteCluster::prepare_all(const Session& session) {
  return AllErrors(ForEachMember(session.members, [&](size_t index, Member& member) {
    if (member.is_self()) return prepare_own(session);
    member.note(MemberState::kLoading, absl::OkStatus());
    const absl::Status status = prepare(session, NodeId{static_cast<int32_t>(index)}, member, false).status();
    member.note(status.ok() ? MemberState::kReady : StateAfter(status), status);
    return status;
  }));
}

bool RemoteCluster::takes_part(const Member& member) const {
  const std::lock_guard lock(mutex_);
  return session_ != nullptr && member.status().state == MemberState::kUp &&
         std::ranges::any_of(session_->members, [&member](const auto& one) { return one.get() == &member; });
}

absl::Status RemoteCluster::prepare_own_beside(const Plan& plan) {
  NodeShard shard = ShardOf(plan, NodeId{0});
  if (host_->holds(own_node(), shard)) return absl::OkStatus();
  {
    const std::lock_guard lock(mutex_);
    if (session_ != nullptr && options_.check_beside) {
      RETURN_IF_ERROR(options_.check_beside(session_->plan, session_->limits, shard));
    }
  }
  return host_->prepare(own_node(), options_.weights, std::move(shard), {});
}

absl::StatusOr<std::string> RemoteCluster::address_beside(const Plan& next) const {
  std::string address;
  {
    const std::lock_guard lock(mutex_);
    if (session_ == nullptr) return Unavailable("the session has ended meanwhile");
    address = session_->plan.nodes[0].address;
  }
  if (dialled_at_is_told_ || !options_.listen.empty()) return address;
  ASSIGN_OR_RETURN(const HostPort now, ParseHostPort(address));
  ASSIGN_OR_RETURN(const std::string host, HostTowards(next));
  if (IsLoopback(host) || host == now.host) return address;
  return ResourceExhausted(
      "this process listens at {} for the session, and can't listen at {} for the next one, too", address,
      host);
}

// Members that take part in the session stay as they are; what the others fail at counts.
absl::Status RemoteCluster::prepare(const Plan& plan) {
  Session session;
  ASSIGN_OR_RETURN(session.members, members_of(plan));
  session.plan = plan;
  ASSIGN_OR_RETURN(session.plan.nodes[0].address, address_beside(plan));
  session.limits = options_.limits(plan);
  return AllErrors(ForEachMember(session.members, [&](size_t index, Member& member) {
    if (member.is_self()) return Annotate(prepare_own_beside(plan), fmt::format("node '{}'", member.name()));
    const bool joins = !takes_part(member);
    if (joins) member.note(MemberState::kLoading, absl::OkStatus());
    const absl::Status status = prepare(session, NodeId{static_cast<int32_t>(index)}, member, true).status();
    // What the next session overtook is no failure of the member's.
    if (joins && !absl::IsCancelled(status))
      member.note(status.ok() ? MemberState::kReady : StateAfter(status), status);
    return status;
  }));
}

absl::StatusOr<std::unique_ptr<RemoteCluster::Session>> RemoteCluster::session_of(
    const Plan& plan, const std::string& own_address) {
  auto session = std::make_unique<Session>();
  ASSIGN_OR_RETURN(session->members, members_of(plan));
  session->plan = plan;
  session->plan.nodes[0].address = own_address;
  session->limits = options_.limits(plan);
  if (options_.buddies) session->buddies = options_.buddies(session->plan, session->limits, {});
  session->lost.resize(session->members.size());
  session->id = session_base_ + ++sessions_;
  return session;
}

absl::Status RemoteCluster::dial_all(Session& session) {
  return FirstError(session.members, [&](size_t index, Member& member) -> absl::Status {
    if (!member.is_self()) {
      const OpenOrder order = order_for(session, index, {});
      return member.client()->dial(order, Deadline::after_ms(kDialCallMs));
    }
    const NodeModel* const model = host_->model(own_node());
    if (model == nullptr) return FailedPrecondition("node '{}' holds nothing any more", member.name());
    ASSIGN_OR_RETURN(session.dialled,
                     endpoint_->open_session(WireSession(session.plan, NodeId{0}, session.id, *model)));
    return session.dialled->connect(Deadline::after_ms(kDialMs));
  });
}

// Nobody's state is noted: members that take part in the session stay as they are.
absl::Status RemoteCluster::open_ahead(const Plan& plan) {
  Laps laps;
  ahead_.reset();
  const absl::StatusOr<std::string> address = address_towards(plan);
  if (absl::IsResourceExhausted(address.status())) return absl::OkStatus();
  RETURN_IF_ERROR(address.status());
  ASSIGN_OR_RETURN(std::unique_ptr<Session> session, session_of(plan, *address));
  RETURN_IF_ERROR(check_links(*session));
  laps.end("links checked");
  const absl::Status dialled = dial_all(*session);
  laps.end("links");
  LogDebug("the next session's links are open: {} ({})", dialled.ok(), laps.text());
  if (absl::IsUnimplemented(dialled)) return absl::OkStatus();
  RETURN_IF_ERROR(dialled);
  ahead_ = std::move(session);
  return absl::OkStatus();
}

std::unique_ptr<RemoteCluster::Session> RemoteCluster::take_ahead(const Plan& plan) {
  std::unique_ptr<Session> ahead = std::move(ahead_);
  if (ahead == nullptr) return nullptr;
  Plan same = plan;
  same.nodes[0].address = ahead->plan.nodes[0].address;
  same.epoch = ahead->plan.epoch;
  if (same != ahead->plan) return nullptr;
  ahead->plan.epoch = plan.epoch;
  return ahead;
}

absl::StatusOr<std::unique_ptr<RemoteCluster::Session>> RemoteCluster::get_ready(const Plan& plan,
                                                                                 PipelineEngine& engine,
                                                                                 Laps& laps) {
  ASSIGN_OR_RETURN(const MemberList members, members_of(plan));
  RETURN_IF_ERROR(FirstError(
      members, [](size_t, Member& member) { return member.describe(Deadline::after_ms(kDescribeMs)); }));
  laps.end("asking nodes");
  RETURN_IF_ERROR(listen_towards(plan));
  ASSIGN_OR_RETURN(std::unique_ptr<Session> session, session_of(plan, own_address_));
  RETURN_IF_ERROR(check_links(*session));
  if (options_.opens) options_.opens(session->plan);
  engine.report_down(Unavailable("the nodes are loading their weights"));
  laps.end("links");
  RETURN_IF_ERROR(prepare_all(*session));
  laps.end("weights");
  return session;
}

absl::Status RemoteCluster::open(const Plan& plan, PipelineEngine& engine) {
  if (stopping_) return Cancelled("the server is shutting down");
  Laps laps;
  std::unique_ptr<Session> session = take_ahead(plan);
  if (session == nullptr) {
    ASSIGN_OR_RETURN(session, get_ready(plan, engine, laps));
  } else {
    own_address_ = session->plan.nodes[0].address;
    if (options_.opens) options_.opens(session->plan);
  }
  Session& opened = *session;
  {
    const std::lock_guard lock(mutex_);
    session_ = std::move(session);
  }
  const absl::Status status = open_all(opened, engine);
  laps.end("sessions");
  LogDebug("a session {}: {}", status.ok() ? "is open" : "was not opened", laps.text());
  if (!status.ok()) close(engine, status);
  return status;
}

absl::Status RemoteCluster::open_all(Session& session, PipelineEngine& engine) {
  const CachePlan caches = plan_caches(session, engine);
  std::vector<OpenAnswer> answers(session.members.size());
  RETURN_IF_ERROR(FirstError(session.members, [&](size_t index, Member& member) -> absl::Status {
    const OpenOrder order = order_for(session, index, caches);
    if (member.is_self()) {
      ASSIGN_OR_RETURN(answers[index], open_own(order, engine, std::move(session.dialled)));
      return absl::OkStatus();
    }
    absl::StatusOr<OpenAnswer> answer =
        member.client()->open(order, Deadline::after(std::chrono::milliseconds(kOpenMs) + order.move_max));
    member.note(answer.ok() ? MemberState::kUp : MemberState::kFailed, answer.status());
    if (answer.ok()) answers[index] = *std::move(answer);
    return answer.status();
  }));
  members_.self().note(MemberState::kUp, absl::OkStatus());
  const bool all_keep =
      caches.keeps != KeptCaches::kNone && std::ranges::all_of(answers, &OpenAnswer::keeps_cache);
  std::vector<uint64_t> missing;
  if (all_keep) missing = note_kept(caches, answers);
  last_ = {session.id, session.plan, session.buddies, instances_of(session.plan)};
  EngineLimits limits = EngineLimitsOf(session.plan, *host_->model(own_node()), session.limits);
  limits.copies = !session.buddies.empty();
  note_buddies(session);
  engine.open(session.plan, host_->transport(own_node()), limits, all_keep ? caches.keeps : KeptCaches::kNone,
              std::move(missing));
  return absl::OkStatus();
}

absl::StatusOr<OpenAnswer> RemoteCluster::open_own(const OpenOrder& order, PipelineEngine& engine,
                                                   std::unique_ptr<Transport> transport) {
  if (transport == nullptr) {
    ASSIGN_OR_RETURN(transport, endpoint_->open_session(WireSession(order.plan, NodeId{0}, order.session,
                                                                    *host_->model(own_node()))));
  }
  NodeHost::SessionSetup setup = SetupOf(order, options_.weights->checkpoint().hash(), options_.key);
  setup.transport = std::move(transport);
  setup.sink = &engine;
  RETURN_IF_ERROR(host_->open(own_node(), std::move(setup)));
  RETURN_IF_ERROR(
      host_->connect(own_node(), Deadline::after(std::chrono::milliseconds(kConnectMs) + order.move_max)));
  NodeHost::KeptPart part = host_->kept_part(own_node());
  return OpenAnswer{.keeps_cache = part.keeps, .missing = std::move(part.missing)};
}

void RemoteCluster::close(PipelineEngine& engine, const absl::Status& why) {
  Laps laps;
  engine.close(why);
  std::unique_ptr<Session> session;
  {
    const std::lock_guard lock(mutex_);
    session = std::move(session_);
    if (session == nullptr) return;
    for (const auto& [node, links] : host_->links(own_node()).value_or(TransportStats()).peers) {
      session->members[static_cast<size_t>(node.value)]->add_links(links);
    }
  }
  members_.self().note(MemberState::kReady, absl::OkStatus());
  // Of a session that no step was run in, the engine knows nothing.
  const bool ran = session->id == last_.id;
  const NodeId suspected = ran ? engine.suspected() : NodeId{-1};
  for (size_t i = 1; ran && i < session->members.size(); ++i) {
    session->members[i]->note_heard(engine.last_heard(NodeId{static_cast<int32_t>(i)}));
  }
  if (suspected.value > 0 && static_cast<size_t>(suspected.value) < session->members.size()) {
    session->members[static_cast<size_t>(suspected.value)]->note(StateAfter(why), why);
  }
  laps.end("engine");
  // A worker that cannot be told finds its links closed, and the next session replaces this one.
  (void)ForEachMember(session->members, [&](size_t index, Member& member) {
    if (member.is_self()) {  // Its executor may take a layer's time to notice, as those of the others.
      host_->close(session->id);
      return absl::OkStatus();
    }
    const bool lost = static_cast<size_t>(suspected.value) == index && StateAfter(why) == MemberState::kLost;
    return member.client()->close(session->id, Deadline::after_ms(lost ? kCloseLostMs : kCloseMs));
  });
  laps.end("nodes");
  LogDebug("a session is closed: {}", laps.text());
}

bool RemoteCluster::on_lost(NodeId node, const absl::Status& why) {
  Session* session = nullptr;
  {
    const std::lock_guard lock(mutex_);
    if (session_ == nullptr || node.value <= 0 || node.value >= std::ssize(session_->members)) return false;
    session_->members[static_cast<size_t>(node.value)]->note(MemberState::kLost, why);
    session = session_.get();
  }
  // Only the thread that is here ends sessions, and reads what follows.
  session->lost[static_cast<size_t>(node.value)] = true;
  return replace_buddies(*session);
}

void RemoteCluster::interrupt() {
  stopping_ = true;
  members_.cancel();
}

std::vector<MemberStatus> RemoteCluster::status(Deadline deadline) {
  // One caller asks for all: pages that are loaded at the same time cost the workers one call.
  if (const std::unique_lock asking(asking_, std::try_to_lock); asking.owns_lock())
    members_.refresh(deadline);
  return members_.status();
}

std::vector<LayerUseCount> RemoteCluster::take_expert_use(Deadline deadline) {
  const MemberList members = members_.all();
  std::vector<std::vector<LayerUseCount>> counts(members.size());
  (void)ForEachMember(members, [&](size_t index, Member& member) -> absl::Status {
    if (member.is_self()) {
      counts[index] = host_->take_expert_use(own_node());
    } else if (member.status().state == MemberState::kUp) {
      ASSIGN_OR_RETURN(counts[index],
                       member.client()->take_expert_use(options_.weights->checkpoint().hash(), deadline));
    }
    return absl::OkStatus();
  });
  std::vector<LayerUseCount> all;
  for (std::vector<LayerUseCount>& some : counts) std::ranges::move(some, std::back_inserter(all));
  return all;
}

std::optional<double> RemoteCluster::load_progress() const {
  int64_t done = 0;
  int64_t total = 0;
  bool loading = false;
  for (const MemberStatus& member : members_.status()) {
    loading = loading || member.state == MemberState::kLoading;
    done += member.load_done;
    total += member.load_total;
  }
  if (!loading) return std::nullopt;
  return total > 0 ? static_cast<double>(done) / static_cast<double>(total) : 0;
}

std::map<std::string, LinkStats> RemoteCluster::link_stats() const {
  std::map<std::string, LinkStats> links;
  const std::lock_guard lock(mutex_);  // Held throughout: a session that ends meanwhile counts once.
  for (const auto& member : members_.all()) links[member->name()] = member->links();
  if (session_ == nullptr) return links;
  for (const auto& [node, stats] : host_->links(own_node()).value_or(TransportStats()).peers) {
    links[session_->members[static_cast<size_t>(node.value)]->name()] += stats;
  }
  return links;
}

}  // namespace shoal
