// LFM2. Reference: transformers models/lfm2/modeling_lfm2.py.
#include <algorithm>
#include <string>

#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/families/common/family_lfm2.h"
#include "models/family.h"

namespace shoal::families {
namespace {

/// The width of feed-forwards: block_ff_dim or intermediate_size, of which unless block_auto_adjust_ff_dim is false two
/// thirds are taken, times a multiplier, up to a multiple.
absl::StatusOr<int64_t> ReadFfn(const ModelConfig& stated) {
  const ModelConfig config = stated.with_defaults(  // Of Lfm2Config.
      R"({"block_auto_adjust_ff_dim": true, "block_ffn_dim_multiplier": 1.0, "block_multiple_of": 256})");
  const char* key = config.has("block_ff_dim") ? "block_ff_dim" : "intermediate_size";
  ASSIGN_OR_RETURN(const int64_t ffn, config.required_int(key, {2, 1 << 24}));
  ASSIGN_OR_RETURN(const bool adjusted, config.required_bool("block_auto_adjust_ff_dim"));
  if (!adjusted) return ffn;
  ASSIGN_OR_RETURN(const double times, config.required_number("block_ffn_dim_multiplier", {1e-3, 1e3}));
  ASSIGN_OR_RETURN(const int64_t of, config.required_int("block_multiple_of", {1, 1 << 20}));
  const int64_t wanted = std::max(int64_t{1}, static_cast<int64_t>(times * static_cast<double>(2 * ffn / 3)));
  return (wanted + of - 1) / of * of;
}

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  ASSIGN_OR_RETURN(const Lfm2Parts parts, ReadLfm2(config));
  ASSIGN_OR_RETURN(const int64_t ffn, ReadFfn(config));
  return MakeLfm2("lfm2", parts, [&](int64_t, const std::string& base) {
    return Lfm2Mlp(base + ".feed_forward", parts.sizes.width, ffn);
  });
}

std::string Tiny() {
  return TinyLfm2("lfm2",
                  R"("intermediate_size": 384, "block_ffn_dim_multiplier": 1.5, "block_multiple_of": 64,
  "conv_bias": true)");
}

}  // namespace

extern const Family lfm2;
constinit const Family lfm2 = {"lfm2", &Spec, &Tiny, "lfm2_moe"};

}  // namespace shoal::families
