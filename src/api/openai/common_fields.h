// The fields that chat, completions and /generate share: each is honoured, accepted because it cannot change the
// answer, or refused with an error that names it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "api/answer/sampling_fields.h"
#include "api/field_reader.h"
#include "api/structure/structure.h"

namespace shoal {

/// What the parser must know of the model.
struct RequestLimits {
  int32_t vocabulary = 0;  ///< Token ids are below it.
};

/// OpenAI's limits of `n` and of log-probabilities, and the stop strings of a request.
inline constexpr int64_t kChoicesMax = 128;
inline constexpr int64_t kTopLogprobsMax = 20;
inline constexpr size_t kStopsMax = 16;

/// What all generating endpoints share.
struct CommonFields {
  std::optional<std::string> model;
  SamplingFields sampling;
  std::optional<int64_t> max_tokens;  ///< At least 0. Absent, or -1 in the request: the rest of the context.
  int64_t min_tokens = 0;
  std::vector<std::string> stop;        ///< At most kStopsMax, none empty.
  std::vector<int32_t> stop_token_ids;  ///< End the text as the end-of-text token does.
  bool ignore_eos = false;
  std::optional<Structure> structure;  ///< What the text must be.
  int n = 1;
  std::optional<int> priority;  ///< As GenerationRequest::priority; absent: the caller's.
  bool stream = false;
  bool include_usage = false;  ///< Only with stream.
};

void ReadCommon(FieldReader& fields, const RequestLimits& limits, std::optional<ApiError>& error,
                CommonFields& out);

/// The number of tokens that `name` allows; -1 is no limit, as if it were absent.
std::optional<int64_t> ReadTokenLimit(FieldReader& fields, std::string_view name);

/// An array of token ids; `name` is its path, for errors.
std::vector<int32_t> ReadTokenIds(FieldReader& fields, const std::string& name, const Json& ids,
                                  const RequestLimits& limits);

}  // namespace shoal
