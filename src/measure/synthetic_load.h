// Random sequences driven through an engine as fast as it takes them, and timed: prompts in chunks, decoding
// in batches. What `shoal bench` measures with; no scheduler, no text.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "exec/engine.h"
#include "exec/sequence_cursor.h"
#include "measure/step_work.h"

namespace shoal {

/// One timed run.
struct LoadRun {
  int64_t tokens = 0;
  int64_t begin_ns = 0;  ///< First submit and last result, by NowNs().
  int64_t end_ns = 0;
  StepSize size;                      ///< Of all its steps; experts only where routing was traced.
  std::map<NodeId, int64_t> busy_ns;  ///< By stage: from rows in to rows out, without waiting for experts.
  int64_t expert_overhead_ns = 0;     ///< As PlannedExchange::overhead_ns, all stages.

  int64_t elapsed_ns() const { return end_ns - begin_ns; }
};

/// Uses the engine alone, from its first step on: one object per session.
class SyntheticLoad {
 public:
  struct Options {
    /// Rows of a prompt's next chunk, where so many are left.
    std::function<int64_t(int64_t rows_left)> chunk_rows = [](int64_t) { return 256; };
    int64_t fill_chunk = 2048;  ///< See fill().
    Duration step_timeout = std::chrono::minutes(10);
  };
  SyntheticLoad(Engine& engine, const Options& options);

  /// Computes a prompt of `tokens` up to its first sampled token, in chunks, as many of them in flight as the
  /// engine asks for. The prompt takes the place of all sequences there were. `trace`: count the experts used
  /// (which costs a little time).
  absl::StatusOr<LoadRun> prefill(int64_t tokens, bool trace);

  /// Makes `sequences` sequences with `positions` tokens in the cache each and room for `room` more. The
  /// contents are computed in chunks of `fill_chunk` positions that do not see each other: a decode step
  /// takes as long whatever the keys are, and a long prompt's own attention would take most of the time.
  absl::Status fill(int64_t sequences, int64_t positions, int64_t room);

  /// Decodes `tokens` tokens of each sequence, from where fill() left them, every time anew. The sequences go
  /// in `groups` equal steps, all in flight at once. `trace`: as above.
  absl::StatusOr<LoadRun> decode(int64_t tokens, int64_t groups, bool trace);

  /// Positions of the cache that the calls above need.
  static int64_t PrefillPositions(int64_t tokens);
  static int64_t DecodePositions(int64_t sequences, int64_t positions, int64_t room);

 private:
  struct Sequence {
    SeqId id;
    SequenceCursor filling;   ///< What makes its context; keeps the state that every decode begins from.
    SequenceCursor decoding;  ///< Over the same blocks, with slots of its own.
    int64_t filled = 0;       ///< Positions of its context.
    int32_t last_token = 0;
  };
  using NextStep = absl::FunctionRef<std::optional<Step>()>;
  using OnResult = absl::FunctionRef<absl::Status(const StepResult&)>;

  absl::StatusOr<LoadRun> run(int64_t in_flight, NextStep next, OnResult on_result);
  absl::Status make_sequences(int64_t count, int64_t positions);
  std::vector<int32_t> random_tokens(int64_t count);
  SeqSlice fill_chunk(Sequence& sequence, int64_t rows);

  Engine& engine_;
  const Engine::State session_;  // What is up when the load begins.
  const Options options_;
  StepId next_id_{1};
  std::vector<Sequence> sequences_;
};

}  // namespace shoal
