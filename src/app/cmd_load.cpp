#include <cstdio>
#include <limits>

#include "api/http/async_client.h"
#include "api/load/load_report.h"
#include "api/load/load_run.h"
#include "api/load/workload.h"
#include "app/command.h"
#include "app/server_reply.h"
#include "base/status.h"

namespace shoal {
namespace {

constexpr int64_t kDefaultRequests = 64;

struct LoadFlags {
  std::string url = "http://127.0.0.1:8000";
  std::string api_key;
  WorkloadOptions workload;
  double rate = 0;
  int64_t concurrency = 8;
  int64_t requests = 0;  ///< 0: kDefaultRequests, or as many as the duration allows.
  double duration_s = 0;
  double timeout_s = 600;
  int64_t warmup = 1;
  bool json = false;
};

std::vector<std::pair<std::string, std::string>> Settings(const LoadFlags& flags,
                                                          const WorkloadOptions& workload) {
  return {{"url", flags.url},
          {"model", workload.model},
          {"endpoint", workload.endpoint == LoadEndpoint::kChat ? "chat" : "completions"},
          {"loop", flags.rate > 0 ? fmt::format("open, {} requests/s", flags.rate)
                                  : fmt::format("closed, {} clients", flags.concurrency)},
          {"prompt_words", workload.prompt_words},
          {"output_tokens", workload.output_tokens},
          {"prefix", fmt::format("{} of {} words", workload.prefixes, workload.prefix_words)},
          {"seed", fmt::format("{}", workload.seed)}};
}

absl::Status Load(const LoadFlags& flags) {
  ASSIGN_OR_RETURN(const HttpBase base, ParseHttpBase(flags.url));
  if (base.tls) return InvalidArgument("load: --url '{}': load is measured over http:// only", flags.url);
  WorkloadOptions wanted = flags.workload;
  if (wanted.model.empty()) {
    HttpClient asks(base);
    asks.set_api_key(flags.api_key);
    ASSIGN_OR_RETURN(wanted.model, FirstModel(asks));
  }
  ASSIGN_OR_RETURN(const Workload workload, Workload::Create(wanted));
  AsyncHttpClient::Options options{base.host, base.port, base.prefix, {}};
  if (!flags.api_key.empty()) options.headers.emplace_back("Authorization", "Bearer " + flags.api_key);
  ASSIGN_OR_RETURN(const std::unique_ptr<AsyncHttpClient> client,
                   AsyncHttpClient::Create(std::move(options)));

  LoadOptions load{.rate = flags.rate,
                   .concurrency = flags.concurrency,
                   .requests = flags.requests,
                   .timeout = FromSeconds(flags.timeout_s),
                   .seed = wanted.seed};
  if (flags.duration_s > 0) load.duration = FromSeconds(flags.duration_s);
  if (load.requests == 0) {
    load.requests = flags.duration_s > 0 ? std::numeric_limits<int64_t>::max() : kDefaultRequests;
  }
  if (flags.warmup > 0) {
    RunLoad(*client, workload, {.concurrency = 1, .requests = flags.warmup, .timeout = load.timeout});
    load.first_index = flags.warmup;
  }
  const LoadReport report = Summarize(RunLoad(*client, workload, load));
  std::fputs((flags.json ? LoadJson(report, Settings(flags, wanted)) + "\n" : LoadText(report)).c_str(),
             stdout);
  if (report.succeeded > 0 || report.errors.empty()) return absl::OkStatus();
  return Unavailable("no request succeeded; {} times {}", std::get<1>(report.errors.front()),
                     std::get<0>(report.errors.front()));
}

void AddWorkloadOptions(Flags app, WorkloadOptions& workload) {
  app.add_option("--model", workload.model, "Model to ask for (default: the first of /v1/models)");
  app.add_choice("--endpoint", workload.endpoint,
                 {{"chat", LoadEndpoint::kChat}, {"completions", LoadEndpoint::kCompletions}},
                 "chat (default) or completions");
  app.add_option(
      "--prompt-words", workload.prompt_words,
      "Lengths of prompts: N, LOW-HIGH, or a mix such as 64-256:0.7,2048:0.3 (default 64-256); a word is "
      "about a token");
  app.add_option("--output-tokens", workload.output_tokens, "Lengths of answers, likewise (default 32-128)");
  app.add_option("--prefix-words", workload.prefix_words,
                 "Words that requests share before their own (default 0)")
      .range(0, 10'000'000);
  app.add_option("--prefixes", workload.prefixes,
                 "Different shared prefixes; each request draws one (default 1)")
      .range(1, 1'000'000);
  app.add_option("--temperature", workload.temperature, "0 to 2 (default 0)").range(0.0, 2.0);
  app.add_option("--extra", workload.extra, "JSON object of further fields of each request");
  app.add_option("--seed", workload.seed, "Of arrivals, lengths and texts (default 0)");
}

}  // namespace

Command AddLoadCommand(Flags root) {
  auto flags = std::make_shared<LoadFlags>();
  Flags app = root.add_subcommand("load", "Measure any OpenAI-compatible server under load");
  app.add_option("--url", flags->url, "The server (default http://127.0.0.1:8000)");
  app.add_option("--api-key", flags->api_key, "The key that the server wants, if any")
      .envname("SHOAL_API_KEY");
  const Flag rate =
      app.add_option("--rate", flags->rate,
                     "Open loop: requests a second, arriving at random (Poisson) whatever the server is at")
          .range(0.001, 1e6);
  app.add_option("--concurrency", flags->concurrency,
                 "Closed loop: so many clients, each of which asks again when it has its answer (default 8)")
      .range(1, 1'000'000)
      .excludes(rate);
  app.add_option("--requests", flags->requests,
                 "Requests to send (default 64, or as many as --duration allows)")
      .range(1, 1'000'000'000);
  app.add_option("--duration", flags->duration_s, "Seconds after which no request begins").range(0.001, 1e6);
  app.add_option("--timeout", flags->timeout_s, "Seconds that one request may take (default 600)")
      .range(0.001, 1e6);
  app.add_option("--warmup", flags->warmup, "Requests before, one by one, that do not count (default 1)")
      .range(0, 1'000'000);
  app.add_flag("--json", flags->json, "Print one JSON object");
  AddWorkloadOptions(app, flags->workload);
  return {app, [flags] { return Load(*flags); }};
}

}  // namespace shoal
