// `shoal health`: one question to one process, for probes of containers and service managers.
#include "app/cmd_health.h"

#include <cstdio>
#include <nlohmann/json.hpp>

#include "api/http/client.h"
#include "app/server_reply.h"
#include "app/tls_flags.h"
#include "base/json.h"
#include "base/status.h"
#include "cluster/control.h"

namespace shoal {
namespace {

struct HealthFlags {
  std::string url = "http://127.0.0.1:8000";
  std::string worker;
  ClusterKeyFlags key;
  double timeout_s = 3;
};

absl::Status AskCoordinator(const HealthFlags& flags) {
  ASSIGN_OR_RETURN(const HttpClient client, HttpClient::FromUrl(flags.url));
  ASSIGN_OR_RETURN(const HttpReply reply,
                   client.get("/health", Deadline::after(FromSeconds(flags.timeout_s))));
  if (reply.status == 200) return absl::OkStatus();
  const nlohmann::json said = JsonOf(reply);
  return Unavailable("{}/health: expected 200, got {}: {}: {}", flags.url, reply.status,
                     TextOf(said, "status"), TextOf(said, "reason"));
}

absl::Status AskWorker(const HealthFlags& flags) {
  ASSIGN_OR_RETURN(const ClusterKey key, flags.key.read(""));
  WorkerClient client(flags.worker, key);
  return client.describe(Deadline::after(FromSeconds(flags.timeout_s))).status();
}

}  // namespace

Command AddHealthCommand(Flags root) {
  auto flags = std::make_shared<HealthFlags>();
  Flags app = root.add_subcommand(
      "health", "Ask a coordinator whether it serves, or a worker whether it answers: for probes");
  const Flag url = app.add_option("--url", flags->url, "The coordinator (default http://127.0.0.1:8000)");
  app.add_option("--worker", flags->worker, "HOST:PORT of a worker, which is asked in its place")
      .excludes(url);
  flags->key.add_to(app);
  app.add_option("--timeout", flags->timeout_s, "Seconds for an answer (default 3)").range(0.1, 600.0);
  return {app, [flags] { return flags->worker.empty() ? AskCoordinator(*flags) : AskWorker(*flags); }};
}

}  // namespace shoal
