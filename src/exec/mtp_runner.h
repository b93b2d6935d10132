// Drafts of the last stage by the model's head for multi-token prediction: which rows of a step pass it, each with the
// token that follows it, and what it draws. It reads the rows of the model and changes none of its bits.
//
// Its layer caches a row for each position p, of the model's row there and the token at p + 1. Whoever sends the step
// knows that token, or it is sampled in the step: so the row is written in the step that writes the model's own keys
// and values of p, into the same block. A block that is whole, to be shared or saved, is whole for this layer, too.
// Where sequences part behind the end of a shared block, its last row knows the token of the one that wrote it: that
// costs a draft at most.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "absl/status/status.h"
#include "compute/backend.h"
#include "compute/token_history.h"
#include "cpu/arena.h"
#include "exec/step.h"
#include "numeric/view.h"

namespace shoal {

class MtpRunner {
 public:
  struct Options {
    BackendSession* compute = nullptr;  ///< Outlives the runner.
    int64_t vocabulary = 0;
    int64_t width = 0;       ///< D
    int64_t logit_rows = 1;  ///< As BackendLimits::logit_rows.
  };
  explicit MtpRunner(const Options& options) : options_(options) {}

  /// A slice of a step, and what it gave. Trivial, for arenas: it points to what the caller has.
  struct Slice {
    const SeqSlice* slice = nullptr;
    int64_t row = 0;                           ///< Of x: its first.
    std::span<const SampledToken> tokens;      ///< Sampled in it.
    const SamplingParams* sampling = nullptr;  ///< And history: of a slice that is sampled.
    TokenHistory* history = nullptr;
    int32_t drafted = kNoToken;  ///< Out: where SeqSlice::draft asked for it.
    bool failed = false;         ///< Out: a value of it was not finite.
  };

  /// x: [T, D], the rows of the step as they go to the output head. before_layer as in StageStep. Errors but those of
  /// values that are not finite.
  absl::Status run(Arena& scratch, std::span<Slice> slices, MatView<const float> x,
                   const std::function<absl::Status(LayerId)>& before_layer);

 private:
  int64_t rows_of(const Slice& one) const;
  int32_t next_of(const Slice& one, int64_t row) const;
  absl::Status forward(Arena& scratch, std::span<const Slice> slices, MatView<const float> x,
                       const std::function<absl::Status(LayerId)>& before_layer, MatView<float> last) const;
  absl::Status draft(std::span<Slice* const> asked, MatView<const float> last);
  void draw(Slice& one, int64_t row);

  const Options options_;
};

}  // namespace shoal
