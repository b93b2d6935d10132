#include "slow_backend.h"

#include <thread>
#include <utility>

#include "base/status.h"
#include "compute/testing/fake_backend.h"
#include "mutation.h"
#include "numeric/version.h"

namespace shoal::sim {
namespace {

class SlowSession final : public BackendSession {
 public:
  SlowSession(std::unique_ptr<BackendSession> inner, std::shared_ptr<const MachinePace> pace, bool first)
      : inner_(std::move(inner)), pace_(std::move(pace)), first_(first) {}

  absl::Status embed(std::span<const int32_t> tokens, MatView<float> x) override {
    return inner_->embed(tokens, x);
  }
  absl::Status forward(const StageStep& step, MatView<float> x) override {
    StageStep slow = step;
    slow.before_layer = [this, &step](LayerId layer) {
      pass();
      return step.before_layer ? step.before_layer(layer) : absl::OkStatus();
    };
    return inner_->forward(slow, x);
  }
  absl::Status head(MatView<const float> x, int64_t first) override { return inner_->head(x, first); }
  absl::StatusOr<SampledToken> sample(int64_t row, const TokenDraw& draw) override {
    const bool off = !first_ && Mutated("position_off_by_one_after_a_retry");
    return inner_->sample(row, {draw.params, draw.history, draw.position + (off ? 1 : 0), draw.mask});
  }
  absl::StatusOr<SampledToken> score(int64_t row, const TokenScore& asked) override {
    return inner_->score(row, asked);
  }
  absl::Status read_hidden(MatView<const float> x, MatView<float> hidden) override {
    return inner_->read_hidden(x, hidden);
  }
  absl::Status read_logits(MatView<const float> x, MatView<float> logits) override {
    return inner_->read_logits(x, logits);
  }
  bool holds(LayerId layer, ExpertId expert) const override { return inner_->holds(layer, expert); }
  absl::Status run_experts(LayerId layer, const ExpertRows& rows, std::span<const ExpertCall> calls,
                           MatView<int64_t> acc) override {
    return inner_->run_experts(layer, rows, calls, acc);
  }
  absl::Status run_expert(LayerId layer, ExpertId expert, const ExpertRows& rows, MatView<float> y) override {
    return inner_->run_expert(layer, expert, rows, y);
  }
  void add_sums(MatView<const int64_t> acc, MatView<float> y) override { inner_->add_sums(acc, y); }
  absl::Status export_cached(const CachePlace& place, const ImageId& id,
                             std::vector<std::byte>& out) override {
    return inner_->export_cached(place, id, out);
  }
  absl::Status import_cached(const CachePlace& place, const ImageId& id,
                             std::span<const std::byte> images) override {
    return inner_->import_cached(place, id, images);
  }
  absl::Status mtp_forward(const StageStep& step, std::span<const int32_t> next, MatView<float> x) override {
    return inner_->mtp_forward(step, next, x);
  }
  absl::Status mtp_head(MatView<const float> x, int64_t first) override { return inner_->mtp_head(x, first); }
  std::unique_ptr<BackendCache> release_cache() override { return inner_->release_cache(); }
  std::vector<LayerId> adopt_cache(BackendCache& cache) override { return inner_->adopt_cache(cache); }
  absl::StatusOr<int64_t> import_image(LayerId layer, const CachePlace& place, const ImageId& id,
                                       std::span<const std::byte> image) override {
    return inner_->import_image(layer, place, id, image);
  }
  void set_state_position(SlotId slot, int32_t position) override {
    inner_->set_state_position(slot, position);
  }
  int64_t kv_saturated() const override { return inner_->kv_saturated(); }
  int64_t scratch_bytes() const override { return inner_->scratch_bytes(); }

 private:
  void pass() const {
    std::this_thread::sleep_for(pace_->layer);
    while (Clock::now() < pace_->stopped_until) std::this_thread::sleep_until(pace_->stopped_until);
    for (; Clock::now() < pace_->crawls_until; ++pace_->progress) std::this_thread::sleep_for(kCrawl);
  }

  static constexpr Duration kCrawl = std::chrono::milliseconds(100);

  const std::unique_ptr<BackendSession> inner_;
  const std::shared_ptr<const MachinePace> pace_;
  const bool first_;  // Of its model.
};

class SlowModel final : public BackendModel {
 public:
  SlowModel(std::unique_ptr<BackendModel> inner, std::shared_ptr<const MachinePace> pace)
      : inner_(std::move(inner)), pace_(std::move(pace)) {}

  const ModelSpec& spec() const override { return inner_->spec(); }
  int64_t bytes() const override { return inner_->bytes(); }
  int64_t expert_count() const override { return inner_->expert_count(); }
  bool from_cache() const override { return inner_->from_cache(); }
  int64_t cached_bytes() const override { return inner_->cached_bytes(); }
  void finish_saving() override { inner_->finish_saving(); }
  absl::StatusOr<std::unique_ptr<BackendSession>> open(const BackendSessionOptions& options) override {
    ASSIGN_OR_RETURN(auto session, inner_->open(options));
    return std::make_unique<SlowSession>(std::move(session), pace_, sessions_++ == 0);
  }

 private:
  const std::unique_ptr<BackendModel> inner_;
  const std::shared_ptr<const MachinePace> pace_;
  int sessions_ = 0;
};

class SlowBackend final : public Backend {
 public:
  explicit SlowBackend(std::shared_ptr<const MachinePace> pace) : pace_(std::move(pace)) {}

  std::string numerics_class() const override { return inner_.numerics_class(); }
  BackendLimits limits() const override { return inner_.limits(); }
  bool takes(const PackedFormat& format) const override { return inner_.takes(format); }
  uint64_t progress() const override { return pace_->progress; }
  absl::StatusOr<std::unique_ptr<BackendModel>> load(const BackendLoad& load) override {
    std::this_thread::sleep_for(kLoadTakes);
    ASSIGN_OR_RETURN(auto model, inner_.load(load));
    return std::make_unique<SlowModel>(std::move(model), pace_);
  }

 private:
  static constexpr Duration kLoadTakes = std::chrono::milliseconds(300);

  FakeBackend inner_{FakeBackend::Options{.numerics_class = CpuNumericsClass()}};
  const std::shared_ptr<const MachinePace> pace_;
};

}  // namespace

std::unique_ptr<Backend> MakeSlowBackend(std::shared_ptr<const MachinePace> pace) {
  return std::make_unique<SlowBackend>(std::move(pace));
}

}  // namespace shoal::sim
