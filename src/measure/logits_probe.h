// Reads the logits of every prompt token, the chosen experts and a greedy continuation from any engine.
// `shoal logits`, the golden tests and the placement harness compare them bit for bit.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "exec/engine.h"

namespace shoal {

struct ProbeRequest {
  std::vector<int32_t> ids;
  int64_t greedy = 0;  ///< Tokens to generate; does not stop at an end-of-text id.
  int64_t chunk = 0;   ///< Prompt tokens per step; 0: as many as a result frame can carry.
  bool routing = false;
  BlockId first_block{0};      ///< The sequence uses consecutive blocks from here.
  SlotId first_state_slot{0};  ///< And consecutive state slots from here, if the model keeps states.
  SeqId sequence{1};
  StepId first_step{1};
  Duration step_timeout = std::chrono::minutes(10);
};

struct ProbeResult {
  std::vector<float> logits;  ///< [ids.size(), V]
  int64_t vocabulary = 0;
  std::vector<int32_t> greedy;
  std::map<int32_t, std::vector<int32_t>> routing;  ///< By layer: expert ids, [ids.size(), top_k].
  int64_t top_k = 0;
  StepId next_step;  ///< The first step of another probe in the same session.
};

/// Returns InvalidArgument if the ids are empty, outside the vocabulary, or too many for context or cache;
/// otherwise the engine's error.
absl::StatusOr<ProbeResult> ProbeLogits(Engine& engine, const ProbeRequest& request);

}  // namespace shoal
