#include "compute/compute_context.h"

namespace shoal {
namespace {

/// Below this many values a pass over rows takes about as long as waking a thread (a few microseconds).
constexpr int64_t kValuesWorthThreads = 16384;

/// Below this many multiply-adds a product takes less time than two threads need to meet twice: some 10
/// microseconds at the 20 to 40 G multiply-adds per second of a core that reads 4-bit weights from its cache.
constexpr int64_t kMultipliesWorthThreads = 1 << 18;

}  // namespace

void ComputeContext::for_rows(int64_t rows, int64_t cols, absl::FunctionRef<void(Range part)> work) const {
  if (rows == 0) return;
  if (rows == 1 || rows * cols < kValuesWorthThreads) {
    work(Range{0, rows});
  } else {
    pool->run_ranges(rows, 1, work);
  }
}

int ComputeContext::threads_for(int64_t multiplies) const {
  return multiplies < kMultipliesWorthThreads ? 1 : pool->threads();
}

void ComputeContext::for_ranges(int64_t size, int64_t multiplies,
                                absl::FunctionRef<void(Range part)> work) const {
  if (size == 0) return;
  if (size == 1 || threads_for(multiplies) == 1) {
    work(Range{0, size});
  } else {
    pool->run_ranges(size, 1, work);
  }
}

}  // namespace shoal
