// How many bytes a model takes and where: what planners, `shoal inspect` and memory checks read.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "loading/resolved_weights.h"

namespace shoal {

struct WeightBytes {
  int64_t parameters = 0;
  int64_t stored = 0;  ///< In the files.
  int64_t packed = 0;  ///< In memory, as the kernels read them (padding to tiles included).

  WeightBytes& operator+=(const WeightBytes& other);
  bool operator==(const WeightBytes&) const = default;
};

struct LayerFootprint {
  WeightBytes fixed;  ///< Everything but routed experts.
  WeightBytes
      feed_forward;  ///< Of `fixed`: gate, up and down of a dense layer or of a shared expert, which can have
                     ///< segments.
  std::vector<WeightBytes> experts;  ///< One per routed expert; empty for a dense layer.
  int64_t cached_values_per_position = 0;
  int64_t state_values = 0;  ///< f32, of one state of a sequence.
};

struct Footprint {
  WeightBytes embedding;
  /// Final norm and output head, also where it is tied: a last stage without the embedding holds it.
  WeightBytes head;
  std::vector<LayerFootprint> layers;
  WeightBytes mtp;                             ///< All of ModelSpec::mtp, routed experts included.
  WeightBytes total;                           ///< A tied head counts once.
  std::map<std::string, WeightBytes> by_role;  ///< "attention", "expert", ... (WeightUse::role); as total.
  std::map<std::string, WeightBytes>
      by_format;                            ///< "bf16", "4-bit groups of 64, bf16 scales", ...; as total.
  std::vector<std::string> unused_tensors;  ///< In the checkpoint, but behind no weight. Sorted.
  /// Tensors that the family knows and does not use, by what they are (ModelSpec::ignored_tensors): how many.
  std::map<std::string, int64_t> ignored_tensors;
};

Footprint MeasureFootprint(const ResolvedWeights& weights);

}  // namespace shoal
