#include "compute/step_profile.h"

#include "base/check.h"

namespace shoal {
namespace {

constexpr std::array<std::string_view, kStepPhases> kNames = {
    "idle",    "wire",       "embed", "norm_quantize", "qkv",     "rope_append", "attention", "attention_out",
    "gate_up", "activation", "down",  "router",        "experts", "exchange",    "head",      "sample"};
static_assert(static_cast<int>(StepPhase::kSample) + 1 == kStepPhases);

}  // namespace

std::string_view StepPhaseName(StepPhase phase) { return kNames[static_cast<size_t>(phase)]; }

StepPhase StepProfile::enter(StepPhase phase) {
  const int64_t now_ns = NowNs();
  const StepPhase open = open_.load(std::memory_order_relaxed);
  std::atomic<int64_t>& spent = ns_[static_cast<size_t>(open)];
  // One thread writes: no read-modify-write is needed.
  spent.store(spent.load(std::memory_order_relaxed) + now_ns - since_ns_.load(std::memory_order_relaxed),
              std::memory_order_relaxed);
  since_ns_.store(now_ns, std::memory_order_relaxed);
  open_.store(phase, std::memory_order_relaxed);
  return open;
}

StepProfile::Reading StepProfile::read() const {
  Reading reading;
  for (size_t i = 0; i < ns_.size(); ++i) reading.ns[i] = ns_[i].load(std::memory_order_relaxed);
  reading.at_ns = NowNs();
  reading.ns[static_cast<size_t>(open_.load(std::memory_order_relaxed))] +=
      reading.at_ns - since_ns_.load(std::memory_order_relaxed);
  return reading;
}

}  // namespace shoal
