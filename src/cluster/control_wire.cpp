// Orders, and what of caches goes between nodes, as messages.
#include "cluster/control_wire.h"

#include <span>
#include <string>
#include <variant>

#include "base/status.h"
#include "base/text.h"
#include "plan/node_name.h"

namespace shoal {
namespace {

/// What a coordinator asks for is at most an hour (--liveness-timeout); what would not fit in nanoseconds
/// must not get in.
constexpr int64_t kExpertTimeoutMsMax = int64_t{24} * 3600 * 1000;

constexpr int64_t kSamplesMax = 2 * kWeightSamplesMax;  // Of routed experts, and of all else.
constexpr int kCacheSourcesMax = 4096;                  // As many nodes as a plan may have.
constexpr int64_t kMoveMsMax = 600'000;
/// An identity of content is a hash.
constexpr int64_t kIdentityBytesMax = 256;

template <typename Request>
void PutLimits(const StepLimits& limits, Request& request) {
  request.set_context(limits.context);
  request.set_blocks(limits.blocks);
  request.set_rows_max(limits.rows_max);
  request.set_state_slots(limits.state_slots);
}

/// Signs alone: whether they suit the model is known where the model is.
template <typename Request>
absl::StatusOr<StepLimits> ReadLimits(const Request& request) {
  StepLimits limits;
  limits.context = request.context();
  limits.blocks = request.blocks();
  limits.rows_max = request.rows_max();
  limits.state_slots = request.state_slots();
  if (limits.context <= 0 || limits.blocks <= 0 || limits.rows_max <= 0 || limits.state_slots < 0) {
    return InvalidArgument(
        "limits: context {}, blocks {} and rows {} must be positive, state slots {} not negative",
        limits.context, limits.blocks, limits.rows_max, limits.state_slots);
  }
  return limits;
}

absl::StatusOr<Plan> ReadPlan(const std::string& json, int32_t node) {
  auto plan = PlanFromJson(json);
  if (!plan.ok()) return Annotate(plan.status(), "the coordinator's plan");
  if (node < 0 || static_cast<size_t>(node) >= plan->nodes.size()) {
    return InvalidArgument("node {}: the coordinator's plan has {} nodes", node, plan->nodes.size());
  }
  return plan;
}

void PutGiver(const OrderGiver& giver, v1::OrderGiver& out) {
  out.set_id(giver.id);
  out.set_take_over(giver.take_over);
}

OrderGiver ReadGiver(const v1::OrderGiver& giver) { return {giver.id(), giver.take_over()}; }

}  // namespace

std::string TokenContext(std::string_view service, std::string_view method,
                         const google::protobuf::MessageLite& request) {
  return fmt::format("{}/{}\n{}", service, method, request.SerializeAsString());
}

v1::PrepareRequest ToProto(const PrepareOrder& order) {
  v1::PrepareRequest request;
  request.set_plan_json(PlanToJson(order.plan));
  request.set_node(order.node.value);
  for (const std::string& name : order.model_names) request.add_model_names(name);
  request.set_model_hash(order.model_hash);
  for (const WeightSample& sample : order.samples) {
    v1::WeightSample* out = request.add_samples();
    out->set_weight(sample.weight);
    out->set_hash(sample.hash);
  }
  PutLimits(order.limits, request);
  PutGiver(order.giver, *request.mutable_giver());
  request.set_weights_content(order.weights_content);
  request.set_beside(order.beside);
  return request;
}

absl::StatusOr<PrepareOrder> FromProto(const v1::PrepareRequest& request) {
  PrepareOrder order;
  ASSIGN_OR_RETURN(order.plan, ReadPlan(request.plan_json(), request.node()));
  order.node = NodeId{request.node()};
  if (request.model_names_size() > kModelNamesMax || request.samples_size() > kSamplesMax) {
    return InvalidArgument("prepare: {} names of the model and {} samples, expected at most {} and {}",
                           request.model_names_size(), request.samples_size(), kModelNamesMax, kSamplesMax);
  }
  order.model_names.assign(request.model_names().begin(), request.model_names().end());
  order.model_hash = request.model_hash();
  order.beside = request.beside();
  for (const v1::WeightSample& sample : request.samples()) {
    if (!order.samples.empty() && sample.weight() <= order.samples.back().weight) {
      return InvalidArgument(
          "the coordinator's samples: expected weights in ascending order, got {} after {}", sample.weight(),
          order.samples.back().weight);
    }
    order.samples.push_back({sample.weight(), sample.hash(), ""});
  }
  ASSIGN_OR_RETURN(order.limits, ReadLimits(request));
  order.giver = ReadGiver(request.giver());
  order.weights_content = request.weights_content();
  if (std::ssize(order.weights_content) > kIdentityBytesMax) {
    return InvalidArgument("prepare: an identity of {} bytes, expected at most {}",
                           order.weights_content.size(), kIdentityBytesMax);
  }
  return order;
}

namespace {

void PutPlace(const CachedPlace& place, v1::CachedPlace& put) {
  put.set_state(std::holds_alternative<SlotId>(place.place));
  put.set_id(NumberOf(place.place));
  put.set_key_high(place.key.high);
  put.set_key_low(place.key.low);
  put.set_position(place.position);
  put.set_entry(place.entry);
}

absl::StatusOr<CachedPlace> ReadPlace(const v1::CachedPlace& one) {
  if (one.id() < 0 || one.position() <= 0) {
    return InvalidArgument("cache: place {} behind {} tokens", one.id(), one.position());
  }
  const CachePlace place = one.state() ? CachePlace(SlotId{one.id()}) : CachePlace(BlockId{one.id()});
  return CachedPlace{place, {one.key_high(), one.key_low()}, one.position(), one.entry()};
}

/// The name of a node; empty: none.
absl::StatusOr<std::string> ReadOwner(const std::string& name) {
  if (name.empty() || IsNodeName(name)) return name;
  return InvalidArgument(
      "cache: a node's name of {} bytes, expected at most {} letters, digits or any of ._-:/@[]", name.size(),
      kNodeNameMax);
}

template <typename Request>
void PutPlaces(std::span<const CachedPlace> places, Request& request) {
  for (const CachedPlace& one : places) {
    PutPlace(one, *request.add_places());
  }
}

template <typename Request>
absl::StatusOr<std::vector<CachedPlace>> ReadPlaces(const Request& request) {
  if (request.places_size() > kCachedPlacesMax) {
    return InvalidArgument("cache: {} places, expected at most {}", request.places_size(), kCachedPlacesMax);
  }
  std::vector<CachedPlace> places;
  for (const v1::CachedPlace& one : request.places()) {
    ASSIGN_OR_RETURN(const CachedPlace place, ReadPlace(one));
    places.push_back(place);
  }
  return places;
}

absl::StatusOr<Range> ReadLayers(int64_t begin, int64_t end) {
  constexpr int64_t kLayersMax = 1 << 16;
  if (begin >= 0 && begin < end && end <= kLayersMax) return Range{begin, end};
  return InvalidArgument("cache: layers [{}, {}), expected some below {}", begin, end, kLayersMax);
}

}  // namespace

v1::FetchCacheRequest ToProto(const CacheRequest& request, const std::string& model_hash) {
  v1::FetchCacheRequest put;
  put.set_model_hash(model_hash);
  put.set_session(request.session);
  put.set_identity_high(request.identity.high);
  put.set_identity_low(request.identity.low);
  put.set_layers_begin(request.layers.begin);
  put.set_layers_end(request.layers.end);
  PutPlaces(request.places, put);
  put.set_copies_of(request.copies_of);
  return put;
}

absl::StatusOr<CacheRequest> FromProto(const v1::FetchCacheRequest& request) {
  CacheRequest read;
  read.session = request.session();
  read.identity = {request.identity_high(), request.identity_low()};
  ASSIGN_OR_RETURN(read.layers, ReadLayers(request.layers_begin(), request.layers_end()));
  ASSIGN_OR_RETURN(read.places, ReadPlaces(request));
  ASSIGN_OR_RETURN(read.copies_of, ReadOwner(request.copies_of()));
  return read;
}

namespace {

template <typename Request>
void PutFollows(const std::vector<OpenOrder::Follow>& follows, Request& request) {
  for (const OpenOrder::Follow& follow : follows) {
    v1::CopiesToKeep& put = *request.add_follows();
    put.set_name(follow.name);
    put.set_address(follow.address);
    put.set_bytes_max(follow.bytes_max);
  }
}

template <typename Request>
absl::StatusOr<std::vector<OpenOrder::Follow>> ReadFollows(const Request& request) {
  if (request.follows_size() > kCacheSourcesMax) {
    return InvalidArgument("copies of {} nodes to keep, expected at most {}", request.follows_size(),
                           kCacheSourcesMax);
  }
  std::vector<OpenOrder::Follow> follows;
  for (const v1::CopiesToKeep& follow : request.follows()) {
    ASSIGN_OR_RETURN(std::string name, ReadOwner(follow.name()));
    if (name.empty() || follow.bytes_max() < 0) {
      return InvalidArgument("{} bytes of copies of node '{}' to keep", follow.bytes_max(), name);
    }
    follows.push_back({std::move(name), follow.address(), follow.bytes_max()});
  }
  return follows;
}

}  // namespace

v1::FollowRequest ToProto(const FollowOrder& order) {
  v1::FollowRequest request;
  request.set_model_hash(order.model_hash);
  request.set_session(order.session);
  PutFollows(order.follows, request);
  return request;
}

absl::StatusOr<FollowOrder> FromProto(const v1::FollowRequest& request) {
  FollowOrder order{.model_hash = request.model_hash(), .session = request.session(), .follows = {}};
  ASSIGN_OR_RETURN(order.follows, ReadFollows(request));
  return order;
}

v1::OpenRequest ToProto(const OpenOrder& order) {
  v1::OpenRequest request;
  request.set_session(order.session);
  request.set_plan_json(PlanToJson(order.plan));
  request.set_node(order.node.value);
  PutLimits(order.limits, request);
  request.set_expert_timeout_ms(order.expert_timeout / std::chrono::milliseconds(1));
  PutGiver(order.giver, *request.mutable_giver());
  request.set_keep_from(order.keep_from);
  PutPlaces(order.places, request);
  for (const OpenOrder::Source& source : order.sources) {
    v1::CacheSource& put = *request.add_sources();
    put.set_name(source.name);
    put.set_address(source.address);
    put.set_layers_begin(source.layers.begin);
    put.set_layers_end(source.layers.end);
    put.set_copies_of(source.copies_of);
  }
  request.set_copied(order.copied);
  PutFollows(order.follows, request);
  request.set_move_ms(order.move_max / std::chrono::milliseconds(1));
  request.set_gives_cache(order.gives);
  return request;
}

absl::StatusOr<OpenOrder> FromProto(const v1::OpenRequest& request) {
  OpenOrder order;
  order.session = request.session();
  ASSIGN_OR_RETURN(order.plan, ReadPlan(request.plan_json(), request.node()));
  order.node = NodeId{request.node()};
  ASSIGN_OR_RETURN(order.limits, ReadLimits(request));
  const int64_t timeout_ms = request.expert_timeout_ms();
  if (timeout_ms <= 0 || timeout_ms > kExpertTimeoutMsMax) {
    return InvalidArgument("open: expected an expert timeout of 1 to {} ms, got {}", kExpertTimeoutMsMax,
                           timeout_ms);
  }
  order.expert_timeout = std::chrono::milliseconds(timeout_ms);
  order.giver = ReadGiver(request.giver());
  order.keep_from = request.keep_from();
  ASSIGN_OR_RETURN(order.places, ReadPlaces(request));
  if (request.sources_size() > kCacheSourcesMax || request.move_ms() < 0 || request.move_ms() > kMoveMsMax) {
    return InvalidArgument("open: {} sources of caches, {} ms for them; expected at most {}, and {} ms",
                           request.sources_size(), request.move_ms(), kCacheSourcesMax, kMoveMsMax);
  }
  for (const v1::CacheSource& source : request.sources()) {
    ASSIGN_OR_RETURN(const Range layers, ReadLayers(source.layers_begin(), source.layers_end()));
    ASSIGN_OR_RETURN(std::string copies_of, ReadOwner(source.copies_of()));
    order.sources.push_back({source.name(), source.address(), layers, std::move(copies_of)});
  }
  order.move_max = std::chrono::milliseconds(request.move_ms());
  order.gives = request.gives_cache();
  order.copied = request.copied();
  auto follows = ReadFollows(request);
  if (!follows.ok()) return Annotate(follows.status(), "open");
  order.follows = *std::move(follows);
  return order;
}

v1::OpenReply ToProto(const OpenAnswer& answer) {
  v1::OpenReply reply;
  reply.set_keeps_cache(answer.keeps_cache);
  reply.mutable_missing()->Add(answer.missing.begin(), answer.missing.end());
  return reply;
}

absl::StatusOr<OpenAnswer> FromProto(const v1::OpenReply& reply, int64_t places) {
  OpenAnswer answer{.keeps_cache = reply.keeps_cache(), .missing = {}};
  int64_t least = 0;
  for (const int32_t index : reply.missing()) {
    if (index < least || index >= places) {
      return InvalidArgument("open: place {} is missing, expected some of {} in their order", index, places);
    }
    answer.missing.push_back(index);
    least = int64_t{index} + 1;
  }
  return answer;
}

v1::CachePiece ToProto(const CopyPiece& piece) {
  v1::CachePiece put;
  put.set_number(piece.number);
  PutPlace(piece.place, *put.mutable_place());
  put.set_last(piece.last);
  put.set_images(piece.images.data(), piece.images.size());
  return put;
}

absl::StatusOr<CopyPiece> FromProto(const v1::CachePiece& piece) {
  ASSIGN_OR_RETURN(const CachedPlace place, ReadPlace(piece.place()));
  return CopyPiece{piece.number(), place, piece.last(), std::as_bytes(std::span(piece.images()))};
}

}  // namespace shoal
