// A whole model in this process without exec/: stages one behind the other over one checkpoint. For tests.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "compute/stage.h"
#include "compute/testing/local_exchange.h"
#include "kernels/kernels.h"
#include "kv/block_pool.h"
#include "kv/kv_cache.h"

namespace shoal {

struct LocalOptions {
  ActivationMode activations = ActivationMode::kInt8;
  DType kv = DType::kF16;
  int threads = 1;
  std::string isa;             ///< "" = the fastest.
  std::vector<int64_t> split;  ///< Layers per stage, the last of which has any others, too; empty: one stage.
  StepProfile* profile = nullptr;
  bool snapshots = false;  ///< Keep the state behind every whole block of a sequence, for continue_from.
};

/// Consecutive tokens of a sequence, in a step.
struct LocalSlice {
  int sequence = 0;
  std::span<const int32_t> tokens;
  bool long_rope = false;  ///< Of a sequence beyond ShortRopePositions.
};

class LocalModel {
 public:
  static absl::StatusOr<std::unique_ptr<LocalModel>> Load(const std::string& folder,
                                                          const LocalOptions& options);

  const ModelSpec& spec() const { return weights_->spec(); }
  Stage& stage(size_t i) { return *stages_[i]; }
  const Arena& arena() const { return arena_; }

  /// Appends each slice's tokens to its sequence (a new number begins one) and gives the logits [T, V] of all
  /// rows. Sequences use blocks scattered over the cache. `router` collects the choice per MoE layer, ids
  /// appended [T, K].
  absl::StatusOr<std::vector<float>> step(std::span<const LocalSlice> slices,
                                          std::map<int32_t, std::vector<int32_t>>* router = nullptr);

  /// Forgets all sequences.
  void reset() {
    sequences_.clear();
    blocks_used_ = slots_used_ = 0;
  }

  /// Makes `to` a new sequence that begins with the first `position` tokens of `from`: with its blocks, and
  /// the snapshot of its state there. position: a multiple of a block's that `from` has passed.
  void continue_from(int from, int to, int64_t position);

  /// As StageStep's; a step that it ends with an error leaves the sequences as they were.
  void set_before_layer(std::function<absl::Status(LayerId)> before_layer) {
    before_layer_ = std::move(before_layer);
  }

  /// A prompt in a new sequence, in chunks of `chunk` rows (0: at once), then `greedy` tokens one by one;
  /// begun again where it outgrows short rope.
  struct Run {
    std::vector<float> logits;                       ///< [T, V] of the prompt.
    std::vector<int32_t> greedy;                     ///< Greedy continuation.
    std::map<int32_t, std::vector<int32_t>> router;  ///< By MoE layer: [T, K] of the prompt.
  };
  absl::StatusOr<Run> run(std::span<const int32_t> prompt, int greedy, int64_t chunk = 0);

 private:
  static constexpr int kBlocks = 64;
  static constexpr int kStateSlots = 32;
  struct Sequence {
    int64_t length = 0;
    std::vector<BlockId> blocks;
    SlotId state = kNoState;
    SlotId spare = kNoState;       ///< The slot that the next step writes to; they take turns.
    SlotId begun_from = kNoState;  ///< Another's snapshot, which is not its own to write to.
    std::map<int64_t, SlotId> snapshots;
  };
  std::vector<StateWrite> states_of_step(Sequence& sequence, int64_t rows);
  SlotId new_slot();

  bool long_rope(size_t tokens) const { return static_cast<int64_t>(tokens) > ShortRopePositions(spec()); }
  /// The logits [T, V] of all tokens in a new sequence.
  absl::StatusOr<std::vector<float>> prefill(std::span<const int32_t> tokens, int64_t chunk,
                                             std::map<int32_t, std::vector<int32_t>>* router);
  explicit LocalModel(int threads) : pool_(threads) {}
  absl::Status load(const std::string& folder, const LocalOptions& options);

  ThreadPool pool_;
  Arena arena_;
  ComputeContext context_;
  std::shared_ptr<const ResolvedWeights> weights_;
  std::vector<std::unique_ptr<Stage>> stages_;
  std::vector<std::unique_ptr<KvCache>> caches_;
  std::unique_ptr<LocalExchange> experts_;
  std::map<int, Sequence> sequences_;
  int blocks_used_ = 0;
  int slots_used_ = 0;
  bool snapshots_ = false;
  std::function<absl::Status(LayerId)> before_layer_;
};

}  // namespace shoal
