// What computing needs, shared by all blocks of a node.
#pragma once

#include <cstdint>

#include "absl/functional/function_ref.h"
#include "base/range.h"
#include "compute/activation_mode.h"
#include "cpu/arena.h"
#include "cpu/pool.h"
#include "kernels/kernels.h"

namespace shoal {

class StepProfile;

/// So many multiply-adds a thread does at most before it notes progress: some ten milliseconds of a core with wide
/// vectors, a second or two of one that can't.
inline constexpr int64_t kMultipliesPerProgress = int64_t{1} << 28;

/// The arena is reset by the caller before each step.
struct ComputeContext {
  const Kernels* kernels = nullptr;
  ThreadPool* pool = nullptr;
  Arena* arena = nullptr;
  ActivationMode activations = ActivationMode::kInt8;
  StepProfile* profile = nullptr;  ///< Where time is charged (compute/step_profile.h); nullptr: nowhere.

  /// Calls `work` with parts that tile [0, rows): on all threads, or on this one alone where rows of `cols`
  /// values are too little work to be worth waking them.
  void for_rows(int64_t rows, int64_t cols, absl::FunctionRef<void(Range part)> work) const;

  /// The pool's threads, or 1 where `multiplies` (of all the work there is) are too few to wake them.
  int threads_for(int64_t multiplies) const;

  /// As ThreadPool::run_ranges over [0, size), or on this thread alone where `multiplies` (of the whole) are
  /// too few. Which of the two changes no bit.
  void for_ranges(int64_t size, int64_t multiplies, absl::FunctionRef<void(Range part)> work) const;
};

}  // namespace shoal
