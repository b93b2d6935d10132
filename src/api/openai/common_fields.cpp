#include "api/openai/common_fields.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <nlohmann/json.hpp>

#include "sched/request.h"

namespace shoal {
namespace {

constexpr size_t kStopBytesMax = 1024;  // Bounds the search for the longest pending stop after each token.
constexpr int64_t kTokensMax = int64_t{1} << 31;

/// Tags that only the sender gives a meaning to, hints to caches and routers, and what other servers do anyway.
constexpr std::array kHarmless = {"user",
                                  "safety_identifier",
                                  "prompt_cache_key",
                                  "prompt_cache_retention",
                                  "prompt_cache_options",
                                  "metadata",
                                  "store",
                                  "service_tier",
                                  "cache_control",
                                  "cache_prompt",
                                  "verbosity",
                                  "request_id",
                                  "session_id",
                                  "trace_id",
                                  "provider",
                                  "transforms",
                                  "route",
                                  "id_slot",
                                  "prediction",
                                  "extra_headers",
                                  "cache_salt",
                                  "prompt_truncate_len"};

struct NoOp {
  const char* name;
  double value;
};
/// Samplers of other servers, at the values that switch them off.
constexpr std::array kSwitchedOff = {NoOp{"typical_p", 1},
                                     NoOp{"typ_p", 1},
                                     NoOp{"top_a", 0},
                                     NoOp{"tfs", 1},
                                     NoOp{"tfs_z", 1},
                                     NoOp{"mirostat", 0},
                                     NoOp{"dynatemp_range", 0},
                                     NoOp{"xtc_probability", 0},
                                     NoOp{"dry_multiplier", 0},
                                     NoOp{"length_penalty", 1},
                                     NoOp{"no_repeat_ngram_size", 0},
                                     NoOp{"top_n_sigma", -1},
                                     NoOp{"adaptive_target", -1}};
/// What matters only beside one of those.
constexpr std::array kOfSwitchedOff = {
    "mirostat_tau",       "mirostat_eta",       "dynatemp_exponent",     "xtc_threshold", "dry_base",
    "dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers", "adaptive_decay"};

void ReadLogitBias(FieldReader& fields, const RequestLimits& limits, SamplingFields& out) {
  const Json* bias = fields.find_object("logit_bias");
  if (bias == nullptr) return;
  for (const auto& [key, value] : bias->items()) {
    const std::string name = "logit_bias." + key;
    int32_t id = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc{} || end != key.data() + key.size() || id < 0 || id >= limits.vocabulary) {
      return fields.fail(name,
                         fmt::format("'logit_bias' has the key '{}'; keys are token ids from 0 to {}", key,
                                     limits.vocabulary - 1),
                         "invalid_value");
    }
    if (!value.is_number()) return fields.fail_type(name, "a number", value);
    const auto number = value.get<double>();
    if (!(number >= -100 && number <= 100)) {
      return fields.fail(name, fmt::format("'{}' must be from -100 to 100, got {}", name, value.dump()),
                         "invalid_value");
    }
    out.logit_bias.emplace_back(id, static_cast<float>(number));
  }
  // "7" and "07" are the same id.
  std::ranges::sort(out.logit_bias);
  const auto same = std::ranges::adjacent_find(out.logit_bias, {}, &std::pair<int32_t, float>::first);
  if (same != out.logit_bias.end()) {
    fields.fail("logit_bias", fmt::format("'logit_bias' names token {} twice", same->first), "invalid_value");
  }
}

void ReadSeed(FieldReader& fields, SamplingFields& out) {
  const Json* seed = fields.find("seed");
  if (seed == nullptr) return;
  if (!seed->is_number_integer()) return fields.fail_type("seed", "an integer", *seed);
  out.seed = seed->is_number_unsigned() ? seed->get<uint64_t>() : static_cast<uint64_t>(seed->get<int64_t>());
}

/// Of two names of one field the first that is there.
template <typename T>
std::optional<T> Either(std::optional<T> first, std::optional<T> second) {
  return first.has_value() ? first : second;
}

void ReadSampling(FieldReader& fields, const RequestLimits& limits, SamplingFields& out) {
  out.temperature = fields.number("temperature", {0, 2});
  out.top_p = fields.number("top_p", {0, 1});
  out.min_p = fields.number("min_p", {0, 1});
  out.top_k = fields.integer("top_k", -1, INT32_MAX);
  out.repetition_penalty =
      Either(fields.number("repetition_penalty", {0.01, 10}), fields.number("repeat_penalty", {0.01, 10}));
  out.presence_penalty = fields.number("presence_penalty", {-2, 2});
  out.frequency_penalty = fields.number("frequency_penalty", {-2, 2});
  ReadSeed(fields, out);
  ReadLogitBias(fields, limits, out);
}

void AddStop(FieldReader& fields, const std::string& name, const Json& value, std::vector<std::string>& out) {
  if (!value.is_string()) return fields.fail_type(name, "a string", value);
  std::string text = value.get<std::string>();
  if (text.empty()) return;  // Stands for no stop string in the forms of many clients.
  if (text.size() > kStopBytesMax) {
    return fields.fail(
        name, fmt::format("'{}' must have at most {} bytes, got {}", name, kStopBytesMax, text.size()),
        "invalid_value");
  }
  if (std::ranges::find(out, text) == out.end()) out.push_back(std::move(text));
}

void ReadStop(FieldReader& fields, std::vector<std::string>& out) {
  const Json* stop = fields.find("stop");
  if (stop == nullptr) return;
  if (stop->is_string()) return AddStop(fields, "stop", *stop, out);
  if (!stop->is_array()) return fields.fail_type("stop", "a string or an array of strings", *stop);
  if (stop->size() > kStopsMax) {
    return fields.fail("stop",
                       fmt::format("'stop' may have up to {} strings, got {}", kStopsMax, stop->size()),
                       "invalid_value");
  }
  for (size_t i = 0; i < stop->size(); ++i) AddStop(fields, fmt::format("stop[{}]", i), (*stop)[i], out);
}

void ReadEnd(FieldReader& fields, const RequestLimits& limits, CommonFields& out) {
  ReadStop(fields, out.stop);
  if (const Json* ids = fields.find_array("stop_token_ids")) {
    out.stop_token_ids = ReadTokenIds(fields, "stop_token_ids", *ids, limits);
  }
  out.ignore_eos = fields.boolean("ignore_eos").value_or(false);
  out.min_tokens = fields.integer("min_tokens", 0, kTokensMax).value_or(0);
  out.max_tokens = ReadTokenLimit(fields, "max_tokens");
}

void ReadStream(FieldReader& fields, std::optional<ApiError>& error, CommonFields& out) {
  out.stream = fields.boolean("stream").value_or(false);
  const Json* options = fields.find_object("stream_options");
  if (options == nullptr) return;
  FieldReader inner(*options, "stream_options.", error);
  // Without a stream there is nothing to opt for: the whole answer has its usage anyway.
  out.include_usage = inner.boolean("include_usage").value_or(false) && out.stream;
  inner.boolean("include_obfuscation");  // Padding against onlookers; there are none within TLS or loopback.
  inner.only("continuous_usage_stats", {false});
  inner.refuse_others();
}

void AcceptWhatChangesNothing(FieldReader& fields) {
  for (const char* name : kHarmless) fields.harmless(name);
  for (const char* name : kOfSwitchedOff) fields.harmless(name);
  for (const NoOp& one : kSwitchedOff) fields.only(one.name, {one.value, static_cast<int64_t>(one.value)});
  fields.only("use_beam_search", {false});
  fields.only("skip_special_tokens", {true});
  fields.only("spaces_between_special_tokens", {true});
  fields.only("include_stop_str_in_output", {false});
  fields.only("return_token_ids", {false});
  fields.only("prompt_logprobs", {});
}

}  // namespace

std::optional<int64_t> ReadTokenLimit(FieldReader& fields, std::string_view name) {
  const auto limit = fields.integer(name, -1, INT64_MAX);
  if (!limit.has_value() || *limit < 0) return std::nullopt;
  return std::min(*limit, kTokensMax);
}

std::vector<int32_t> ReadTokenIds(FieldReader& fields, const std::string& name, const Json& ids,
                                  const RequestLimits& limits) {
  std::vector<int32_t> out;
  out.reserve(ids.size());
  for (const Json& id : ids) {
    const bool fits =
        id.is_number_unsigned() && id.get<uint64_t>() < static_cast<uint64_t>(limits.vocabulary);
    if (!fits) {
      fields.fail(name,
                  fmt::format("'{}[{}]' must be a token id from 0 to {}, got {}", name, out.size(),
                              limits.vocabulary - 1, JsonExcerpt(id)),
                  "invalid_value");
      return {};
    }
    out.push_back(static_cast<int32_t>(id.get<uint64_t>()));
  }
  return out;
}

void ReadCommon(FieldReader& fields, const RequestLimits& limits, std::optional<ApiError>& error,
                CommonFields& out) {
  out.model = fields.text("model");
  if (out.model == "") out.model.reset();
  ReadSampling(fields, limits, out.sampling);
  ReadEnd(fields, limits, out);
  ReadStream(fields, error, out);
  out.n = static_cast<int>(fields.integer("n", 1, kChoicesMax).value_or(1));
  out.priority = ReadPriority(fields);
  out.structure = ReadStructure(fields, error);
  AcceptWhatChangesNothing(fields);
}

}  // namespace shoal
