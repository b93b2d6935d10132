// A plan that runs in this process.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/random.h"
#include "base/status.h"
#include "cluster/local_cluster.h"
#include "exec/model_facts.h"

namespace shoal {

/// Another transport than inproc: gRPC, but for ThreadSanitizer, which does not see into the system's gRPC and reports its
/// hand-overs.
#ifdef __SANITIZE_THREAD__
inline constexpr TransportKind kOtherTransport = TransportKind::kInproc;
#else
inline constexpr TransportKind kOtherTransport = TransportKind::kGrpc;
#endif

/// What tests of placements have in common: 64 blocks, slots for recurrent layers, the fastest kernels, one thread.
inline LocalCluster::Options OptionsFor(const OpenedModel& model, Plan plan) {
  LocalCluster::Options options;
  options.weights = model.weights;
  options.plan = std::move(plan);
  options.limits = {model.spec.max_positions, model.spec.vocabulary, 64, 512,
                    KeepsState(model.spec) ? 32 : 0};
  options.isa = SupportedIsas().back();
  return options;
}

/// A model that is loaded on its nodes, with a session that is open.
class RunningPlan {
 public:
  explicit RunningPlan(LocalCluster::Options options) {
    auto cluster = LocalCluster::Load(std::move(options));
    if (!cluster.ok()) ADD_FAILURE() << ToString(cluster.status());
    SHOAL_CHECK(cluster.ok());
    cluster_ = std::move(*cluster);
    const absl::Status opened = cluster_->open(cluster_->plan(), engine_);
    if (!opened.ok()) ADD_FAILURE() << ToString(opened);
  }
  RunningPlan(const RunningPlan&) = delete;
  RunningPlan& operator=(const RunningPlan&) = delete;
  ~RunningPlan() { cluster_->close(engine_, Cancelled("done")); }

  PipelineEngine& engine() { return engine_; }
  const PipelineEngine& engine() const { return engine_; }
  LocalCluster& cluster() { return *cluster_; }
  const LocalCluster& cluster() const { return *cluster_; }

 private:
  PipelineEngine engine_{kLocalLiveness};
  std::unique_ptr<LocalCluster> cluster_;
};

/// Ids at random, the same for each stream.
inline std::vector<int32_t> RandomPrompt(const OpenedModel& model, uint64_t stream, int64_t tokens) {
  RandomStream random(3, stream);
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < tokens; ++i) {
    ids.push_back(static_cast<int32_t>(random.below(static_cast<uint64_t>(model.spec.vocabulary))));
  }
  return ids;
}

/// Compares bytes, not values: -0 differs from 0, and a NaN equals itself. False where there is nothing to compare.
inline bool SameBits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && !a.empty() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

}  // namespace shoal
