// The last lines of all nodes' logs: GET /cluster/logs.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "api/log_question.h"
#include "cluster/member.h"

namespace shoal {

/// {"nodes": [{"name", "lines": [{"id", "at", "level", "text"}], "error"}]}, each node's lines oldest first; "at" in Unix
/// milliseconds by its clock, "error" why it told none. Asks the nodes, each until `deadline` at most. NotFound: no such node.
absl::StatusOr<std::string> ClusterLogsJson(const Members& members, const LogQuestion& question,
                                            Deadline deadline);

}  // namespace shoal
