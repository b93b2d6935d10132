#include "app/launch_report.h"

#include <fmt/chrono.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/json.h"
#include "base/status.h"

namespace shoal {
namespace {

using Json = nlohmann::ordered_json;

std::string LayersAt(const Json& node) {
  const Json& layers = MemberOf(node, "layers");
  if (!layers.is_array() || layers.size() != 2) return "-";
  if (!layers[0].is_number_integer() || !layers[1].is_number_integer()) return "-";
  return fmt::format("{}-{}", layers[0].get<int64_t>(), layers[1].get<int64_t>() - 1);
}

/// Columns as wide as their widest cell; the last one is not filled up.
std::string Table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) {
      text += i + 1 < row.size() ? fmt::format("{:<{}}  ", row[i], widths[i]) : row[i];
    }
    text += '\n';
  }
  return text;
}

std::string Since(const ProcessReport& process) {
  if (process.state != HostProcessState::kRunning || process.started_unix == 0) return "-";
  return fmt::format("{:%Y-%m-%d %H:%M:%S}", fmt::localtime(static_cast<std::time_t>(process.started_unix)));
}

std::string Role(int rank) { return rank == 0 ? "coordinator" : "worker"; }

}  // namespace

ClusterView ViewOf(const std::string& body) {
  ClusterView view;
  Json json;
  if (body.empty() || !ReadJson(body, JsonLimits{.keys_max = 4096}, &json).ok() || !json.is_object())
    return view;
  view.status = TextOf(json, "status");
  const Json& nodes = MemberOf(json, "nodes");
  if (!nodes.is_array()) return view;
  for (const Json& node : nodes) {
    if (!node.is_object()) continue;
    ClusterView::Node seen{
        .state = TextOf(node, "state"), .error = TextOf(node, "error"), .layers = LayersAt(node)};
    const Json& experts = MemberOf(node, "experts");
    if (experts.is_number_integer()) seen.experts = experts.get<int64_t>();
    view.nodes[TextOf(node, "name")] = std::move(seen);
  }
  return view;
}

std::string StatusTable(const Deployment& deployment, const std::vector<DeviceReport>& reports,
                        const ClusterView& view, const std::string& why) {
  std::vector<std::vector<std::string>> rows = {
      {"RANK", "DEVICE", "HOST", "ROLE", "PROCESS", "PID", "SINCE", "CLUSTER", "LAYERS", "EXPERTS"}};
  std::string notes;
  for (const DeviceReport& report : reports) {
    const ProcessReport& process = report.process;
    const auto node = view.nodes.find(process.id);
    const bool known = node != view.nodes.end();
    const bool running = process.state == HostProcessState::kRunning;
    rows.push_back({std::to_string(report.rank), process.id, report.host, Role(report.rank),
                    process.error.empty() ? std::string(Name(process.state)) : "unknown",
                    running ? std::to_string(process.pid) : "-", Since(process),
                    known ? node->second.state : "-", known ? node->second.layers : "-",
                    known ? std::to_string(node->second.experts) : "-"});
    for (const std::string& text :
         {process.error, process.note,
          known && node->second.state != "up" ? node->second.error : std::string()}) {
      if (!text.empty()) notes += fmt::format("{}: {}\n", process.id, text);
    }
  }
  std::string text = fmt::format("cluster '{}' at {}: {}\n", deployment.name, deployment.url,
                                 view.status.empty() ? "unknown: " + why : view.status);
  return text + Table(rows) + notes;
}

std::string StatusJson(const Deployment& deployment, const std::vector<DeviceReport>& reports,
                       const ClusterView& view, const std::string& why) {
  Json json = {{"cluster", deployment.name}, {"url", deployment.url}};
  json["status"] = view.status.empty() ? Json(nullptr) : Json(view.status);
  if (view.status.empty()) json["error"] = why;
  json["devices"] = Json::array();
  for (const DeviceReport& report : reports) {
    const ProcessReport& process = report.process;
    Json device = {
        {"device", process.id}, {"rank", report.rank}, {"host", report.host}, {"role", Role(report.rank)}};
    device["process"] = process.error.empty() ? Json(Name(process.state)) : Json(nullptr);
    if (process.state == HostProcessState::kRunning) {
      device["pid"] = process.pid;
      device["started"] = process.started_unix;
    }
    if (!process.error.empty()) device["error"] = process.error;
    if (!process.note.empty()) device["note"] = process.note;
    if (const auto node = view.nodes.find(process.id); node != view.nodes.end()) {
      device["state"] = node->second.state;
      device["layers"] = node->second.layers;
      device["experts"] = node->second.experts;
    }
    json["devices"].push_back(std::move(device));
  }
  return json.dump(2, ' ', false, Json::error_handler_t::replace);
}

std::string LatencyTable(const std::vector<Measurement>& measured) {
  std::vector<std::vector<std::string>> rows = {
      {"REQUEST", "FIRST TOKEN ms", "TOTAL ms", "TOKENS", "TOKENS/s"}};
  for (size_t i = 0; i < measured.size(); ++i) {
    const Measurement& one = measured[i];
    rows.push_back({std::to_string(i + 1), fmt::format("{:.1f}", one.first_token_ms),
                    fmt::format("{:.1f}", one.total_ms), std::to_string(one.tokens),
                    one.total_ms > 0
                        ? fmt::format("{:.1f}", static_cast<double>(one.tokens) * 1000 / one.total_ms)
                        : "-"});
  }
  return Table(rows);
}

}  // namespace shoal
