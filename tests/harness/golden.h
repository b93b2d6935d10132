// Goldens: the outputs of the reference implementation for a checkpoint, and the distance of a GoldenSubject
// from them. A subject runs the model: stages alone, or an engine over a cluster.
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
  std::vector<int32_t> prompt;                     ///< [48]
  std::vector<float> logits;                       ///< [48, V]
  std::vector<int32_t> greedy;                     ///< [24]
  std::map<int32_t, std::vector<int32_t>> router;  ///< By layer: [48, K], in any order within a row.
  std::vector<int32_t> long_prompt;                ///< [300]
  std::vector<float> long_logits;                  ///< [4, V], of the last rows.
  std::vector<int32_t> long_greedy;                ///< [24]
  int64_t vocabulary = 0;
};

/// Returns NotFound or InvalidArgument if the file or one of its tensors is missing or wrong, so that a
/// golden that cannot be read fails its test.
absl::StatusOr<Golden> LoadGolden(const std::string& folder);

/// The outputs of a model for a prompt.
struct ModelRun {
  std::vector<float> logits;                       ///< [T, V] of the prompt's rows.
  std::vector<int32_t> greedy;                     ///< The greedy continuation.
  std::map<int32_t, std::vector<int32_t>> router;  ///< By MoE layer: [T, K] of the prompt's rows.
};
/// Runs `prompt` in a new sequence, then continues it greedily for `greedy` tokens.
using GoldenSubject = std::function<absl::StatusOr<ModelRun>(std::span<const int32_t> prompt, int greedy)>;

/// The distance of two sets of logits.
struct LogitsDistance {
  double max_abs = 0;
  double mean_kl = 0;  ///< KL(reference || got), nats per row.
  double top1 = 0;     ///< Fraction of rows with the same argmax.
};
LogitsDistance CompareLogits(std::span<const float> reference, std::span<const float> got,
                             int64_t vocabulary);

/// The fraction of rows that chose the same experts, over all layers of `reference`; 1 if it has none.
double SameRouting(const std::map<int32_t, std::vector<int32_t>>& reference,
                   const std::map<int32_t, std::vector<int32_t>>& got, int64_t rows);

/// The distances of a subject from a golden, for both prompts.
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

/// The golden folders of a family, as absolute paths. They are listed, not searched for, so that a missing
/// folder fails.
struct GoldenCases {
  std::vector<std::string> here;    ///< tests/goldens/models/<family>/<case>: in the repository.
  std::vector<std::string> beside;  ///< ../shared/goldens/models/<family>/<case>: beside it, if that exists.
};
GoldenCases GoldenFolders(const std::string& family);

/// Whether ../shared/goldens exists. Without it a test skips the cases `beside`, and says so.
bool GoldensBesideExist();

/// The absolute path of a path relative to the repository.
std::string RepositoryPath(const std::string& relative);

}  // namespace shoal
