#include "sched/step_cost.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace shoal {
namespace {

/// Steps over which a mean goes: it follows a load that changes, and one slow step does not decide.
constexpr double kWindow = 8;
/// A width that was not seen for so many steps is forgotten, but for the smallest: what looked too dear once, while the
/// machine was busy, is tried again.
constexpr int64_t kForgetAfter = 256;
/// What a row more costs, of a step of one row, while nobody knows.
constexpr double kRowGuess = 0.1;
/// Rows with a bucket of their own; behind them there are four for each doubling.
constexpr int64_t kSingleRows = 16;

}  // namespace

size_t StepCost::bucket_of(int64_t rows) {
  if (rows <= kSingleRows) return static_cast<size_t>(std::max<int64_t>(rows, 1) - 1);
  const auto quarters = static_cast<int64_t>(4 * std::log2(static_cast<double>(rows) / kSingleRows));
  return std::min(static_cast<size_t>(kSingleRows + quarters), kBuckets - 1);
}

void StepCost::observe(int64_t rows, double ns) {
  ++steps_;
  Bucket& bucket = buckets_[bucket_of(rows)];
  if (steps_ - bucket.seen_at > kForgetAfter) bucket.weight = 0;
  bucket.weight = std::min(bucket.weight + 1, kWindow);
  bucket.rows += (static_cast<double>(rows) - bucket.rows) / bucket.weight;
  bucket.ns += (ns - bucket.ns) / bucket.weight;
  bucket.seen_at = steps_;
}

bool StepCost::fresh(size_t bucket, size_t smallest) const {
  const Bucket& one = buckets_[bucket];
  return one.weight > 0 && (bucket == smallest || steps_ - one.seen_at <= kForgetAfter);
}

double StepCost::at(int64_t rows) const {
  const auto wanted = static_cast<double>(rows);
  size_t smallest = 0;
  while (smallest < kBuckets && buckets_[smallest].weight == 0) ++smallest;
  if (smallest == kBuckets) return 0;
  const Bucket* first =
      nullptr;  // The narrowest that counts, the next to `wanted` on both sides, the widest.
  const Bucket* below = nullptr;
  const Bucket* above = nullptr;
  const Bucket* last = nullptr;
  double at_most = std::numeric_limits<double>::infinity();
  for (size_t i = smallest; i < kBuckets; ++i) {
    if (!fresh(i, smallest)) continue;
    const Bucket& bucket = buckets_[i];
    if (first == nullptr) first = &bucket;
    if (bucket.rows <= wanted) below = &bucket;
    if (bucket.rows >= wanted) {
      if (above == nullptr) above = &bucket;
      at_most = std::min(at_most, bucket.ns);  // More rows took less: what is above that is noise.
    }
    last = &bucket;
  }
  if (below == nullptr) {  // Narrower than all that were seen.
    return std::min(at_most,
                    first->ns * (1 + kRowGuess * (wanted - 1)) / (1 + kRowGuess * (first->rows - 1)));
  }
  if (above == nullptr) {
    const double guess = last->ns / (1 + kRowGuess * (last->rows - 1)) * kRowGuess;
    const double slope = first == last ? guess : (last->ns - first->ns) / (last->rows - first->rows);
    return last->ns + std::max(0.0, slope) * (wanted - last->rows);
  }
  if (above == below) return std::min(at_most, below->ns);
  const double share = (wanted - below->rows) / (above->rows - below->rows);
  return std::min(at_most, below->ns + share * (above->ns - below->ns));
}

}  // namespace shoal
