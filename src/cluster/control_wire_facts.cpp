// What members say of themselves and of one another, as messages: joining, facts, links, machines, the use of experts.
#include <algorithm>
#include <iterator>
#include <string>

#include "base/status.h"
#include "base/text.h"
#include "cluster/control_wire.h"
#include "plan/machine_profile.h"
#include "plan/node_name.h"

namespace shoal {
namespace {

constexpr int kPeersMax = 4096;  // As many nodes as a plan may have.
constexpr int64_t kProbeBytesMax = int64_t{1} << 28;
constexpr int64_t kCheckMsMax = 60'000;
constexpr int kAddressesMax = 16;   // A machine has a few interfaces.
constexpr int32_t kRankMax = 4095;  // As many nodes as a plan may have.
constexpr int64_t kLeaseMsMin = 100;
constexpr int64_t kLeaseMsMax = int64_t{3600} * 1000;

/// The words of DescribeReply.state, in the order of WorkerState.
constexpr const char* kWorkerStates[] = {"idle", "loading", "ready", "serving"};

/// A word that this build does not know is taken for idle: the worker is asked to load, and answers for itself.
WorkerState WorkerStateOf(const std::string& word) {
  for (size_t i = 0; i < std::size(kWorkerStates); ++i) {
    if (word == kWorkerStates[i]) return static_cast<WorkerState>(i);
  }
  return WorkerState::kIdle;
}

/// One that a plan may hold and a log may show; not those of one link only ("fe80::1%eth0").
bool IsAddress(const std::string& text) {
  if (!IsNodeName(text)) return false;
  const auto address = ParseHostPort(text);
  return address.ok() && address->port != 0;
}

LogLevel LogLevelOf(uint32_t number) {
  return static_cast<LogLevel>(std::min(number, static_cast<uint32_t>(LogLevel::kError)));
}

}  // namespace

v1::JoinRequest ToProto(const JoinOffer& offer) {
  v1::JoinRequest request;
  request.set_name(offer.name);
  request.set_instance(offer.instance);
  for (const std::string& address : offer.addresses) request.add_addresses(address);
  if (offer.rank.has_value()) request.set_rank(*offer.rank);
  request.set_port(static_cast<uint32_t>(offer.port));
  return request;
}

absl::StatusOr<JoinOffer> FromProto(const v1::JoinRequest& request) {
  JoinOffer offer{.name = request.name(), .instance = request.instance()};
  if (!IsNodeName(offer.name)) {
    return InvalidArgument("join: expected a name of 1 to {} letters, digits or any of ._-:/@[]",
                           kNodeNameMax);
  }
  if (offer.instance == 0) return InvalidArgument("join: expected the worker's instance, got 0");
  if (request.addresses_size() > kAddressesMax) {
    return InvalidArgument("join: expected at most {} addresses, got {}", kAddressesMax,
                           request.addresses_size());
  }
  for (const std::string& address : request.addresses()) {
    if (!IsAddress(address)) {
      return InvalidArgument("join: expected addresses HOST:PORT of at most {} bytes, got one of {}",
                             kNodeNameMax, address.size());
    }
    offer.addresses.push_back(address);
  }
  if (request.has_rank()) {
    if (request.rank() < 1 || request.rank() > kRankMax) {
      return InvalidArgument("join: expected a rank of 1 to {}, got {}", kRankMax, request.rank());
    }
    offer.rank = request.rank();
  }
  if (request.port() > 65535) return InvalidArgument("join: expected a port, got {}", request.port());
  offer.port = static_cast<int>(request.port());
  if (offer.addresses.empty() && offer.port == 0)
    return InvalidArgument("join: expected an address, got none");
  return offer;
}

v1::JoinReply ToProto(const JoinAnswer& answer) {
  v1::JoinReply reply;
  reply.set_coordinator(answer.coordinator);
  reply.set_address(answer.address);
  reply.set_lease_ms(answer.lease / std::chrono::milliseconds(1));
  return reply;
}

absl::StatusOr<JoinAnswer> FromProto(const v1::JoinReply& reply) {
  if (!IsNodeName(reply.coordinator()) || !IsAddress(reply.address()) || reply.lease_ms() < kLeaseMsMin ||
      reply.lease_ms() > kLeaseMsMax) {
    return InvalidArgument(
        "join: expected the coordinator's name, an address, and a lease of {} to {} ms, got {} ms",
        kLeaseMsMin, kLeaseMsMax, reply.lease_ms());
  }
  return JoinAnswer{reply.coordinator(), reply.address(), std::chrono::milliseconds(reply.lease_ms())};
}

namespace {

v1::ExpertTier ToProto(const ExpertTierStats& stats) {
  v1::ExpertTier tier;
  tier.set_resident_bytes(stats.resident_bytes);
  tier.set_total_bytes(stats.total_bytes);
  tier.set_hits(stats.hits);
  tier.set_misses(stats.misses);
  tier.set_bytes_read(stats.bytes_read);
  tier.set_packed_again(stats.packed_again);
  tier.set_ahead(stats.ahead);
  tier.set_ahead_used(stats.ahead_used);
  tier.set_ahead_wasted(stats.ahead_wasted);
  tier.set_wait_ns(stats.wait_ns);
  return tier;
}

ExpertTierStats FromProto(const v1::ExpertTier& tier) {
  return {.resident_bytes = tier.resident_bytes(),
          .total_bytes = tier.total_bytes(),
          .hits = tier.hits(),
          .misses = tier.misses(),
          .bytes_read = tier.bytes_read(),
          .packed_again = tier.packed_again(),
          .ahead = tier.ahead(),
          .ahead_used = tier.ahead_used(),
          .ahead_wasted = tier.ahead_wasted(),
          .wait_ns = tier.wait_ns()};
}

}  // namespace

v1::DescribeReply ToProto(const WorkerFacts& facts) {
  v1::DescribeReply reply;
  reply.set_name(facts.name);
  reply.set_wire_version(facts.wire_version);
  reply.set_numerics_class(facts.numerics_class);
  reply.set_version(facts.version);
  reply.set_device(facts.device);
  reply.set_isa(facts.isa);
  reply.set_threads(static_cast<uint32_t>(facts.threads));
  reply.set_memory_bytes(facts.memory_bytes);
  reply.set_state(kWorkerStates[static_cast<size_t>(facts.state)]);
  reply.set_weight_bytes(facts.weight_bytes);
  reply.set_steps(facts.steps);
  reply.set_expert_calls(facts.expert_calls);
  reply.set_resident_bytes(facts.resident_bytes);
  reply.set_copied_bytes(facts.copied_bytes);
  reply.set_copies(facts.copies);
  reply.set_copies_bytes(facts.copies_bytes);
  reply.set_copies_evicted(facts.copies_evicted);
  reply.set_instance(facts.instance);
  reply.set_fetched_bytes(facts.fetched_bytes);
  reply.set_fetch_total_bytes(facts.fetch_total_bytes);
  reply.set_weights_sent_bytes(facts.weights_sent_bytes);
  reply.set_expert_memory(facts.expert_memory);
  if (facts.expert_tier.has_value()) *reply.mutable_expert_tier() = ToProto(*facts.expert_tier);
  for (const PeerLink& link : facts.links) {
    v1::NodeLink* out = reply.add_links();
    out->set_to(link.to);
    out->set_bytes_sent(link.bytes_sent);
    out->set_frames_sent(link.frames_sent);
    out->set_bytes_waiting(link.bytes_waiting);
  }
  if (facts.rates.has_value()) {
    v1::ThreadRates* rates = reply.mutable_rates();
    rates->set_threads(static_cast<uint32_t>(facts.rates->threads));
    rates->set_read_gbs(facts.rates->read_gbs);
    rates->set_int8_gops(facts.rates->int8_gops);
    rates->set_f32_gflops(facts.rates->f32_gflops);
    rates->set_wake_us(facts.rates->wake_us);
    rates->set_attention_gbs(facts.rates->attention_gbs);
    rates->set_attention_gflops(facts.rates->attention_gflops);
    rates->set_handover_us(facts.rates->handover_us);
    rates->set_draw_ns(facts.rates->draw_ns);
    rates->set_int8_few_gops(facts.rates->int8_few_gops);
  }
  return reply;
}

WorkerFacts FromProto(const v1::DescribeReply& reply) {
  WorkerFacts facts;
  facts.name = reply.name();
  facts.wire_version = reply.wire_version();
  facts.numerics_class = reply.numerics_class();
  facts.version = reply.version();
  facts.device = reply.device();
  facts.isa = reply.isa();
  facts.threads = static_cast<int32_t>(reply.threads());
  facts.memory_bytes = reply.memory_bytes();
  facts.state = WorkerStateOf(reply.state());
  facts.weight_bytes = reply.weight_bytes();
  facts.steps = reply.steps();
  facts.expert_calls = reply.expert_calls();
  facts.resident_bytes = reply.resident_bytes();
  facts.copied_bytes = reply.copied_bytes();
  facts.copies = reply.copies();
  facts.copies_bytes = reply.copies_bytes();
  facts.copies_evicted = reply.copies_evicted();
  facts.instance = reply.instance();
  facts.fetched_bytes = reply.fetched_bytes();
  facts.fetch_total_bytes = reply.fetch_total_bytes();
  facts.weights_sent_bytes = reply.weights_sent_bytes();
  facts.expert_memory = std::max<int64_t>(reply.expert_memory(), 0);
  if (reply.has_expert_tier()) facts.expert_tier = FromProto(reply.expert_tier());
  for (const v1::NodeLink& link : reply.links()) {
    // They are labels and totals of metrics.
    if (std::ssize(facts.links) >= kPeersMax || !IsNodeName(link.to())) continue;
    facts.links.push_back({link.to(), std::max<int64_t>(link.bytes_sent(), 0),
                           std::max<int64_t>(link.frames_sent(), 0),
                           std::max<int64_t>(link.bytes_waiting(), 0)});
  }
  if (reply.has_rates()) {
    const v1::ThreadRates& rates = reply.rates();
    facts.rates = ThreadRates{.threads = static_cast<int32_t>(rates.threads()),
                              .read_gbs = rates.read_gbs(),
                              .int8_gops = rates.int8_gops(),
                              .f32_gflops = rates.f32_gflops(),
                              .wake_us = rates.wake_us(),
                              .attention_gbs = rates.attention_gbs(),
                              .attention_gflops = rates.attention_gflops(),
                              .handover_us = rates.handover_us(),
                              .draw_ns = rates.draw_ns(),
                              .int8_few_gops = rates.int8_few_gops()};
    // Plans divide by them.
    if (!CheckRates(*facts.rates).ok()) facts.rates.reset();
  }
  return facts;
}

v1::CheckPeersRequest ToProto(const PeerCheck& check) {
  v1::CheckPeersRequest request;
  for (const PeerToCheck& peer : check.peers) {
    v1::PeerToCheck* out = request.add_peers();
    out->set_name(peer.name);
    out->set_address(peer.address);
    out->set_instance(peer.instance);
  }
  request.set_probe_bytes(check.probe_bytes);
  request.set_timeout_ms(check.timeout / std::chrono::milliseconds(1));
  return request;
}

absl::StatusOr<PeerCheck> FromProto(const v1::CheckPeersRequest& request) {
  if (request.peers_size() > kPeersMax || request.probe_bytes() < 0 ||
      request.probe_bytes() > kProbeBytesMax || request.timeout_ms() <= 0 ||
      request.timeout_ms() > kCheckMsMax) {
    return InvalidArgument("check of {} peers with {} B within {} ms: at most {}, {} B and {} ms",
                           request.peers_size(), request.probe_bytes(), request.timeout_ms(), kPeersMax,
                           kProbeBytesMax, kCheckMsMax);
  }
  PeerCheck check{.probe_bytes = request.probe_bytes(),
                  .timeout = std::chrono::milliseconds(request.timeout_ms())};
  for (const v1::PeerToCheck& peer : request.peers()) {
    if (!IsNodeName(peer.name()) || !IsAddress(peer.address()))
      return InvalidArgument("check of peers: expected names of nodes and addresses HOST:PORT");
    check.peers.push_back({peer.name(), peer.address(), peer.instance()});
  }
  return check;
}

v1::CheckPeersReply ToProto(const std::vector<PeerResult>& results) {
  v1::CheckPeersReply reply;
  for (const PeerResult& result : results) {
    v1::PeerResult* out = reply.add_results();
    if (!result.status.ok()) out->set_error(Message(result.status));
    out->set_round_trip_ns(result.round_trip.count());
    out->set_bytes_per_second(result.bytes_per_second);
  }
  return reply;
}

std::vector<PeerResult> FromProto(const v1::CheckPeersReply& reply) {
  std::vector<PeerResult> results;
  for (const v1::PeerResult& result : reply.results()) {
    results.push_back(
        {.status = result.error().empty() ? absl::OkStatus() : Unavailable("{}", result.error()),
         .round_trip = Duration(result.round_trip_ns()),
         .bytes_per_second = result.bytes_per_second()});
  }
  return results;
}

v1::ExpertUseReply ToProto(const std::vector<LayerUseCount>& counts) {
  v1::ExpertUseReply reply;
  for (const LayerUseCount& count : counts) {
    v1::LayerUse* out = reply.add_layers();
    out->set_layer(static_cast<uint32_t>(count.layer.value));
    out->set_top_k(static_cast<uint32_t>(count.use.top_k));
    out->mutable_rows()->Add(count.use.rows.begin(), count.use.rows.end());
    out->mutable_sample()->Add(count.use.sample.begin(), count.use.sample.end());
    out->set_token_rows(count.rows.rows);
    out->set_rows_local(count.rows.rows_local);
    out->set_rows_sent(count.rows.rows_sent);
    out->set_messages(count.rows.messages);
  }
  return reply;
}

absl::StatusOr<std::vector<LayerUseCount>> FromProto(const v1::ExpertUseReply& reply) {
  constexpr int kLayersMax = 4096;
  constexpr int kExpertsOfLayerMax = 4096;
  if (reply.layers_size() > kLayersMax)
    return InvalidArgument("use of experts: {} layers, expected {} at most", reply.layers_size(), kLayersMax);
  std::vector<LayerUseCount> counts;
  for (const v1::LayerUse& in : reply.layers()) {
    if (in.layer() >= kLayersMax || in.rows_size() > kExpertsOfLayerMax || in.top_k() > kExpertsPerRowMax) {
      return InvalidArgument(
          "use of experts: layer {} of {} experts, {} per row: expected less than {}, {} and {}", in.layer(),
          in.rows_size(), in.top_k(), kLayersMax, kExpertsOfLayerMax, kExpertsPerRowMax);
    }
    LayerUseCount count{.layer = LayerId{static_cast<int32_t>(in.layer())},
                        .use = {.top_k = static_cast<int32_t>(in.top_k()),
                                .rows = {in.rows().begin(), in.rows().end()},
                                .sample = {}},
                        .rows = {in.token_rows(), in.rows_local(), in.rows_sent(), in.messages()}};
    for (const uint32_t id : in.sample()) {
      if (id >= kExpertsOfLayerMax && id != LayerUse::kNoneSampled)
        return InvalidArgument("use of experts: expert {} of layer {}", id, in.layer());
      count.use.sample.push_back(static_cast<uint16_t>(id));
    }
    constexpr uint64_t kCountMax = uint64_t{1} << 40;  // Sums of counts stay far from wrapping around.
    if (std::ranges::any_of(count.use.rows, [](uint64_t rows) { return rows > kCountMax; }))
      return InvalidArgument("use of experts: layer {}: expected {} rows at most", in.layer(), kCountMax);
    const absl::Status sound = CheckUse(count.use, {.experts = static_cast<int32_t>(count.use.rows.size())});
    if (!sound.ok()) return Annotate(sound, fmt::format("use of experts: layer {}", in.layer()));
    counts.push_back(std::move(count));
  }
  return counts;
}

v1::ExamineReply ToProto(const MachineReport& report) {
  v1::ExamineReply reply;
  reply.set_unix_s(report.unix_s);
  reply.set_cpu_name(report.cpu_name);
  reply.set_cpus(static_cast<uint32_t>(report.cpus));
  reply.set_cores(static_cast<uint32_t>(report.cores));
  reply.set_isa(report.isa);
  reply.set_memory_total(report.memory_total);
  reply.set_memory_available(report.memory_available);
  reply.set_memory_limit(report.memory_limit);
  reply.set_huge_pages(report.huge_pages);
  reply.set_descriptors(report.descriptors);
  reply.set_model_hash(report.model_hash);
  reply.set_model_error(report.model_error);
  reply.set_fetches_model(report.fetches_model);
  return reply;
}

MachineReport FromProto(const v1::ExamineReply& reply) {
  return {.unix_s = reply.unix_s(),
          .cpu_name = reply.cpu_name(),
          .cpus = static_cast<int32_t>(reply.cpus()),
          .cores = static_cast<int32_t>(reply.cores()),
          .isa = reply.isa(),
          .memory_total = reply.memory_total(),
          .memory_available = reply.memory_available(),
          .memory_limit = reply.memory_limit(),
          .huge_pages = reply.huge_pages(),
          .descriptors = reply.descriptors(),
          .model_hash = reply.model_hash(),
          .model_error = reply.model_error(),
          .fetches_model = reply.fetches_model()};
}

absl::StatusOr<std::vector<std::string>> FromProto(const v1::ExamineRequest& request) {
  if (request.model_names_size() > kModelNamesMax) {
    return InvalidArgument("examine: {} names of the model, expected at most {}", request.model_names_size(),
                           kModelNamesMax);
  }
  return std::vector<std::string>(request.model_names().begin(), request.model_names().end());
}

v1::LogRequest ToProto(const LogQuery& query) {
  v1::LogRequest request;
  request.set_after_ms(query.after_ms);
  request.set_at_least(static_cast<uint32_t>(query.at_least));
  request.set_bytes_max(query.bytes_max);
  return request;
}

LogQuery FromProto(const v1::LogRequest& request) {
  return {.after_ms = request.after_ms(),
          .at_least = LogLevelOf(request.at_least()),
          .bytes_max = std::clamp<int64_t>(request.bytes_max(), 0, kLogRingBytesMax)};
}

v1::LogReply ToProto(const std::vector<LoggedLine>& lines) {
  v1::LogReply reply;
  for (const LoggedLine& line : lines) {
    v1::LogLine& out = *reply.add_lines();
    out.set_id(line.id);
    out.set_unix_ms(line.unix_ms);
    out.set_level(static_cast<uint32_t>(line.level));
    out.set_text(line.text);
  }
  return reply;
}

std::vector<LoggedLine> FromProto(const v1::LogReply& reply, const LogQuery& query) {
  std::vector<LoggedLine> lines;
  int64_t bytes = 0;
  for (const v1::LogLine& said : reply.lines()) {
    LoggedLine line{.id = said.id(),
                    .unix_ms = said.unix_ms(),
                    .level = LogLevelOf(said.level()),
                    .text = said.text().substr(0, kLoggedLineBytesMax)};
    bytes += static_cast<int64_t>(sizeof(LoggedLine) + line.text.size());
    if (bytes > query.bytes_max) break;
    if (line.level >= query.at_least) lines.push_back(std::move(line));
  }
  return lines;
}

}  // namespace shoal
