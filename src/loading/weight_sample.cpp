#include "loading/weight_sample.h"

#include <algorithm>

#include "base/status.h"
#include "formats/content_hash.h"
#include "loading/weight_loader.h"

namespace shoal {
namespace {

/// Takes one of every `run` weights that come.
struct Picker {
  int64_t run = 1;
  int64_t seen = 0;

  bool takes_next() {
    const int64_t index = seen++;
    const int64_t begin = index / run * run;
    const uint64_t random = ContentHash(std::as_bytes(std::span(&begin, 1)));
    return index - begin == static_cast<int64_t>(random % static_cast<uint64_t>(run));
  }
};

bool IsExpert(const WeightUse& use) { return use.expert >= 0; }

}  // namespace

std::vector<WeightSample> SampleWeights(const ResolvedWeights& weights,
                                        absl::FunctionRef<bool(const WeightUse&)> holds) {
  const WeightLoader loader(weights);
  int64_t held[2] = {};  // Others, experts.
  for (const ResolvedWeight& weight : weights.all()) held[IsExpert(weight.use)] += holds(weight.use) ? 1 : 0;
  Picker pickers[2];
  for (const int i : {0, 1})
    pickers[i].run = std::max<int64_t>(1, (held[i] + kWeightSamplesMax - 1) / kWeightSamplesMax);

  std::vector<WeightSample> samples;
  int64_t place = -1;
  for (const auto& [use, stored, packed_bytes] : weights.all()) {
    ++place;
    if (!holds(use) || !pickers[IsExpert(use)].takes_next() || stored.absent) continue;
    samples.push_back({place, loader.row_hash(stored, stored.rows / 2), stored.source->name()});
  }
  return samples;
}

absl::Status CompareSamples(std::span<const WeightSample> expected, std::span<const WeightSample> found) {
  auto at = found.begin();
  for (const WeightSample& sample : expected) {
    at = std::ranges::lower_bound(at, found.end(), sample.weight, {}, &WeightSample::weight);
    if (at == found.end()) break;
    if (at->weight != sample.weight || at->hash == sample.hash) continue;
    return FailedPrecondition(
        "tensor '{}' holds other numbers: expected a row with hash {:016x}, found {:016x}", at->name,
        sample.hash, at->hash);
  }
  return absl::OkStatus();
}

}  // namespace shoal
