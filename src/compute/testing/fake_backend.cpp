#include "compute/testing/fake_backend.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <span>
#include <utility>

#include "base/check.h"
#include "base/status.h"
#include "kv/kv_cache.h"
#include "numeric/fixed_sum.h"

namespace shoal {
namespace {

/// The finalizer of SplitMix64 (Steele et al. 2014, doi:10.1145/2660193.2660195) over a running value.
uint64_t Hash(std::initializer_list<uint64_t> values) {
  uint64_t hash = 0;
  for (const uint64_t value : values) {
    hash += value + 0x9e3779b97f4a7c15;
    hash = (hash ^ (hash >> 30)) * 0xbf58476d1ce4e5b9;
    hash = (hash ^ (hash >> 27)) * 0x94d049bb133111eb;
    hash ^= hash >> 31;
  }
  return hash;
}

uint64_t Unsigned(int64_t value) { return static_cast<uint64_t>(value); }

uint64_t HashOf(const float* row, int64_t width) {
  uint64_t hash = 0;
  for (int64_t c = 0; c < width; ++c) hash = Hash({hash, Unsigned(static_cast<int64_t>(row[c]))});
  return hash;
}

/// row[c] = 16 bits of hash(seed, c).
void Fill(uint64_t seed, float* row, int64_t width) {
  for (int64_t c = 0; c < width; ++c) row[c] = static_cast<float>(Hash({seed, Unsigned(c)}) & 0xffff);
}

void Embed(int32_t token, float* row, int64_t width) { Fill(Hash({Unsigned(token)}), row, width); }

float ExpertValue(uint64_t row, LayerId layer, ExpertId expert, int64_t c) {
  return static_cast<float>(Hash({row, Unsigned(layer.value), Unsigned(expert.value), Unsigned(c)}) & 0xff);
}

ExpertId ExpertOf(const MoeSpec& moe, uint64_t row, int64_t k) {
  return ExpertId{static_cast<int32_t>((row + Unsigned(k)) % static_cast<uint64_t>(std::ssize(moe.experts)))};
}

void FillLogits(uint64_t row, std::span<float> logits) {
  for (size_t v = 0; v < logits.size(); ++v) logits[v] = static_cast<float>(Hash({row, 7, v}) & 0xffff);
}

bool Allows(std::span<const uint32_t> mask, int32_t id) {
  if (mask.empty()) return true;
  const auto word = static_cast<size_t>(id / 32);
  return word < mask.size() && (mask[word] >> (id % 32) & 1) != 0;
}

/// Of the ids that may come, the one with the largest logit; -1 where none may.
int32_t Largest(std::span<const float> logits, std::span<const uint32_t> mask) {
  int32_t best = -1;
  for (int32_t id = 0; id < std::ssize(logits); ++id) {
    if (!Allows(mask, id)) continue;
    if (best < 0 || logits[static_cast<size_t>(id)] > logits[static_cast<size_t>(best)]) best = id;
  }
  return best;
}

/// The first id that may come, from `id` on and then around; -1 where none may.
int32_t NextAllowed(int32_t id, int32_t vocabulary, std::span<const uint32_t> mask) {
  for (int32_t i = 0; i < vocabulary; ++i) {
    const int32_t next = (id + i) % vocabulary;
    if (Allows(mask, next)) return next;
  }
  return -1;
}

/// What a layer keeps of a block, [kBlockPositions], stands at the beginning of an image of another cache's block.
constexpr size_t kBlockBytes = size_t{kBlockPositions} * sizeof(uint64_t);

absl::StatusOr<std::unique_ptr<KvCache>> CacheOfOneBlock(LayerId layer) {
  return KvCache::Create({layer.value, layer.value + 1}, {{1, 16}}, DType::kF32, 1);
}

/// The cells of a block among those of a layer; empty: there is no such place.
template <typename Cells>
auto CellsOf(Cells cells, const CachePlace& place) {
  const BlockId* block = std::get_if<BlockId>(&place);
  const size_t first = block == nullptr || block->value < 0
                           ? cells.size()
                           : static_cast<size_t>(block->value) * size_t{kBlockPositions};
  return first < cells.size() ? cells.subspan(first, size_t{kBlockPositions}) : cells.subspan(cells.size());
}

absl::Status ExportCells(LayerId layer, std::span<const uint64_t> cells, const ImageId& id,
                         std::vector<std::byte>& out) {
  if (cells.empty()) return FailedPrecondition("fake cache: layer {} has no such place", layer);
  ASSIGN_OR_RETURN(const auto cache, CacheOfOneBlock(layer));
  std::memcpy(cache->keys(layer, BlockId{0}), cells.data(), kBlockBytes);
  ExportImage(*cache, layer, BlockId{0}, id, out);
  return absl::OkStatus();
}

absl::StatusOr<int64_t> ImportCells(LayerId layer, std::span<uint64_t> cells, const ImageId& id,
                                    std::span<const std::byte> image) {
  if (cells.empty()) return FailedPrecondition("fake cache: layer {} has no such place", layer);
  ASSIGN_OR_RETURN(const auto cache, CacheOfOneBlock(layer));
  ASSIGN_OR_RETURN(const int64_t bytes, ImportImage(*cache, layer, BlockId{0}, id, image));
  std::memcpy(cells.data(), cache->keys(layer, BlockId{0}), kBlockBytes);
  return bytes;
}

/// The only kind that a FakeSession is given.
class FakeCache final : public BackendCache {
 public:
  bool has(LayerId layer) const override { return cells.contains(layer); }
  void trim(int blocks, int) override {
    for (auto& [layer, values] : cells) {
      values.resize(std::min(values.size(), static_cast<size_t>(blocks) * size_t{kBlockPositions}));
    }
  }

  absl::Status export_image(LayerId layer, const CachePlace& place, const ImageId& id,
                            std::vector<std::byte>& out) const override {
    const auto found = cells.find(layer);
    const auto held = found == cells.end() ? std::span<const uint64_t>() : std::span(found->second);
    return ExportCells(layer, CellsOf(held, place), id, out);
  }

  std::map<LayerId, std::vector<uint64_t>> cells;  ///< [blocks][kBlockPositions]
};

/// What history adds to a draw: how often each id came in the prompt, and in the text behind it.
uint64_t HistoryHash(const TokenHistory& history) {
  uint64_t sum = 0;  // In any order.
  for (const auto& [id, counts] : history.counts()) {
    sum += Hash({Unsigned(id), Unsigned(counts.prompt), Unsigned(counts.generated)});
  }
  return sum;
}

/// The token at draw.position, behind a row of this hash; -1 where the mask allows none.
int32_t DrawToken(const ModelSpec& spec, uint64_t row, const TokenDraw& draw) {
  const auto vocabulary = static_cast<int32_t>(spec.vocabulary);
  if (draw.params.temperature != 0) {
    const uint64_t drawn =
        Hash({row, draw.params.seed, draw.params.choice, Unsigned(draw.position), HistoryHash(draw.history)});
    return NextAllowed(static_cast<int32_t>(drawn % Unsigned(vocabulary)), vocabulary, draw.mask);
  }
  std::vector<float> logits(static_cast<size_t>(vocabulary));
  FillLogits(row, logits);
  return Largest(logits, draw.mask);
}

class FakeSession final : public BackendSession {
 public:
  FakeSession(const BackendLoad& load, const BackendSessionOptions& options, int64_t logit_rows)
      : load_(load), spec_(load.weights->spec()), blocks_(options.blocks), logit_rows_(logit_rows) {
    const Range layers = load.stage.layers;
    cache_.resize(static_cast<size_t>((layers.end - layers.begin) * blocks_ * kBlockPositions));
  }

  absl::Status embed(std::span<const int32_t> tokens, MatView<float> x) override {
    SHOAL_CHECK(load_.stage.embed && x.cols == spec_.width && x.rows == std::ssize(tokens));
    for (size_t t = 0; t < tokens.size(); ++t) Embed(tokens[t], x.row(static_cast<int64_t>(t)), x.cols);
    return absl::OkStatus();
  }

  absl::Status forward(const StageStep& step, MatView<float> x) override {
    SHOAL_CHECK(x.cols == spec_.width);
    for (int64_t i = load_.stage.layers.begin; i < load_.stage.layers.end; ++i) {
      const LayerId layer{static_cast<int32_t>(i)};
      if (step.before_layer) RETURN_IF_ERROR(step.before_layer(layer));
      for (const StepSlice& slice : step.slices) mix(layer, slice, x);
      if (const MoeSpec* moe = MoeOf(spec_.layers[static_cast<size_t>(i)])) {
        RETURN_IF_ERROR(Annotate(add_experts(layer, *moe, step, x), fmt::format("layer {}", i)));
      }
      if (step.after_layer) step.after_layer(layer, x);
    }
    return absl::OkStatus();
  }

  absl::Status export_cached(const CachePlace& place, const ImageId& id,
                             std::vector<std::byte>& out) override {
    for (int64_t i = load_.stage.layers.begin; i < load_.stage.layers.end; ++i) {
      const std::span<const uint64_t> cells = cells_of(i);
      RETURN_IF_ERROR(ExportCells(LayerId{static_cast<int32_t>(i)}, CellsOf(cells, place), id, out));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<int64_t> import_image(LayerId layer, const CachePlace& place, const ImageId& id,
                                       std::span<const std::byte> image) override {
    const bool here = load_.stage.layers.contains(layer.value);
    return ImportCells(layer, here ? CellsOf(cells_of(layer.value), place) : std::span<uint64_t>(), id,
                       image);
  }

  std::unique_ptr<BackendCache> release_cache() override {
    const Range layers = load_.stage.layers;
    if (layers.empty()) return nullptr;
    auto cache = std::make_unique<FakeCache>();
    for (int64_t i = layers.begin; i < layers.end; ++i) {
      const std::span<const uint64_t> cells = cells_of(i);
      cache->cells[LayerId{static_cast<int32_t>(i)}].assign(cells.begin(), cells.end());
    }
    return cache;
  }

  std::vector<LayerId> adopt_cache(BackendCache& cache) override {
    auto& old = static_cast<FakeCache&>(cache).cells;
    std::vector<LayerId> taken;
    for (int64_t i = load_.stage.layers.begin; i < load_.stage.layers.end; ++i) {
      const auto from = old.extract(LayerId{static_cast<int32_t>(i)});
      if (from.empty()) continue;
      const std::span<uint64_t> to = cells_of(i);
      std::copy_n(from.mapped().begin(), std::min(from.mapped().size(), to.size()), to.begin());
      taken.push_back(from.key());
    }
    return taken;
  }

  absl::Status head(MatView<const float> x, int64_t first) override {
    SHOAL_CHECK(load_.stage.head && first >= 0 && first + x.rows <= logit_rows_);
    kept_.resize(std::max(kept_.size(), static_cast<size_t>(first + x.rows)));
    for (int64_t r = 0; r < x.rows; ++r) kept_[static_cast<size_t>(first + r)] = HashOf(x.row(r), x.cols);
    return absl::OkStatus();
  }

  absl::StatusOr<SampledToken> sample(int64_t row, const TokenDraw& draw) override {
    const SampledToken token{.id = DrawToken(spec_, kept_.at(static_cast<size_t>(row)), draw)};
    if (token.id < 0) return InvalidArgument("the mask allows no token");
    return token;
  }

  absl::StatusOr<SampledToken> score(int64_t row, const TokenScore& asked) override {
    const uint64_t hash = kept_.at(static_cast<size_t>(row));
    return SampledToken{.id = asked.id, .logprob = -static_cast<float>(1 + (hash + Unsigned(asked.id)) % 97)};
  }

  absl::Status read_hidden(MatView<const float> x, MatView<float> hidden) override {
    for (int64_t r = 0; r < x.rows; ++r) std::copy_n(x.row(r), x.cols, hidden.row(r));
    return absl::OkStatus();
  }

  absl::Status read_logits(MatView<const float> x, MatView<float> logits) override {
    for (int64_t r = 0; r < x.rows; ++r) {
      FillLogits(HashOf(x.row(r), x.cols), {logits.row(r), static_cast<size_t>(logits.cols)});
    }
    return absl::OkStatus();
  }

  bool holds(LayerId layer, ExpertId expert) const override {
    return std::ranges::binary_search(load_.experts.at(static_cast<size_t>(layer.value)), expert);
  }

  absl::Status run_experts(LayerId layer, const ExpertRows& rows, std::span<const ExpertCall> calls,
                           MatView<int64_t> acc) override {
    for (const ExpertCall& call : calls) {
      RETURN_IF_ERROR(check(layer, call.expert, rows));
      const uint64_t row = HashOf(rows.x.row(call.row), rows.x.cols);
      for (int64_t c = 0; c < acc.cols; ++c) {
        acc.at(call.row, c) += FixedFromFloat(call.weight * ExpertValue(row, layer, call.expert, c));
      }
    }
    return absl::OkStatus();
  }

  absl::Status run_expert(LayerId layer, ExpertId expert, const ExpertRows& rows, MatView<float> y) override {
    RETURN_IF_ERROR(check(layer, expert, rows));
    for (int64_t r = 0; r < y.rows; ++r) {
      const uint64_t row = HashOf(rows.x.row(r), rows.x.cols);
      for (int64_t c = 0; c < y.cols; ++c) y.at(r, c) = ExpertValue(row, layer, expert, c);
    }
    return absl::OkStatus();
  }

  void add_sums(MatView<const int64_t> acc, MatView<float> y) override {
    for (int64_t r = 0; r < y.rows; ++r) {
      for (int64_t c = 0; c < y.cols; ++c) y.at(r, c) += FloatFromFixed(acc.at(r, c));
    }
  }

  int64_t kv_saturated() const override { return 0; }
  int64_t scratch_bytes() const override { return 0; }

 private:
  std::span<uint64_t> cells_of(int64_t layer) {
    const auto each = static_cast<size_t>(blocks_ * kBlockPositions);
    return std::span(cache_).subspan(static_cast<size_t>(layer - load_.stage.layers.begin) * each, each);
  }

  uint64_t& cached(LayerId layer, const StepSlice& slice, int64_t position) {
    const BlockId block = slice.blocks[static_cast<size_t>(position / kBlockPositions)];
    SHOAL_CHECK(block.value >= 0 && block.value < blocks_);
    const int64_t at = (layer.value - load_.stage.layers.begin) * blocks_ + block.value;
    return cache_.at(static_cast<size_t>(at * kBlockPositions + position % kBlockPositions));
  }

  void mix(LayerId layer, const StepSlice& slice, MatView<float> x) {
    for (int64_t i = 0; i < slice.rows; ++i) {
      float* row = x.row(slice.row_begin + i);
      const int64_t position = slice.position + i;
      const uint64_t before = position == 0 ? 0 : cached(layer, slice, position - 1);
      const uint64_t mixed = Hash({HashOf(row, x.cols), before});
      cached(layer, slice, position) = mixed;
      Fill(mixed, row, x.cols);
    }
  }

  absl::Status add_experts(LayerId layer, const MoeSpec& moe, const StageStep& step, MatView<float> x) {
    std::vector<int32_t> ids;
    for (int64_t t = 0; t < x.rows; ++t) {
      for (int64_t k = 0; k < moe.top_k; ++k) {
        ids.push_back(ExpertOf(moe, HashOf(x.row(t), x.cols), k).value);
      }
    }
    const std::vector<float> ones(ids.size(), 1.0f);
    const Routing routing{MatView<const int32_t>(ids.data(), x.rows, moe.top_k),
                          MatView<const float>(ones.data(), x.rows, moe.top_k)};
    if (step.on_routing) step.on_routing(layer, routing);
    std::vector<float> sums(static_cast<size_t>(x.rows * x.cols));
    const MatView<float> y(sums.data(), x.rows, x.cols);
    ASSIGN_OR_RETURN(const ExpertExchange::Ticket ticket,
                     step.experts->dispatch(layer, {.x = x, .quantized = nullptr}, routing));
    RETURN_IF_ERROR(step.experts->combine(ticket, y));
    for (int64_t t = 0; t < x.rows; ++t) {
      for (int64_t c = 0; c < x.cols; ++c) x.at(t, c) += y.at(t, c);
    }
    return absl::OkStatus();
  }

  absl::Status check(LayerId layer, ExpertId expert, const ExpertRows& rows) const {
    if (!holds(layer, expert)) {
      return FailedPrecondition("layer {}: expert {} is not held here; the asker's plan is another", layer,
                                expert);
    }
    if (rows.x.data != nullptr) return absl::OkStatus();
    return InvalidArgument("layer {}: rows come quantized, its experts take f32", layer);
  }

  const BackendLoad& load_;
  const ModelSpec& spec_;
  const int64_t blocks_;
  const int64_t logit_rows_;
  std::vector<uint64_t> cache_;  // [layers held][blocks][kBlockPositions]
  std::vector<uint64_t> kept_;   // Of each row of head(): its hash.
};

class FakeModel final : public BackendModel {
 public:
  FakeModel(const Backend& backend, BackendLoad load) : backend_(backend), load_(std::move(load)) {}

  const ModelSpec& spec() const override { return load_.weights->spec(); }
  int64_t bytes() const override { return 0; }
  int64_t expert_count() const override {
    int64_t count = 0;
    for (const std::vector<ExpertId>& ids : load_.experts) count += std::ssize(ids);
    return count;
  }
  bool from_cache() const override { return false; }
  int64_t cached_bytes() const override { return 0; }
  void finish_saving() override {}

  absl::StatusOr<std::unique_ptr<BackendSession>> open(const BackendSessionOptions& options) override {
    RETURN_IF_ERROR(CheckOptions(backend_, options));
    return std::make_unique<FakeSession>(load_, options, backend_.limits().logit_rows);
  }

 private:
  const Backend& backend_;
  const BackendLoad load_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<BackendModel>> FakeBackend::load(const BackendLoad& load) {
  RETURN_IF_ERROR(CheckTaken(*this, load));
  if (options_.before_load) RETURN_IF_ERROR(options_.before_load(load));
  if (load.progress) load.progress(1, 1);
  return std::make_unique<FakeModel>(*this, load);
}

std::vector<int32_t> FakeGreedy(const ModelSpec& spec, std::vector<int32_t> prompt, int count) {
  return FakeText(spec, std::move(prompt), count, {.sampling = {.temperature = 0}, .mask = {}});
}

std::vector<int32_t> FakeText(const ModelSpec& spec, std::vector<int32_t> prompt, int count,
                              const FakeDraw& draw) {
  const auto prompt_tokens = std::ssize(prompt);
  std::vector<int32_t> generated;
  std::vector<uint64_t> before(spec.layers.size(), 0);  // Of the position before, by layer.
  std::vector<float> row(static_cast<size_t>(spec.width));
  for (size_t position = 0; std::ssize(generated) < count; ++position) {
    Embed(prompt[position], row.data(), spec.width);
    for (size_t i = 0; i < spec.layers.size(); ++i) {
      before[i] = Hash({HashOf(row.data(), spec.width), before[i]});
      Fill(before[i], row.data(), spec.width);
      const MoeSpec* moe = MoeOf(spec.layers[i]);
      if (moe == nullptr) continue;
      const uint64_t hash = HashOf(row.data(), spec.width);
      for (int64_t k = 0; k < moe->top_k; ++k) {
        for (int64_t c = 0; c < spec.width; ++c) {
          row[static_cast<size_t>(c)] +=
              ExpertValue(hash, LayerId{static_cast<int32_t>(i)}, ExpertOf(*moe, hash, k), c);
        }
      }
    }
    if (position + 1 < prompt.size()) continue;
    const std::vector<uint32_t> mask = draw.mask ? draw.mask(generated) : std::vector<uint32_t>();
    const TokenHistory history(prompt, prompt_tokens);
    const int32_t token = DrawToken(spec, HashOf(row.data(), spec.width),
                                    {draw.sampling, history, static_cast<int64_t>(position) + 1, mask});
    generated.push_back(token);
    prompt.push_back(token);
  }
  return generated;
}

}  // namespace shoal
