#include "models/reference_defaults.h"

#include <algorithm>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/log.h"
#include "base/status.h"
#include "base/text.h"

namespace shoal {
namespace {

struct Defaults {
  std::string_view model_type;
  std::string_view values;   ///< A JSON object.
  bool key_heads_are_heads;  ///< num_key_value_heads is num_attention_heads where absent.
};

// No theta where the reference gives a config without one a whole rope, with yarn or another of each kind of layer.
// clang-format off
constexpr Defaults kDefaultsOf[] = {
    {"afmoe", R"({"hidden_act": "silu", "max_position_embeddings": 16384, "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "tie_word_embeddings": false})", true},
    {"apertus", R"({"hidden_act": "xielu", "max_position_embeddings": 65536, "rms_norm_eps": 1e-05, "tie_word_embeddings": false})", true},
    {"cohere2", R"({"hidden_act": "silu", "max_position_embeddings": 8192, "layer_norm_eps": 1e-05, "rope_theta": 10000.0, "tie_word_embeddings": true})", true},
    {"deepseek_v2", R"({"hidden_act": "silu", "max_position_embeddings": 2048, "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "tie_word_embeddings": false})", true},
    {"deepseek_v3", R"({"hidden_act": "silu", "max_position_embeddings": 4096, "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "tie_word_embeddings": false})", false},
    {"dots1", R"({"hidden_act": "silu", "max_position_embeddings": 2048, "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "tie_word_embeddings": false})", false},
    {"ernie4_5", R"({"hidden_act": "silu", "max_position_embeddings": 131072, "rms_norm_eps": 1e-05, "rope_theta": 500000.0, "tie_word_embeddings": true})", false},
    {"ernie4_5_moe", R"({"hidden_act": "silu", "max_position_embeddings": 131072, "rms_norm_eps": 1e-05, "rope_theta": 500000.0, "tie_word_embeddings": true})", false},
    {"exaone4", R"({"hidden_act": "silu", "max_position_embeddings": 2048, "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "tie_word_embeddings": false})", false},
    {"exaone_moe", R"({"hidden_act": "silu", "max_position_embeddings": 2048, "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "tie_word_embeddings": false})", false},
    {"gemma", R"({"hidden_act": "gelu_pytorch_tanh", "max_position_embeddings": 8192, "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "tie_word_embeddings": true})", false},
    {"gemma2", R"({"max_position_embeddings": 8192, "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "tie_word_embeddings": true})", false},
    {"gemma3_text", R"({"max_position_embeddings": 131072, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "tie_word_embeddings": true})", false},
    {"gemma3n_text", R"({"max_position_embeddings": 32768, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "tie_word_embeddings": true})", false},
    {"gemma4_text", R"({"max_position_embeddings": 131072, "rms_norm_eps": 1e-06, "tie_word_embeddings": true})", false},
    {"glm4", R"({"hidden_act": "silu", "max_position_embeddings": 131072, "rms_norm_eps": 1.5625e-07, "rope_theta": 10000.0, "tie_word_embeddings": false})", false},
    {"glm4_moe", R"({"hidden_act": "silu", "max_position_embeddings": 131072, "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "tie_word_embeddings": false})", false},
    {"glm4_moe_lite", R"({"hidden_act": "silu", "max_position_embeddings": 202752, "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "tie_word_embeddings": false})", false},
    {"gpt_oss", R"({"hidden_act": "silu", "max_position_embeddings": 131072, "rms_norm_eps": 1e-05, "tie_word_embeddings": false})", false},
    {"granite", R"({"hidden_act": "silu", "max_position_embeddings": 2048, "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "tie_word_embeddings": false})", true},
    {"granitemoe", R"({"hidden_act": "silu", "max_position_embeddings": 2048, "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "tie_word_embeddings": false})", true},
    {"granitemoehybrid", R"({"hidden_act": "silu", "max_position_embeddings": 2048, "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "tie_word_embeddings": false})", true},
    {"hunyuan_v1_dense", R"({"hidden_act": "silu", "max_position_embeddings": 2048, "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "tie_word_embeddings": false})", true},
    {"hunyuan_v1_moe", R"({"hidden_act": "silu", "max_position_embeddings": 2048, "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "tie_word_embeddings": false})", true},
    {"kimi_linear", R"({"hidden_act": "silu", "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "tie_word_embeddings": false})", false},
    {"lfm2", R"({"max_position_embeddings": 128000, "rope_theta": 1000000.0, "tie_word_embeddings": true, "norm_eps": 1e-05})", false},
    {"lfm2_moe", R"({"max_position_embeddings": 128000, "rope_theta": 1000000.0, "tie_word_embeddings": true, "norm_eps": 1e-05})", false},
    {"llama", R"({"hidden_act": "silu", "max_position_embeddings": 2048, "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "tie_word_embeddings": false})", true},
    {"llama4_text", R"({"hidden_act": "silu", "max_position_embeddings": 131072, "rms_norm_eps": 1e-05, "rope_theta": 500000.0})", false},
    {"mamba2", R"({"hidden_act": "silu", "layer_norm_epsilon": 1e-05, "tie_word_embeddings": false})", false},
    {"mimo_v2_flash", R"({"hidden_act": "silu", "max_position_embeddings": 131072, "tie_word_embeddings": false, "layernorm_epsilon": 1e-05})", false},
    {"minimax_m2", R"({"hidden_act": "silu", "max_position_embeddings": 196608, "rms_norm_eps": 1e-06, "rope_theta": 5000000.0, "tie_word_embeddings": false})", false},
    {"ministral3", R"({"hidden_act": "silu", "max_position_embeddings": 262144, "rms_norm_eps": 1e-05, "tie_word_embeddings": false})", false},
    {"mistral", R"({"hidden_act": "silu", "max_position_embeddings": 131072, "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "tie_word_embeddings": false})", false},
    {"mistral4", R"({"hidden_act": "silu", "max_position_embeddings": 1048576, "rms_norm_eps": 1e-06, "tie_word_embeddings": false})", false},
    {"mixtral", R"({"hidden_act": "silu", "max_position_embeddings": 131072, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "tie_word_embeddings": false})", false},
    {"nanochat", R"({"hidden_act": "relu2", "max_position_embeddings": 2048, "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "tie_word_embeddings": false})", true},
    {"nemotron_h", R"({"max_position_embeddings": 4096, "layer_norm_epsilon": 1e-05, "tie_word_embeddings": false})", false},
    {"olmo2", R"({"hidden_act": "silu", "max_position_embeddings": 2048, "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "tie_word_embeddings": false})", true},
    {"olmo3", R"({"hidden_act": "silu", "max_position_embeddings": 2048, "rms_norm_eps": 1e-05, "rope_theta": 500000.0, "tie_word_embeddings": false})", true},
    {"olmoe", R"({"hidden_act": "silu", "max_position_embeddings": 4096, "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "tie_word_embeddings": false})", true},
    {"phi", R"({"hidden_act": "gelu_new", "max_position_embeddings": 2048, "layer_norm_eps": 1e-05, "rope_theta": 10000.0, "tie_word_embeddings": false})", true},
    {"phi3", R"({"hidden_act": "silu", "max_position_embeddings": 4096, "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "tie_word_embeddings": false})", true},
    {"phimoe", R"({"hidden_act": "silu", "max_position_embeddings": 131072, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "tie_word_embeddings": false})", false},
    {"qwen2", R"({"hidden_act": "silu", "max_position_embeddings": 32768, "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "tie_word_embeddings": false})", false},
    {"qwen2_moe", R"({"hidden_act": "silu", "max_position_embeddings": 32768, "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "tie_word_embeddings": false})", false},
    {"qwen3", R"({"hidden_act": "silu", "max_position_embeddings": 32768, "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "tie_word_embeddings": false})", false},
    {"qwen3_5_moe_text", R"({"hidden_act": "silu", "max_position_embeddings": 32768, "rms_norm_eps": 1e-06, "rope_theta": 10000.0})", false},
    {"qwen3_5_text", R"({"hidden_act": "silu", "max_position_embeddings": 32768, "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "tie_word_embeddings": false})", false},
    {"qwen3_moe", R"({"hidden_act": "silu", "max_position_embeddings": 32768, "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "tie_word_embeddings": false})", false},
    {"qwen3_next", R"({"hidden_act": "silu", "max_position_embeddings": 32768, "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "tie_word_embeddings": false})", false},
    {"qwen3_vl_moe_text", R"({"hidden_act": "silu", "max_position_embeddings": 128000, "rms_norm_eps": 1e-06, "rope_theta": 500000.0})", false},
    {"qwen3_vl_text", R"({"hidden_act": "silu", "max_position_embeddings": 128000, "rms_norm_eps": 1e-06, "rope_theta": 500000.0})", false},
    {"seed_oss", R"({"hidden_act": "silu", "max_position_embeddings": 524288, "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "tie_word_embeddings": false})", false},
    {"smollm3", R"({"hidden_act": "silu", "max_position_embeddings": 32768, "rms_norm_eps": 1e-06, "rope_theta": 2000000.0, "tie_word_embeddings": true})", false},
    {"solar_open", R"({"hidden_act": "silu", "max_position_embeddings": 131072, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "tie_word_embeddings": false})", false},
    {"stablelm", R"({"hidden_act": "silu", "max_position_embeddings": 4096, "layer_norm_eps": 1e-05, "rope_theta": 10000.0, "tie_word_embeddings": false})", false},
    {"starcoder2", R"({"hidden_act": "gelu_pytorch_tanh", "max_position_embeddings": 4096, "rope_theta": 10000.0, "tie_word_embeddings": true})", false},
};
// clang-format on

/// model_types whose configs are those of another one.
std::string_view ConfigOf(std::string_view model_type) {
  if (model_type == "kimi_k2") return "deepseek_v3";
  if (model_type == "mimo") return "qwen2";
  return model_type;
}

/// Whether the config says a theta where its rope is described.
absl::StatusOr<bool> HasThetaInRope(const ModelConfig& config) {
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    ASSIGN_OR_RETURN(const std::optional<ModelConfig> rope, config.optional_object(key));
    if (rope && (rope->has("rope_theta") || rope->has("full_attention"))) return true;
  }
  return false;
}

void SayOnce(const ModelConfig& config, const std::vector<std::string>& taken) {
  static std::mutex mutex;
  static std::set<std::string> said;
  const std::string list = Join(taken, ", ");
  const std::lock_guard lock(mutex);
  if (!said.insert(config.file() + list).second) return;
  LogInfo("{}: keys that it lacks are as in the reference: {}", config.file(), list);
}

}  // namespace

absl::StatusOr<ModelConfig> WithReferenceDefaults(const ModelConfig& config, std::string_view model_type) {
  const auto* known = std::ranges::find(kDefaultsOf, ConfigOf(model_type), &Defaults::model_type);
  if (known == std::end(kDefaultsOf)) return config;
  ASSIGN_OR_RETURN(const ModelConfig values, ModelConfig::Parse(known->values, config.file()));
  ASSIGN_OR_RETURN(const bool has_theta, HasThetaInRope(config));
  std::vector<std::string> taken;
  std::string json;
  const auto take = [&](const std::string& key, const std::string& value) {
    json += fmt::format("{}\"{}\": {}", json.empty() ? "" : ", ", key, value);
    taken.push_back(fmt::format("{} {}", key, value));
  };
  for (const std::string& key : values.keys()) {
    if (config.has(key) || (has_theta && key.starts_with("rope_"))) continue;
    take(key, values.excerpt(key));
  }
  if (known->key_heads_are_heads && !config.has("num_key_value_heads") && config.has("num_attention_heads")) {
    take("num_key_value_heads", config.excerpt("num_attention_heads"));
  }
  if (taken.empty()) return config;
  SayOnce(config, taken);
  return config.with_defaults("{" + json + "}");
}

}  // namespace shoal
