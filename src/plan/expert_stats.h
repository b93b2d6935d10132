// How the routed experts of a model were used: counted while it was served, kept in a file, read by the planner.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "plan/facts.h"

namespace shoal {

/// The use of one layer's experts.
struct LayerUse {
  int32_t top_k = 0;  ///< K, experts per row; 0: nothing was counted, and the lists are empty.
  std::vector<uint64_t>
      rows;  ///< [E]: rows that were routed to each expert, of prompts and of generated tokens.
  /// [N, K]: the experts of single rows, distinct and ascending within a row; where a row has fewer than K, the rest is
  /// kNoneSampled. Which experts are used together is read from these; they are a sample, evenly spread over all rows as
  /// far as memory allows.
  std::vector<uint16_t> sample;
  static constexpr uint16_t kNoneSampled = UINT16_MAX;

  int64_t sampled() const { return top_k == 0 ? 0 : std::ssize(sample) / top_k; }
  /// Row r of the sample, K ids.
  const uint16_t* row(int64_t r) const { return sample.data() + r * top_k; }
  /// Those of them that are experts.
  std::span<const uint16_t> experts(int64_t r) const {
    const uint16_t* const begin = row(r);
    return {begin, std::find(begin, begin + top_k, kNoneSampled)};
  }
  /// What `rows` sum up to.
  uint64_t calls() const;
  bool operator==(const LayerUse&) const = default;
};

/// How often two experts were in the same sampled row: [E, E], symmetric, with 0 on the diagonal.
class UsedTogether {
 public:
  explicit UsedTogether(const LayerUse& use);
  int64_t of(int32_t a, int32_t b) const {
    return counts_[static_cast<size_t>(a) * experts_ + static_cast<size_t>(b)];
  }

 private:
  size_t experts_;
  std::vector<int32_t> counts_;
};

/// The use of a model's experts.
struct ExpertStats {
  std::string model_hash;        ///< As ModelFacts::hash.
  std::vector<LayerUse> layers;  ///< [L]; empty uses for dense layers.

  bool empty() const;
  bool operator==(const ExpertStats&) const = default;
};

/// Rows of a layer's sample at most: with 128 experts and 8 per row each expert is in about 128 of them.
inline constexpr int64_t kSampledRowsMax = 2048;
inline constexpr int32_t kExpertsPerRowMax = 256;  ///< K at most.

/// Nothing counted so far.
ExpertStats NoUse(const ModelFacts& model);

/// That `use` can be of this layer: as many experts, ids below E, distinct and ascending. InvalidArgument otherwise.
absl::Status CheckUse(const LayerUse& use, const LayerFacts& layer);

/// Adds what was counted meanwhile. A full sample takes new rows in the place of others, chosen by a fixed sequence, so
/// that it forgets the oldest use. Both must be of the same layer (CheckUse).
void AddUse(const LayerUse& more, LayerUse& use);

/// The text of the file.
std::string ExpertStatsToJson(const ExpertStats& stats);

/// Reads that text, of at most 64 MiB. InvalidArgument, where it is damaged, names the place or the checksum.
absl::StatusOr<ExpertStats> ExpertStatsFromJson(std::string_view text);

/// Reads the file. NotFound: there is none. InvalidArgument: it is damaged. FailedPrecondition: it is of another model,
/// which it names.
absl::StatusOr<ExpertStats> ReadExpertStats(const std::string& path, const ModelFacts& model);

}  // namespace shoal
