#include "compute/cpu_backend.h"

#include <algorithm>
#include <limits>
#include <system_error>
#include <thread>
#include <utility>
#include <variant>

#include "absl/functional/function_ref.h"
#include "base/check.h"
#include "base/process.h"
#include "base/status.h"
#include "compute/blocks/feed_forward_segments.h"
#include "compute/expert_bank.h"
#include "compute/sampler.h"
#include "compute/stage.h"
#include "compute/step_profile.h"
#include "kv/kv_cache.h"
#include "loading/packed_store.h"
#include "numeric/memory.h"
#include "numeric/version.h"

namespace shoal {
namespace {

constexpr int64_t kLogitRows = 256;

/// What a model needs of the backend that loaded it.
struct Device {
  const Backend* backend = nullptr;
  const Kernels* kernels = nullptr;
  ThreadPool* pool = nullptr;
};

/// Bytes of a load in the files: of all of it, and of its routed experts.
struct StoredBytes {
  int64_t all = 0;
  int64_t experts = 0;
};
StoredBytes MeasureStored(const BackendLoad& load) {
  StoredBytes bytes;
  for (const ResolvedWeight& weight : load.weights->all()) {
    const WeightUse& use = weight.use;
    const bool is_embedding = use.role == "head" && load.stage.table() && load.weights->spec().tied_head;
    if (!load.reads(use) || is_embedding) continue;
    bytes.all += load.segments.bytes_held(use, weight.stored.stored_bytes());
    if (use.layer >= 0 && use.expert >= 0) bytes.experts += weight.stored.stored_bytes();
  }
  return bytes;
}

/// Packed bytes of a load: of the routed experts of its layers, and of all else.
struct PackedSize {
  int64_t experts = 0;
  int64_t others = 0;
};
PackedSize MeasurePacked(const BackendLoad& load) {
  PackedSize size;
  for (const ResolvedWeight& weight : load.weights->all()) {
    if (!load.reads(weight.use)) continue;
    const bool routed = !weight.use.is_mtp && weight.use.layer >= 0 && weight.use.expert >= 0;
    (routed ? size.experts : size.others) += load.segments.bytes_held(weight.use, weight.packed_bytes);
  }
  return size;
}

/// Whether the layer has places of this kind.
bool HasKind(const KvCache& cache, LayerId layer, const CachePlace& place) {
  const KvLayerShape& shape = cache.shape(layer);
  return std::holds_alternative<SlotId>(place) ? shape.has_states() : shape.has_blocks();
}

absl::Status CheckPlace(const KvCache& cache, LayerId layer, const CachePlace& place) {
  const bool slot = std::holds_alternative<SlotId>(place);
  const int32_t id = NumberOf(place);
  const int32_t end = slot ? cache.state_slots() : cache.blocks();
  if (cache.has(layer) && id >= 0 && id < end) return absl::OkStatus();
  return FailedPrecondition("cache: there is no {} {} of layer {}", slot ? "state slot" : "block", id, layer);
}

/// The only kind that a CpuSession is given.
class CpuCache final : public BackendCache {
 public:
  explicit CpuCache(std::unique_ptr<KvCache> cache) : cache_(std::move(cache)) {}

  bool has(LayerId layer) const override { return cache_->has(layer); }
  void trim(int blocks, int state_slots) override { cache_->trim(blocks, state_slots); }
  absl::Status export_image(LayerId layer, const CachePlace& place, const ImageId& id,
                            std::vector<std::byte>& out) const override {
    RETURN_IF_ERROR(CheckPlace(*cache_, layer, place));
    if (!HasKind(*cache_, layer, place)) return absl::OkStatus();
    if (const SlotId* slot = std::get_if<SlotId>(&place);
        slot != nullptr && cache_->state_position(*slot) != id.position) {
      return FailedPrecondition("cache: slot {} holds the state behind {} tokens, asked for {}", *slot,
                                cache_->state_position(*slot), id.position);
    }
    ExportImage(*cache_, layer, place, id, out);
    return absl::OkStatus();
  }
  KvCache& cache() { return *cache_; }

 private:
  const std::unique_ptr<KvCache> cache_;
};

/// The exchange of a layer whose experts are all here, whatever the plan says of others.
class OwnExperts final : public ExpertExchange {
 public:
  OwnExperts(const ComputeContext& context, const ExpertBank& bank) : context_(context), bank_(bank) {}

  absl::StatusOr<Ticket> dispatch(LayerId layer, const ExpertRows& rows, const Routing& routing) override {
    layer_ = layer;
    rows_ = rows;
    if (rows.quantized != nullptr) {
      codes_ = *rows.quantized;
      rows_.quantized = &codes_;
    }
    routing_ = routing;
    return Ticket{};
  }

  absl::Status combine(Ticket /*ticket*/, MatView<float> y) override {
    const ArenaScope scope(*context_.arena);
    const MatView<const int32_t>& ids = routing_.ids;
    std::span<ExpertCall> calls = context_.arena->allocate<ExpertCall>(ids.rows * ids.cols);
    size_t count = 0;
    for (int64_t t = 0; t < ids.rows; ++t) {
      for (int64_t k = 0; k < ids.cols; ++k) {
        if (ids.at(t, k) == kNoExpert) continue;
        calls[count++] = {static_cast<int32_t>(t), ExpertId{ids.at(t, k)}, routing_.weights.at(t, k)};
      }
    }
    calls = calls.first(count);
    const MatView<int64_t> acc = context_.arena->allocate_rows<int64_t>(y.rows, y.cols);
    std::fill_n(acc.data, y.rows * y.cols, int64_t{0});
    RETURN_IF_ERROR(bank_.run(context_, layer_, rows_, calls, acc));
    context_.for_rows(y.rows, y.cols, [&](Range rows) {
      context_.kernels->fixed_to_float({acc, y, FixedStore::kAdd, rows});
    });
    return absl::OkStatus();
  }

 private:
  const ComputeContext& context_;
  const ExpertBank& bank_;
  LayerId layer_;
  ExpertRows rows_;
  QuantizedRows codes_;
  Routing routing_;
};

class CpuSession final : public BackendSession {
 public:
  CpuSession(const Device& device, const BackendSessionOptions& options, const ModelSpec& spec, Stage* stage,
             ExpertBank& experts, const SegmentBank& segments)
      : vocabulary_(spec.vocabulary),
        step_{device.kernels, device.pool, &step_arena_, options.activations, options.profile},
        serve_{device.kernels, device.pool, &serve_arena_, options.activations, options.profile},
        stage_(stage),
        experts_(experts),
        segments_(segments) {}

  absl::Status take_memory(const BackendSessionOptions& options) {
    if (stage_ == nullptr) return absl::OkStatus();
    ASSIGN_OR_RETURN(cache_, KvCache::Create(stage_->options().cached_layers(), stage_->kv_shapes(),
                                             options.kv_dtype, options.blocks, options.state_slots));
    if (!stage_->options().head) return absl::OkStatus();
    // Pages that no row reaches are never touched.
    ASSIGN_OR_RETURN(logits_, AlignedMemory::Allocate(kLogitRows * vocabulary_ * int64_t{sizeof(float)}));
    return absl::OkStatus();
  }

  absl::Status embed(std::span<const int32_t> tokens, MatView<float> x) override {
    step_arena_.reset();
    return stage_->embed(step_, tokens, x);
  }

  absl::Status forward(const StageStep& step, MatView<float> x) override {
    step_arena_.reset();
    return stage_->forward(step_, step, *cache_, x);
  }

  absl::Status head(MatView<const float> x, int64_t first) override {
    SHOAL_CHECK(first >= 0 && first + x.rows <= kLogitRows);
    return read_logits(x, MatView<float>(logits_of(first).data(), x.rows, vocabulary_));
  }

  absl::StatusOr<SampledToken> sample(int64_t row, const TokenDraw& draw) override {
    step_arena_.reset();
    return SampleToken(*step_.kernels, draw, step_arena_, logits_of(row));
  }

  absl::StatusOr<SampledToken> score(int64_t row, const TokenScore& asked) override {
    step_arena_.reset();
    return ScoreToken(*step_.kernels, asked, step_arena_, logits_of(row));
  }

  absl::Status read_hidden(MatView<const float> x, MatView<float> hidden) override {
    step_arena_.reset();
    return stage_->final_norm(step_, x, hidden);
  }

  absl::Status read_logits(MatView<const float> x, MatView<float> logits) override {
    step_arena_.reset();
    return stage_->head(step_, x, logits);
  }

  absl::Status mtp_forward(const StageStep& step, std::span<const int32_t> next, MatView<float> x) override {
    step_arena_.reset();
    OwnExperts own(step_, experts_);
    StageStep alone = step;
    alone.experts = &own;
    return stage_->mtp_forward(step_, alone, next, *cache_, x);
  }

  absl::Status mtp_head(MatView<const float> x, int64_t first) override {
    SHOAL_CHECK(first >= 0 && first + x.rows <= kLogitRows);
    step_arena_.reset();
    return stage_->mtp_head(step_, x, MatView<float>(logits_of(first).data(), x.rows, vocabulary_));
  }

  bool holds(LayerId layer, ExpertId expert) const override { return experts_.holds(layer, expert); }

  void expect_experts(LayerId layer, std::span<const ExpertCall> calls) override {
    if (!experts_.tiered()) return;
    serve_arena_.reset();
    experts_.expect(serve_arena_, layer, calls);
  }

  absl::Status run_experts(LayerId layer, const ExpertRows& rows, std::span<const ExpertCall> calls,
                           MatView<int64_t> acc) override {
    serve_arena_.reset();
    return experts_.run(serve_, layer, rows, calls, acc);
  }

  absl::Status run_expert(LayerId layer, ExpertId expert, const ExpertRows& rows, MatView<float> y) override {
    serve_arena_.reset();
    return experts_.run_one(serve_, layer, expert, rows, y);
  }

  void add_sums(MatView<const int64_t> acc, MatView<float> y) override {
    serve_.for_rows(y.rows, y.cols, [&](Range rows) {
      serve_.kernels->fixed_to_float({acc, y, FixedStore::kAdd, rows});
    });
  }

  const SegmentShape* segment_shape(LayerId layer) const override {
    const SegmentSet* set = segments_.find(layer);
    return set == nullptr ? nullptr : &set->shape();
  }

  absl::Status run_hidden(LayerId layer, std::span<const int32_t> segments, const SegmentRows& rows,
                          SegmentRows& hidden) override {
    ASSIGN_OR_RETURN(const SegmentSet* const set, segments_of(layer));
    serve_arena_.reset();
    return set->hidden(serve_, segments, rows, hidden);
  }

  absl::Status run_down(LayerId layer, std::span<const int32_t> segments, const SegmentRows& hidden,
                        MatView<float> y) override {
    ASSIGN_OR_RETURN(const SegmentSet* const set, segments_of(layer));
    serve_arena_.reset();
    return set->down(serve_, segments, hidden, y);
  }

  absl::Status export_cached(const CachePlace& place, const ImageId& id,
                             std::vector<std::byte>& out) override {
    return cache_ == nullptr ? absl::OkStatus() : ExportImages(*cache_, place, id, out);
  }

  absl::Status import_cached(const CachePlace& place, const ImageId& id,
                             std::span<const std::byte> images) override {
    if (cache_ != nullptr) return ImportImages(*cache_, place, id, images);
    return images.empty() ? absl::OkStatus() : InvalidArgument("cache image: no layers are held here");
  }

  std::unique_ptr<BackendCache> release_cache() override {
    return cache_ == nullptr ? nullptr : std::make_unique<CpuCache>(std::move(cache_));
  }

  std::vector<LayerId> adopt_cache(BackendCache& cache) override {
    if (cache_ == nullptr) return {};
    return cache_->take_over(static_cast<CpuCache&>(cache).cache());
  }

  absl::StatusOr<int64_t> import_image(LayerId layer, const CachePlace& place, const ImageId& id,
                                       std::span<const std::byte> image) override {
    if (cache_ == nullptr) return FailedPrecondition("cache: no layers are held here");
    RETURN_IF_ERROR(CheckPlace(*cache_, layer, place));
    if (!HasKind(*cache_, layer, place)) {
      return FailedPrecondition("cache: layer {} has no place of this kind", layer);
    }
    return ImportImage(*cache_, layer, place, id, image);
  }

  void set_state_position(SlotId slot, int32_t position) override {
    if (cache_ != nullptr) cache_->set_state_position(slot, position);
  }

  int64_t kv_saturated() const override { return stage_ == nullptr ? 0 : stage_->kv_saturated(); }
  int64_t scratch_bytes() const override { return step_arena_.bytes_held() + serve_arena_.bytes_held(); }

 private:
  absl::StatusOr<const SegmentSet*> segments_of(LayerId layer) const {
    if (const SegmentSet* set = segments_.find(layer)) return set;
    return FailedPrecondition("layer {}: its feed-forward has no segments; the asker's plan is another",
                              layer);
  }
  std::span<float> logits_of(int64_t row) const {
    SHOAL_CHECK(row >= 0 && row < kLogitRows && logits_.data() != nullptr);
    return {reinterpret_cast<float*>(logits_.data()) + row * vocabulary_, static_cast<size_t>(vocabulary_)};
  }

  const int64_t vocabulary_;
  Arena step_arena_;
  Arena serve_arena_;  // Experts run in the middle of a step, whose scratch must stay.
  const ComputeContext step_;
  const ComputeContext serve_;
  Stage* const stage_;  // nullptr: no layers here.
  ExpertBank& experts_;
  const SegmentBank& segments_;
  std::unique_ptr<KvCache> cache_;
  AlignedMemory logits_;  // [kLogitRows, V], where the head is here.
};

class CpuModel final : public BackendModel {
 public:
  explicit CpuModel(const Device& device) : device_(device) {}

  const std::shared_ptr<PackedStore>& store() const { return store_; }

  absl::Status load(const BackendLoad& load, ThreadPool& pool) {
    weights_ = load.weights;
    store_->set_cancelled(load.cancelled);
    if (load.cache != nullptr) store_->open(load.cache, weights_->shared_checkpoint());
    LoadProgress stage_progress;
    LoadProgress expert_progress;
    if (load.progress) {  // One count of bytes over both; segments come in between.
      const StoredBytes stored = MeasureStored(load);
      stage_progress = [&load, stored](int64_t done, int64_t) { load.progress(done, stored.all); };
      expert_progress = [&load, stored](int64_t done, int64_t) {
        load.progress(stored.all - stored.experts + done, stored.all);
      };
    }
    if (!load.stage.layers.empty()) {
      ASSIGN_OR_RETURN(stage_, Stage::Load(*weights_, load.stage, pool, stage_progress, store_.get()));
    }
    ASSIGN_OR_RETURN(segments_, SegmentBank::Load(*weights_, load.segments, pool, store_.get()));
    if (segments_->bytes() > 0 && expert_progress) expert_progress(0, 0);
    RETURN_IF_ERROR(load_experts(load, pool, expert_progress));
    store_->save();
    return absl::OkStatus();
  }

  /// After a load beside a session: what it left to serve has the threads and the priority of any other model.
  absl::Status begin_serving() { return experts_->begin_serving(device_.pool->threads()); }

  const ModelSpec& spec() const override { return weights_->spec(); }
  int64_t bytes() const override {
    return (stage_ == nullptr ? 0 : stage_->bytes()) + segments_->bytes() + experts_->bytes();
  }
  int64_t expert_count() const override { return experts_->count(); }
  bool from_cache() const override { return store_->from_cache(); }
  int64_t cached_bytes() const override { return store_->bytes_from_cache(); }
  std::optional<ExpertTierStats> expert_tier() const override { return experts_->tier_stats(); }
  void finish_saving() override { store_->finish_saving(); }

  absl::StatusOr<std::unique_ptr<BackendSession>> open(const BackendSessionOptions& options) override {
    RETURN_IF_ERROR(CheckOptions(*device_.backend, options));
    auto session =
        std::make_unique<CpuSession>(device_, options, spec(), stage_.get(), *experts_, *segments_);
    RETURN_IF_ERROR(session->take_memory(options));
    return session;
  }

 private:
  absl::Status load_experts(const BackendLoad& load, ThreadPool& pool, const LoadProgress& progress) {
    std::vector<std::vector<ExpertId>> experts = load.experts;
    if (load.stage.mtp) experts.push_back(AllExperts(spec().mtp->layer));
    const PackedSize size = MeasurePacked(load);
    if (load.expert_memory == 0 || size.experts <= load.expert_memory) {
      ASSIGN_OR_RETURN(experts_, ExpertBank::Load(*weights_, experts, pool, progress, store_.get()));
      return absl::OkStatus();
    }
    const ExpertBank::Tier tier{.memory_bytes = load.expert_memory,
                                .cache = load.cache,
                                .kept_bytes = size.others,
                                .cancelled = load.cancelled};
    ASSIGN_OR_RETURN(experts_,
                     ExpertBank::LoadTiered(*weights_, experts, tier, pool, progress, store_.get()));
    if (stage_ == nullptr) return absl::OkStatus();
    stage_->set_read_ahead(
        [bank = experts_.get()](Arena& arena, LayerId layer, std::span<const int32_t> ids) {
          bank->read_ahead(arena, layer, ids);
        });
    return absl::OkStatus();
  }

  const Device device_;
  std::shared_ptr<const ResolvedWeights> weights_;
  const std::shared_ptr<PackedStore> store_ = std::make_shared<PackedStore>();
  std::unique_ptr<Stage> stage_;
  std::unique_ptr<SegmentBank> segments_;
  std::unique_ptr<ExpertBank> experts_;
};

/// Steps may go on meanwhile, on the pool's threads, and come first.
absl::Status InThreadOfLowPriority(absl::FunctionRef<absl::Status()> work) {
  absl::Status done;
  try {
    std::thread([&] {
      NameThread("load-beside");
      YieldToOtherThreads();
      done = work();
    }).join();
  } catch (const std::system_error& error) {
    return ResourceExhausted("no thread to load weights with: {}", error.what());
  }
  return done;
}

}  // namespace

CpuBackend::CpuBackend(Options options)
    : kernels_(SelectKernels(options.isa)), pool_(options.threads, std::move(options.cpus)) {}

std::string CpuBackend::numerics_class() const { return CpuNumericsClass(); }

/// Calls for experts count rows in 32 bits.
BackendLimits CpuBackend::limits() const {
  return {.rows_max = std::numeric_limits<int32_t>::max(),
          .logit_rows = kLogitRows,
          .head_dim_max = kHeadDimMax,
          .states = true,
          .picks = true,
          .mtp = true,
          .segments = true};
}

bool CpuBackend::takes(const PackedFormat& format) const {
  if (!IsFloatWeight(format.dtype)) return false;
  return !format.affine() || IsAffineForm(format.bits, format.group);
}

absl::StatusOr<std::unique_ptr<BackendModel>> CpuBackend::load(const BackendLoad& load) {
  RETURN_IF_ERROR(CheckTaken(*this, load));
  auto model = std::make_unique<CpuModel>(Device{this, &kernels_, &pool_});
  const std::string& content = load.weights->checkpoint().content_identity();
  std::erase_if(held_, [](const Held& held) { return held.store.expired(); });
  for (const Held& held : held_) {
    const std::shared_ptr<const PackedStore> store = held.store.lock();
    if (store != nullptr && held.content == content) model->store()->share(*store);
  }
  absl::Status loaded;
  if (!load.beside_session) {
    loaded = model->load(load, pool_);
  } else {
    loaded = InThreadOfLowPriority([&] {
      ThreadPool alone(1);
      return model->load(load, alone);
    });
    if (loaded.ok()) loaded = model->begin_serving();
  }
  RETURN_IF_ERROR(loaded);
  held_.push_back({model->store(), content});
  return model;
}

}  // namespace shoal
