// Writes and reads plan files: {"format": "shoal-plan-1", "epoch", "model", ..., "nodes", "stages",
// "experts", "notes"}.
#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/file.h"
#include "base/text.h"
#include "plan/config_value.h"
#include "plan/id_list.h"
#include "plan/plan.h"

namespace shoal {
namespace {

constexpr std::string_view kFormat = "shoal-plan-1";
constexpr int64_t kTextMax = 16 << 20;
constexpr int64_t kLayersMax = 4096;
constexpr int32_t kExpertsMax = 4096;
/// The most (layer, expert) pairs of a file. The largest models have about 50,000.
constexpr int64_t kExpertCopiesMax = 1 << 19;

using Json = nlohmann::ordered_json;
using ExpertRow = std::vector<ExpertHolders>;

std::string OneLine(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

/// "key": [ one item per line ].
std::string Block(std::string_view key, const std::vector<Json>& items) {
  if (items.empty()) return fmt::format("  \"{}\": []", key);
  std::vector<std::string> lines;
  for (const Json& item : items) lines.push_back("    " + OneLine(item));
  return fmt::format("  \"{}\": [\n{}\n  ]", key, Join(lines, ",\n"));
}

/// {"layers": [0, 4], "owners": {"a": "0-3", "b": "4-7"}, "replicas": {"b": "0"}}, for layers whose experts
/// are placed alike.
Json ExpertGroup(const Plan& plan, Range layers) {
  std::map<NodeId, std::vector<int32_t>> owned;
  std::map<NodeId, std::vector<int32_t>> copied;
  const ExpertRow& row = plan.experts[static_cast<size_t>(layers.begin)];
  for (size_t e = 0; e < row.size(); ++e) {
    owned[row[e].owner].push_back(static_cast<int32_t>(e));
    for (const NodeId replica : row[e].replicas) copied[replica].push_back(static_cast<int32_t>(e));
  }
  Json group = {{"layers", {layers.begin, layers.end}}, {"owners", Json::object()}};
  for (const auto& [node, ids] : owned) group["owners"][plan.node(node).name] = FormatIdList(ids);
  for (const auto& [node, ids] : copied) group["replicas"][plan.node(node).name] = FormatIdList(ids);
  return group;
}

std::vector<Json> ExpertGroups(const Plan& plan) {
  std::vector<Json> groups;
  for (int64_t begin = 0; begin < plan.layers();) {
    const ExpertRow& row = plan.experts[static_cast<size_t>(begin)];
    int64_t end = begin + 1;
    while (end < plan.layers() && plan.experts[static_cast<size_t>(end)] == row) ++end;
    if (!row.empty()) groups.push_back(ExpertGroup(plan, {begin, end}));
    begin = end;
  }
  return groups;
}

/// {"layers": [0, 4], "owners": {"a": "0-2", "b": "3"}}, for dense layers that are cut alike.
std::vector<Json> SegmentGroups(const Plan& plan) {
  std::vector<Json> groups;
  for (size_t begin = 0; begin < plan.segments.size();) {
    const std::vector<NodeId>& row = plan.segments[begin];
    size_t end = begin + 1;
    while (end < plan.segments.size() && plan.segments[end] == row) ++end;
    std::map<NodeId, std::vector<int32_t>> owned;
    for (size_t i = 0; i < row.size(); ++i) owned[row[i]].push_back(static_cast<int32_t>(i));
    Json group = {{"layers", {begin, end}}, {"owners", Json::object()}};
    for (const auto& [node, ids] : owned) group["owners"][plan.node(node).name] = FormatIdList(ids);
    if (!row.empty()) groups.push_back(std::move(group));
    begin = end;
  }
  return groups;
}

absl::StatusOr<NodeId> FindNode(const Plan& plan, const ConfigCursor& cursor, const std::string& name) {
  if (const std::optional<NodeId> node = plan.find_node(name)) return *node;
  std::vector<std::string> names;
  for (const PlanNode& node : plan.nodes) names.push_back(node.name);
  const std::string near = NearestWord(name, names);
  return cursor.error(near.empty() ? fmt::format("no node has the name '{}'", name)
                                   : fmt::format("no node has the name '{}'; did you mean {}?", name, near));
}

/// Reads a word with `parse`, and adds the place to its error.
template <typename T, typename Parse>
absl::Status ReadWord(const ConfigCursor& map, std::string_view key, Parse parse, T& target) {
  ASSIGN_OR_RETURN(const ConfigCursor cursor, map.at(key));
  ASSIGN_OR_RETURN(const std::string text, cursor.text());
  const auto value = parse(text);
  if (!value.ok()) return cursor.error(Message(value.status()));
  target = *value;
  return absl::OkStatus();
}

absl::StatusOr<Range> ReadLayers(const ConfigCursor& map, int64_t layers_end) {
  ASSIGN_OR_RETURN(const ConfigCursor cursor, map.at("layers"));
  ASSIGN_OR_RETURN(const std::vector<ConfigCursor> ends, cursor.list());
  if (ends.size() != 2) return cursor.expected("[begin, end), two numbers");
  Range range;
  ASSIGN_OR_RETURN(range.begin, ends[0].integer(0, layers_end));
  ASSIGN_OR_RETURN(range.end, ends[1].integer(range.begin, layers_end));
  return range;
}

absl::StatusOr<int64_t> ReadHeader(const ConfigCursor& root, Plan& plan) {
  ASSIGN_OR_RETURN(const ConfigCursor format, root.at("format"));
  ASSIGN_OR_RETURN(const std::string format_text, format.text());
  if (format_text != kFormat) return format.expected(fmt::format("\"{}\"", kFormat));
  ASSIGN_OR_RETURN(const ConfigCursor epoch, root.at("epoch"));
  ASSIGN_OR_RETURN(const int64_t epoch_value, epoch.integer(0, UINT32_MAX));
  plan.epoch = Epoch{static_cast<uint32_t>(epoch_value)};

  ASSIGN_OR_RETURN(const ConfigCursor model, root.at("model"));
  RETURN_IF_ERROR(model.expect_keys({"name", "hash", "layers"}));
  ASSIGN_OR_RETURN(const ConfigCursor name, model.at("name"));
  ASSIGN_OR_RETURN(plan.model_name, name.text());
  if (model.has("hash")) {
    ASSIGN_OR_RETURN(const ConfigCursor hash, model.at("hash"));
    ASSIGN_OR_RETURN(plan.model_hash, hash.text());
  }
  RETURN_IF_ERROR(ReadWord(root, "wire_dtype", ParseWireDtype, plan.wire_dtype));
  RETURN_IF_ERROR(ReadWord(root, "activations", ParseActivations, plan.activations));
  RETURN_IF_ERROR(ReadWord(root, "kv_dtype", ParseKvDtype, plan.kv_dtype));
  if (root.has("mtp")) {
    ASSIGN_OR_RETURN(const ConfigCursor mtp, root.at("mtp"));
    ASSIGN_OR_RETURN(plan.mtp, mtp.boolean());
  }
  ASSIGN_OR_RETURN(const ConfigCursor layers, model.at("layers"));
  return layers.integer(1, kLayersMax);
}

absl::Status ReadNodes(const ConfigCursor& root, Plan& plan) {
  ASSIGN_OR_RETURN(const ConfigCursor nodes, root.at("nodes"));
  ASSIGN_OR_RETURN(const std::vector<ConfigCursor> cursors, nodes.list());
  for (const ConfigCursor& cursor : cursors) {
    RETURN_IF_ERROR(cursor.expect_keys({"name", "address"}));
    PlanNode node;
    ASSIGN_OR_RETURN(const ConfigCursor name, cursor.at("name"));
    ASSIGN_OR_RETURN(node.name, name.text());
    if (cursor.has("address")) {
      ASSIGN_OR_RETURN(const ConfigCursor address, cursor.at("address"));
      ASSIGN_OR_RETURN(node.address, address.text());
    }
    plan.nodes.push_back(std::move(node));
  }
  return absl::OkStatus();
}

absl::Status ReadStages(const ConfigCursor& root, Plan& plan) {
  ASSIGN_OR_RETURN(const ConfigCursor stages, root.at("stages"));
  ASSIGN_OR_RETURN(const std::vector<ConfigCursor> cursors, stages.list());
  for (const ConfigCursor& cursor : cursors) {
    RETURN_IF_ERROR(cursor.expect_keys({"node", "layers"}));
    ASSIGN_OR_RETURN(const ConfigCursor node, cursor.at("node"));
    ASSIGN_OR_RETURN(const std::string name, node.text());
    PlanStage stage;
    ASSIGN_OR_RETURN(stage.node, FindNode(plan, node, name));
    ASSIGN_OR_RETURN(stage.layers, ReadLayers(cursor, plan.layers()));
    plan.stages.push_back(stage);
  }
  return absl::OkStatus();
}

/// {"name": "0-3,7", ...} -> (node, ids) pairs.
absl::StatusOr<std::vector<std::pair<NodeId, std::vector<int32_t>>>> ReadHolders(const Plan& plan,
                                                                                 const ConfigCursor& map) {
  std::vector<std::pair<NodeId, std::vector<int32_t>>> holders;
  ASSIGN_OR_RETURN(const std::vector<ConfigCursor> entries, map.entries());
  for (const ConfigCursor& entry : entries) {
    ASSIGN_OR_RETURN(const NodeId node, FindNode(plan, entry, entry.key()));
    ASSIGN_OR_RETURN(const std::string text, entry.text());
    auto ids = ParseIdList(text, kExpertsMax);
    if (!ids.ok()) return entry.error(Message(ids.status()));
    holders.emplace_back(node, *std::move(ids));
  }
  return holders;
}

/// The owners of a group, by expert or segment, as `what` says.
absl::StatusOr<ExpertRow> ReadOwners(const Plan& plan, const ConfigCursor& group, std::string_view what) {
  constexpr NodeId kNobody{-1};
  ASSIGN_OR_RETURN(const ConfigCursor owners, group.at("owners"));
  ASSIGN_OR_RETURN(const auto owned, ReadHolders(plan, owners));
  ExpertRow row;
  for (const auto& [node, ids] : owned) {
    if (!ids.empty() && ids.back() >= std::ssize(row))
      row.resize(static_cast<size_t>(ids.back()) + 1, {kNobody, {}});
    for (const int32_t id : ids) {
      ExpertHolders& holders = row[static_cast<size_t>(id)];
      if (holders.owner != kNobody) return owners.error(fmt::format("{} {} has two owners", what, id));
      holders.owner = node;
    }
  }
  if (row.empty())
    return owners.error(fmt::format("no {0} has an owner; leave layers without {0}s out", what));
  for (size_t e = 0; e < row.size(); ++e) {
    if (row[e].owner == kNobody) return owners.error(fmt::format("{} {} has no owner", what, e));
  }
  return row;
}

absl::StatusOr<ExpertRow> ReadExpertRow(const Plan& plan, const ConfigCursor& group) {
  ASSIGN_OR_RETURN(ExpertRow row, ReadOwners(plan, group, "expert"));
  if (!group.has("replicas")) return row;
  ASSIGN_OR_RETURN(const ConfigCursor replicas, group.at("replicas"));
  ASSIGN_OR_RETURN(const auto copied, ReadHolders(plan, replicas));
  for (const auto& [node, ids] : copied) {
    for (const int32_t id : ids) {
      if (id >= std::ssize(row)) return replicas.error(fmt::format("expert {} has no owner", id));
      ExpertHolders& holders = row[static_cast<size_t>(id)];
      if (holders.owner == node)
        return replicas.error(fmt::format("expert {} has its owner as a replica", id));
      holders.replicas.push_back(node);
    }
  }
  for (ExpertHolders& holders : row) std::sort(holders.replicas.begin(), holders.replicas.end());
  return row;
}

absl::Status ReadExperts(const ConfigCursor& root, Plan& plan) {
  if (!root.has("experts")) return absl::OkStatus();
  ASSIGN_OR_RETURN(const ConfigCursor experts, root.at("experts"));
  ASSIGN_OR_RETURN(const std::vector<ConfigCursor> groups, experts.list());
  int64_t slots = 0;
  for (const ConfigCursor& group : groups) {
    RETURN_IF_ERROR(group.expect_keys({"layers", "owners", "replicas"}));
    ASSIGN_OR_RETURN(const Range layers, ReadLayers(group, plan.layers()));
    ASSIGN_OR_RETURN(const ExpertRow row, ReadExpertRow(plan, group));
    for (const ExpertHolders& holders : row) {
      slots += layers.size() * (1 + std::ssize(holders.replicas));
    }
    if (slots > kExpertCopiesMax)
      return group.error(fmt::format("more than {} (layer, expert) pairs", kExpertCopiesMax));
    for (int64_t layer = layers.begin; layer < layers.end; ++layer) {
      ExpertRow& target = plan.experts[static_cast<size_t>(layer)];
      if (!target.empty()) return group.error(fmt::format("the experts of layer {} are placed twice", layer));
      target = row;
    }
  }
  return absl::OkStatus();
}

absl::Status ReadSegments(const ConfigCursor& root, Plan& plan) {
  if (!root.has("segments")) return absl::OkStatus();
  ASSIGN_OR_RETURN(const ConfigCursor segments, root.at("segments"));
  ASSIGN_OR_RETURN(const std::vector<ConfigCursor> groups, segments.list());
  if (!groups.empty()) plan.segments.resize(plan.experts.size());
  int64_t slots = 0;
  for (const ConfigCursor& group : groups) {
    RETURN_IF_ERROR(group.expect_keys({"layers", "owners"}));
    ASSIGN_OR_RETURN(const Range layers, ReadLayers(group, plan.layers()));
    ASSIGN_OR_RETURN(const ExpertRow row, ReadOwners(plan, group, "segment"));
    slots += layers.size() * std::ssize(row);
    if (slots > kExpertCopiesMax)
      return group.error(fmt::format("more than {} (layer, segment) pairs", kExpertCopiesMax));
    for (int64_t layer = layers.begin; layer < layers.end; ++layer) {
      std::vector<NodeId>& target = plan.segments[static_cast<size_t>(layer)];
      if (!target.empty())
        return group.error(fmt::format("the segments of layer {} are placed twice", layer));
      for (const ExpertHolders& holders : row) target.push_back(holders.owner);
    }
  }
  return absl::OkStatus();
}

absl::Status ReadNotes(const ConfigCursor& root, Plan& plan) {
  if (!root.has("notes")) return absl::OkStatus();
  ASSIGN_OR_RETURN(const ConfigCursor notes, root.at("notes"));
  ASSIGN_OR_RETURN(const std::vector<ConfigCursor> cursors, notes.list());
  for (const ConfigCursor& cursor : cursors) {
    ASSIGN_OR_RETURN(std::string note, cursor.text());
    plan.notes.push_back(std::move(note));
  }
  return absl::OkStatus();
}

}  // namespace

std::string PlanToJson(const Plan& plan) {
  std::vector<Json> nodes;
  for (const PlanNode& node : plan.nodes) {
    Json json = {{"name", node.name}};
    if (!node.address.empty()) json["address"] = node.address;
    nodes.push_back(std::move(json));
  }
  std::vector<Json> stages;
  for (const PlanStage& stage : plan.stages) {
    stages.push_back(
        {{"node", plan.node(stage.node).name}, {"layers", {stage.layers.begin, stage.layers.end}}});
  }
  Json model = {{"name", plan.model_name}};
  if (!plan.model_hash.empty()) model["hash"] = plan.model_hash;
  model["layers"] = plan.layers();
  const std::string kv = fmt::format("  \"kv_dtype\": \"{}\"", Name(plan.kv_dtype));
  const bool exact = plan.wire_dtype == Plan::WireDtype::kExact;
  const std::string_view wire = exact ? "f32" : Name(plan.wire_dtype);
  const std::string experts = Block("experts", ExpertGroups(plan));
  const std::vector<Json> segments = SegmentGroups(plan);
  const std::vector<std::string> parts = {
      fmt::format("  \"format\": \"{}\"", kFormat),
      fmt::format("  \"epoch\": {}", plan.epoch),
      fmt::format("  \"model\": {}", OneLine(model)),
      fmt::format("  \"wire_dtype\": \"{}\"", wire),
      fmt::format("  \"activations\": \"{}\"", Name(plan.activations)),
      plan.mtp ? kv + ",\n  \"mtp\": true" : kv,
      Block("nodes", nodes),
      Block("stages", stages),
      segments.empty() ? experts : experts + ",\n" + Block("segments", segments),
      Block("notes", std::vector<Json>(plan.notes.begin(), plan.notes.end())),
  };
  return fmt::format("{{\n{}\n}}\n", Join(parts, ",\n"));
}

absl::StatusOr<Plan> PlanFromJson(std::string_view text) {
  const ConfigLimits limits = {.bytes = kTextMax, .values = 1 << 18, .depth = 6};
  auto value = ParseJsonConfig(text, limits);
  if (!value.ok()) return Annotate(value.status(), "plan");
  // A report of `shoal plan --json` has the plan under "plan".
  const ConfigValue* report = value->kind == ConfigValue::Kind::kMap ? value->find("plan") : nullptr;
  const ConfigCursor root(report != nullptr ? *report : *value);
  RETURN_IF_ERROR(root.expect_keys({"format", "epoch", "model", "wire_dtype", "activations", "kv_dtype",
                                    "mtp", "nodes", "stages", "experts", "segments", "notes"}));
  Plan plan;
  ASSIGN_OR_RETURN(const int64_t layers, ReadHeader(root, plan));
  plan.experts.resize(static_cast<size_t>(layers));
  RETURN_IF_ERROR(ReadNodes(root, plan));
  RETURN_IF_ERROR(ReadStages(root, plan));
  RETURN_IF_ERROR(ReadExperts(root, plan));
  RETURN_IF_ERROR(ReadSegments(root, plan));
  RETURN_IF_ERROR(ReadNotes(root, plan));
  RETURN_IF_ERROR(Validate(plan));
  return plan;
}

absl::StatusOr<Plan> ReadPlanFile(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, kTextMax));
  auto plan = PlanFromJson(text);
  if (!plan.ok()) return Annotate(plan.status(), path);
  return plan;
}

}  // namespace shoal
