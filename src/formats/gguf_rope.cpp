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

/// Llama 3's scaling (transformers `_compute_llama3_parameters`) with the constants of every released model:
/// the file has only the factors that the converter computed by it.
absl::Status AddLlama3Rope(GgufDraft& draft, std::span<const float> factors, double theta) {
  constexpr double kLow = 1;
  constexpr double kHigh = 4;
  constexpr double kOriginal = 8192;
  const double factor = *std::ranges::max_element(factors);
  if (std::ranges::all_of(factors, [](float f) { return f == 1; })) return absl::OkStatus();
  const double pairs = static_cast<double>(factors.size());
  for (size_t i = 0; i < factors.size(); ++i) {
    const double wavelength = 2 * std::numbers::pi * std::pow(theta, static_cast<double>(i) / pairs);
    double expected = 1;
    if (wavelength > kOriginal / kLow) {
      expected = factor;
    } else if (wavelength >= kOriginal / kHigh) {
      const double smooth = (kOriginal / wavelength - kLow) / (kHigh - kLow);
      expected = 1 / ((1 - smooth) / factor + smooth);
    }
    if (!(std::abs(factors[i] - expected) <= 1e-4 * expected)) {
      return Unimplemented(
          "checkpoint: tensor '{}' in {}: factor {}: expected {} as Llama 3 stretches frequencies (low 1, "
          "high 4, "
          "original context 8192), found {}; no other law is built",
          kGgufRopeFactors, draft.keys.file(), i, expected, factors[i]);
    }
  }
  draft.config["rope_scaling"] = {{"rope_type", "llama3"},
                                  {"factor", factor},
                                  {"low_freq_factor", kLow},
                                  {"high_freq_factor", kHigh},
                                  {"original_max_position_embeddings", static_cast<int64_t>(kOriginal)}};
  return absl::OkStatus();
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

absl::Status AddGgufRope(GgufDraft& draft, int64_t head_dim) {
  ASSIGN_OR_RETURN(const std::optional<double> theta, draft.keys.optional_number(".rope.freq_base"));
  draft.config["rope_theta"] = theta.value_or(10000.0);  // llama.cpp's default.
  ASSIGN_OR_RETURN(const auto rotary, draft.keys.optional_int(".rope.dimension_count"));
  const int64_t dims = rotary.value_or(head_dim);
  if (dims != head_dim) {
    double share = static_cast<double>(dims) / static_cast<double>(head_dim);
    // Chosen so that the integer part of factor * head_dim is dims.
    if (share * static_cast<double>(head_dim) < static_cast<double>(dims)) share = std::nextafter(share, 2.0);
    draft.config["partial_rotary_factor"] = share;
  }
  ASSIGN_OR_RETURN(const std::vector<float> factors, RopeTable(draft, kGgufRopeFactors, dims / 2));
  if (!factors.empty())
    RETURN_IF_ERROR(AddLlama3Rope(draft, factors, draft.config["rope_theta"].get<double>()));
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
