// One step on one node: receive or embed, forward my layers, send or sample. Every node runs this same code;
// in a one-stage plan the receiving and the sending happen zero times.
//
// What is wrong with one sequence (a token outside the vocabulary, an activation that is not finite, sampling
// that allows nothing, a mask that does not come) ends that sequence alone: its slice leaves the step, its failure travels with the report,
// and later slices of it, which are on their way already, fail in the same way until it is forgotten.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "compute/backend.h"
#include "compute/step_profile.h"
#include "compute/token_history.h"
#include "cpu/arena.h"
#include "exec/kv_copies.h"
#include "exec/kv_tier.h"
#include "exec/mask_inbox.h"
#include "exec/mtp_runner.h"
#include "exec/planned_exchange.h"
#include "exec/step_codec.h"
#include "exec/step_validation.h"
#include "plan/plan.h"

namespace shoal {

/// A frame and where it goes.
struct Outgoing {
  NodeId to;
  Frame frame;
};

class StageRunner {
 public:
  struct Options {
    const Plan* plan = nullptr;
    NodeId self;
    BackendSession* compute = nullptr;
    StepLimits limits;
    int64_t width = 0;       ///< D
    int64_t row_width = 0;   ///< Of rows between layers (ModelSpec::row_width).
    int64_t logit_rows = 1;  ///< As BackendLimits::logit_rows.
    LayerHook hook;          ///< Called on the executor's thread. May be empty.
    StepProfile* profile = nullptr;
    MaskInbox* masks = nullptr;  ///< Where slices that are masked find theirs; nullptr: there are none.
    KvTier* kv_tier = nullptr;   ///< Where saves and restores go; nullptr: nowhere.
    KvCopier* copier = nullptr;  ///< Where copies go; nullptr: nowhere.
  };
  explicit StageRunner(Options options);

  /// Runs a kStep frame and returns what to send: the step with its rows to the next stage, or the result to
  /// the coordinator. `scratch` is reset. `before_layer` as in StageStep. On an error nothing is to be sent on; later steps of
  /// this session are void (I12).
  absl::StatusOr<Outgoing> run(const Frame& frame, Arena& scratch, PlannedExchange& exchange,
                               const std::function<absl::Status(LayerId)>& before_layer);

 private:
  /// What the last stage remembers of a sequence.
  struct SequenceState {
    SamplingParams sampling;
    TokenHistory history;
    std::vector<double> pooled = {};  ///< [D], the sum of `pooled_rows` rows (Pool::kSum), from the first on.
    int64_t pooled_rows = 0;
    bool predicts = true;  ///< False: its rows left the range of the head that predicts.
  };

  /// A row on its way to a token, or to the score of one that is known.
  struct SampledRow {
    size_t slice = 0;
    int64_t row = 0;         ///< Of x.
    int64_t position = 0;    ///< That the token takes.
    int32_t scored = kDraw;  ///< The token.
  };
  static constexpr int32_t kDraw = -1;

  absl::StatusOr<MatView<float>> receive(Arena& scratch, StepMessage& message);
  absl::Status embed(Arena& scratch, const Step& step, MatView<float> x);
  absl::Status forward(Arena& scratch, PlannedExchange& exchange, StepMessage& message, MatView<float>& x,
                       const std::function<absl::Status(LayerId)>& before_layer);
  absl::Status remember(const Step& step);
  absl::StatusOr<StepResult> finish(Arena& scratch, StepMessage& message, MatView<float> x,
                                    const std::function<absl::Status(LayerId)>& before_layer);
  absl::Status sample(Arena& scratch, const Step& step, MatView<const float> x, StepResult& result);
  absl::Status sample_row(const SeqSlice& slice, const SampledRow& sampled, int64_t row, StepResult& result);
  void score_row(const SeqSlice& slice, const SampledRow& scored, int64_t row, StepResult& result);
  absl::Status predict(Arena& scratch, const Step& step, MatView<const float> x,
                       const std::function<absl::Status(LayerId)>& before_layer, StepResult& result);
  absl::Status pool(Arena& scratch, const Step& step, MatView<const float> x, StepResult& result);
  absl::Status pool_rows(const SeqSlice& slice, MatView<const float> hidden, StepResult& result);
  absl::Status all_logits(StepMessage& message, MatView<float> x, StepResult& result);

  void screen(const Step& step);
  void fail(const SeqSlice& slice, size_t index, const absl::Status& why);
  void on_bad(StepMessage& message, size_t index, const absl::Status& why);
  void drop_unsendable(StepMessage& message, MatView<float>& x);
  void drop_rows(StepMessage& message, MatView<float>& x) const;
  void drop_slices(StepMessage& message);

  const Options options_;
  const bool first_;
  const bool last_;
  const RowFormat format_;  ///< Of rows that come and go.
  std::unordered_map<SeqId, SequenceState> sequences_;
  std::unordered_map<SeqId, absl::Status> failed_;  ///< Here, until they end or begin again.
  std::vector<absl::Status> outcomes_;              ///< Of the slices of the step being run.
  std::optional<MtpRunner> mtp_;                    ///< Where the plan has the last stage predict.
};

}  // namespace shoal
