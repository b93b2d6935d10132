#include "models/compute_context.h"

#include "base/status.h"

namespace shoal {
namespace {

/// Below this many values a pass over rows takes about as long as waking a thread (a few microseconds).
constexpr int64_t kValuesWorthThreads = 16384;

}  // namespace

absl::StatusOr<ActivationMode> ParseActivationMode(std::string_view name) {
  if (name == "int8") return ActivationMode::kInt8;
  if (name == "f32") return ActivationMode::kF32;
  return InvalidArgument("activations '{}' are unknown; int8 and f32 are known", name);
}

std::string_view ActivationModeName(ActivationMode mode) {
  return mode == ActivationMode::kInt8 ? "int8" : "f32";
}

void ComputeContext::for_rows(int64_t rows, int64_t cols, absl::FunctionRef<void(Range part)> work) const {
  if (rows == 0) return;
  if (rows == 1 || rows * cols < kValuesWorthThreads) {
    work(Range{0, rows});
  } else {
    pool->run_parts(rows, 1, work);
  }
}

}  // namespace shoal
