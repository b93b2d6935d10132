#include "app/plan_check.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "api/http/async_client.h"
#include "api/http/text.h"
#include "api/load/load_run.h"
#include "api/load/workload.h"
#include "app/bench_report.h"
#include "app/server_reply.h"
#include "base/json.h"
#include "base/log.h"
#include "base/status.h"
#include "plan/predict.h"

namespace shoal {
namespace {

using Json = nlohmann::json;

constexpr int64_t kCallMs = 10'000;
constexpr auto kRequestMax = std::chrono::minutes(10);
/// Tokens that a stream decodes: few, so that the cache is about as full as predicted.
constexpr int64_t kTokens = 32;
/// Runs that may be disturbed before a machine counts as too busy.
constexpr int kDisturbedMax = 3;

/// A figure: predicted and measured, or why it was not measured.
struct Checked {
  std::string what;
  std::string unit;
  double predicted = 0;
  double measured = 0;
  std::string skipped;
  double error() const { return predicted / measured - 1; }
};

double Number(const Json& value, std::string_view key) {
  const Json& found = MemberOf(value, key);
  return found.is_number() ? found.get<double>() : 0;
}

absl::StatusOr<Json> Get(const HttpClient& client, const std::string& path) {
  ASSIGN_OR_RETURN(const HttpReply reply, client.get(path, Deadline::after_ms(kCallMs)));
  Json read = JsonOf(reply);
  if (reply.status == 200 && read.is_object()) return read;
  return Annotate(RefusedBy(reply), "GET " + path);
}

/// The server, and what it says of itself.
struct Server {
  HttpBase base;
  std::string api_key;
  std::string model;
  int64_t context = 0;     ///< Positions of a sequence.
  int64_t vocabulary = 0;  ///< Token ids.
  int64_t positions = 0;   ///< Of the cache.
  Json predicted;
};

absl::StatusOr<Server> Ask(const PlanCheck& check) {
  Server server{.api_key = check.api_key, .model = check.model};
  ASSIGN_OR_RETURN(server.base, ParseHttpBase(check.url));
  if (server.base.tls) return InvalidArgument("--url '{}': plans are checked over http:// only", check.url);
  HttpClient client(server.base);
  client.set_api_key(check.api_key);
  if (server.model.empty()) {
    ASSIGN_OR_RETURN(server.model, FirstModel(client));
  }
  const std::string query = "?model=" + PercentEncode(server.model);
  ASSIGN_OR_RETURN(const Json status, Get(client, "/cluster/status" + query));
  if (TextOf(status, "status") != "up")
    return FailedPrecondition("the cluster is not up: {}", TextOf(status, "error"));
  server.predicted = MemberOf(status, "predicted");
  if (!(Number(server.predicted, "tokens_per_s_1") > 0)) {
    const std::string why = TextOf(server.predicted, "error");
    return FailedPrecondition("{}: nothing is predicted: {}", check.url,
                              why.empty() ? "its /cluster/status has no \"predicted\"" : why);
  }
  const Json& model = MemberOf(status, "model");
  const Json& cache = MemberOf(status, "cache");
  server.context = static_cast<int64_t>(Number(model, "context"));
  server.vocabulary = static_cast<int64_t>(Number(model, "vocabulary"));
  server.positions = static_cast<int64_t>(Number(cache, "blocks") * Number(cache, "positions_per_block"));
  if (server.vocabulary < 1) return FailedPrecondition("{}: no vocabulary in /cluster/status", check.url);
  ASSIGN_OR_RETURN(const Json stats, Get(client, "/cache/stats" + query));
  const Json& requests = MemberOf(stats, "requests");
  const double busy = Number(requests, "running") + Number(requests, "waiting");
  if (busy > 0)
    return FailedPrecondition("{} requests run: an idle cluster is measured; try again when they have ended",
                              busy);
  return server;
}

/// Asks for completions of prompts of random tokens, and takes the time.
class Meter {
 public:
  Meter(const Server& server, int runs) : server_(server), runs_(runs) {}

  /// Seconds until one token of a prompt that nobody has sent before has come: the median.
  absl::StatusOr<double> first_token_s(int64_t prompt) {
    std::vector<double> seconds;
    for (int run = 0; run <= runs_; ++run) {
      ASSIGN_OR_RETURN(const double s, seconds_of({.prompt = prompt, .tokens = 1}, ++prompts_));
      if (run > 0) seconds.push_back(s);
    }
    return SpreadOf(std::move(seconds)).median;
  }

  /// Tokens per second of so many streams together behind a prompt each: what kTokens more take than one. A run that was
  /// disturbed so much that they took no time is run again, a few times.
  absl::StatusOr<double> decode_rate(int64_t prompt, int64_t streams) {
    std::vector<double> rates;
    int disturbed = 0;
    for (int run = 0; run <= runs_;) {
      const Requests one{.prompt = prompt, .tokens = 1, .streams = streams};
      const Requests more{.prompt = prompt, .tokens = 1 + kTokens, .streams = streams};
      const int64_t first = prompts_ + 1;
      prompts_ += streams;
      RETURN_IF_ERROR(
          seconds_of(one, first).status());  // From here on the prompts are cached, where there is a cache.
      ASSIGN_OR_RETURN(const double short_s, seconds_of(one, first));
      ASSIGN_OR_RETURN(const double long_s, seconds_of(more, first));
      if (long_s <= short_s) {
        if (++disturbed <= kDisturbedMax) continue;
        return Unavailable("{} more tokens took no time, {} times: the machine is too busy to be measured",
                           kTokens, disturbed);
      }
      if (run++ > 0) rates.push_back(static_cast<double>(streams * kTokens) / (long_s - short_s));
    }
    return SpreadOf(std::move(rates)).median;
  }

 private:
  struct Requests {
    int64_t prompt = 0;  ///< Tokens.
    int64_t tokens = 0;  ///< Of the answer.
    int64_t streams = 1;
  };

  /// All at once, until the last has its answer. first: the number of the first prompt.
  absl::StatusOr<double> seconds_of(const Requests& requests, int64_t first) const {
    WorkloadOptions options{.endpoint = LoadEndpoint::kCompletions,
                            .model = server_.model,
                            .prompt_words = std::to_string(requests.prompt),
                            .output_tokens = std::to_string(requests.tokens),
                            .temperature = 1,  // What repeats would be drafted, which is not predicted.
                            .extra = R"({"ignore_eos": true})",
                            .token_ids = server_.vocabulary};
    ASSIGN_OR_RETURN(const Workload workload, Workload::Create(std::move(options)));
    AsyncHttpClient::Options to{server_.base.host, server_.base.port, server_.base.prefix, {}};
    if (!server_.api_key.empty()) to.headers.emplace_back("Authorization", "Bearer " + server_.api_key);
    ASSIGN_OR_RETURN(const std::unique_ptr<AsyncHttpClient> client, AsyncHttpClient::Create(std::move(to)));
    const LoadResult result = RunLoad(*client, workload,
                                      {.concurrency = requests.streams,
                                       .requests = requests.streams,
                                       .timeout = kRequestMax,
                                       .first_index = first});
    for (const LoadSample& sample : result.samples) {
      if (!sample.error.empty())
        return Unavailable("a request to measure: {}: {}", sample.error, sample.error_text);
      if (sample.output_tokens != requests.tokens) {
        return Unavailable("a request to measure: expected {} tokens, got {}", requests.tokens,
                           sample.output_tokens);
      }
    }
    return 1e-9 * static_cast<double>(result.elapsed_ns);
  }

  const Server& server_;
  const int runs_;
  int64_t prompts_ = 0;
};

std::string NoRoom(const Server& server, int64_t positions, int64_t streams) {
  if (positions > server.context)
    return fmt::format("the model's context is {}, {} are needed", server.context, positions);
  if (positions * streams > server.positions)
    return fmt::format("the cache has {} positions, {} are needed", server.positions, positions * streams);
  return "";
}

absl::StatusOr<std::vector<Checked>> Measure(const Server& server, int runs) {
  constexpr auto kContext = static_cast<int64_t>(kPlanContext);
  constexpr auto kStreams = static_cast<int64_t>(kThroughputStreams);
  constexpr int64_t kDecoded = kContext + kTokens + 1;
  Meter meter(server, runs);
  std::vector<Checked> all = {
      {"one stream", "tokens/s", Number(server.predicted, "tokens_per_s_1"), 0, NoRoom(server, kDecoded, 1)},
      {fmt::format("{} streams", kStreams), "tokens/s", Number(server.predicted, "tokens_per_s_16"), 0,
       NoRoom(server, kDecoded, kStreams)},
      {fmt::format("first token of {}", kTtftPrompt), "s", Number(server.predicted, "ttft_2k_s"), 0,
       NoRoom(server, kTtftPrompt + 1, 1)}};
  if (all[0].skipped.empty()) {
    ASSIGN_OR_RETURN(all[0].measured, meter.decode_rate(kContext, 1));
  }
  if (all[1].skipped.empty()) {
    ASSIGN_OR_RETURN(all[1].measured, meter.decode_rate(kContext, kStreams));
  }
  if (all[2].skipped.empty()) {
    ASSIGN_OR_RETURN(all[2].measured, meter.first_token_s(kTtftPrompt));
  }
  return all;
}

std::string ReportText(const std::vector<Checked>& all) {
  std::string text = fmt::format("{:<20}  {:>10}  {:>10}  {:>7}\n", "", "predicted", "measured", "error");
  for (const Checked& one : all) {
    const std::string what = fmt::format("{}, {}", one.what, one.unit);
    if (one.skipped.empty()) {
      text += fmt::format("{:<20}  {:>10.4g}  {:>10.4g}  {:>+6.0f}%\n", what, one.predicted, one.measured,
                          100 * one.error());
    } else {
      text += fmt::format("{:<20}  {:>10.4g}  not measured: {}\n", what, one.predicted, one.skipped);
    }
  }
  return text;
}

std::string ReportJson(const Server& server, const std::vector<Checked>& all) {
  nlohmann::ordered_json json = {{"model", server.model},
                                 {"bound_1", TextOf(server.predicted, "bound_1")},
                                 {"bound_16", TextOf(server.predicted, "bound_16")},
                                 {"checks", nlohmann::ordered_json::array()}};
  for (const Checked& one : all) {
    nlohmann::ordered_json entry = {{"what", one.what}, {"unit", one.unit}, {"predicted", one.predicted}};
    if (one.skipped.empty()) {
      entry["measured"] = one.measured;
      entry["error"] = one.error();
    } else {
      entry["not_measured"] = one.skipped;
    }
    json["checks"].push_back(std::move(entry));
  }
  return json.dump(2) + "\n";
}

}  // namespace

absl::Status CheckPlan(const PlanCheck& check) {
  ASSIGN_OR_RETURN(const Server server, Ask(check));
  LogInfo("measuring {} at {}", server.model, check.url);
  ASSIGN_OR_RETURN(const std::vector<Checked> all, Measure(server, check.runs));
  std::fputs((check.json ? ReportJson(server, all) : ReportText(all)).c_str(), stdout);
  if (std::ranges::none_of(all, [](const Checked& one) { return one.skipped.empty(); }))
    return FailedPrecondition("nothing could be measured");
  for (const Checked& one : all) {
    if (check.within > 0 && one.skipped.empty() && 100 * std::abs(one.error()) > check.within) {
      return OutOfRange("{}: predicted {:.4g} {}, measured {:.4g}: more than {} % apart", one.what,
                        one.predicted, one.unit, one.measured, check.within);
    }
  }
  return absl::OkStatus();
}

}  // namespace shoal
