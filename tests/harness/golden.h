// Goldens: what the reference implementation gives for a checkpoint, and how near an implementation comes.
// Whoever runs the model (stages alone, an engine over a cluster) is a GoldenSubject.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace shoal {

/// expect.safetensors of a golden folder (tests/goldens).
struct Golden {
  std::vector<int32_t> prompt;  ///< [48]
  std::vector<float> logits;    ///< [48, V]
  std::vector<int32_t> greedy;  ///< [24]
  std::map<int32_t, std::vector<int32_t>>
      router;                        ///< By layer: [48, K]; the order within a row means nothing.
  std::vector<int32_t> long_prompt;  ///< [300]
  std::vector<float> long_logits;    ///< [4, V], of the last rows.
  std::vector<int32_t> long_greedy;  ///< [24]
  int64_t vocabulary = 0;
};

/// NotFound or InvalidArgument where the file or one of its tensors is missing or odd: a golden that cannot
/// be read fails.
absl::StatusOr<Golden> LoadGolden(const std::string& folder);

/// What a model gives for a prompt.
struct ModelRun {
  std::vector<float> logits;                       ///< [T, V] of the prompt's rows.
  std::vector<int32_t> greedy;                     ///< The greedy continuation that was asked for.
  std::map<int32_t, std::vector<int32_t>> router;  ///< By MoE layer: [T, K] of the prompt's rows.
};
/// Runs `prompt` in a new sequence, then continues it greedily for `greedy` tokens.
using GoldenSubject = std::function<absl::StatusOr<ModelRun>(std::span<const int32_t> prompt, int greedy)>;

/// Distance of two sets of logits.
struct LogitsDistance {
  double max_abs = 0;
  double mean_kl = 0;  ///< KL(reference || got), nats per row.
  double top1 = 0;     ///< Fraction of rows with the same argmax.
};
LogitsDistance CompareLogits(std::span<const float> reference, std::span<const float> got,
                             int64_t vocabulary);

/// Fraction of rows that chose the same experts, over all layers of the golden; 1 where it has none.
double SameRouting(const std::map<int32_t, std::vector<int32_t>>& reference,
                   const std::map<int32_t, std::vector<int32_t>>& got, int64_t rows);

/// A subject against a golden, both prompts.
struct GoldenReport {
  LogitsDistance prompt, long_prompt;
  double same_routing = 0;
  bool greedy_equal = false;
  bool long_greedy_equal = false;
  /// "max 1.2e-05, mean KL 3.1e-12, top-1 1.000, routing 1.000, greedy equal; long: ..."
  std::string to_string() const;
};
absl::StatusOr<GoldenReport> CompareWithGolden(const Golden& golden, const GoldenSubject& subject);

/// Index of the largest logit, ties to the lowest.
int32_t Argmax(std::span<const float> logits);

/// The golden folders of a family, absolute. Listed, not searched: a missing one must fail. Those in
/// tests/goldens always; the others lie beside the repository (../shared/goldens), where there is that.
struct GoldenCases {
  std::vector<std::string> here;    ///< tests/goldens/models/<family>/<case>
  std::vector<std::string> beside;  ///< ../shared/goldens/models/<family>/<case>
};
GoldenCases GoldenFolders(const std::string& family);

/// Whether there is a ../shared/goldens. Without it a test skips what is `beside`, and says so.
bool GoldensBesideExist();

/// Absolute path of a path relative to the repository.
std::string RepositoryPath(const std::string& relative);

}  // namespace shoal
