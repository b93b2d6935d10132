#include "app/cluster_logs.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "base/log_ring.h"
#include "base/status.h"
#include "base/text.h"

namespace shoal {
namespace {

/// Of the lines of all nodes together, as near as that gives each a few.
constexpr int64_t kAllBytesMax = 1 << 20;
constexpr int64_t kNodeBytesMin = 8 << 10;
constexpr int64_t kNodeBytesMax = 128 << 10;

}  // namespace

absl::StatusOr<std::string> ClusterLogsJson(const Members& members, const LogQuestion& question,
                                            Deadline deadline) {
  using Json = nlohmann::ordered_json;
  MemberList asked = members.all();
  if (!question.node.empty()) {
    std::vector<std::string> names;
    for (const auto& member : asked) names.push_back(member->name());
    std::erase_if(asked, [&](const auto& member) { return member->name() != question.node; });
    if (asked.empty())
      return NotFound("no node is called '{}'; there are {}", question.node, Join(names, ", "));
  }
  const LogQuery query{.after_ms = question.since_ms,
                       .at_least = question.level,
                       .bytes_max = std::clamp(kAllBytesMax / static_cast<int64_t>(asked.size()),
                                               kNodeBytesMin, kNodeBytesMax)};
  std::vector<std::vector<LoggedLine>> lines(asked.size());
  const std::vector<absl::Status> results = ForEachMember(asked, [&](size_t index, Member& member) {
    if (member.is_self()) {
      lines[index] = RecentLog(query);
      return absl::OkStatus();
    }
    ASSIGN_OR_RETURN(lines[index], member.client()->recent_log(query, deadline));
    return absl::OkStatus();
  });
  Json nodes = Json::array();
  for (size_t i = 0; i < asked.size(); ++i) {
    Json node = {{"name", asked[i]->name()}, {"lines", Json::array()}};
    for (const LoggedLine& line : lines[i]) {
      node["lines"].push_back(
          {{"id", line.id}, {"at", line.unix_ms}, {"level", Name(line.level)}, {"text", line.text}});
    }
    if (!results[i].ok()) node["error"] = Message(results[i]);
    nodes.push_back(std::move(node));
  }
  Json out;
  out["nodes"] = std::move(nodes);
  return out.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace shoal
