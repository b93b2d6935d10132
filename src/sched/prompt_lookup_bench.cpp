// What the scheduler's thread pays for drafts.
#include <benchmark/benchmark.h>

#include <vector>

#include "base/random.h"
#include "sched/prompt_lookup.h"

namespace shoal {
namespace {

constexpr int64_t kAll = int64_t{1} << 30;

/// `tokens` tokens of `ids` ids; the last half repeats the first.
std::vector<int32_t> Repeating(int64_t tokens, uint64_t ids) {
  RandomStream random(1);
  std::vector<int32_t> text(static_cast<size_t>(tokens / 2));
  for (int32_t& token : text) token = static_cast<int32_t>(random.below(ids));
  text.insert(text.end(), text.begin(), text.begin() + tokens / 2);
  return text;
}

/// A whole prompt.
void IndexPrompt(benchmark::State& state) {
  const std::vector<int32_t> text = Repeating(state.range(0), 5000);
  for (auto _ : state) {
    PromptLookup lookup;
    lookup.extend(text, kAll);
    benchmark::DoNotOptimize(lookup);
  }
  state.SetItemsProcessed(state.iterations() * state.range(0));
}
BENCHMARK(IndexPrompt)->Arg(1000)->Arg(10'000)->Arg(100'000)->Unit(benchmark::kMicrosecond);

/// One token more and a draft of 16, at the end of a long text. Of few ids, every search compares all candidates.
void DraftAToken(benchmark::State& state) {
  const std::vector<int32_t> text = Repeating(100'000, static_cast<uint64_t>(state.range(0)));
  PromptLookup lookup;
  size_t end = text.size() / 2;
  lookup.extend(std::span(text).first(end), kAll);
  for (auto _ : state) {
    if (++end > text.size()) {
      state.PauseTiming();
      lookup = {};
      end = text.size() / 2;
      lookup.extend(std::span(text).first(end++), kAll);
      state.ResumeTiming();
    }
    lookup.extend(std::span(text).first(end), kAll);
    benchmark::DoNotOptimize(lookup.draft(std::span(text).first(end), 16));
  }
}
BENCHMARK(DraftAToken)->ArgName("ids")->Arg(5)->Arg(50)->Arg(5000);

}  // namespace
}  // namespace shoal
