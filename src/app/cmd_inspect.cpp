#include <cstdio>
#include <nlohmann/json.hpp>

#include "app/command.h"
#include "base/status.h"
#include "base/text.h"
#include "loading/explain_model.h"

namespace shoal {
namespace {

using Json = nlohmann::ordered_json;

struct InspectFlags {
  std::string model;
  bool json = false;
};

Json BytesJson(const WeightBytes& bytes) {
  return {{"parameters", bytes.parameters}, {"stored_bytes", bytes.stored}, {"packed_bytes", bytes.packed}};
}

Json Describe(const OpenedModel& model) {
  const ModelSpec& spec = model.spec;
  Json out = {{"model", model.facts.name},
              {"model_type", spec.model_type},
              {"hash", model.facts.hash},
              {"context", spec.max_positions},
              {"width", spec.width},
              {"vocabulary", spec.vocabulary},
              {"tied_head", spec.tied_head},
              {"experts_per_token", model.facts.top_k},
              {"total", BytesJson(model.footprint.total)}};
  for (const auto& [role, bytes] : model.footprint.by_role) out["by_role"][role] = BytesJson(bytes);
  for (const auto& [format, bytes] : model.footprint.by_format) out["by_format"][format] = BytesJson(bytes);
  out["layers"] = Json::array();
  for (size_t i = 0; i < model.facts.layers.size(); ++i) {
    const LayerFacts& layer = model.facts.layers[i];
    out["layers"].push_back({{"layer", i},
                             {"packed_bytes", layer.bytes},
                             {"experts", layer.experts},
                             {"packed_bytes_per_expert", layer.expert_bytes},
                             {"kv_values_per_position", layer.kv_values_per_position},
                             {"state_bytes", layer.state_bytes}});
  }
  out["unused_tensors"] = model.footprint.unused_tensors;
  out["left_out"] = model.footprint.ignored_tensors;
  if (const Shard* shard = model.checkpoint->shard()) {
    out["share"] = {
        {"node", shard->node}, {"holds", shard->holds}, {"stored_bytes", model.checkpoint->total_bytes()}};
  }
  return out;
}

void PrintTable(const OpenedModel& model) {
  const ModelSpec& spec = model.spec;
  const Footprint& footprint = model.footprint;
  fmt::print("{}: {}, {} layers, width {}, vocabulary {}, context {}{}\n", model.facts.name, spec.model_type,
             spec.layer_count(), spec.width, spec.vocabulary, spec.max_positions,
             spec.tied_head ? ", head tied to the embedding" : "");
  if (model.facts.top_k > 0) {
    int32_t experts = 0;
    for (const LayerFacts& layer : model.facts.layers) experts = std::max(experts, layer.experts);
    fmt::print("{} experts per MoE layer, {} per token\n", experts, model.facts.top_k);
  }
  if (const Shard* shard = model.checkpoint->shard()) {
    fmt::print("here: the shard of node '{}' ({}), {}; what follows is of the whole model\n", shard->node,
               shard->holds, FormatBytes(model.checkpoint->total_bytes()));
  }
  fmt::print("{:.2f} M parameters, {} in files, {} packed in memory\n\n",
             static_cast<double>(footprint.total.parameters) * 1e-6, FormatBytes(footprint.total.stored),
             FormatBytes(footprint.total.packed));
  const auto table = [](std::string_view title, const std::map<std::string, WeightBytes>& rows) {
    fmt::print("{:<40} {:>14} {:>12} {:>12}\n", title, "parameters", "stored", "packed");
    for (const auto& [name, bytes] : rows) {
      fmt::print("  {:<38} {:>14} {:>12} {:>12}\n", name, bytes.parameters, FormatBytes(bytes.stored),
                 FormatBytes(bytes.packed));
    }
    fmt::print("\n");
  };
  table("by role", footprint.by_role);
  table("by format", footprint.by_format);
  fmt::print("{:<8} {:>14} {:>9} {:>18} {:>22} {:>12}\n", "layer", "packed", "experts", "packed per expert",
             "KV values/position", "state");
  for (size_t i = 0; i < model.facts.layers.size(); ++i) {
    const LayerFacts& layer = model.facts.layers[i];
    fmt::print("{:<8} {:>14} {:>9} {:>18} {:>22} {:>12}\n", i, FormatBytes(layer.bytes), layer.experts,
               FormatBytes(layer.expert_bytes), layer.kv_values_per_position, FormatBytes(layer.state_bytes));
  }
  for (const auto& [what, count] : footprint.ignored_tensors) {
    fmt::print("\n{} tensors of {} are ignored\n", count, what);
  }
  if (!footprint.unused_tensors.empty()) {
    fmt::print("\n{} tensors stand behind no weight of this model: {}{}\n", footprint.unused_tensors.size(),
               footprint.unused_tensors.front(), footprint.unused_tensors.size() > 1 ? ", ..." : "");
  }
}

/// What is known of a model that does not open; its error is returned.
absl::Status Explain(const InspectFlags& flags, const absl::Status& error) {
  const std::vector<std::string> lines = ExplainModel(flags.model);
  if (flags.json) {
    fmt::print("{}\n", Json{{"error", Message(error)}, {"explanation", lines}}.dump(2));
    return error;
  }
  fmt::print("{} does not run. What is known of it:\n", flags.model);
  for (const std::string& line : lines) fmt::print("  {}\n", line);
  return error;
}

absl::Status Inspect(const InspectFlags& flags) {
  const absl::StatusOr<OpenedModel> model = OpenModel(flags.model);
  if (!model.ok()) return Explain(flags, model.status());
  if (flags.json) {
    fmt::print("{}\n", Describe(*model).dump(2));
  } else {
    PrintTable(*model);
  }
  return absl::OkStatus();
}

}  // namespace

Command AddInspectCommand(Flags root) {
  auto flags = std::make_shared<InspectFlags>();
  Flags app =
      root.add_subcommand("inspect", "Show a model folder: layers, experts, parameters, bytes, quantization");
  app.add_option("--model", flags->model, "Model folder, or a GGUF file").required();
  app.add_flag("--json", flags->json, "For scripts");
  return {app, [flags] { return Inspect(*flags); }};
}

}  // namespace shoal
