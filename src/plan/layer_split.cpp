#include "plan/layer_split.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/check.h"

namespace shoal {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();

/// The time and size of any stage in O(1), from prefix sums over layers.
class StageCosts {
 public:
  explicit StageCosts(const SplitProblem& problem) : problem_(problem) {
    held_.push_back(0);
    experts_.push_back(0);
    read_.push_back(0);
    for (const SplitProblem::Layer& layer : problem.layers) {
      held_.push_back(held_.back() + layer.held_bytes);
      experts_.push_back(experts_.back() + layer.expert_bytes);
      read_.push_back(read_.back() + layer.read_bytes);
    }
  }

  int64_t layers() const { return std::ssize(held_) - 1; }

  int64_t held_bytes(Range range, int64_t expert_bytes_max) const {
    if (range.empty()) return 0;
    const bool first = range.begin == 0;
    const bool last = range.end == layers();
    int64_t bytes = at(held_, range.end) - at(held_, range.begin);
    bytes += std::min(at(experts_, range.end) - at(experts_, range.begin), expert_bytes_max);
    if (first) bytes += problem_.embed_bytes;
    if (last && !(first && problem_.tied_head)) bytes += problem_.head_bytes;
    if (last && !first) bytes += problem_.apart_bytes;
    return bytes;
  }

  /// Bytes read per token, divided by compute; infinite if the range does not fit. The embedding counts
  /// nothing, since only a row of it is read.
  double time(const SplitProblem::Node& node, Range range) const {
    if (range.empty()) return node.busy_bytes / node.compute;
    if (!node.may_hold_layers || held_bytes(range, node.expert_bytes_max) > node.room_bytes) return kNever;
    const int64_t head = range.end == layers() ? problem_.head_bytes : 0;
    return (node.busy_bytes + static_cast<double>(at(read_, range.end) - at(read_, range.begin) + head)) /
           node.compute;
  }

 private:
  static int64_t at(const std::vector<int64_t>& sums, int64_t i) { return sums[static_cast<size_t>(i)]; }

  const SplitProblem& problem_;
  std::vector<int64_t> held_;
  std::vector<int64_t> experts_;
  std::vector<int64_t> read_;
};

/// Dynamic programming over (nodes used, layers placed). Returns the least total of `add(total so far, time
/// of the next node)` and the layers per node. Of equal totals the one with later starts wins, so that
/// earlier nodes hold more.
template <typename Add>
std::pair<double, std::vector<int64_t>> LeastSplit(const SplitProblem& problem, const StageCosts& costs,
                                                   Add add) {
  const int64_t layers = costs.layers();
  const size_t width = static_cast<size_t>(layers) + 1;
  std::vector<double> best(width, kNever);
  best[0] = 0;
  std::vector<std::vector<int64_t>> starts;
  for (const SplitProblem::Node& node : problem.nodes) {
    std::vector<double> next(width, kNever);
    std::vector<int64_t> start(width, 0);
    for (int64_t end = 0; end <= layers; ++end) {
      for (int64_t begin = 0; begin <= end; ++begin) {
        if (best[static_cast<size_t>(begin)] == kNever) continue;
        const double total = add(best[static_cast<size_t>(begin)], costs.time(node, {begin, end}));
        if (total == kNever || total > next[static_cast<size_t>(end)]) continue;
        next[static_cast<size_t>(end)] = total;
        start[static_cast<size_t>(end)] = begin;
      }
    }
    best = std::move(next);
    starts.push_back(std::move(start));
  }
  std::vector<int64_t> counts(problem.nodes.size(), 0);
  if (best.back() != kNever) {
    int64_t end = layers;
    for (size_t node = counts.size(); node-- > 0;) {
      const int64_t begin = starts[node][static_cast<size_t>(end)];
      counts[node] = end - begin;
      end = begin;
    }
  }
  return {best.back(), counts};
}

}  // namespace

int64_t SplitProblem::held_bytes(Range range, int64_t expert_bytes_max) const {
  return StageCosts(*this).held_bytes(range, expert_bytes_max);
}

std::vector<int64_t> Apportion(int64_t total, const std::vector<double>& weights) {
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  SHOAL_CHECK(sum > 0);
  std::vector<int64_t> counts;
  std::vector<double> remainders;
  int64_t left = total;
  for (const double weight : weights) {
    const double quota = static_cast<double>(total) * (weight / sum);
    counts.push_back(static_cast<int64_t>(std::floor(quota)));
    remainders.push_back(quota - std::floor(quota));
    left -= counts.back();
  }
  std::vector<size_t> order(weights.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::erase_if(order, [&](size_t i) { return weights[i] == 0; });
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return remainders[a] != remainders[b] ? remainders[a] > remainders[b] : a < b;
  });
  SHOAL_CHECK(left >= 0 && left <= std::ssize(order));
  for (int64_t i = 0; i < left; ++i) ++counts[order[static_cast<size_t>(i)]];
  return counts;
}

std::optional<std::vector<int64_t>> BalancedSplit(const SplitProblem& problem) {
  const StageCosts costs(problem);
  const auto [slowest, any] = LeastSplit(problem, costs, [](double a, double b) { return std::max(a, b); });
  if (slowest == kNever) return std::nullopt;
  // `slowest` was computed by the same expressions, so the comparison is exact and at least one split passes.
  return LeastSplit(problem, costs,
                    [limit = slowest](double sum, double time) {
                      return time <= limit ? sum + time * time : kNever;
                    })
      .second;
}

std::vector<int64_t> GreedySplit(const SplitProblem& problem) {
  const StageCosts costs(problem);
  std::vector<int64_t> counts;
  int64_t begin = 0;
  for (const SplitProblem::Node& node : problem.nodes) {
    int64_t end = begin;
    while (end < costs.layers() && costs.time(node, {begin, end + 1}) != kNever) ++end;
    counts.push_back(end - begin);
    begin = end;
  }
  return counts;
}

}  // namespace shoal
