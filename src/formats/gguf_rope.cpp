// Rope of a GGUF: restores the config's rope keys from the file's keys and tables of factors.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <numbers>

#include "base/status.h"
#include "formats/gguf_architectures.h"
#include "formats/strict_json.h"

namespace shoal {
namespace {

using Json = nlohmann::json;

/// A table of f32 rope factors in the first file; empty where there is none.
absl::StatusOr<std::vector<float>> RopeTable(const GgufDraft& draft, std::string_view name, int64_t size) {
  std::vector<float> factors;
  const GgufTensor* tensor = draft.tensor(name);
  if (tensor == nullptr) return factors;
  if (tensor->dtype != DType::kF32 || tensor->shape != std::vector{size} || tensor->file != 0) {
    return InvalidArgument("checkpoint: tensor '{}' in {}: expected f32 [{}] in the first file, found [{}]",
                           name, draft.keys.file(), size, fmt::join(tensor->shape, ", "));
  }
  factors.resize(static_cast<size_t>(size));
  std::memcpy(factors.data(), draft.source.first_file.data() + tensor->bytes.begin, factors.size() * 4);
  return factors;
}

/// Llama 3's scaling with the constants of a released model.
struct Llama3Law {
  double low, high, original;
};

/// The factor of pair `i` (transformers `_compute_llama3_parameters`).
double Llama3Factor(const Llama3Law& law, double factor, double wavelength) {
  if (wavelength > law.original / law.low) return factor;
  if (wavelength < law.original / law.high) return 1;
  const double smooth = (law.original / wavelength - law.low) / (law.high - law.low);
  return 1 / ((1 - smooth) / factor + smooth);
}

/// Which of the released models' constants give these factors: the file has only what the converter computed by them.
absl::Status AddLlama3Rope(GgufDraft& draft, std::span<const float> factors, double theta) {
  constexpr Llama3Law kLaws[] = {{1, 4, 8192},      // Llama 3, EXAONE 4, Apertus
                                 {1, 1, 8192},      // Llama 4 Scout
                                 {1, 32, 131072}};  // Step 3.5
  if (std::ranges::all_of(factors, [](float f) { return f == 1; })) return absl::OkStatus();
  const double factor = *std::ranges::max_element(factors);
  const size_t pairs = draft.scaled_pairs > 0 ? static_cast<size_t>(draft.scaled_pairs) : factors.size();
  const auto expected = [&](const Llama3Law& law, size_t i) {
    if (i >= pairs) return 1.0;
    const double power = static_cast<double>(i) / static_cast<double>(pairs);
    return Llama3Factor(law, factor, 2 * std::numbers::pi * std::pow(theta, power));
  };
  const auto misfit = [&](const Llama3Law& law) {
    for (size_t i = 0; i < factors.size(); ++i) {
      if (!(std::abs(factors[i] - expected(law, i)) <= 1e-4 * expected(law, i))) return i;
    }
    return factors.size();
  };
  const auto found = std::ranges::find(kLaws, factors.size(), misfit);
  if (found == std::end(kLaws)) {
    const size_t i = misfit(kLaws[0]);
    return Unimplemented(
        "checkpoint: tensor '{}' in {}: factor {}: expected {} as Llama 3 stretches frequencies (low 1, high "
        "4, "
        "original context 8192), found {}; nor are they those of Llama 4 or Step 3.5, and no other law is "
        "built",
        kGgufRopeFactors, draft.keys.file(), i, expected(kLaws[0], i), factors[i]);
  }
  draft.config["rope_scaling"] = {
      {"rope_type", "llama3"},
      {"factor", factor},
      {"low_freq_factor", found->low},
      {"high_freq_factor", found->high},
      {"original_max_position_embeddings", static_cast<int64_t>(found->original)}};
  return absl::OkStatus();
}

/// Factors of 1, and of 1e30 for pairs that do not rotate.
absl::Status AddRotatingPairs(GgufDraft& draft, std::span<const float> factors) {
  constexpr float kStopped = 1e30f;
  const auto stopped = std::ranges::find_if(factors, [](float f) { return f != 1; });
  draft.rotating_pairs = stopped - factors.begin();
  const auto other = std::find_if(stopped, factors.end(), [](float f) { return f != kStopped; });
  if (other == factors.end()) return absl::OkStatus();
  return Unimplemented(
      "checkpoint: tensor '{}' in {}: factor {}: expected factors of 1, then of {}, found {}; no "
      "others are built here",
      kGgufRopeFactors, draft.keys.file(), other - factors.begin(), kStopped, *other);
}

absl::Status AddLongRope(GgufDraft& draft, int64_t pairs) {
  ASSIGN_OR_RETURN(const std::vector<float> longs, RopeTable(draft, kGgufRopeLong, pairs));
  ASSIGN_OR_RETURN(const std::vector<float> shorts, RopeTable(draft, kGgufRopeShort, pairs));
  if (longs.empty() && shorts.empty()) return absl::OkStatus();
  if (longs.empty() || shorts.empty()) {
    return InvalidArgument("checkpoint: {}: expected both {} and {}, found one of them", draft.keys.file(),
                           kGgufRopeLong, kGgufRopeShort);
  }
  ASSIGN_OR_RETURN(const int64_t original, draft.keys.required_int(".rope.scaling.original_context_length"));
  draft.config["original_max_position_embeddings"] = original;
  draft.config["rope_scaling"] = {
      {"rope_type", "longrope"}, {"long_factor", longs}, {"short_factor", shorts}};
  return absl::OkStatus();
}

}  // namespace

double GgufShareOf(int64_t part, int64_t whole) {
  const double share = static_cast<double>(part) / static_cast<double>(whole);
  return share * static_cast<double>(whole) < static_cast<double>(part) ? std::nextafter(share, 2.0) : share;
}

absl::Status AddGgufRope(GgufDraft& draft, int64_t head_dim) {
  ASSIGN_OR_RETURN(const std::optional<double> theta, draft.keys.optional_number(".rope.freq_base"));
  draft.config["rope_theta"] = theta.value_or(10000.0);  // llama.cpp's default.
  ASSIGN_OR_RETURN(const auto rotary, draft.keys.optional_int(".rope.dimension_count"));
  const int64_t dims = rotary.value_or(head_dim);
  if (dims != head_dim) {
    draft.config["partial_rotary_factor"] = GgufShareOf(dims, head_dim);
  }
  ASSIGN_OR_RETURN(const std::vector<float> factors, RopeTable(draft, kGgufRopeFactors, dims / 2));
  draft.rotating_pairs = dims / 2;
  if (!factors.empty() && draft.stops_pairs) {
    RETURN_IF_ERROR(AddRotatingPairs(draft, factors));
  } else if (!factors.empty()) {
    RETURN_IF_ERROR(AddLlama3Rope(draft, factors, draft.config["rope_theta"].get<double>()));
  }
  RETURN_IF_ERROR(AddLongRope(draft, dims / 2));
  ASSIGN_OR_RETURN(const auto type, draft.keys.optional_string(".rope.scaling.type"));
  if (!type || *type == "none" || draft.config.contains("rope_scaling")) return absl::OkStatus();
  ASSIGN_OR_RETURN(const double factor, draft.keys.required_number(".rope.scaling.factor"));
  Json scaling = {{"rope_type", Printable(*type, 40)}, {"factor", factor}};
  ASSIGN_OR_RETURN(const auto original, draft.keys.optional_int(".rope.scaling.original_context_length"));
  if (original) scaling["original_max_position_embeddings"] = *original;
  for (const char* key : {"beta_fast", "beta_slow"}) {
    ASSIGN_OR_RETURN(const auto rotations,
                     draft.keys.optional_number(fmt::format(".rope.scaling.yarn_{}", key)));
    if (rotations) scaling[key] = *rotations;
  }
  draft.config["rope_scaling"] = std::move(scaling);  // A family refuses the kinds that it does not build.
  return absl::OkStatus();
}

}  // namespace shoal
