// Attention to picked positions is attention over a cache that holds nothing else, and reads nothing else.
#include "compute/blocks/picked_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "base/random.h"
#include "cpu/pool.h"
#include "kernels/test_data.h"
#include "kv/block_pool.h"

namespace shoal {
namespace {

/// A cache of one sequence, whose blocks lie in descending order, where every position is NaN that was not put there.
class Sequence {
 public:
  Sequence(const AttentionHeads& heads, DType dtype, int64_t positions)
      : cache_(MakeCache(BlocksOf(positions), heads.kv_heads, heads.head_dim, dtype)) {
    for (int64_t b = BlocksOf(positions); b > 0; --b) blocks_.push_back(BlockId{static_cast<int32_t>(b - 1)});
  }

  const KvLayerView& view() const { return cache_.view; }
  const BlockId* blocks() const { return blocks_.data(); }

  void put(int64_t position, const std::vector<float>& key, const std::vector<float>& value) {
    SelectKernels(Isa::kReference)
        .append_kv({.cache = cache_.view,
                    .block = blocks_[static_cast<size_t>(position / kBlockPositions)],
                    .position = position,
                    .key = key.data(),
                    .value = value.data(),
                    .kv_heads = {0, cache_.view.kv_heads}});
  }

 private:
  static int64_t BlocksOf(int64_t positions) { return (positions + kBlockPositions - 1) / kBlockPositions; }
  CacheStorage cache_;
  std::vector<BlockId> blocks_;
};

class PickedAttention : public testing::TestWithParam<DType> {
 protected:
  PickedAttention() : pool_(3) {
    context_.kernels = &SelectKernels(SupportedIsas().back());
    context_.pool = &pool_;
    context_.arena = &arena_;
  }

  ThreadPool pool_;
  Arena arena_;
  ComputeContext context_;
  RandomStream random_{21};
};

/// `count` of [0, size), ascending.
std::vector<int32_t> SomeOf(RandomStream& random, int64_t size, size_t count) {
  std::vector<int32_t> all(static_cast<size_t>(size));
  std::iota(all.begin(), all.end(), 0);
  for (size_t i = 0; i < count; ++i) {
    std::swap(all[i], all[i + random.below(static_cast<uint64_t>(size) - i)]);
  }
  all.resize(count);
  std::ranges::sort(all);
  return all;
}

TEST_P(PickedAttention, ToLatentsIsThatOverACacheOfThePicksAlone) {
  constexpr int64_t kLatent = 40, kRotated = 12, kPositions = 1300, kPickedRows = 5;
  const AttentionHeads heads{.heads = 9, .kv_heads = 1, .head_dim = 64, .scale = 0.3f};
  for (const size_t count : {1u, 31u, 32u, 600u}) {
    std::vector<std::vector<int32_t>> picks;
    std::vector<const int32_t*> picked;
    for (int64_t r = 0; r < kPickedRows; ++r) picks.push_back(SomeOf(random_, kPositions, count));
    for (const auto& each : picks) picked.push_back(each.data());
    Sequence whole(heads, GetParam(), kPositions);
    std::vector<Sequence> compact;
    for (int64_t r = 0; r < kPickedRows; ++r)
      compact.emplace_back(heads, GetParam(), static_cast<int64_t>(count));
    for (int64_t p = 0; p < kPositions; ++p) {
      std::vector<float> value = RandomFloats(random_, 64);
      std::fill(value.begin() + kLatent + kRotated, value.end(), 0.0f);
      std::vector<float> key(64, 0.0f);
      std::copy_n(value.begin() + kLatent, kRotated, key.begin());
      std::copy_n(value.begin(), kLatent, key.begin() + kRotated);
      bool any = false;
      for (size_t r = 0; r < picks.size(); ++r) {
        const auto at = std::ranges::find(picks[r], static_cast<int32_t>(p)) - picks[r].begin();
        if (at == std::ssize(picks[r])) continue;
        any = true;
        compact[r].put(at, key, value);
      }
      // Its key is not looked at, and nothing of other positions.
      if (any) whole.put(p, std::vector<float>(64, std::numeric_limits<float>::quiet_NaN()), value);
    }
    const std::vector<float> queries = RandomFloats(random_, kPickedRows * 9 * 64);
    std::vector<float> got(queries.size()), expected(queries.size());
    std::vector<AttentionRow> rows, alone;
    for (int64_t r = 0; r < kPickedRows; ++r) {
      const float* const query = queries.data() + r * 9 * 64;
      const Range seen{0, static_cast<int64_t>(count)};
      rows.push_back({query, got.data() + r * 9 * 64, whole.blocks(), seen});
      alone.push_back({query, expected.data() + r * 9 * 64, compact[static_cast<size_t>(r)].blocks(), seen});
    }
    AttendLatentsPicked(context_, heads, whole.view(), {.latent = kLatent, .rotated = kRotated}, rows,
                        picked);
    for (size_t r = 0; r < alone.size(); ++r) heads.attend(context_, compact[r].view(), {&alone[r], 1});
    EXPECT_EQ(Bits(got), Bits(expected)) << count;
  }
}

TEST_P(PickedAttention, ToLatentsOfMoreRowsThanAreCopiedAtOnceIsThatOfEachAlone) {
  constexpr int64_t kPositions = 2048, kCount = 2000;
  const AttentionHeads heads{.heads = 1, .kv_heads = 1, .head_dim = 576, .scale = 0.1f};
  Sequence whole(heads, GetParam(), kPositions);
  for (int64_t p = 0; p < kPositions; ++p)
    whole.put(p, RandomFloats(random_, 576), RandomFloats(random_, 576));
  const int64_t bytes_of_row = 2 * BlocksFor(kCount) * KvBlockBytes(1, 576, GetParam());
  const int64_t count = (int64_t{32} << 20) / bytes_of_row * 2 + 1;  // Three times what is copied at once.
  const std::vector<float> queries = RandomFloats(random_, count * 576);
  std::vector<float> got(queries.size()), expected(queries.size());
  std::vector<AttentionRow> rows, alone;
  std::vector<std::vector<int32_t>> picks;
  std::vector<const int32_t*> picked;
  for (int64_t r = 0; r < count; ++r) {
    picks.push_back(SomeOf(random_, kPositions, kCount));
    rows.push_back({queries.data() + r * 576, got.data() + r * 576, whole.blocks(), {0, kCount}});
    alone.push_back({queries.data() + r * 576, expected.data() + r * 576, whole.blocks(), {0, kCount}});
  }
  for (const auto& each : picks) picked.push_back(each.data());
  const LatentRows layout{.latent = 512, .rotated = 64};
  AttendLatentsPicked(context_, heads, whole.view(), layout, rows, picked);
  for (size_t r = 0; r < rows.size(); ++r) {
    AttendLatentsPicked(context_, heads, whole.view(), layout, {&alone[r], 1}, {&picked[r], 1});
  }
  EXPECT_EQ(Bits(got), Bits(expected));
}

/// A row of a step that attends to blocks, in plain words.
std::vector<double> PlainAttention(const AttentionHeads& heads, const std::vector<std::vector<float>>& keys,
                                   const std::vector<std::vector<float>>& values, const float* query,
                                   const std::vector<std::vector<bool>>& seen) {
  const int64_t group = heads.heads / heads.kv_heads;
  std::vector<double> out;
  for (int64_t h = 0; h < heads.heads; ++h) {
    const int64_t kv = h / group;
    double sum = 0;
    std::vector<double> total(static_cast<size_t>(heads.head_dim), 0.0);
    for (size_t p = 0; p < keys.size(); ++p) {
      if (!seen[static_cast<size_t>(kv)][p]) continue;
      double score = 0;
      for (int64_t d = 0; d < heads.head_dim; ++d) {
        score +=
            double{query[h * heads.head_dim + d]} * keys[p][static_cast<size_t>(kv * heads.head_dim + d)];
      }
      const double weight = std::exp(score * heads.scale);
      sum += weight;
      for (int64_t d = 0; d < heads.head_dim; ++d) {
        total[static_cast<size_t>(d)] += weight * values[p][static_cast<size_t>(kv * heads.head_dim + d)];
      }
    }
    for (const double value : total) out.push_back(value / sum);
  }
  return out;
}

TEST_P(PickedAttention, ToBlocksIsThatOfTheirPositionsAndReadsNoOthers) {
  constexpr int64_t kPickedRows = 3;
  const AttentionHeads heads{.heads = 6, .kv_heads = 2, .head_dim = 16, .scale = 0.2f};
  for (const int64_t size : {4, 32, 128, 512, 1024}) {
    const int64_t blocks = 7, end = 6 * size + size / 2 + 1;
    Sequence cache(heads, GetParam(), end);
    // Rows at the last position; each head picks its own block and two others.
    std::vector<int32_t> picked;
    std::vector<std::vector<bool>> seen(kPickedRows * 2, std::vector<bool>(static_cast<size_t>(end), false));
    std::vector<bool> put(static_cast<size_t>(end), false);
    for (size_t r = 0; r < kPickedRows * 2; ++r) {
      std::vector<int32_t> some = SomeOf(random_, blocks - 1, 2);
      some.push_back(static_cast<int32_t>(blocks - 1));
      for (const int32_t block : some) {
        for (int64_t p = block * size; p < std::min((block + 1) * size, end); ++p) {
          seen[r][static_cast<size_t>(p)] = put[static_cast<size_t>(p)] = true;
        }
      }
      picked.insert(picked.end(), some.begin(), some.end());
    }
    std::vector<std::vector<float>> keys, values;
    for (int64_t p = 0; p < end; ++p) {
      // What the cache's dtype holds as it is.
      std::vector<float> key = RandomFloats(random_, 32), value = RandomFloats(random_, 32);
      for (auto* floats : {&key, &value}) {
        for (float& x : *floats) x = std::round(x * 8) / 8;
      }
      if (put[static_cast<size_t>(p)]) cache.put(p, key, value);
      keys.push_back(key);
      values.push_back(value);
    }
    const std::vector<float> queries = RandomFloats(random_, kPickedRows * 6 * 16);
    std::vector<float> got(queries.size());
    std::vector<AttentionRow> rows;
    for (int64_t r = 0; r < kPickedRows; ++r) {
      rows.push_back({queries.data() + r * 96, got.data() + r * 96, cache.blocks(), {0, end}});
    }
    AttendBlocksPicked(context_, heads, cache.view(), size, rows,
                       MatView<const int32_t>(picked.data(), kPickedRows * 2, 3));
    for (int64_t r = 0; r < kPickedRows; ++r) {
      const auto first = seen.begin() + 2 * r;
      const std::vector<double> expected =
          PlainAttention(heads, keys, values, queries.data() + r * 96, {first, first + 2});
      for (size_t i = 0; i < 96; ++i) {
        EXPECT_NEAR(got[static_cast<size_t>(r) * 96 + i], expected[i], 1e-5) << size << ", row " << r;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(DTypes, PickedAttention, testing::Values(DType::kF16, DType::kBF16, DType::kF32),
                         [](const auto& dtype) { return std::string(DTypeName(dtype.param)); });

}  // namespace
}  // namespace shoal
