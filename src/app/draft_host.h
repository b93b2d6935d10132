// The small model of --draft-model: whole in this process, behind an engine of its own.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "app/command.h"
#include "cluster/local_cluster.h"
#include "cluster/supervisor.h"
#include "exec/pipeline_engine.h"
#include "text/tokenizer.h"

namespace shoal {

class DraftHost {
 public:
  struct Options {
    std::string folder;        ///< Model folder or GGUF file.
    ComputeFlags compute;      ///< As of the model that it drafts for.
    int64_t kv_positions = 0;  ///< Of its cache; 0: by its context and memory.
    int64_t memory_bytes = 0;  ///< Of this machine, for both models; 0: unknown.
  };

  /// Opens the model and plans for it; loads nothing. `tokenizer` is that of `model`, for which it is to draft.
  /// InvalidArgument where either keeps recurrent states, or the tokenizers differ; ResourceExhausted where there is no
  /// memory for it; else as OpenModel and LoadTokenizer.
  static absl::StatusOr<std::unique_ptr<DraftHost>> Open(Options options, const OpenedModel& model,
                                                         const Tokenizer& tokenizer);
  ~DraftHost();

  /// What its weights and its cache take.
  int64_t bytes() const { return bytes_; }

  /// Loads it and has its engine up, from now on: one that failed is opened again, after a pause that grows. host: of
  /// this process, so that it computes by turns with what else that hosts; nullptr: it has one of its own. Errors as
  /// LocalCluster::Load and open.
  absl::Status load(std::shared_ptr<NodeHost> host, std::shared_ptr<const PackedCache> packed_cache);

  /// Up from load() on.
  Engine& engine() { return engine_; }

 private:
  explicit DraftHost(Options options) : options_(std::move(options)) {}
  absl::Status make_plan(const Checkpoint& drafts_for);
  absl::Status make_room();

  const Options options_;
  OpenedModel model_;
  Plan plan_;
  StepLimits limits_;
  int64_t bytes_ = 0;
  PipelineEngine engine_{kLocalLiveness};
  std::unique_ptr<LocalCluster> cluster_;
  std::unique_ptr<Supervisor> supervisor_;
};

}  // namespace shoal
