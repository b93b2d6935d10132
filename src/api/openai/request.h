// Requests of the OpenAI API as typed values. Every field is honoured, accepted because its value changes
// nothing, or refused with an error that names it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "api/api_error.h"
#include "exec/step.h"

namespace shoal {

/// Sampling fields as they came; what is absent is the model's default.
struct SamplingFields {
  std::optional<double> temperature;
  std::optional<double> top_p;
  std::optional<double> min_p;
  std::optional<int64_t> top_k;
  std::optional<double> repetition_penalty;
  std::optional<double> presence_penalty;
  std::optional<double> frequency_penalty;
  std::optional<uint64_t> seed;
  std::vector<std::pair<int32_t, float>> logit_bias;
};

/// What all generating endpoints share.
struct CommonFields {
  std::optional<std::string> model;
  SamplingFields sampling;
  std::optional<int64_t> max_tokens;
  std::vector<std::string> stop;  ///< At most four, none empty.
  bool stream = false;
  bool include_usage = false;  ///< Only with stream.
};

/// POST /v1/chat/completions. The JSON texts go to the chat template.
struct ChatCompletionRequest {
  CommonFields common;
  std::string messages;         ///< Content as text; the arguments of tool calls as objects.
  std::string tools;            ///< Empty where absent, or where tool_choice is "none".
  std::string template_kwargs;  ///< Empty where absent.
};

/// POST /v1/completions and POST /generate. The prompt is text or token ids.
struct CompletionRequest {
  CommonFields common;
  std::variant<std::string, std::vector<int32_t>> prompt;
};

/// What the parser must know of the model.
struct RequestLimits {
  int32_t vocabulary = 0;  ///< Token ids are below it.
};

ApiResult<ChatCompletionRequest> ParseChatCompletion(std::string_view body, const RequestLimits& limits);
ApiResult<CompletionRequest> ParseCompletion(std::string_view body, const RequestLimits& limits);
ApiResult<CompletionRequest> ParseGenerate(std::string_view body, const RequestLimits& limits);

/// The model's own defaults (generation_config.json); nullopt where it has none.
struct SamplingDefaults {
  std::optional<double> temperature;
  std::optional<double> top_p;
  std::optional<double> min_p;
  std::optional<int64_t> top_k;
  std::optional<double> repetition_penalty;
  bool greedy = false;  ///< do_sample is false: temperature 0 unless the request sets one.
};

/// Request over model over OpenAI's defaults (temperature 1, all else off). Without a seed a random one is
/// drawn. A temperature below 1e-5 is greedy: its softmax could not be told from the argmax.
SamplingParams ResolveSampling(const SamplingFields& fields, const SamplingDefaults& defaults);

}  // namespace shoal
