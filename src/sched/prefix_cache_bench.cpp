// What the scheduler's thread pays for the prefix cache.
#include <benchmark/benchmark.h>

#include <span>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/random.h"
#include "sched/prefix_cache.h"

namespace shoal {
namespace {

/// `count` sequences of `tokens` random tokens each, all cached: one after the other, or in blocks that lie
/// anywhere.
struct Filled {
  Filled(int count, int64_t tokens, bool scattered)
      : blocks(static_cast<int>(count * BlocksFor(tokens))), slots(0), cache({}, blocks, slots) {
    RandomStream random(1);
    std::vector<BlockId> ids = *blocks.allocate(blocks.total());
    for (size_t i = ids.size(); scattered && i > 1; --i) std::swap(ids[i - 1], ids[random.below(i)]);
    size_t next = 0;
    for (int s = 0; s < count; ++s) {
      std::vector<int32_t> sequence(static_cast<size_t>(tokens / kBlockPositions * kBlockPositions));
      for (int32_t& token : sequence) token = static_cast<int32_t>(random.below(150'000));
      std::vector<BlockId> own;
      PrefixPlace at = cache.root(false);
      for (size_t begin = 0; begin < sequence.size(); begin += kBlockPositions) {
        own.push_back(ids[next++]);
        at = *cache.add(at, std::span(sequence).subspan(begin, kBlockPositions), own.back());
      }
      cache.give_back(own, at);
      sequences.push_back(std::move(sequence));
    }
  }
  int64_t find(const std::vector<int32_t>& tokens) {
    PrefixPlace at = cache.root(false);
    int64_t found = 0;
    for (size_t begin = 0; begin + kBlockPositions <= tokens.size(); begin += kBlockPositions, ++found) {
      const auto next = cache.next(at, std::span(tokens).subspan(begin, kBlockPositions));
      if (!next.has_value()) break;
      at = *next;
    }
    return found;
  }

  BlockPool blocks;
  SlotPool slots;
  PrefixCache cache;
  std::vector<std::vector<int32_t>> sequences;
};

/// Looks up sequences of 10,000 tokens in turn: with one, all of it is in the processor's caches; with many,
/// little.
void FindTenThousandTokens(benchmark::State& state) {
  Filled filled(static_cast<int>(state.range(0)), 10'000, state.range(1) != 0);
  size_t turn = 0;
  for (auto _ : state) {
    const std::vector<int32_t>& tokens = filled.sequences[turn++ % filled.sequences.size()];
    const int64_t found = filled.find(tokens);
    SHOAL_CHECK_EQ(found, std::ssize(tokens) / kBlockPositions);
  }
  state.counters["bytes/token"] = static_cast<double>(filled.cache.bytes()) /
                                  static_cast<double>(filled.blocks.total() * kBlockPositions);
}
BENCHMARK(FindTenThousandTokens)
    ->ArgNames({"sequences", "scattered"})
    ->ArgsProduct({{1, 8, 100}, {0, 1}})
    ->Unit(benchmark::kMicrosecond);

/// As above, but each block is found by its key: many sequences branch off everywhere.
void HashTenThousandTokens(benchmark::State& state) {
  const std::vector<int32_t> tokens(10'000);
  for (auto _ : state) {
    BlockKey key;
    for (size_t begin = 0; begin + kBlockPositions <= tokens.size(); begin += kBlockPositions) {
      key = KeyAfter(key, std::span(tokens).subspan(begin, kBlockPositions));
    }
    benchmark::DoNotOptimize(key);
  }
}
BENCHMARK(HashTenThousandTokens)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace shoal
