// Any text is a config whose values are in their bounds, or an InvalidArgument with a message; never a crash.
#include "base/check.h"
#include "base/status.h"
#include "formats/config.h"
#include "formats/mlx_quant.h"

namespace {

void CheckError(const absl::Status& status) {
  SHOAL_CHECK(status.code() == absl::StatusCode::kInvalidArgument);
  SHOAL_CHECK(shoal::Message(status).starts_with("fuzz.json"));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto config = shoal::ModelConfig::Parse({reinterpret_cast<const char*>(data), size}, "fuzz.json");
  if (!config.ok()) {
    CheckError(config.status());
    return 0;
  }
  const auto layers = config->required_int("num_hidden_layers");
  if (layers.ok()) SHOAL_CHECK(*layers >= 1 && *layers <= shoal::kPositive.max);
  const auto generation = shoal::ParseGenerationConfig(*config);
  if (!generation.ok()) CheckError(generation.status());
  const auto quantization = shoal::Quantization::FromConfig(*config);
  if (!quantization.ok()) CheckError(quantization.status());
  const auto again = shoal::ModelConfig::Parse(config->canonical(), "fuzz.json");
  SHOAL_CHECK(again.ok() && again->canonical() == config->canonical());
  return 0;
}
