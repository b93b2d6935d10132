#include "plan/rounding.h"

#include <algorithm>
#include <map>
#include <vector>

#include "base/text.h"

namespace shoal {
namespace {

/// Who adds up the experts of a layer: for each expert 0 where the node has it that runs the layer, else a number of its
/// owner among those of the layer, in order of appearance.
std::vector<size_t> AddedBy(const Plan& plan, LayerId layer) {
  const NodeId home = plan.node_of(layer);
  std::map<NodeId, size_t> seen;
  std::vector<size_t> parts;
  for (const ExpertHolders& holders : plan.experts[static_cast<size_t>(layer.value)]) {
    parts.push_back(holders.held_by(home) ? 0 : seen.emplace(holders.owner, seen.size() + 1).first->second);
  }
  return parts;
}

}  // namespace

double RowValueBytes(Plan::WireDtype dtype) {
  switch (dtype) {
    case Plan::WireDtype::kExact:
      return 4;
    case Plan::WireDtype::kF16:
      return 2;  // And one for each row.
    case Plan::WireDtype::kQ8:
      return 1 + 2.0 / 32;
  }
  return 4;
}

double StageRowBytes(const ModelFacts& model, Plan::WireDtype dtype) {
  return static_cast<double>(model.row_width() - model.carried_values) * RowValueBytes(dtype) +
         static_cast<double>(model.carried_values) * sizeof(float);
}

double SumValueBytes(Plan::WireDtype dtype) {
  return dtype == Plan::WireDtype::kExact ? 8 : RowValueBytes(dtype);  // int64 in at most 8 byte planes.
}

std::string RoundingsOf(const Plan& plan) {
  if (plan.wire_dtype == Plan::WireDtype::kExact) return "";
  std::vector<int64_t> cuts;
  for (size_t i = 1; i < plan.stages.size(); ++i) cuts.push_back(plan.stages[i].layers.begin);
  std::vector<std::string> experts;
  for (int32_t layer = 0; layer < plan.layers(); ++layer) {
    const std::vector<size_t> parts = AddedBy(plan, LayerId{layer});
    if (std::ranges::all_of(parts, [](size_t part) { return part == 0; })) continue;
    experts.push_back(fmt::format("{}: {}", layer, fmt::join(parts, " ")));
  }
  if (cuts.empty() && experts.empty()) return "";
  return fmt::format("{} before layers {}; experts of {}", Name(plan.wire_dtype), fmt::join(cuts, " "),
                     Join(experts, ", "));
}

void NoteRounding(Plan& plan) {
  if (RoundingsOf(plan).empty()) return;
  const std::string note = fmt::format(
      "rows between nodes are rounded to {} (--wire): the bits of an answer depend on this placement, and an "
      "owner of "
      "experts that is lost is replaced in the next plan only; `shoal eval` with the same --wire and "
      "placement "
      "measures the loss",
      Name(plan.wire_dtype));
  if (std::ranges::find(plan.notes, note) == plan.notes.end()) plan.notes.push_back(note);
}

}  // namespace shoal
