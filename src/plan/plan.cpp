#include "plan/plan.h"

#include <algorithm>
#include <array>
#include <set>
#include <utility>

#include "base/check.h"
#include "base/text.h"
#include "plan/node_name.h"

namespace shoal {
namespace {

constexpr size_t kNodesMax = 4096;
absl::Status ValidateNodes(const Plan& plan) {
  if (plan.nodes.empty() || plan.nodes.size() > kNodesMax) {
    return InvalidArgument("plan: expected 1 to {} nodes, got {}", kNodesMax, plan.nodes.size());
  }
  std::set<std::string_view> names;
  std::set<std::string_view> addresses;
  for (size_t i = 0; i < plan.nodes.size(); ++i) {
    const PlanNode& node = plan.nodes[i];
    if (!IsNodeName(node.name)) {
      return InvalidArgument(
          "plan: node {} has the name '{}': expected 1 to {} letters, digits or any of ._-:/@[]", i,
          node.name, kNodeNameMax);
    }
    if (!names.insert(node.name).second)
      return InvalidArgument("plan: two nodes have the name '{}'", node.name);
    if (node.address.empty()) continue;
    RETURN_IF_ERROR(
        Annotate(ParseHostPort(node.address).status(), fmt::format("plan: node '{}'", node.name)));
    if (!addresses.insert(node.address).second) {
      return InvalidArgument("plan: two nodes have the address {}", node.address);
    }
  }
  return absl::OkStatus();
}

absl::Status ValidateStages(const Plan& plan) {
  std::vector<bool> has_stage(plan.nodes.size());
  int64_t next = 0;
  for (size_t i = 0; i < plan.stages.size(); ++i) {
    const auto& [id, layers] = plan.stages[i];
    if (id.value < 0 || id.value >= std::ssize(plan.nodes)) {
      return InvalidArgument("plan: stage {} is on node {}, there are {} nodes", i, id, plan.nodes.size());
    }
    if (has_stage[static_cast<size_t>(id.value)]) {
      return InvalidArgument("plan: node '{}' has two stages; one range of layers per node",
                             plan.node(id).name);
    }
    has_stage[static_cast<size_t>(id.value)] = true;
    if (layers.begin != next || layers.empty() || layers.end > plan.layers()) {
      return InvalidArgument(
          "plan: stage {} (node '{}') runs layers [{}, {}): expected a range from {} on within [0, {})", i,
          plan.node(id).name, layers.begin, layers.end, next, plan.layers());
    }
    next = layers.end;
  }
  if (next != plan.layers() || plan.stages.empty()) {
    return InvalidArgument("plan: no stage runs layers [{}, {})", next, plan.layers());
  }
  return absl::OkStatus();
}

absl::Status ValidateExperts(const Plan& plan) {
  const auto is_node = [&](NodeId id) { return id.value >= 0 && id.value < std::ssize(plan.nodes); };
  for (size_t layer = 0; layer < plan.experts.size(); ++layer) {
    for (size_t expert = 0; expert < plan.experts[layer].size(); ++expert) {
      const ExpertHolders& holders = plan.experts[layer][expert];
      if (!is_node(holders.owner)) {
        return InvalidArgument("plan: expert {} of layer {} is owned by node {}, there are {} nodes", expert,
                               layer, holders.owner, plan.nodes.size());
      }
      NodeId before{-1};
      for (const NodeId replica : holders.replicas) {
        if (!is_node(replica) || replica <= before || replica == holders.owner) {
          return InvalidArgument(
              "plan: expert {} of layer {}: replica on node {}: expected nodes below {}, ascending, without "
              "the owner {}",
              expert, layer, replica, plan.nodes.size(), holders.owner);
        }
        before = replica;
      }
    }
  }
  return absl::OkStatus();
}

absl::Status ValidateSegments(const Plan& plan) {
  if (plan.segments.empty()) return absl::OkStatus();
  if (std::ssize(plan.segments) != plan.layers()) {
    return InvalidArgument("plan: segments of {} layers, it has {}", plan.segments.size(), plan.layers());
  }
  for (size_t layer = 0; layer < plan.segments.size(); ++layer) {
    for (const NodeId holder : plan.segments[layer]) {
      if (holder.value >= 0 && holder.value < std::ssize(plan.nodes)) continue;
      return InvalidArgument("plan: a segment of layer {} is on node {}, there are {} nodes", layer, holder,
                             plan.nodes.size());
    }
  }
  if (plan.wire_dtype == Plan::WireDtype::kExact) return absl::OkStatus();
  return InvalidArgument(
      "plan: feed-forwards with segments (--split-ffn) need exact rows, got --wire {}; leave out one of them",
      Name(plan.wire_dtype));
}

/// Words of the enums, by value.
constexpr std::array<std::string_view, 3> kWireNames = {"exact", "f16", "q8"};
constexpr std::array<std::string_view, 2> kActivationNames = {"int8", "f32"};
constexpr std::array<std::string_view, 4> kKvNames = {"f16", "bf16", "f32", "q8"};

template <typename Enum, size_t N>
absl::StatusOr<Enum> ParseWord(std::string_view what, std::string_view text,
                               const std::array<std::string_view, N>& words) {
  const auto at = std::find(words.begin(), words.end(), text);
  if (at != words.end()) return static_cast<Enum>(at - words.begin());
  return InvalidArgument("{} '{}': expected {}", what, text, fmt::join(words, " or "));
}

}  // namespace

std::string_view Name(Plan::WireDtype dtype) { return kWireNames[static_cast<size_t>(dtype)]; }
std::string_view Name(Plan::Activations activations) {
  return kActivationNames[static_cast<size_t>(activations)];
}
std::string_view Name(Plan::KvDtype dtype) { return kKvNames[static_cast<size_t>(dtype)]; }
absl::StatusOr<Plan::WireDtype> ParseWireDtype(std::string_view text) {
  if (text == "f32") return Plan::WireDtype::kExact;
  return ParseWord<Plan::WireDtype>("wire format", text, kWireNames);
}
absl::StatusOr<Plan::Activations> ParseActivations(std::string_view text) {
  return ParseWord<Plan::Activations>("activations", text, kActivationNames);
}
absl::StatusOr<Plan::KvDtype> ParseKvDtype(std::string_view text) {
  return ParseWord<Plan::KvDtype>("kv dtype", text, kKvNames);
}

Range Plan::layers_of(NodeId node) const {
  const std::optional<int> stage = stage_of(node);
  return stage ? stages[static_cast<size_t>(*stage)].layers : Range{};
}

std::optional<int> Plan::stage_of(NodeId node) const {
  for (size_t i = 0; i < stages.size(); ++i) {
    if (stages[i].node == node) return static_cast<int>(i);
  }
  return std::nullopt;
}

NodeId Plan::node_of(LayerId layer) const {
  const auto stage = std::find_if(stages.begin(), stages.end(),
                                  [&](const PlanStage& s) { return s.layers.contains(layer.value); });
  SHOAL_CHECK(stage != stages.end());
  return stage->node;
}

std::optional<NodeId> Plan::find_node(std::string_view name) const {
  for (size_t i = 0; i < nodes.size(); ++i) {
    if (nodes[i].name == name) return NodeId{static_cast<int32_t>(i)};
  }
  return std::nullopt;
}

bool ExpertHolders::held_by(NodeId node) const {
  return owner == node || std::ranges::binary_search(replicas, node);
}

std::vector<ExpertId> Plan::experts_held(NodeId node, LayerId layer) const {
  std::vector<ExpertId> held;
  const std::vector<ExpertHolders>& row = experts[static_cast<size_t>(layer.value)];
  for (size_t e = 0; e < row.size(); ++e) {
    if (row[e].held_by(node)) held.push_back(ExpertId{static_cast<int32_t>(e)});
  }
  return held;
}

std::vector<int32_t> Plan::segments_held(NodeId node, LayerId layer) const {
  std::vector<int32_t> held;
  const std::span<const NodeId> owners = segment_owners(layer);
  for (size_t i = 0; i < owners.size(); ++i) {
    if (owners[i] == node) held.push_back(static_cast<int32_t>(i));
  }
  return held;
}

std::vector<NodeId> Plan::remote_segment_holders(LayerId layer) const {
  const NodeId home = node_of(layer);
  std::set<NodeId> holders;
  for (const NodeId owner : segment_owners(layer)) {
    if (owner != home) holders.insert(owner);
  }
  return {holders.begin(), holders.end()};
}

std::vector<NodeId> Plan::remote_owners(LayerId layer) const {
  const NodeId home = node_of(layer);
  std::set<NodeId> owners;
  for (const ExpertHolders& holders : experts[static_cast<size_t>(layer.value)]) {
    if (holders.owner != home) owners.insert(holders.owner);
  }
  return {owners.begin(), owners.end()};
}

absl::Status Validate(const Plan& plan) {
  RETURN_IF_ERROR(ValidateNodes(plan));
  RETURN_IF_ERROR(ValidateStages(plan));
  RETURN_IF_ERROR(ValidateExperts(plan));
  return ValidateSegments(plan);
}

absl::Status Validate(const Plan& plan, const ModelFacts& model) {
  RETURN_IF_ERROR(Validate(plan));
  if (!plan.model_hash.empty() && !model.hash.empty() && plan.model_hash != model.hash) {
    return FailedPrecondition(
        "plan: made for the model '{}' with hash {}, but '{}' has hash {}; make the plan again for this "
        "model",
        plan.model_name, plan.model_hash, model.name, model.hash);
  }
  if (plan.layers() != std::ssize(model.layers)) {
    return InvalidArgument("plan: it has {} layers, the model '{}' has {}", plan.layers(), model.name,
                           model.layers.size());
  }
  if (plan.mtp && !model.mtp.has_value()) {
    return InvalidArgument(
        "plan: mtp: expected false, as the model '{}' has no head for multi-token prediction here; got true",
        model.name);
  }
  if (model.carried_values > 0 && plan.wire_dtype != Plan::WireDtype::kExact) {
    return InvalidArgument(
        "plan: layers of the model '{}' hand on which positions they picked, for which rows must be exact, "
        "got "
        "--wire {}; leave it out",
        model.name, Name(plan.wire_dtype));
  }
  const auto floats = std::ranges::find_if(model.layers, [](const LayerFacts& layer) {
    return layer.kv_values_per_position > 0 && layer.kv_q8_bytes_per_position == 0;
  });
  if (plan.kv_dtype == Plan::KvDtype::kQ8 && floats != model.layers.end()) {
    return InvalidArgument(
        "plan: layer {} of the model '{}' picks or pools the positions it attends to, which a cache of "
        "--kv-dtype {} does not serve; expected f16, bf16 or f32",
        floats - model.layers.begin(), model.name, Name(plan.kv_dtype));
  }
  for (size_t layer = 0; layer < plan.segments.size(); ++layer) {
    const auto count = std::ssize(plan.segments[layer]);
    const int32_t most = model.layers[layer].segments_max;
    if (count == 0 || count <= most) continue;
    return InvalidArgument(
        "plan: the feed-forward or shared expert of layer {} has {} segments; that of the model '{}' can "
        "have {}",
        layer, count, model.name, most < 2 ? "none" : fmt::format("at most {}", most));
  }
  for (size_t layer = 0; layer < model.layers.size(); ++layer) {
    if (std::ssize(plan.experts[layer]) != model.layers[layer].experts) {
      return InvalidArgument("plan: layer {} has owners for {} experts, the model '{}' has {} experts there",
                             layer, plan.experts[layer].size(), model.name, model.layers[layer].experts);
    }
  }
  return absl::OkStatus();
}

}  // namespace shoal
