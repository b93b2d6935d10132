// Where the time of an executor goes, phase by phase. The phases never overlap and leave nothing out, so they
// add up to the time that has passed: a breakdown cannot hide anything.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <string_view>

#include "base/clock.h"
#include "compute/compute_context.h"

namespace shoal {

/// What an executor can be doing. Which code belongs where is said by the PhaseTimer in it.
enum class StepPhase : uint8_t {
  kIdle,          ///< No step is here: it is with another node, or on its way.
  kWire,          ///< Frames: decoding, checking, encoding, sending; what lies between the phases below.
  kEmbed,         ///< Token ids to rows.
  kNormQuantize,  ///< Norms, activations to 8 bits, residual sums, the check for NaN and infinity.
  kQkv,           ///< Query, key and value projections.
  kRopeAppend,    ///< Norms of heads, rotary embedding, append to the cache.
  kAttention,     ///< Scores, softmax, values.
  kAttentionOut,  ///< The projection behind attention.
  kGateUp,        ///< Gate and up projections.
  kActivation,    ///< silu(gate) * up, to 8 bits.
  kDown,          ///< Down projections.
  kRouter,        ///< Router logits and the choice of experts.
  kExperts,       ///< What routed experts do beside the three phases above: gathering rows, weighted sums.
  kExchange,      ///< Rows to the experts of other nodes and back, the wait for them, and own sums.
  kHead,          ///< Final norm and output head.
  kSample,        ///< Logits to tokens.
};
inline constexpr int kStepPhases = 16;

/// "idle", "wire", "embed", ...
std::string_view StepPhaseName(StepPhase phase);

using StepPhaseNs = std::array<int64_t, kStepPhases>;

/// Charges every nanosecond since it was made to the one phase that is open. One thread enters phases; any may
/// read. Costs a clock reading (some 25 ns) where a phase begins, and nothing inside.
class StepProfile {
 public:
  StepProfile() : since_ns_(NowNs()) {}

  /// Opens `phase` and returns the one that was open.
  StepPhase enter(StepPhase phase);

  /// Nanoseconds by phase up to a moment.
  struct Reading {
    StepPhaseNs ns{};
    int64_t at_ns = 0;  ///< The moment, by NowNs().
  };
  /// Up to now. Exact while the executor is idle, else of a few moments around now.
  Reading read() const;

 private:
  std::array<std::atomic<int64_t>, kStepPhases> ns_{};
  std::atomic<int64_t> since_ns_;  // When the open phase began.
  std::atomic<StepPhase> open_{StepPhase::kIdle};
};

/// Opens a phase and, at its end, opens the one around it again. Nothing but a branch where nobody profiles.
class PhaseTimer {
 public:
  /// profile: nullptr where nobody profiles.
  PhaseTimer(StepProfile* profile, StepPhase phase)
      : profile_(profile), around_(profile_ == nullptr ? phase : profile_->enter(phase)) {}
  PhaseTimer(const ComputeContext& context, StepPhase phase) : PhaseTimer(context.profile, phase) {}
  ~PhaseTimer() { next(around_); }
  PhaseTimer(const PhaseTimer&) = delete;
  PhaseTimer& operator=(const PhaseTimer&) = delete;

  /// The phase ends here and another begins.
  void next(StepPhase phase) {
    if (profile_ != nullptr) profile_->enter(phase);
  }

 private:
  StepProfile* const profile_;
  const StepPhase around_;
};

}  // namespace shoal
