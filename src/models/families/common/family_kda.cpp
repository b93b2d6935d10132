#include "models/families/common/family_kda.h"

#include "models/families/common/family_common.h"

namespace shoal {

GatedDeltaNetSpec KdaOf(int64_t heads, int64_t head_dim, int64_t taps) {
  GatedDeltaNetSpec kda;
  kda.key_heads = kda.value_heads = static_cast<int>(heads);
  kda.key_dim = kda.value_dim = static_cast<int>(head_dim);
  kda.conv_width = static_cast<int>(taps);
  kda.decays_by_channel = true;
  kda.sigmoid_gate = true;
  return kda;
}

GatedDeltaNetSpec KdaAt(const std::string& base, int64_t width, float eps, GatedDeltaNetSpec kda) {
  const int64_t inner = int64_t{kda.key_heads} * kda.key_dim;
  kda.q = LinearAt(base + ".q_proj", inner, width, false);
  kda.k = LinearAt(base + ".k_proj", inner, width, false);
  kda.v = LinearAt(base + ".v_proj", inner, width, false);
  kda.b = LinearAt(base + ".b_proj", kda.value_heads, width, false);
  kda.decay_log = {.shape = {kda.value_heads}, .sources = {{.base = base, .suffix = "A_log"}}};
  kda.step_bias = {.shape = {inner}, .sources = {{.base = base, .suffix = "dt_bias"}}};
  kda.norm = NormAt(base + ".o_norm", kda.value_dim, eps);
  kda.o = LinearAt(base + ".o_proj", width, inner, false);
  return kda;
}

}  // namespace shoal
