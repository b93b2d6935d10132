#include "launch/host_message.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/json.h"
#include "base/status.h"
#include "launch/env_file.h"
#include "tls/digest.h"

namespace shoal {
namespace {

using Json = nlohmann::json;

constexpr std::array<std::pair<HostVerb, std::string_view>, 7> kVerbs = {{{HostVerb::kStart, "start"},
                                                                          {HostVerb::kStop, "stop"},
                                                                          {HostVerb::kStatus, "status"},
                                                                          {HostVerb::kLogs, "logs"},
                                                                          {HostVerb::kHealth, "health"},
                                                                          {HostVerb::kFetch, "fetch"},
                                                                          {HostVerb::kMeasure, "measure"}}};
constexpr std::array<std::pair<HostProcessState, std::string_view>, 3> kStates = {
    {{HostProcessState::kRunning, "running"},
     {HostProcessState::kStopped, "stopped"},
     {HostProcessState::kDied, "died"}}};
constexpr std::array<std::pair<HostEvent::Kind, std::string_view>, 3> kKinds = {
    {{HostEvent::Kind::kLog, "log"},
     {HostEvent::Kind::kProgress, "progress"},
     {HostEvent::Kind::kReply, "reply"}}};

template <typename Value, size_t n>
std::string_view WordOf(const std::array<std::pair<Value, std::string_view>, n>& words, Value value) {
  return std::ranges::find(words, value, &std::pair<Value, std::string_view>::first)->second;
}

std::string Dump(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

/// Reads the members of an object, and keeps the first error.
class Fields {
 public:
  Fields(const Json& json, std::string where) : json_(json), where_(std::move(where)) {
    if (!json.is_object()) fail("", "an object");
  }

  void text(const char* key, std::string& target) {
    if (const Json* value = find(key, &Json::is_string, "a text")) target = value->get<std::string>();
  }
  void flag(const char* key, bool& target) {
    if (const Json* value = find(key, &Json::is_boolean, "true or false")) target = value->get<bool>();
  }
  template <typename Integer>
  void integer(const char* key, Integer& target, int64_t low, int64_t high) {
    const Json* value = find(key, &Json::is_number_integer, "a whole number");
    if (value == nullptr) return;
    const bool huge =
        value->is_number_unsigned() && value->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX);
    if (huge || value->get<int64_t>() < low || value->get<int64_t>() > high) {
      fail(key, fmt::format("a number from {} to {}", low, high));
      return;
    }
    target = static_cast<Integer>(value->get<int64_t>());
  }
  void optional_integer(const char* key, std::optional<int64_t>& target, int64_t low, int64_t high) {
    int64_t value = 0;
    integer(key, value, low, high);
    if (status_.ok() && json_.contains(key)) target = value;
  }
  void number(const char* key, double& target) {
    if (const Json* value = find(key, &Json::is_number, "a number")) target = value->get<double>();
  }
  void texts(const char* key, std::vector<std::string>& target) {
    const Json* value = find(key, &Json::is_array, "a list");
    for (size_t i = 0; value != nullptr && i < value->size(); ++i) {
      if (!(*value)[i].is_string()) return fail(key, "a list of texts");
      target.push_back((*value)[i].get<std::string>());
    }
  }
  template <typename Words, typename Value>
  void word(const char* key, const Words& words, Value& target) {
    std::string text;
    this->text(key, text);
    const auto found = std::ranges::find(words, text, [](const auto& pair) { return pair.second; });
    if (found == words.end()) return fail(key, "a known word");
    target = found->first;
  }
  template <typename Read>
  void each(const char* key, Read read) {
    const Json* value = find(key, &Json::is_array, "a list");
    for (size_t i = 0; value != nullptr && i < value->size() && status_.ok(); ++i) {
      Fields item((*value)[i], fmt::format("{}{}[{}].", where_, key, i));
      read(item);
      if (!item.status_.ok()) status_ = item.status_;
    }
  }
  void map(const char* key, std::map<std::string, std::string>& target) {
    const Json* value = find(key, &Json::is_object, "an object");
    if (value == nullptr) return;
    for (const auto& [name, entry] : value->items()) {
      if (!entry.is_string() || !IsVariableName(name)) return fail(key, "texts by the names of variables");
      target[name] = entry.get<std::string>();
    }
  }
  const Json* object(const char* key) { return find(key, &Json::is_object, "an object"); }
  void fail(std::string_view key, std::string_view expected) {
    if (status_.ok()) status_ = InvalidArgument("{}{}: expected {}", where_, key, expected);
  }
  const absl::Status& status() const { return status_; }

 private:
  const Json* find(const char* key, bool (Json::*is)() const noexcept, std::string_view expected) {
    if (!status_.ok()) return nullptr;
    const auto found = json_.find(key);
    if (found == json_.end()) return nullptr;
    if (((*found).*is)()) return &*found;
    fail(key, expected);
    return nullptr;
  }

  const Json& json_;
  std::string where_;
  absl::Status status_;
};

/// A name that stands for a file in a folder of ours, and nowhere else.
bool IsFileName(std::string_view name) {
  return !name.empty() && name.size() <= 200 && name.front() != '.' && std::ranges::all_of(name, [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '.' ||
           c == '_' || c == '-';
  });
}

void ReadProcess(Fields& fields, HostOrder& order) {
  HostProcess process;
  fields.text("id", process.id);
  if (!IsFileName(process.id)) fields.fail("id", "letters, digits and ._-");
  fields.integer("rank", process.rank, 0, 1 << 20);
  fields.texts("args", process.args);
  fields.texts("model_roots", process.model_roots);
  fields.map("env", process.env);
  fields.text("probe", process.probe);
  fields.text("fingerprint", process.fingerprint);
  fields.optional_integer("log_from", process.log_from, 0, INT64_MAX);
  order.processes.push_back(std::move(process));
}

void ReadFile(Fields& fields, HostOrder& order) {
  HostFile file;
  std::string hex;
  fields.text("name", file.name);
  if (!IsFileName(file.name)) fields.fail("name", "letters, digits and ._-");
  fields.text("content", hex);
  fields.flag("secret", file.secret);
  auto content = FromHex(hex);
  if (content.ok()) {
    file.content = *std::move(content);
  } else {
    fields.fail("content", "hex");
  }
  order.files.push_back(std::move(file));
}

void ReadReport(Fields& fields, HostReply& reply) {
  ProcessReport report;
  fields.text("id", report.id);
  fields.word("state", kStates, report.state);
  fields.integer("pid", report.pid, 0, INT32_MAX);
  fields.integer("started_unix", report.started_unix, 0, INT64_MAX);
  fields.flag("fresh", report.fresh);
  fields.flag("outdated", report.outdated);
  fields.text("note", report.note);
  fields.text("error", report.error);
  fields.texts("log_tail", report.log_tail);
  fields.optional_integer("log_end", report.log_end, 0, INT64_MAX);
  reply.processes.push_back(std::move(report));
}

absl::Status ReadReply(const Json& json, HostReply& reply) {
  Fields fields(json, "reply.");
  fields.each("processes", [&](Fields& item) { ReadReport(item, reply); });
  fields.text("version", reply.version);
  fields.integer("http_status", reply.http_status, 0, 999);
  fields.text("body", reply.body);
  if (const Json* object = fields.object("measurement")) {
    Fields numbers(*object, "measurement.");
    reply.measurement.emplace();
    numbers.number("first_token_ms", reply.measurement->first_token_ms);
    numbers.number("total_ms", reply.measurement->total_ms);
    numbers.integer("tokens", reply.measurement->tokens, 0, INT64_MAX);
    numbers.text("answer", reply.measurement->answer);
    RETURN_IF_ERROR(numbers.status());
  }
  int code = 0;
  std::string message;
  fields.integer("code", code, 0, 16);
  fields.text("message", message);
  RETURN_IF_ERROR(fields.status());
  reply.status = absl::Status(static_cast<absl::StatusCode>(code), message);
  return absl::OkStatus();
}

Json ToJson(const ProcessReport& report) {
  Json json = {{"id", report.id},
               {"state", Name(report.state)},
               {"pid", report.pid},
               {"started_unix", report.started_unix},
               {"fresh", report.fresh},
               {"outdated", report.outdated},
               {"note", report.note},
               {"error", report.error},
               {"log_tail", report.log_tail}};
  if (report.log_end.has_value()) json["log_end"] = *report.log_end;
  return json;
}

Json ToJson(const HostReply& reply) {
  Json json = {{"version", reply.version},
               {"http_status", reply.http_status},
               {"body", reply.body},
               {"code", static_cast<int>(reply.status.code())},
               {"message", Message(reply.status)}};
  json["processes"] = Json::array();
  for (const ProcessReport& report : reply.processes) json["processes"].push_back(ToJson(report));
  if (reply.measurement.has_value()) {
    json["measurement"] = {{"first_token_ms", reply.measurement->first_token_ms},
                           {"total_ms", reply.measurement->total_ms},
                           {"tokens", reply.measurement->tokens},
                           {"answer", reply.measurement->answer}};
  }
  return json;
}

}  // namespace

std::string_view Name(HostProcessState state) { return WordOf(kStates, state); }

std::string FormatOrder(const HostOrder& order) {
  Json json = {{"protocol", kHostProtocol}, {"verb", WordOf(kVerbs, order.verb)},
               {"workdir", order.workdir},  {"timeout_ms", order.timeout_ms},
               {"lines", order.lines},      {"follow", order.follow},
               {"api", order.api},          {"path", order.path},
               {"api_key", order.api_key}};
  json["files"] = Json::array();
  for (const HostFile& file : order.files) {
    json["files"].push_back({{"name", file.name}, {"content", ToHex(file.content)}, {"secret", file.secret}});
  }
  json["processes"] = Json::array();
  for (const HostProcess& process : order.processes) {
    json["processes"].push_back({{"id", process.id},
                                 {"rank", process.rank},
                                 {"args", process.args},
                                 {"model_roots", process.model_roots},
                                 {"env", process.env},
                                 {"probe", process.probe},
                                 {"fingerprint", process.fingerprint}});
    if (process.log_from.has_value()) json["processes"].back()["log_from"] = *process.log_from;
  }
  return Dump(json);
}

absl::StatusOr<HostOrder> ParseOrder(std::string_view line) {
  Json json;
  RETURN_IF_ERROR(Annotate(ReadJson(line, JsonLimits{}, &json), "order"));
  Fields fields(json, "order.");
  int protocol = 0;
  fields.integer("protocol", protocol, 0, INT32_MAX);
  RETURN_IF_ERROR(fields.status());
  if (protocol != kHostProtocol) {
    return InvalidArgument(
        "order: protocol {}, and the shoal here speaks {}: `shoal up` copies its own, which does", protocol,
        kHostProtocol);
  }
  HostOrder order;
  fields.word("verb", kVerbs, order.verb);
  fields.text("workdir", order.workdir);
  fields.integer("timeout_ms", order.timeout_ms, 0, int64_t{24} * 3600 * 1000);
  fields.integer("lines", order.lines, 0, 1000000);
  fields.flag("follow", order.follow);
  fields.text("api", order.api);
  fields.text("path", order.path);
  fields.text("api_key", order.api_key);
  fields.each("files", [&](Fields& item) { ReadFile(item, order); });
  fields.each("processes", [&](Fields& item) { ReadProcess(item, order); });
  if (order.workdir.empty()) fields.fail("workdir", "a folder");
  RETURN_IF_ERROR(fields.status());
  return order;
}

std::string FormatEvent(const HostEvent& event) {
  Json json = {{"kind", WordOf(kKinds, event.kind)}};
  if (event.kind == HostEvent::Kind::kReply) {
    json["reply"] = ToJson(event.reply);
  } else {
    json["text"] = event.text;
    if (!event.id.empty()) json["id"] = event.id;
  }
  return std::string(kEventMark) + Dump(json);
}

absl::StatusOr<HostEvent> ParseEvent(std::string_view line) {
  Json json;
  RETURN_IF_ERROR(Annotate(ReadJson(line, JsonLimits{}, &json), "event"));
  Fields fields(json, "event.");
  HostEvent event;
  fields.word("kind", kKinds, event.kind);
  fields.text("id", event.id);
  fields.text("text", event.text);
  const Json* reply = fields.object("reply");
  RETURN_IF_ERROR(fields.status());
  if ((event.kind == HostEvent::Kind::kReply) != (reply != nullptr)) {
    return InvalidArgument("event: a reply, and nothing else, has the key \"reply\"");
  }
  if (reply != nullptr) RETURN_IF_ERROR(ReadReply(*reply, event.reply));
  return event;
}

}  // namespace shoal
