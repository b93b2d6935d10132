#include "plan/segment_placement.h"

#include <algorithm>
#include <numeric>
#include <optional>

#include "base/text.h"
#include "plan/id_list.h"
#include "plan/layer_split.h"
#include "plan/node_name.h"

namespace shoal {
namespace {

/// Segments of a layer that all nodes share: enough to follow their memory.
constexpr int32_t kSharedSegments = 16;
constexpr int64_t kShareMax = 64;

/// Layers without any feed-forward (of Nemotron-H and Mamba 2) are not.
bool IsDense(const LayerFacts& layer) { return layer.experts == 0 && layer.feed_forward_width > 0; }

bool HasSharedExpert(const LayerFacts& layer) { return layer.experts > 0 && layer.feed_forward_width > 0; }

/// The most segments that every dense layer can have, or every shared expert of a model without dense layers; 0 where there
/// is neither.
int32_t MostSegments(const ModelFacts& model) {
  const bool dense = std::ranges::any_of(model.layers, IsDense);
  int32_t most = 0;
  bool any = false;
  for (const LayerFacts& layer : model.layers) {
    if (!(dense ? IsDense(layer) : HasSharedExpert(layer))) continue;
    most = any ? std::min(most, layer.segments_max) : layer.segments_max;
    any = true;
  }
  return most;
}

absl::StatusOr<std::vector<int64_t>> CountsByShares(const std::vector<NodeFacts>& nodes,
                                                    const SegmentRequest& request) {
  std::vector<int64_t> counts(nodes.size());
  for (const SegmentRequest::Share& share : request.shares) {
    const auto found = std::ranges::find_if(nodes, [&](const NodeFacts& node) { return share.is_of(node); });
    if (found == nodes.end()) {
      std::vector<std::string> names;
      for (const NodeFacts& node : nodes) names.push_back(node.name);
      const std::string near = NearestWord(share.node, names);
      return InvalidArgument("--split-ffn: no node has the name '{}'{}; there are {}", share.node,
                             near.empty() ? "" : fmt::format("; did you mean {}?", near), Join(names, ", "));
    }
    int64_t& count = counts[static_cast<size_t>(found - nodes.begin())];
    if (count > 0) return InvalidArgument("--split-ffn: node '{}' is named twice", share.node);
    count = share.segments;
  }
  return counts;
}

std::vector<int64_t> CountsByFacts(const std::vector<NodeFacts>& nodes, const SegmentRequest& request,
                                   const std::vector<bool>& may_hold, int32_t most) {
  std::vector<double> weights(nodes.size(), 0.0);
  bool known = true;
  for (size_t i = 0; i < nodes.size(); ++i) {
    if (!may_hold[i]) continue;
    weights[i] = static_cast<double>(nodes[i].memory_bytes);
    if (request.kind == SegmentRequest::Kind::kRates)
      weights[i] = nodes[i].rates ? nodes[i].rates->read_gbs : 0;
    known &= weights[i] > 0;
  }
  for (size_t i = 0; i < nodes.size() && !known; ++i) weights[i] = may_hold[i] ? 1 : 0;
  std::vector<int64_t> counts = Apportion(std::min(kSharedSegments, most), weights);
  int64_t divisor = 0;
  for (const int64_t count : counts) divisor = std::gcd(divisor, count);
  for (int64_t& count : counts) count /= std::max<int64_t>(divisor, 1);
  return counts;
}

/// `row` for each layer that it fits. A shared expert of fewer segments stays whole, unless all do.
absl::StatusOr<std::vector<std::vector<NodeId>>> RowForEach(const ModelFacts& model,
                                                            const std::vector<NodeId>& row) {
  std::vector<std::vector<NodeId>> segments(model.layers.size());
  std::optional<size_t> too_small;
  bool any = false;
  for (size_t l = 0; l < model.layers.size(); ++l) {
    const LayerFacts& layer = model.layers[l];
    if (!IsDense(layer) && !HasSharedExpert(layer)) continue;
    if (!row.empty() && std::ssize(row) <= layer.segments_max) {
      segments[l] = row;
      any = true;
    } else if (!too_small || IsDense(layer)) {
      too_small = l;
    }
  }
  if (too_small && (!any || IsDense(model.layers[*too_small]))) {
    return InvalidArgument(
        "--split-ffn: {} segments of the feed-forward of layer {} of '{}': it has {} at most", row.size(),
        *too_small, model.name, model.layers[*too_small].segments_max);
  }
  return segments;
}

}  // namespace

absl::StatusOr<SegmentRequest> ParseSegmentRequest(std::string_view text) {
  SegmentRequest request;
  if (text == "all" || text == "off") {
    request.kind = text == "all" ? SegmentRequest::Kind::kAll : SegmentRequest::Kind::kOff;
    return request;
  }
  request.kind = SegmentRequest::Kind::kShares;
  int64_t total = 0;
  for (const std::string& item : Split(text, ',')) {
    const size_t equals = item.find('=');
    SegmentRequest::Share share{.node = item.substr(0, equals)};
    if (!IsNodeName(share.node)) {
      return InvalidArgument(
          "split ffn '{}': expected all, off, or names of nodes such as a,b or a=3,b=1; got '{}'", text,
          item);
    }
    if (equals != std::string::npos) {
      const auto count = ParseInteger(item.substr(equals + 1));
      if (!count.ok() || *count < 1 || *count > kShareMax) {
        return InvalidArgument("split ffn '{}': expected 1 to {} segments after '{}=', got '{}'", text,
                               kShareMax, share.node, item.substr(equals + 1));
      }
      share.segments = static_cast<int32_t>(*count);
    }
    total += share.segments;
    request.shares.push_back(std::move(share));
  }
  if (total < 1 || total > kShareMax) {
    return InvalidArgument("split ffn '{}': expected 1 to {} segments in all, got {}", text, kShareMax,
                           total);
  }
  return request;
}

void NameAsShares(const SegmentRequest& request, std::vector<NodeFacts>& nodes) {
  const auto is_unknown = [&](const NodeFacts& node) {
    return (node.address.empty() || node.name == node.address) &&
           std::ranges::none_of(request.shares, [&](const auto& share) { return share.is_of(node); });
  };
  for (const SegmentRequest::Share& share : request.shares) {
    if (std::ranges::any_of(nodes, [&](const NodeFacts& node) { return share.is_of(node); })) continue;
    const auto unknown = std::find_if(nodes.begin() + 1, nodes.end(), is_unknown);
    if (unknown != nodes.end()) unknown->name = share.node;
  }
}

bool CanHaveSegments(const ModelFacts& model, size_t nodes) {
  return nodes >= 2 && MostSegments(model) >= static_cast<int64_t>(nodes);
}

absl::StatusOr<std::vector<std::vector<NodeId>>> PlaceSegments(const ModelFacts& model,
                                                               const std::vector<NodeFacts>& nodes,
                                                               const SegmentRequest& request,
                                                               const std::vector<bool>& may_hold) {
  const auto is_shared = [](const LayerFacts& layer) { return IsDense(layer) || HasSharedExpert(layer); };
  if (std::ranges::none_of(model.layers, is_shared)) {
    return InvalidArgument("--split-ffn: the model '{}' has no dense feed-forward, and no shared expert{}",
                           model.name, model.has_experts() ? "; --experts says who holds its experts" : "");
  }
  std::vector<int64_t> counts;
  if (request.kind == SegmentRequest::Kind::kShares) {
    ASSIGN_OR_RETURN(counts, CountsByShares(nodes, request));
  } else {
    counts = CountsByFacts(nodes, request, may_hold, MostSegments(model));
  }
  std::vector<NodeId> row;
  for (size_t i = 0; i < counts.size(); ++i) {
    row.insert(row.end(), static_cast<size_t>(counts[i]), NodeId{static_cast<int32_t>(i)});
  }
  const auto whole = std::ranges::find_if(
      model.layers, [](const LayerFacts& layer) { return IsDense(layer) && layer.segments_max < 2; });
  if (row.size() != 1 && whole != model.layers.end()) {
    return InvalidArgument(
        "--split-ffn: the feed-forward of layer {} of '{}' can't be cut: its weights are stored as one, or "
        "its gate is compared with the whole row",
        whole - model.layers.begin(), model.name);
  }
  return RowForEach(model, row);
}

std::string SharedParts(const Plan& plan, const ModelFacts& model) {
  bool dense = false;
  bool shared = false;
  for (size_t layer = 0; layer < plan.segments.size(); ++layer) {
    if (!plan.segments[layer].empty()) (model.layers[layer].experts == 0 ? dense : shared) = true;
  }
  if (dense && shared) return "dense feed-forwards and shared experts";
  return shared ? "shared experts" : "dense feed-forwards";
}

LayerFacts WithoutFeedForward(const LayerFacts& layer) {
  LayerFacts rest = layer;
  rest.bytes -= layer.feed_forward_bytes;
  rest.int8_multiplies -= layer.feed_forward_int8;
  rest.f32_multiplies -= layer.feed_forward_f32;
  return rest;
}

std::vector<int64_t> SegmentBytesOf(const Plan& plan, const ModelFacts& model) {
  std::vector<int64_t> bytes(plan.nodes.size());
  for (size_t layer = 0; layer < plan.segments.size(); ++layer) {
    const std::vector<NodeId>& row = plan.segments[layer];
    for (size_t i = 0; i < row.size(); ++i) {
      bytes[static_cast<size_t>(row[i].value)] += SegmentBytes(
          model.layers[layer].feed_forward_bytes, static_cast<int32_t>(row.size()), static_cast<int32_t>(i));
    }
  }
  return bytes;
}

double SegmentValueBytes(const LayerFacts& layer, bool int8) {
  constexpr double kCodeBytes = 1 + 8.0 / 32;  // With a scale and a sum for each 32; groups of 16 take 1.5.
  return int8 && layer.feed_forward_int8 > 0 ? kCodeBytes : 4;
}

}  // namespace shoal
