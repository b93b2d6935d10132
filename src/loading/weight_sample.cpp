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

absl::StatusOr<std::vector<WeightSample>> SampleWeights(const Checkpoint& checkpoint, const ModelSpec& spec,
                                                        absl::FunctionRef<bool(const WeightUse&)> holds) {
  ASSIGN_OR_RETURN(const WeightLoader loader, WeightLoader::Create(checkpoint));
  int64_t held[2] = {};  // Others, experts.
  ForEachWeight(spec, [&](const WeightUse& use) { held[IsExpert(use)] += holds(use) ? 1 : 0; });
  Picker pickers[2];
  for (const int i : {0, 1})
    pickers[i].run = std::max<int64_t>(1, (held[i] + kWeightSamplesMax - 1) / kWeightSamplesMax);

  std::vector<WeightSample> samples;
  absl::Status status;
  int64_t weight = -1;
  ForEachWeight(spec, [&](const WeightUse& use) {
    ++weight;
    if (!status.ok() || !holds(use) || !pickers[IsExpert(use)].takes_next()) return;
    const absl::StatusOr<StoredWeight> stored = loader.find(use.ref);
    status = stored.status();
    if (!status.ok() || stored->absent) return;
    samples.push_back({weight, loader.row_hash(*stored, stored->rows / 2), stored->source->name()});
  });
  RETURN_IF_ERROR(status);
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
