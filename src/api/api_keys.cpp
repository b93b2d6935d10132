#include "api/api_keys.h"

#include <algorithm>
#include <atomic>
#include <charconv>
#include <cmath>
#include <mutex>
#include <optional>
#include <set>
#include <utility>

#include "api/api_error.h"
#include "api/http/text.h"
#include "base/check.h"
#include "base/status.h"
#include "base/text.h"
#include "sched/request.h"
#include "tls/digest.h"

namespace shoal {
namespace {

constexpr double kNsPerMinute = 60e9;
constexpr std::string_view kDigestPrefix = "sha256:";
constexpr size_t kDigestDigits = 64;

/// The words of a line.
std::vector<std::string> Words(std::string_view line) {
  std::vector<std::string> words;
  for (size_t begin = 0; begin < line.size();) {
    const size_t end = std::min(line.find_first_of(" \t\r", begin), line.size());
    if (end > begin) words.emplace_back(line.substr(begin, end - begin));
    begin = end + 1;
  }
  return words;
}

bool ParseLimit(std::string_view text, int& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc{} && end == text.data() + text.size() && value > 0;
}

bool ParsePriority(std::string_view text, int& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc{} && end == text.data() + text.size() && value >= kPriorityMin &&
         value <= kPriorityMax;
}

/// Sets what "NAME=VALUE" says; false where it says nothing that is known.
bool ReadProperty(std::string_view word, ApiKey& key) {
  const size_t equals = word.find('=');
  if (equals == std::string_view::npos) return false;
  const std::string_view name = word.substr(0, equals);
  const std::string_view value = word.substr(equals + 1);
  if (name == "concurrent") return ParseLimit(value, key.concurrent_max);
  if (name == "per-minute") return ParseLimit(value, key.per_minute_max);
  if (name == "priority") return ParsePriority(value, key.priority);
  if (name != "name" || value.empty() || !IsPrintable(value)) return false;
  key.name = value;
  return true;
}

/// Sets what the first word of a line says; false where it should be a digest and is none.
bool ReadSecret(std::string_view word, ApiKey& key) {
  key.hashed = word.starts_with(kDigestPrefix);
  if (!key.hashed) {
    key.digest = Sha256Hex(word);
    return true;
  }
  key.digest = LowerCase(word.substr(kDigestPrefix.size()));
  return key.digest.size() == kDigestDigits &&
         key.digest.find_first_not_of("0123456789abcdef") == std::string::npos;
}

/// The key that a request shows; empty where it shows none.
std::string_view ShownKey(const HttpRequest& request) {
  constexpr std::string_view kScheme = "bearer ";
  std::string_view given = request.header("authorization");
  if (LowerCase(given.substr(0, kScheme.size())) != kScheme) return request.header("x-api-key");
  given.remove_prefix(kScheme.size());
  while (given.starts_with(' ')) given.remove_prefix(1);
  return given;
}

HttpResponse Refusal(const ApiError& error, HttpHeaders headers) {
  return {.status = error.status, .body = ErrorBody(error), .headers = std::move(headers)};
}

HttpResponse Unknown(bool shown) {
  ApiError error{.status = 401, .code = "invalid_api_key"};
  error.message =
      shown ? "Incorrect API key provided. This server knows the keys of its --api-key-file or --api-key"
            : "You didn't provide an API key. Send 'Authorization: Bearer KEY' or 'x-api-key: KEY'";
  return Refusal(error, {{"WWW-Authenticate", "Bearer"}});
}

HttpResponse TooMany(std::string message, double wait_s) {
  const ApiError error{.status = 429,
                       .message = std::move(message),
                       .type = "rate_limit_error",
                       .code = "rate_limit_exceeded"};
  return Refusal(error, {{"Retry-After", fmt::format("{:.0f}", std::max(1.0, std::ceil(wait_s)))}});
}

}  // namespace

absl::StatusOr<std::vector<ApiKey>> ParseApiKeys(std::string_view text, const std::string& source,
                                                 std::string_view unnamed) {
  std::vector<ApiKey> keys;
  std::set<std::string> digests;
  const std::vector<std::string> lines = Split(text, '\n');
  for (size_t i = 0; i < lines.size(); ++i) {
    const std::vector<std::string> words = Words(lines[i]);
    if (words.empty() || words.front().starts_with('#')) continue;
    ApiKey key{.digest = "", .name = fmt::format("{}-{}", unnamed, keys.size() + 1)};
    if (!IsPrintable(words.front())) {
      return InvalidArgument("{}, line {}: expected a key of printable ASCII characters", source, i + 1);
    }
    if (!ReadSecret(words.front(), key)) {
      return InvalidArgument(
          "{}, line {}: expected {} digits of hex behind sha256:; make a line with: shoal token api-key",
          source, i + 1, kDigestDigits);
    }
    if (!digests.insert(key.digest).second) {
      return InvalidArgument("{}, line {}: the same key stands above already", source, i + 1);
    }
    for (size_t word = 1; word < words.size(); ++word) {
      if (ReadProperty(words[word], key)) continue;
      return InvalidArgument(
          "{}, line {}: word {} is none of name=NAME, concurrent=N, per-minute=N with N > 0, priority=N from "
          "{} "
          "to {}",
          source, i + 1, word + 1, kPriorityMin, kPriorityMax);
    }
    const auto same = std::ranges::find(keys, key.name, &ApiKey::name);
    if (same != keys.end() && same->priority != key.priority) {
      return InvalidArgument(
          "{}, line {}: the name '{}' stands above with priority={}; keys of one name have one priority",
          source, i + 1, key.name, same->priority);
    }
    keys.push_back(std::move(key));
  }
  if (keys.empty()) {
    return InvalidArgument("{}: expected at least one key, got none; make one with: shoal token api-key",
                           source);
  }
  return keys;
}

/// A key, and what its owner is at.
struct ApiKeys::Caller {
  /// Takes one request from a minute's allowance, which fills up evenly. Otherwise the seconds until there is one.
  std::optional<double> take(int64_t now_ns) {
    const std::lock_guard lock(mutex);
    const double rate = key.per_minute_max / kNsPerMinute;
    left = std::min<double>(key.per_minute_max, left + rate * static_cast<double>(now_ns - since_ns));
    since_ns = now_ns;
    if (left < 1) return (1 - left) / rate * 1e-9;
    left -= 1;
    return std::nullopt;
  }

  ApiKey key;
  std::atomic<int> running = 0;
  std::mutex mutex;
  double left = 0;
  int64_t since_ns = 0;
};

ApiKeys::ApiKeys(std::vector<ApiKey> keys, std::function<int64_t()> now_ns) : now_ns_(std::move(now_ns)) {
  SHOAL_CHECK(!keys.empty());
  for (ApiKey& key : keys) {
    auto caller = std::make_shared<Caller>();
    caller->left = key.per_minute_max;
    caller->since_ns = now_ns_();
    caller->key = std::move(key);
    callers_.push_back(std::move(caller));
  }
}

ApiKeys::~ApiKeys() = default;

HttpAdmission ApiKeys::admit(const HttpRequest& request) {
  const std::string_view shown = ShownKey(request);
  // Nor where a line has the digest of nothing, as of a variable that was not set.
  if (shown.empty()) return {.refusal = Unknown(false)};
  std::shared_ptr<Caller> caller;
  const std::string digest = Sha256Hex(shown);
  for (const auto& one : callers_) {  // All of them: how long it takes must not tell which it was.
    if (SameInConstantTime(one->key.digest, digest)) caller = one;
  }
  if (caller == nullptr) return {.refusal = Unknown(true)};
  const ApiKey& key = caller->key;
  if (request.method != "POST") return {.caller = key.name};  // Only work is limited.
  std::shared_ptr<void> held(nullptr, [caller](void*) { --caller->running; });
  if (++caller->running > key.concurrent_max && key.concurrent_max > 0) {
    return {.refusal = TooMany(fmt::format("the key '{}' has {} requests in progress, its limit", key.name,
                                           key.concurrent_max),
                               1)};
  }
  if (key.per_minute_max > 0) {
    if (const auto wait_s = caller->take(now_ns_())) {
      return {.refusal = TooMany(
                  fmt::format("the key '{}' has used its {} requests a minute", key.name, key.per_minute_max),
                  *wait_s)};
    }
  }
  return {.caller = key.name, .held = std::move(held)};
}

int ApiKeys::priority_of(std::string_view name) const {
  std::optional<int> priority;
  for (const auto& one : callers_) {
    if (one->key.name == name) priority = std::max(priority.value_or(one->key.priority), one->key.priority);
  }
  return priority.value_or(0);
}

}  // namespace shoal
