// Runs random sequences through an engine as fast as it takes them, and measures the time: prompts in chunks,
// decoding in batches. `shoal bench` measures with it. It has no scheduler and no text.
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
  int64_t begin_ns = 0;  ///< The first submit, by NowNs().
  int64_t end_ns = 0;    ///< The last result, by NowNs().
  StepSize size;         ///< Of all its steps; with experts only if routing was traced.
  /// By node of a stage: the time from rows in to rows out, without waiting for experts.
  std::map<NodeId, int64_t> busy_ns;
  int64_t expert_overhead_ns = 0;  ///< As PlannedExchange::overhead_ns, over all stages.

  int64_t elapsed_ns() const { return end_ns - begin_ns; }
};

/// The only user of the engine, from its first step on: one object per session.
class SyntheticLoad {
 public:
  struct Options {
    /// The number of rows of a prompt's next chunk, of `rows_left`.
    std::function<int64_t(int64_t rows_left)> chunk_rows = [](int64_t) { return 256; };
    int64_t fill_chunk = 2048;  ///< See fill().
    Duration step_timeout = std::chrono::minutes(10);
    int32_t experts = INT32_MAX;  ///< Ids from here on have no weights (MoeSpec::identities).
  };
  SyntheticLoad(Engine& engine, const Options& options);

  /// Computes a prompt of `tokens` up to its first sampled token, in chunks, with as many in flight as the
  /// engine asks for. The prompt replaces all earlier sequences. trace: counts the experts used, which costs
  /// a little time.
  absl::StatusOr<LoadRun> prefill(int64_t tokens, bool trace);

  /// Makes `sequences` sequences, each with `positions` tokens in the cache and room for `room` more. Their
  /// contents are computed in chunks of `fill_chunk` positions that do not attend to each other: the time of
  /// a decode step does not depend on the keys, and the attention of a long prompt would take most of the
  /// time.
  absl::Status fill(int64_t sequences, int64_t positions, int64_t room);

  /// Decodes `tokens` tokens of each sequence, starting at the positions of fill() on every call. The
  /// sequences are divided among `groups` equal steps, all in flight at once. trace: as for prefill().
  absl::StatusOr<LoadRun> decode(int64_t tokens, int64_t groups, bool trace);

  /// Positions of the cache that the calls above need.
  static int64_t PrefillPositions(int64_t tokens);
  static int64_t DecodePositions(int64_t sequences, int64_t positions, int64_t room);

 private:
  struct Sequence {
    SeqId id;
    SequenceCursor filling;   ///< For fill(); keeps the state that every decode() begins from.
    SequenceCursor decoding;  ///< For decode(), over the same blocks, with its own slots.
    int64_t filled = 0;       ///< Positions filled by fill().
    int32_t last_token = 0;
  };
  using NextStep = absl::FunctionRef<std::optional<Step>()>;
  using OnResult = absl::FunctionRef<absl::Status(const StepResult&)>;

  absl::StatusOr<LoadRun> run(int64_t in_flight, NextStep next, OnResult on_result);
  absl::Status make_sequences(int64_t count, int64_t positions);
  std::vector<int32_t> random_tokens(int64_t count);
  SeqSlice fill_chunk(Sequence& sequence, int64_t rows);

  Engine& engine_;
  const Engine::State session_;  // The session when the load begins.
  const Options options_;
  StepId next_id_{1};
  std::vector<Sequence> sequences_;
};

}  // namespace shoal
