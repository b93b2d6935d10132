// What a step takes by its rows, as seen on this cluster: what a row more costs, which decides how much of a draft is
// worth verifying.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace shoal {

/// The recent past of steps by their rows. Small steps read the same weights whatever their rows, a mixture of experts
/// reads more of them for each, and wide steps compute: so it is a curve of means and no line. Belongs to one thread;
/// knows no clock.
class StepCost {
 public:
  /// A step of `rows` rows, at least one, took `ns`.
  void observe(int64_t rows, double ns);

  bool known() const { return steps_ > 0; }
  /// Expected nanoseconds of a step of `rows` rows; never less for more rows. 0 while nothing is known. Rows beyond
  /// those that were seen lately are guessed from the others, a little too cheap, so that they get tried.
  double at(int64_t rows) const;

 private:
  static constexpr size_t kBuckets = 49;  // Up to 4096 rows.
  static size_t bucket_of(int64_t rows);
  bool fresh(size_t bucket, size_t smallest) const;

  /// Steps of like width.
  struct Bucket {
    double rows = 0;  // Means.
    double ns = 0;
    double weight = 0;    // Steps that count, kWindow at most.
    int64_t seen_at = 0;  // steps_ when the last of them came.
  };
  std::array<Bucket, kBuckets> buckets_;
  int64_t steps_ = 0;
};

}  // namespace shoal
