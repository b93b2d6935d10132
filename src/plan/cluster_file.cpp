#include "plan/cluster_file.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "base/file.h"
#include "base/text.h"
#include "plan/config_value.h"
#include "plan/id_list.h"

namespace shoal {
namespace {

constexpr double kBytesPerGb = 1073741824.0;  // "16 GB" of memory is sold as 16 x 2^30 bytes.
constexpr int32_t kListedExpertsMax = 4096;

struct Device {
  NodeFacts facts;
  DeviceLaunch launch;
  bool coordinator = false;
};

absl::StatusOr<std::optional<double>> OptionalNumber(const ConfigCursor& map, std::string_view key,
                                                     double low, double high) {
  if (!map.has(key)) return std::nullopt;
  ASSIGN_OR_RETURN(const ConfigCursor cursor, map.at(key));
  ASSIGN_OR_RETURN(const double value, cursor.number(low, high));
  return value;
}

absl::Status OptionalBoolean(const ConfigCursor& map, std::string_view key, bool& target) {
  if (!map.has(key)) return absl::OkStatus();
  ASSIGN_OR_RETURN(const ConfigCursor cursor, map.at(key));
  ASSIGN_OR_RETURN(target, cursor.boolean());
  return absl::OkStatus();
}

absl::StatusOr<std::string> RequiredText(const ConfigCursor& map, std::string_view key) {
  ASSIGN_OR_RETURN(const ConfigCursor cursor, map.at(key));
  ASSIGN_OR_RETURN(std::string text, cursor.text());
  if (text.empty()) return cursor.error("expected a text that is not empty");
  return text;
}

absl::Status ReadCapabilities(const ConfigCursor& device, NodeFacts& facts) {
  if (!device.has("capabilities")) return absl::OkStatus();
  ASSIGN_OR_RETURN(const ConfigCursor cursor, device.at("capabilities"));
  RETURN_IF_ERROR(cursor.expect_keys(
      {"memory_gb", "gpu_cores", "cpu_cores", "compute", "device", "read_gbs", "int8_gops", "f32_gflops"}));
  ASSIGN_OR_RETURN(const std::optional<double> memory, OptionalNumber(cursor, "memory_gb", 0.001, 1e6));
  if (memory) facts.memory_bytes = static_cast<int64_t>(*memory * kBytesPerGb);
  // The first key that is present counts. The others are read as well, so that wrong values are reported.
  for (const std::string_view key : {"compute", "gpu_cores", "cpu_cores"}) {
    ASSIGN_OR_RETURN(const std::optional<double> compute, OptionalNumber(cursor, key, 0, 1e9));
    if (compute && facts.compute == 0) facts.compute = *compute;
  }
  // Each overrides what is measured; 0 is what nobody declared.
  ThreadRates rates;
  for (const auto& [key, rate] : {std::pair{"read_gbs", &rates.read_gbs},
                                  {"int8_gops", &rates.int8_gops},
                                  {"f32_gflops", &rates.f32_gflops}}) {
    ASSIGN_OR_RETURN(const std::optional<double> number, OptionalNumber(cursor, key, 1e-3, 1e9));
    if (!number.has_value()) continue;
    *rate = *number;
    facts.rates = rates;
  }
  if (cursor.has("device")) {
    ASSIGN_OR_RETURN(facts.device, RequiredText(cursor, "device"));
  }
  return absl::OkStatus();
}

/// Whether `host` has only letters, digits, '.', '-' and '_', or only the characters of an IPv6 address.
bool IsHost(std::string_view host) {
  const bool v6 = host.find(':') != host.rfind(':');
  if (host.starts_with('-')) return false;  // Programs would take it for a flag.
  return std::all_of(host.begin(), host.end(), [v6](char c) {
    const bool digit = c >= '0' && c <= '9';
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    return digit || letter || c == '.' || (v6 ? c == ':' || c == '%' : c == '-' || c == '_');
  });
}

absl::Status ReadAddress(const ConfigCursor& cursor, Device& device) {
  const bool has_host = cursor.has("hostname");
  const bool has_port = cursor.has("port");
  if (device.coordinator && !has_host && !has_port) return absl::OkStatus();
  if (!has_host || !has_port)
    return cursor.error(fmt::format("the key {} is missing", has_host ? "port" : "hostname"));
  ASSIGN_OR_RETURN(const std::string host, RequiredText(cursor, "hostname"));
  ASSIGN_OR_RETURN(const ConfigCursor port_cursor, cursor.at("port"));
  ASSIGN_OR_RETURN(const int64_t port, port_cursor.integer(1, 65535));
  if (!IsHost(host)) {
    ASSIGN_OR_RETURN(const ConfigCursor host_cursor, cursor.at("hostname"));
    return host_cursor.expected("a host name or address without port");
  }
  device.facts.address = HostPort{host, static_cast<int>(port)}.to_string();
  return absl::OkStatus();
}

absl::StatusOr<Device> ReadDevice(const ConfigCursor& cursor, const DeviceLaunch& launch) {
  RETURN_IF_ERROR(
      cursor.expect_keys({"device_id", "hostname", "port", "role", "capabilities", "holds_layers",
                          "holds_experts", "ssh", "workdir", "binary", "model_root", "env", "flags"}));
  Device device{.launch = launch};
  ASSIGN_OR_RETURN(device.facts.name, RequiredText(cursor, "device_id"));
  ASSIGN_OR_RETURN(const ConfigCursor role, cursor.at("role"));
  ASSIGN_OR_RETURN(const std::string role_text, role.text());
  if (role_text != "coordinator" && role_text != "worker") return role.expected("coordinator or worker");
  device.coordinator = role_text == "coordinator";
  RETURN_IF_ERROR(ReadAddress(cursor, device));
  RETURN_IF_ERROR(ReadCapabilities(cursor, device.facts));
  RETURN_IF_ERROR(OptionalBoolean(cursor, "holds_layers", device.facts.may_hold_layers));
  RETURN_IF_ERROR(OptionalBoolean(cursor, "holds_experts", device.facts.may_hold_experts));
  RETURN_IF_ERROR(ReadDeviceLaunch(cursor, device.launch));
  return device;
}

absl::StatusOr<std::vector<Device>> ReadDevices(const ConfigCursor& root, const DeviceLaunch& launch) {
  ASSIGN_OR_RETURN(const ConfigCursor list, root.at("devices"));
  ASSIGN_OR_RETURN(const std::vector<ConfigCursor> cursors, list.list());
  std::vector<Device> devices;
  std::map<std::string, std::string> names;
  std::map<std::string, std::string> addresses;
  int coordinators = 0;
  for (const ConfigCursor& cursor : cursors) {
    ASSIGN_OR_RETURN(Device device, ReadDevice(cursor, launch));
    const std::string& name = device.facts.name;
    const std::string& address = device.facts.address;
    if (!names.emplace(name, address).second)
      return cursor.error(fmt::format("two devices have the device_id '{}'", name));
    const auto [other, fresh] = addresses.emplace(address, name);
    if (!address.empty() && !fresh) {
      return cursor.error(fmt::format("'{}' and '{}' both listen at {}", other->second, name, address));
    }
    coordinators += device.coordinator ? 1 : 0;
    if (coordinators > 1) return cursor.error("a second coordinator; expected exactly one");
    devices.push_back(std::move(device));
  }
  if (coordinators == 0) return list.error("no device has the role coordinator; expected exactly one");
  return devices;
}

absl::Status ReadModel(const ConfigCursor& root, ClusterFile& file) {
  if (!root.has("model")) return absl::OkStatus();
  ASSIGN_OR_RETURN(const ConfigCursor model, root.at("model"));
  RETURN_IF_ERROR(model.expect_keys({"name", "provider"}));
  ASSIGN_OR_RETURN(file.model_name, RequiredText(model, "name"));
  if (model.has("provider")) {
    ASSIGN_OR_RETURN(file.model_provider, RequiredText(model, "provider"));
  }
  return absl::OkStatus();
}

/// {device_id: "0-3,7"} or {device_id: [0, 1, 2, 3, 7]} -> a list per device.
absl::Status ReadExpertLists(const ConfigCursor& cursor, const std::vector<Device>& devices,
                             ExpertRequest& request) {
  ASSIGN_OR_RETURN(const std::vector<ConfigCursor> entries, cursor.entries());
  request.lists.resize(devices.size());
  std::vector<std::string> names;
  for (const Device& device : devices) names.push_back(device.facts.name);
  for (const ConfigCursor& entry : entries) {
    const auto at = std::find(names.begin(), names.end(), entry.key());
    if (at == names.end()) {
      const std::string near = NearestWord(entry.key(), names);
      return entry.error(near.empty() ? "no device has this device_id"
                                      : fmt::format("no device has this device_id; did you mean {}?", near));
    }
    std::vector<int32_t>& ids = request.lists[static_cast<size_t>(at - names.begin())];
    if (entry.is(ConfigValue::Kind::kList)) {
      ASSIGN_OR_RETURN(const std::vector<ConfigCursor> items, entry.list());
      for (const ConfigCursor& item : items) {
        ASSIGN_OR_RETURN(const int64_t id, item.integer(0, kListedExpertsMax - 1));
        ids.push_back(static_cast<int32_t>(id));
      }
      continue;
    }
    // YAML reads a lone 7 as a number.
    if (entry.is(ConfigValue::Kind::kInteger)) {
      ASSIGN_OR_RETURN(const int64_t id, entry.integer(0, kListedExpertsMax - 1));
      ids = {static_cast<int32_t>(id)};
      continue;
    }
    ASSIGN_OR_RETURN(const std::string text, entry.text());
    auto parsed = ParseIdList(text, kListedExpertsMax);
    if (!parsed.ok()) return entry.error(Message(parsed.status()));
    ids = *std::move(parsed);
  }
  return absl::OkStatus();
}

/// A number, or "hot:SIZE".
absl::Status ReadReplicas(const ConfigCursor& experts, int64_t replicas_max, ExpertRequest& request) {
  if (!experts.has("replicas")) return absl::OkStatus();
  ASSIGN_OR_RETURN(const ConfigCursor value, experts.at("replicas"));
  if (!value.is(ConfigValue::Kind::kString)) {
    ASSIGN_OR_RETURN(const int64_t count, value.integer(0, replicas_max));
    request.replicas = static_cast<int32_t>(count);
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const std::string text, value.text());
  const absl::Status read = ParseExpertReplicas(text, request);
  return read.ok() ? read : value.error(Message(read));
}

absl::Status ReadExpertMap(const ConfigCursor& cursor, const std::vector<Device>& devices,
                           ExpertRequest& request) {
  RETURN_IF_ERROR(cursor.expect_keys({"strategy", "over_nodes", "seed", "replicas", "lists"}));
  ASSIGN_OR_RETURN(const ConfigCursor strategy, cursor.at("strategy"));
  ASSIGN_OR_RETURN(const std::string word, strategy.text());
  const auto parsed = ParseExpertStrategy(word);
  if (!parsed.ok()) return strategy.error(Message(parsed.status()));
  request.asked = true;
  request.strategy = *parsed;
  const auto integer = [&](std::string_view key, int64_t high, auto& target) -> absl::Status {
    if (!cursor.has(key)) return absl::OkStatus();
    ASSIGN_OR_RETURN(const ConfigCursor value, cursor.at(key));
    ASSIGN_OR_RETURN(const int64_t number, value.integer(0, high));
    target = static_cast<std::remove_reference_t<decltype(target)>>(number);
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(integer("over_nodes", std::ssize(devices), request.over_nodes));
  RETURN_IF_ERROR(integer("seed", INT64_MAX, request.seed));
  RETURN_IF_ERROR(ReadReplicas(cursor, std::ssize(devices) - 1, request));
  const bool is_explicit = request.strategy == ExpertStrategy::kExplicit;
  if (cursor.has("lists") != is_explicit) {
    return cursor.error("lists and the strategy explicit belong together; one is given without the other");
  }
  if (!is_explicit) return absl::OkStatus();
  ASSIGN_OR_RETURN(const ConfigCursor lists, cursor.at("lists"));
  return ReadExpertLists(lists, devices, request);
}

absl::Status ReadExperts(const ConfigCursor& sharding, const std::vector<Device>& devices,
                         ExpertRequest& request) {
  if (!sharding.has("experts")) return absl::OkStatus();
  ASSIGN_OR_RETURN(const ConfigCursor cursor, sharding.at("experts"));
  if (cursor.is(ConfigValue::Kind::kMap)) return ReadExpertMap(cursor, devices, request);
  ASSIGN_OR_RETURN(const std::string text, cursor.text());
  auto parsed = ParseExpertRequest(text);
  if (!parsed.ok()) return cursor.error(Message(parsed.status()));
  request = *std::move(parsed);
  if (request.strategy == ExpertStrategy::kExplicit && request.lists.size() != devices.size()) {
    return cursor.error(
        fmt::format("expected one list per device ({}), got {}", devices.size(), request.lists.size()));
  }
  return absl::OkStatus();
}

/// The list under `key`, one number per device.
template <typename Read>
auto ReadPerDevice(const ConfigCursor& sharding, std::string_view key, size_t devices, Read read)
    -> absl::StatusOr<std::vector<typename decltype(read(sharding))::value_type>> {
  ASSIGN_OR_RETURN(const ConfigCursor cursor, sharding.at(key));
  ASSIGN_OR_RETURN(const std::vector<ConfigCursor> items, cursor.list());
  if (items.size() != devices) {
    return cursor.error(fmt::format("expected one number per device ({}), got {}", devices, items.size()));
  }
  std::vector<typename decltype(read(sharding))::value_type> values;
  for (const ConfigCursor& item : items) {
    ASSIGN_OR_RETURN(const auto value, read(item));
    values.push_back(value);
  }
  return values;
}

absl::Status ReadSharding(const ConfigCursor& root, const std::vector<Device>& devices,
                          PlanRequest& request) {
  if (!root.has("sharding")) return absl::OkStatus();
  ASSIGN_OR_RETURN(const ConfigCursor sharding, root.at("sharding"));
  RETURN_IF_ERROR(sharding.expect_keys({"strategy", "custom_proportions", "layers", "experts", "objective",
                                        "use_nodes", "wire", "split_ffn"}));
  const bool has_proportions = sharding.has("custom_proportions");
  const bool has_layers = sharding.has("layers");
  if (has_proportions) request.strategy = LayerStrategy::kCustom;
  if (has_layers) request.strategy = LayerStrategy::kSplit;
  if (has_proportions && has_layers)
    return sharding.error("custom_proportions and layers exclude each other");
  if (sharding.has("strategy")) {
    ASSIGN_OR_RETURN(const ConfigCursor cursor, sharding.at("strategy"));
    ASSIGN_OR_RETURN(const std::string word, cursor.text());
    const auto strategy = ParseLayerStrategy(word);
    if (!strategy.ok()) return cursor.error(Message(strategy.status()));
    request.strategy = *strategy;
  }
  if (sharding.has("objective")) {
    ASSIGN_OR_RETURN(const ConfigCursor cursor, sharding.at("objective"));
    ASSIGN_OR_RETURN(const std::string word, cursor.text());
    const auto objective = ParseObjective(word);
    if (!objective.ok()) return cursor.error(Message(objective.status()));
    request.objective = *objective;
  }
  if (sharding.has("use_nodes")) {
    ASSIGN_OR_RETURN(const ConfigCursor cursor, sharding.at("use_nodes"));
    ASSIGN_OR_RETURN(const std::string word, cursor.text());
    const auto use = ParseNodeUse(word);
    if (!use.ok()) return cursor.error(Message(use.status()));
    request.node_use = *use;
  }
  if (sharding.has("wire")) {
    ASSIGN_OR_RETURN(const ConfigCursor cursor, sharding.at("wire"));
    ASSIGN_OR_RETURN(const std::string word, cursor.text());
    const auto wire = ParseWireDtype(word);
    if (!wire.ok()) return cursor.error(Message(wire.status()));
    request.wire_dtype = *wire;
  }
  if (sharding.has("split_ffn")) {
    ASSIGN_OR_RETURN(const ConfigCursor cursor, sharding.at("split_ffn"));
    ASSIGN_OR_RETURN(const std::string word, cursor.text());
    auto segments = ParseSegmentRequest(word);
    if (!segments.ok()) return cursor.error(Message(segments.status()));
    request.segments = *std::move(segments);
  }
  if ((request.strategy == LayerStrategy::kCustom) != has_proportions) {
    return sharding.error(
        "custom_proportions and the strategy custom belong together; one is given without the other");
  }
  if ((request.strategy == LayerStrategy::kSplit) != has_layers) {
    return sharding.error("layers and the strategy split belong together; one is given without the other");
  }
  if (has_proportions) {
    ASSIGN_OR_RETURN(request.proportions,
                     ReadPerDevice(sharding, "custom_proportions", devices.size(),
                                   [](const ConfigCursor& item) { return item.number(0, 1); }));
  }
  if (has_layers) {
    ASSIGN_OR_RETURN(request.split,
                     ReadPerDevice(sharding, "layers", devices.size(),
                                   [](const ConfigCursor& item) { return item.integer(0, 1 << 20); }));
  }
  return ReadExperts(sharding, devices, request.experts);
}

/// Moves the entry of the coordinator to the front; the others keep their order.
template <typename T>
void CoordinatorFirst(std::vector<T>& list, size_t coordinator) {
  if (list.empty()) return;
  const auto begin = list.begin();
  std::rotate(begin, begin + static_cast<ptrdiff_t>(coordinator),
              begin + static_cast<ptrdiff_t>(coordinator) + 1);
}

}  // namespace

std::optional<ConfigSyntax> SyntaxOf(std::string_view path) {
  if (path.ends_with(".yaml") || path.ends_with(".yml")) return ConfigSyntax::kYaml;
  if (path.ends_with(".json")) return ConfigSyntax::kJson;
  return std::nullopt;
}

absl::StatusOr<ClusterFile> ParseClusterFile(std::string_view text, ConfigSyntax syntax) {
  auto value = syntax == ConfigSyntax::kJson ? ParseJsonConfig(text, {}) : ParseYamlConfig(text, {});
  if (!value.ok()) return Annotate(value.status(), "cluster file");
  const ConfigCursor root(*value);
  RETURN_IF_ERROR(root.expect_keys({"devices", "model", "sharding", "launch"}));
  ClusterFile file;
  file.request.strategy = LayerStrategy::kFastest;
  DeviceLaunch launch;
  RETURN_IF_ERROR(ReadLaunchSection(root, file.launch, launch));
  ASSIGN_OR_RETURN(std::vector<Device> devices, ReadDevices(root, launch));
  RETURN_IF_ERROR(ReadModel(root, file));
  RETURN_IF_ERROR(ReadSharding(root, devices, file.request));

  const auto at =
      std::find_if(devices.begin(), devices.end(), [](const Device& device) { return device.coordinator; });
  const size_t coordinator = static_cast<size_t>(at - devices.begin());
  for (Device& device : devices) {
    file.nodes.push_back(std::move(device.facts));
    file.launch.devices.push_back(std::move(device.launch));
  }
  CoordinatorFirst(file.nodes, coordinator);
  CoordinatorFirst(file.launch.devices, coordinator);
  CoordinatorFirst(file.request.proportions, coordinator);
  CoordinatorFirst(file.request.split, coordinator);
  CoordinatorFirst(file.request.experts.lists, coordinator);
  return file;
}

absl::StatusOr<ClusterFile> ReadClusterFile(const std::string& path, std::string* text) {
  const std::optional<ConfigSyntax> syntax = SyntaxOf(path);
  if (!syntax) return InvalidArgument("{}: a cluster file ends with .json, .yaml or .yml", path);
  ASSIGN_OR_RETURN(std::string read, ReadTextFile(path, ConfigLimits{}.bytes));
  auto file = ParseClusterFile(read, *syntax);
  if (!file.ok()) return Annotate(file.status(), path);
  if (text != nullptr) *text = std::move(read);
  return file;
}

bool IsClusterFile(const std::string& path) {
  if (SyntaxOf(path) == ConfigSyntax::kYaml) return true;
  const auto text = ReadTextFile(path, ConfigLimits{}.bytes);
  if (!text.ok()) return false;
  // Lenient: ReadClusterFile reports what is wrong with a cluster file.
  const auto json = nlohmann::json::parse(*text, nullptr, false);
  return json.is_object() && json.contains("devices");
}

}  // namespace shoal
