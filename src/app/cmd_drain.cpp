// `shoal drain`: asks a coordinator to do without a node, and waits until it does.
#include "app/cmd_drain.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <thread>

#include "api/http/text.h"
#include "app/server_reply.h"
#include "base/json.h"
#include "base/status.h"

namespace shoal {
namespace {

using Json = nlohmann::json;

constexpr int64_t kCallMs = 10'000;
constexpr auto kAskAgain = std::chrono::milliseconds(200);

struct DrainFlags {
  std::string node;
  std::string url = "http://127.0.0.1:8000";
  std::string api_key;
  std::string model;
  double timeout_s = 3600;
  bool undo = false;
};

/// What an answer says of the node; null where it is not there.
const Json& NodeOf(const Json& status, const std::string& name) {
  static const Json kNone;
  const Json& nodes = MemberOf(status, "nodes");
  if (!nodes.is_array()) return kNone;
  const auto found =
      std::ranges::find_if(nodes, [&](const Json& node) { return TextOf(node, "name") == name; });
  return found == nodes.end() ? kNone : *found;
}

/// Whether the cluster is up with the node or without it, as it is to be.
bool IsDone(const Json& status, const DrainFlags& flags) {
  const Json& node = NodeOf(status, flags.node);
  if (!node.is_object() || TextOf(status, "status") != "up") return false;
  const Json& experts = MemberOf(node, "experts");
  const bool idle = MemberOf(node, "layers").is_null() && (experts.is_null() || experts == 0);
  return flags.undo ? MemberOf(node, "out").is_null() : idle;
}

/// Whether asking again may bring something else: a coordinator that is busy, or about to be up again.
bool MayChange(int http_status) { return http_status == 429 || http_status >= 500; }

absl::Status WaitUntilDone(const HttpClient& client, const DrainFlags& flags) {
  const Deadline deadline = Deadline::after(FromSeconds(flags.timeout_s));
  const std::string query = flags.model.empty() ? "" : "?model=" + PercentEncode(flags.model);
  std::string told;
  while (true) {
    ASSIGN_OR_RETURN(const HttpReply reply,
                     client.get("/cluster/status" + query, Deadline::after_ms(kCallMs)));
    if (reply.status != 200 && !MayChange(reply.status))
      return Annotate(RefusedBy(reply), "the order stands, but what became of it can't be asked");
    const Json status = JsonOf(reply);
    if (reply.status == 200 && IsDone(status, flags)) return absl::OkStatus();
    const std::string failure = TextOf(MemberOf(status, "move"), "error");
    if (failure != told && !failure.empty()) std::fprintf(stderr, "not yet: %s\n", failure.c_str());
    told = failure;
    if (deadline.expired()) {
      return DeadlineExceeded("node '{}': not done after {} s{}{}; the order stands", flags.node,
                              flags.timeout_s, told.empty() ? "" : ": ", told);
    }
    std::this_thread::sleep_for(kAskAgain);
  }
}

absl::Status Drain(const DrainFlags& flags) {
  ASSIGN_OR_RETURN(const HttpBase base, ParseHttpBase(flags.url));
  ASSIGN_OR_RETURN(HttpClient client, HttpClient::FromUrl(flags.url));
  client.set_api_key(flags.api_key);
  Json body = {{"node", flags.node}};
  if (!flags.model.empty()) body["model"] = flags.model;
  const std::string path = flags.undo ? "/cluster/undrain" : "/cluster/drain";
  ASSIGN_OR_RETURN(const HttpReply reply, client.post(path, body.dump(), Deadline::after_ms(kCallMs)));
  if (reply.status != 200) return RefusedBy(reply);
  RETURN_IF_ERROR(WaitUntilDone(client, flags));
  std::printf(
      flags.undo ? "node '%s' takes part again\n" : "node '%s' is drained: its process may be stopped\n",
      flags.node.c_str());
  return absl::OkStatus();
}

}  // namespace

Command AddDrainCommand(Flags root) {
  auto flags = std::make_shared<DrainFlags>();
  Flags app = root.add_subcommand(
      "drain", "Have the other nodes of a running cluster take over what a node does, while requests run");
  app.add_option("node", flags->node, "Name of the node, as in /cluster/status").required();
  app.add_flag("--undo", flags->undo, "Let it take part again");
  app.add_option("--url", flags->url, "The coordinator (default http://127.0.0.1:8000)");
  app.add_option("--api-key", flags->api_key, "The key that the server wants, if any")
      .envname("SHOAL_API_KEY");
  app.add_option("--model", flags->model, "Of a server of several: the model whose nodes are meant");
  app.add_option("--timeout", flags->timeout_s, "Seconds to wait until it is done (default 3600)")
      .range(0.0, 1e6);
  return {app, [flags] { return Drain(*flags); }};
}

}  // namespace shoal
