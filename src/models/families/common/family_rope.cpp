#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"
#include "models/families/common/family_common.h"
#include "numeric/transcendental.h"

namespace shoal {
namespace {

constexpr Bounds<double> kThetaBounds{1.0, 1e15};

/// "default", "llama3", ...: new configs say rope_type, old ones type; neither means no scaling.
absl::StatusOr<std::string> RopeType(const ModelConfig& rope) {
  for (const char* key : {"rope_type", "type"}) {
    ASSIGN_OR_RETURN(const std::optional<std::string> name, rope.optional_string(key));
    if (name) return *name;
  }
  return std::string("default");
}

absl::StatusOr<std::optional<ModelConfig>> RopeObject(const ModelConfig& config) {
  return config.optional_object(config.has("rope_parameters") ? "rope_parameters" : "rope_scaling");
}

absl::StatusOr<RopeLlama3> ReadLlama3(const ModelConfig& rope) {
  RopeLlama3 scaling;
  ASSIGN_OR_RETURN(scaling.factor, rope.required_number("factor", {1.0, 1e6}));
  ASSIGN_OR_RETURN(scaling.low_freq_factor, rope.required_number("low_freq_factor", {1e-3, 1e6}));
  ASSIGN_OR_RETURN(scaling.high_freq_factor, rope.required_number("high_freq_factor", {1e-3, 1e6}));
  ASSIGN_OR_RETURN(const int64_t original, rope.required_int("original_max_position_embeddings"));
  scaling.original_positions = static_cast<double>(original);
  if (scaling.high_freq_factor < scaling.low_freq_factor) {  // Equal in Llama 4 Scout.
    return InvalidArgument("{}: expected low_freq_factor = {} at least, found {}",
                           rope.where("high_freq_factor"), scaling.low_freq_factor, scaling.high_freq_factor);
  }
  return scaling;
}

/// The positions that a scaling starts from; the reference takes max_position_embeddings where the scaling
/// does not say.
absl::StatusOr<double> OriginalPositions(const ModelConfig& config, const ModelConfig& rope) {
  constexpr char kKey[] = "original_max_position_embeddings";
  const ModelConfig& from = rope.has(kKey) ? rope : config;
  ASSIGN_OR_RETURN(const int64_t positions,
                   from.required_int(from.has(kKey) ? kKey : "max_position_embeddings"));
  return static_cast<double>(positions);
}

/// Yarn's factor on cosines and sines. Source: Peng et al. 2023, section 3.4; DeepSeek's mscale.
double YarnMagnitude(double factor, double mscale) {
  return factor <= 1 ? 1.0 : 0.1 * mscale * Log(factor) + 1.0;
}

absl::Status ReadYarn(const ModelConfig& config, const ModelConfig& rope, RopeSpec& spec) {
  RopeYarn yarn;
  constexpr Bounds<double> kRotations{1e-3, 1e6};
  ASSIGN_OR_RETURN(yarn.factor, rope.required_number("factor", {1.0, 1e6}));
  ASSIGN_OR_RETURN(yarn.original_positions, OriginalPositions(config, rope));
  ASSIGN_OR_RETURN(const std::optional<double> fast, rope.optional_number("beta_fast", kRotations));
  ASSIGN_OR_RETURN(const std::optional<double> slow, rope.optional_number("beta_slow", kRotations));
  ASSIGN_OR_RETURN(const std::optional<bool> truncate, rope.optional_bool("truncate"));
  yarn.beta_fast = fast.value_or(32);
  yarn.beta_slow = slow.value_or(1);
  yarn.truncate = truncate.value_or(true);
  constexpr Bounds<double> kScales{0.0, 1e3};
  ASSIGN_OR_RETURN(const std::optional<double> stated, rope.optional_number("attention_factor", kScales));
  ASSIGN_OR_RETURN(const std::optional<double> mscale, rope.optional_number("mscale", kScales));
  ASSIGN_OR_RETURN(const std::optional<double> of_all, rope.optional_number("mscale_all_dim", kScales));
  if (stated) {
    spec.magnitude = *stated;
  } else if (mscale.value_or(0) != 0 && of_all.value_or(0) != 0) {
    spec.magnitude = YarnMagnitude(yarn.factor, *mscale) / YarnMagnitude(yarn.factor, *of_all);
  } else {
    spec.magnitude = YarnMagnitude(yarn.factor, 1);
  }
  spec.scaling = yarn;
  return absl::OkStatus();
}

/// The factors of one of longrope's two sets, one for each pair that rotates.
absl::StatusOr<std::vector<double>> ReadRopeFactors(const ModelConfig& rope, const char* key, int dims) {
  ASSIGN_OR_RETURN(std::vector<double> factors, rope.number_list(key, {0.1, 1e6}));
  for (double& factor : factors)
    factor = static_cast<float>(factor);  // As the reference has them, and a GGUF.
  if (std::ssize(factors) == dims / 2) return factors;
  return InvalidArgument("{}: expected {} factors, one for each pair of {} rotary dimensions, found {}",
                         rope.where(key), dims / 2, dims, factors.size());
}

/// How far longrope stretches: stated, or the share of the context that the model was first trained for.
absl::StatusOr<double> LongRopeFactor(const ModelConfig& config, const ModelConfig& rope, double original) {
  ASSIGN_OR_RETURN(const std::optional<double> stated, rope.optional_number("factor", {1.0, 1e6}));
  ASSIGN_OR_RETURN(const int64_t positions, config.required_int("max_position_embeddings"));
  const double share = static_cast<double>(positions) / original;
  if (stated && *stated != share && config.has("original_max_position_embeddings")) {
    // Versions of the reference differ in which one they read.
    return InvalidArgument(
        "{}: expected max_position_embeddings / original_max_position_embeddings = {}, "
        "found {}",
        rope.where("factor"), share, *stated);
  }
  return stated.value_or(share);
}

/// Factors below 1 make angles larger than the position.
absl::Status CheckAngles(const ModelConfig& config, const ModelConfig& rope, const RopeLong& both) {
  ASSIGN_OR_RETURN(const int64_t positions, config.required_int("max_position_embeddings"));
  for (const auto* factors : {&both.short_factors, &both.long_factors}) {
    const double least = std::ranges::min(*factors);
    if (static_cast<double>(positions) / least <= kTrigArgumentMax) continue;
    return Unimplemented("{}: {} positions by a factor of {} exceed {}, up to which rope angles are exact",
                         rope.where(factors == &both.short_factors ? "short_factor" : "long_factor"),
                         positions, least, kTrigArgumentMax);
  }
  return absl::OkStatus();
}

absl::Status RefuseMscales(const ModelConfig& rope) {
  for (const char* key : {"short_mscale", "long_mscale"}) {
    if (!rope.has(key)) continue;
    return Unimplemented(
        "{}: expected nothing, found {}; this family has one magnitude for both sets of factors",
        rope.where(key), rope.excerpt(key));
  }
  return absl::OkStatus();
}

absl::Status ReadLongRope(const ModelConfig& config, const ModelConfig& rope, RopeSpec& spec) {
  RopeLong both;
  ASSIGN_OR_RETURN(const double original, OriginalPositions(config, rope));
  both.original_positions = static_cast<int64_t>(original);
  ASSIGN_OR_RETURN(both.short_factors, ReadRopeFactors(rope, "short_factor", spec.dims));
  ASSIGN_OR_RETURN(both.long_factors, ReadRopeFactors(rope, "long_factor", spec.dims));
  RETURN_IF_ERROR(CheckAngles(config, rope, both));
  ASSIGN_OR_RETURN(const std::optional<double> stated, rope.optional_number("attention_factor", {0.0, 1e3}));
  ASSIGN_OR_RETURN(const double factor, LongRopeFactor(config, rope, original));
  if (stated) {
    spec.magnitude = *stated;
  } else if (factor > 1) {
    if (original < 2) {
      return InvalidArgument("{}: expected 2 at least, found {}",
                             config.where("original_max_position_embeddings"), original);
    }
    spec.magnitude = std::sqrt(1 + Log(factor) / Log(original));
  }
  spec.scaling = std::move(both);
  return absl::OkStatus();
}

absl::Status ReadProportional(const ModelConfig& rope, RopeSpec& spec) {
  RopeProportional proportional;
  ASSIGN_OR_RETURN(const std::optional<double> share, rope.optional_number("partial_rotary_factor", {0, 1}));
  ASSIGN_OR_RETURN(const std::optional<double> factor, rope.optional_number("factor", {1.0, 1e6}));
  proportional.rotary_dim = 2 * static_cast<int>(share.value_or(1.0) * spec.dims / 2);
  proportional.factor = factor.value_or(1.0);
  spec.scaling = proportional;
  return absl::OkStatus();
}

absl::Status ReadScaling(const ModelConfig& config, const ModelConfig& rope, RopeSpec& spec) {
  ASSIGN_OR_RETURN(const std::string type, RopeType(rope));
  // mrope deals out frequencies to time, height and width of images, whose positions agree wherever text is.
  if (type == "default" || type == "mrope") return absl::OkStatus();
  if (type == "yarn") return ReadYarn(config, rope, spec);
  if (type == "proportional") return ReadProportional(rope, spec);
  if (type == "longrope" || type == "su") return ReadLongRope(config, rope, spec);  // "su": its first name.
  if (type == "llama3") {
    ASSIGN_OR_RETURN(spec.scaling, ReadLlama3(rope));
  } else if (type == "linear") {
    ASSIGN_OR_RETURN(const double factor, rope.required_number("factor", {1.0, 1e6}));
    spec.scaling = RopeLinear{factor};
  } else {
    return Unimplemented(
        "{}: expected \"default\", \"linear\", \"llama3\", \"longrope\", \"proportional\" or \"yarn\", found "
        "\"{}\"; "
        "this rope scaling is not built",
        rope.where("rope_type"), type);
  }
  return absl::OkStatus();
}

}  // namespace

namespace {

absl::StatusOr<RopeSpec> ReadAnyRope(const ModelConfig& config, int dims) {
  RopeSpec spec;
  spec.dims = dims;
  ASSIGN_OR_RETURN(const std::optional<ModelConfig> rope, RopeObject(config));
  if (!rope) {
    ASSIGN_OR_RETURN(spec.theta, config.required_number("rope_theta", kThetaBounds));
    return spec;
  }
  ASSIGN_OR_RETURN(const std::optional<double> inner, rope->optional_number("rope_theta", kThetaBounds));
  ASSIGN_OR_RETURN(const std::optional<double> outer, config.optional_number("rope_theta", kThetaBounds));
  if (inner && outer && *inner != *outer) {  // Versions of the reference differ in which one they read.
    return InvalidArgument("{}: expected the same as '{}' = {}, found {}", rope->where("rope_theta"),
                           "rope_theta", *outer, *inner);
  }
  ASSIGN_OR_RETURN(spec.theta, (inner ? *rope : config).required_number("rope_theta", kThetaBounds));
  RETURN_IF_ERROR(ReadScaling(config, *rope, spec));
  return spec;
}

}  // namespace

absl::StatusOr<RopeSpec> ReadRope(const ModelConfig& config, int dims) {
  ASSIGN_OR_RETURN(const std::optional<ModelConfig> rope, RopeObject(config));
  ASSIGN_OR_RETURN(RopeSpec spec, ReadAnyRope(config, dims));
  if (std::holds_alternative<RopeLong>(spec.scaling)) RETURN_IF_ERROR(RefuseMscales(*rope));
  return spec;
}

absl::StatusOr<RopeSpec> ReadRopeWithMscales(const ModelConfig& config, int dims) {
  ASSIGN_OR_RETURN(const std::optional<ModelConfig> rope, RopeObject(config));
  ASSIGN_OR_RETURN(RopeSpec spec, ReadAnyRope(config, dims));
  RopeLong* both = std::get_if<RopeLong>(&spec.scaling);
  if (both == nullptr) return spec;
  ASSIGN_OR_RETURN(spec.magnitude, rope->required_number("short_mscale", {0.0, 1e3}));
  ASSIGN_OR_RETURN(both->long_magnitude, rope->required_number("long_mscale", {0.0, 1e3}));
  return spec;
}

absl::StatusOr<RopeSpec> ReadRopeScaling(const ModelConfig& config, int dims) {
  RopeSpec spec{.dims = dims};
  ASSIGN_OR_RETURN(const std::optional<ModelConfig> rope, RopeObject(config));
  if (rope) RETURN_IF_ERROR(ReadScaling(config, *rope, spec));
  if (std::holds_alternative<RopeLong>(spec.scaling)) RETURN_IF_ERROR(RefuseMscales(*rope));
  return spec;
}

absl::StatusOr<RopeSpec> ReadRopeOfType(const ModelConfig& config, const char* layer_type, int dims) {
  ASSIGN_OR_RETURN(const ModelConfig all, config.required_object("rope_parameters"));
  ASSIGN_OR_RETURN(const ModelConfig rope, all.required_object(layer_type));
  RopeSpec spec;
  spec.dims = dims;
  ASSIGN_OR_RETURN(spec.theta, rope.required_number("rope_theta", kThetaBounds));
  RETURN_IF_ERROR(ReadScaling(config, rope, spec));
  return spec;
}

absl::StatusOr<QueryTemperature> ReadQueryTemperature(const ModelConfig& config) {
  ASSIGN_OR_RETURN(const ModelConfig rope, config.required_object("rope_parameters"));
  QueryTemperature temperature;
  ASSIGN_OR_RETURN(temperature.beta, rope.required_number("llama_4_scaling_beta", {0.0, 1e3}));
  ASSIGN_OR_RETURN(temperature.interval, rope.required_int("original_max_position_embeddings"));
  return temperature;
}

absl::StatusOr<double> ReadYarnScoreFactor(const ModelConfig& config) {
  ASSIGN_OR_RETURN(const std::optional<ModelConfig> rope, RopeObject(config));
  if (!rope) return 1.0;
  ASSIGN_OR_RETURN(const std::string type, RopeType(*rope));
  ASSIGN_OR_RETURN(const std::optional<double> of_all, rope->optional_number("mscale_all_dim", {0.0, 1e3}));
  if (type != "yarn" || of_all.value_or(0) == 0) return 1.0;
  ASSIGN_OR_RETURN(const double factor, rope->required_number("factor", {1.0, 1e6}));
  const double magnitude = YarnMagnitude(factor, *of_all);
  return magnitude * magnitude;
}

}  // namespace shoal
