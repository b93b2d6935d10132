// Any text as a cluster file, in JSON and in YAML, gives an error, or facts from which the planner makes a
// plan or an error.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "plan/cluster_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  shoal::ModelFacts model{.name = "fuzz", .hidden = 64, .top_k = 2, .embed_bytes = 10, .head_bytes = 10};
  model.layers.assign(
      5, {.bytes = 1 << 20, .experts = 6, .expert_bytes = 1 << 10, .kv_values_per_position = 16});
  for (const shoal::ConfigSyntax syntax : {shoal::ConfigSyntax::kJson, shoal::ConfigSyntax::kYaml}) {
    const auto file = shoal::ParseClusterFile(text, syntax);
    if (!file.ok()) continue;
    SHOAL_CHECK(!file->nodes.empty());
    const auto plan = shoal::MakePlan(model, file->nodes, file->request);
    if (plan.ok()) SHOAL_CHECK(shoal::Validate(*plan, model).ok());
  }
  return 0;
}
