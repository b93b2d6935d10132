#include "sched/request.h"

#include <cmath>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "base/status.h"

namespace shoal {
namespace {

constexpr char kPromptTokens[] = "shoal/prompt_tokens";
constexpr char kPositions[] = "shoal/positions";

constexpr char kWaitMs[] = "shoal/wait_ms";

std::optional<int64_t> NumberOf(const absl::Status& status, const char* name) {
  const auto payload = status.GetPayload(name);
  int64_t number = 0;
  if (!payload.has_value() || !absl::SimpleAtoi(std::string(*payload), &number)) return std::nullopt;
  return number;
}

}  // namespace

absl::Status ContextExceeded(int64_t prompt_tokens, int64_t positions) {
  absl::Status status = InvalidArgument(
      "This model's maximum context length is {} tokens. However, your prompt has {} tokens, and an answer "
      "needs one "
      "more; shorten the prompt.",
      positions, prompt_tokens);
  status.SetPayload(kPromptTokens, absl::Cord(std::to_string(prompt_tokens)));
  status.SetPayload(kPositions, absl::Cord(std::to_string(positions)));
  return status;
}

std::optional<ContextOverflow> ContextOverflowOf(const absl::Status& status) {
  const auto prompt_tokens = NumberOf(status, kPromptTokens);
  const auto positions = NumberOf(status, kPositions);
  if (!prompt_tokens.has_value() || !positions.has_value()) return std::nullopt;
  return ContextOverflow{*prompt_tokens, *positions};
}

absl::Status QueueFull(int waiting, double wait_s) {
  absl::Status status = ResourceExhausted(
      "{} requests wait already, which is the most this server queues; try again later", waiting);
  status.SetPayload(kWaitMs, absl::Cord(std::to_string(std::llround(wait_s * 1000))));
  return status;
}

std::optional<double> PredictedWaitOf(const absl::Status& status) {
  const auto wait_ms = NumberOf(status, kWaitMs);
  if (!wait_ms.has_value()) return std::nullopt;
  return static_cast<double>(*wait_ms) / 1000;
}

}  // namespace shoal
