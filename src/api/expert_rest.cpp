#include "api/expert_rest.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <tuple>

#include "api/field_reader.h"
#include "api/http/text.h"
#include "api/json.h"
#include "base/clock.h"
#include "base/status.h"

namespace shoal {
namespace {

/// One element of "requests".
struct ComputeRequest {
  int32_t layer = 0;
  ExpertRow row;
  int64_t batch_idx = 0;
  int64_t seq_idx = 0;
  int64_t k_idx = 0;
  Json weight;  // Passed through as it came.
};

absl::Status AsStatus(const ApiError& error) { return InvalidArgument("{}", error.message); }

absl::StatusOr<Json> ParseObject(const std::string& body) {
  auto value = ParseJson(body);
  if (!value.has_value()) return Annotate(AsStatus(value.error()), "the body");
  if (!value->is_object())
    return InvalidArgument("the body must be a JSON object, got {}", JsonTypeName(*value));
  return *std::move(value);
}

int64_t RequiredInteger(FieldReader& fields, std::string_view name) {
  const auto value = fields.integer(name, 0, INT32_MAX);
  if (!value.has_value()) {
    fields.fail(name, fmt::format("'{}' is missing: expected an integer", fields.path_of(name)));
  }
  return value.value_or(0);
}

std::vector<float> RequiredEmbedding(FieldReader& fields) {
  const Json* values = fields.find_array("token_embedding");
  if (values == nullptr) {
    fields.fail("token_embedding", fmt::format("'{}' is missing: expected an array of numbers",
                                               fields.path_of("token_embedding")));
    return {};
  }
  std::vector<float> x;
  x.reserve(values->size());
  for (const Json& value : *values) {
    const float number = value.is_number() ? value.get<float>() : NAN;
    if (!std::isfinite(
            number)) {  // JSON has no NaN; null, "NaN" and 1e99 stand for none of f32's numbers either.
      fields.fail("token_embedding",
                  fmt::format("'{}[{}]' must be a finite f32 number, got {}",
                              fields.path_of("token_embedding"), x.size(), JsonExcerpt(value)));
      return {};
    }
    x.push_back(number);
  }
  return x;
}

absl::StatusOr<ComputeRequest> ParseRequest(const Json& json, size_t index) {
  const std::string where = fmt::format("requests[{}]", index);
  if (!json.is_object()) return InvalidArgument("'{}' must be an object, got {}", where, JsonTypeName(json));
  std::optional<ApiError> error;
  FieldReader fields(json, where + ".", error);
  ComputeRequest out;
  out.row.expert = static_cast<int32_t>(RequiredInteger(fields, "expert_id"));
  out.row.x = RequiredEmbedding(fields);
  out.batch_idx = RequiredInteger(fields, "batch_idx");
  out.seq_idx = RequiredInteger(fields, "seq_idx");
  out.k_idx = RequiredInteger(fields, "k_idx");
  out.layer = static_cast<int32_t>(fields.integer("layer_idx", 0, INT32_MAX).value_or(0));
  const Json* weight = fields.find("weight");
  if (weight == nullptr || !weight->is_number()) {
    fields.fail("weight", fmt::format("'{}.weight' must be a number, got {}", where,
                                      weight == nullptr ? "nothing" : JsonExcerpt(*weight)));
  } else {
    out.weight = *weight;
  }
  fields.refuse_others();
  if (error.has_value()) return AsStatus(*error);
  return out;
}

absl::Status CheckRequest(const ComputeRequest& request, size_t index, const ExpertService::Info& info) {
  if (!std::ranges::binary_search(info.expert_ids, request.row.expert)) {
    return InvalidArgument("Expert {} not assigned to this worker", request.row.expert);
  }
  if (static_cast<int64_t>(request.row.x.size()) != info.width) {
    return InvalidArgument("requests[{}].token_embedding has {} numbers, but the model's width is {}", index,
                           request.row.x.size(), info.width);
  }
  if (request.layer >= info.layers) {
    return InvalidArgument("requests[{}].layer_idx is {}, but the model has layers 0 to {}", index,
                           request.layer, info.layers - 1);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> ParseExpertIds(FieldReader& fields) {
  const Json* ids = fields.find_array("expert_ids");
  if (ids == nullptr || ids->empty()) {
    if (!fields.ok()) fields.fail("expert_ids", "");
    return InvalidArgument("'expert_ids' must be a non-empty array of integers");
  }
  std::vector<int32_t> out;
  for (const Json& id : *ids) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > INT32_MAX) {
      return InvalidArgument("'expert_ids[{}]' must be an expert id, got {}", out.size(), JsonExcerpt(id));
    }
    out.push_back(static_cast<int32_t>(id.get<uint64_t>()));
  }
  std::ranges::sort(out);
  const auto twice = std::ranges::adjacent_find(out);
  if (twice != out.end()) return InvalidArgument("'expert_ids' lists expert {} twice", *twice);
  return out;
}

int HttpStatusOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kUnauthenticated:
      return 401;
    case absl::StatusCode::kInternal:
      return 500;
    case absl::StatusCode::kUnavailable:
      return 503;
    default:
      return 400;
  }
}

std::string SuccessBody(const std::string& message) {
  Json json;
  json["status"] = "success";
  json["message"] = message;
  return DumpJson(json);
}

// Written by hand: the shortest decimal of each f32, which reads back as the same f32.
std::string ResultsBody(const std::vector<ComputeRequest>& requests,
                        const std::vector<std::vector<float>>& outputs, double seconds) {
  std::string body = R"({"status":"success","results":[)";
  for (size_t i = 0; i < requests.size(); ++i) {
    const ComputeRequest& request = requests[i];
    body += fmt::format(
        R"({}{{"expert_id":{},"expert_output":[{}],"batch_idx":{},"seq_idx":{},"k_idx":{},"weight":{}}})",
        i == 0 ? "" : ",", request.row.expert, fmt::join(outputs[i], ","), request.batch_idx, request.seq_idx,
        request.k_idx, request.weight.dump());
  }
  return body + fmt::format(R"(],"compute_time":{:.9f},"num_requests":{}}})", seconds, requests.size());
}

}  // namespace

std::vector<HttpRoute> ExpertRestApi::routes() {
  std::vector<HttpRoute> routes;
  auto add = [this, &routes](const char* method, const char* path, HttpHandler handler) {
    routes.push_back({method, path,
                      [this, handler = std::move(handler)](const HttpRequest& request, const Writer& writer) {
                        const absl::Status allowed = check(request);
                        return allowed.ok() ? handler(request, writer) : answer(allowed, *writer);
                      }});
  };
  add("POST", "/initialize", [this](const HttpRequest& request, const Writer& writer) {
    answer(initialize(request.body), *writer);
  });
  add("POST", "/compute_experts",
      [this](const HttpRequest& request, const Writer& writer) { answer(compute(request.body), *writer); });
  add("GET", "/status", [this](const HttpRequest&, const Writer& writer) { answer(status(), *writer); });
  routes.push_back(
      {"GET", "/health",
       [](const HttpRequest&, const Writer& writer) { writer->send({.body = R"({"status":"healthy"})"}); },
       /*urgent=*/true});
  return routes;
}

absl::Status ExpertRestApi::check(const HttpRequest& request) const {
  constexpr std::string_view kScheme = "bearer ";
  if (!authorize_) return absl::OkStatus();
  std::string_view given = request.header("authorization");
  const bool bearer = LowerCase(given.substr(0, kScheme.size())) == kScheme;
  given.remove_prefix(bearer ? kScheme.size() : given.size());
  return authorize_(given, fmt::format("{} {}\n{}", request.method, request.path, request.body));
}

std::string ExpertRestApi::ErrorBodyOf(int, const std::string& message) {
  Json json;
  json["status"] = "error";
  json["message"] = message;
  return DumpJson(json);
}

void ExpertRestApi::answer(const absl::StatusOr<std::string>& result, ResponseWriter& writer) {
  if (result.ok()) return writer.send({.body = *result, .headers = challenge_headers()});
  {
    std::lock_guard lock(mutex_);
    ++totals_.errors;
  }
  const int status = HttpStatusOf(result.status());
  HttpResponse response{.status = status,
                        .body = ErrorBodyOf(status, Message(result.status())),
                        .headers = challenge_headers()};
  if (status == 401) response.headers.emplace_back("WWW-Authenticate", "Bearer");
  writer.send(std::move(response));
}

HttpHeaders ExpertRestApi::challenge_headers() const {
  if (!challenge_) return {};
  return {{"Shoal-Challenge", challenge_()}};
}

absl::StatusOr<std::string> ExpertRestApi::initialize(const std::string& body) {
  ASSIGN_OR_RETURN(const Json object, ParseObject(body));
  std::optional<ApiError> error;
  FieldReader fields(object, "", error);
  const std::string model_path = fields.required_text("model_path");
  if (error.has_value()) return AsStatus(*error);
  ASSIGN_OR_RETURN(const std::vector<int32_t> ids, ParseExpertIds(fields));
  fields.refuse_others();
  if (error.has_value()) return AsStatus(*error);
  ASSIGN_OR_RETURN(const int loaded, service_.initialize(ids, model_path));
  return SuccessBody(fmt::format("Loaded {} experts", loaded));
}

absl::StatusOr<std::string> ExpertRestApi::compute(const std::string& body) {
  const ExpertService::Info info = service_.info();
  if (!info.initialized) return FailedPrecondition("Worker not initialized");
  ASSIGN_OR_RETURN(const Json object, ParseObject(body));
  std::optional<ApiError> error;
  FieldReader fields(object, "", error);
  const Json* list = fields.find_array("requests");
  if (list == nullptr) fields.fail("requests", "'requests' is missing: expected an array of objects");
  fields.refuse_others();
  if (error.has_value()) return AsStatus(*error);
  std::vector<ComputeRequest> requests;
  for (const Json& one : *list) {
    ASSIGN_OR_RETURN(ComputeRequest request, ParseRequest(one, requests.size()));
    RETURN_IF_ERROR(CheckRequest(request, requests.size(), info));
    requests.push_back(std::move(request));
  }

  // Layer by layer, and within a layer the rows of one expert together.
  std::vector<size_t> order(requests.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::sort(order, {},
                    [&](size_t i) { return std::tuple(requests[i].layer, requests[i].row.expert, i); });
  std::vector<std::vector<float>> outputs(requests.size());
  const int64_t begin_ns = NowNs();
  for (size_t begin = 0; begin < order.size();) {
    const int32_t layer = requests[order[begin]].layer;
    size_t end = begin;
    std::vector<ExpertRow> rows;
    for (; end < order.size() && requests[order[end]].layer == layer; ++end) {
      rows.push_back(std::move(requests[order[end]].row));
      requests[order[end]].row.expert = rows.back().expert;
    }
    ASSIGN_OR_RETURN(std::vector<std::vector<float>> computed, service_.compute(layer, rows));
    for (size_t i = begin; i < end; ++i) outputs[order[i]] = std::move(computed.at(i - begin));
    begin = end;
  }
  const double seconds = static_cast<double>(NowNs() - begin_ns) * 1e-9;
  {
    std::lock_guard lock(mutex_);
    ++totals_.calls;
    totals_.requests += static_cast<int64_t>(requests.size());
    totals_.compute_seconds += seconds;
  }
  return ResultsBody(requests, outputs, seconds);
}

std::string ExpertRestApi::status() const {
  const ExpertService::Info info = service_.info();
  std::lock_guard lock(mutex_);
  Json json;
  json["status"] = info.initialized ? "ready" : "not_initialized";
  json["initialized"] = info.initialized;
  json["model_path"] = info.model_path;
  json["num_experts"] = info.expert_ids.size();
  json["expert_ids"] = info.expert_ids;
  json["memory_bytes"] = info.memory_bytes;
  json["total_calls"] = totals_.calls;
  json["total_requests"] = totals_.requests;
  json["total_compute_time"] = totals_.compute_seconds;
  json["average_compute_time"] =
      totals_.calls == 0 ? 0.0 : totals_.compute_seconds / static_cast<double>(totals_.calls);
  json["errors"] = totals_.errors;
  return DumpJson(json);
}

}  // namespace shoal
