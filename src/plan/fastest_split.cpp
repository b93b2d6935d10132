#include "plan/fastest_split.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"

namespace shoal {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();
constexpr int kNobody = -1;

class SplitSearch {
 public:
  SplitSearch(const SplitTimes& times, const SplitRule& rule) : times_(times), rule_(rule) {
    layers_ = static_cast<int>(times.held_bytes.size());
    held_ = Sums(times.held_bytes);
    std::vector<int64_t> experts = times.expert_bytes;
    experts.resize(times.held_bytes.size());
    experts_ = Sums(experts);
    for (const SplitTimes::Node& node : times.nodes) {
      SHOAL_CHECK_EQ(std::ssize(node.layer_s), layers_);
      SHOAL_CHECK_EQ(std::ssize(node.serve_s), layers_);
      work_.push_back(Sums(node.layer_s));
      serve_.push_back(Sums(node.serve_s));
      for (size_t l = 0; l < node.layer_s.size(); ++l) ascending_ &= node.layer_s[l] >= node.serve_s[l];
    }
  }

  struct Found {
    std::vector<int64_t> counts;
    double sum_s = kNever;
    double busiest_s = 0;
  };
  /// The split of the least sum whose busiest node takes at most `limit_s`.
  Found least_sum(double limit_s) const;

 private:
  template <typename T>
  static std::vector<T> Sums(const std::vector<T>& values) {
    std::vector<T> sums(values.size() + 1, T{});
    std::partial_sum(values.begin(), values.end(), sums.begin() + 1);
    return sums;
  }
  int nodes() const { return static_cast<int>(times_.nodes.size()); }
  static size_t At(int i) { return static_cast<size_t>(i); }
  /// count: of stages up to this one, rule_.stages_min standing for all from there on.
  size_t at(int count, int node, int layer) const {
    return (At(count - 1) * At(nodes()) + At(node)) * At(layers_ + 1) + At(layer);
  }
  double span(const std::vector<std::vector<double>>& sums, int node, int begin, int end) const {
    return sums[At(node)][At(end)] - sums[At(node)][At(begin)];
  }
  double stage_s(int node, int begin, int end) const {
    const SplitTimes::Node& facts = times_.nodes[At(node)];
    return facts.stage_s + span(work_, node, begin, end) + (end == layers_ ? facts.head_s : 0);
  }
  /// Of the stage and of what it serves to others.
  double load_s(int node, int begin, int end) const {
    return stage_s(node, begin, end) + serve_[At(node)].back() - span(serve_, node, begin, end);
  }
  bool fits(int node, int begin, int end) const {
    int64_t bytes = held_[At(end)] - held_[At(begin)];
    bytes += std::min(experts_[At(end)] - experts_[At(begin)], times_.nodes[At(node)].expert_bytes_max);
    if (begin == 0) bytes += times_.embed_bytes;
    if (end == layers_ && !(begin == 0 && times_.tied_head)) bytes += times_.head_bytes;
    if (end == layers_ && begin > 0) bytes += times_.apart_bytes;
    return bytes <= times_.nodes[At(node)].room_bytes;
  }
  /// Whether the node may stand without layers.
  bool may_idle(int node, double limit_s) const {
    return !(rule_.all && times_.nodes[At(node)].may_hold_layers) && serve_[At(node)].back() <= limit_s;
  }
  struct Previous {
    int node = kNobody;
    int count = 0;
  };
  /// By state: a number of stages, the node of the last one, and where that ends (`before`: begins).
  struct Table {
    explicit Table(size_t states) : best(states, kNever), start(states, 0), before(states) {}
    std::vector<double> best;
    std::vector<int> start;
    std::vector<Previous> before;
  };
  std::vector<double> arrivals(int count, int node, double limit_s, Table& table) const;
  void extend(int count, int node, const std::vector<double>& arrive, double limit_s, Table& table) const;
  Found trace(int node, const Table& table, double sum_s) const;

  const SplitTimes& times_;
  const SplitRule rule_;
  int layers_ = 0;
  bool ascending_ =
      true;  ///< A layer more never makes a node less busy: running it takes longer than serving it.
  std::vector<int64_t> held_;  ///< [L + 1]
  std::vector<int64_t> experts_;
  std::vector<std::vector<double>> work_;   ///< [node][L + 1]
  std::vector<std::vector<double>> serve_;  ///< [node][L + 1]
};

SplitSearch::Found SplitSearch::least_sum(double limit_s) const {
  Table table(At(rule_.stages_min) * At(nodes()) * At(layers_ + 1));
  for (int node = 0; node < nodes(); ++node) {
    if (!times_.nodes[At(node)].may_hold_layers) continue;
    for (int count = 1; count <= rule_.stages_min; ++count) {
      extend(count, node, arrivals(count, node, limit_s, table), limit_s, table);
    }
  }
  Found found;
  int last = kNobody;
  bool idle_behind = true;
  for (int node = nodes() - 1; node >= 0 && idle_behind; --node) {
    const double sum = table.best[at(rule_.stages_min, node, layers_)] + times_.end_s[At(node)];
    if (sum < found.sum_s) {
      found.sum_s = sum;
      last = node;
    }
    idle_behind = may_idle(node, limit_s);
  }
  return last == kNobody ? found : trace(last, table, found.sum_s);
}

/// [L]: the least sum up to a stage on `node` that begins at a layer and is the count-th, hop included.
std::vector<double> SplitSearch::arrivals(int count, int node, double limit_s, Table& table) const {
  std::vector<double> arrive(At(layers_), kNever);
  bool idle_so_far = true;
  for (int other = node - 1; other >= 0 && idle_so_far; --other) {
    // What counts as the last number of stages may be more of them.
    for (int before = std::max(1, count - 1); before <= (count == rule_.stages_min ? count : count - 1);
         ++before) {
      for (int begin = 1; begin < layers_; ++begin) {
        const double sum = table.best[at(before, other, begin)] + times_.hop_s[At(other)][At(node)];
        if (!(sum < arrive[At(begin)])) continue;
        arrive[At(begin)] = sum;
        table.before[at(count, node, begin)] = {other, before};
      }
    }
    idle_so_far = may_idle(other, limit_s);
  }
  if (idle_so_far && count == 1) arrive[0] = times_.begin_s[At(node)];
  return arrive;
}

/// Enters the stages of `node` that begin as `arrive` says.
void SplitSearch::extend(int count, int node, const std::vector<double>& arrive, double limit_s,
                         Table& table) const {
  for (int begin = 0; begin < layers_; ++begin) {
    if (arrive[At(begin)] == kNever) continue;
    for (int end = begin + 1; end <= layers_; ++end) {
      const double sum = arrive[At(begin)] + stage_s(node, begin, end);
      const size_t state = at(count, node, end);
      if (load_s(node, begin, end) > limit_s || !fits(node, begin, end)) {
        if (ascending_) break;  // With more layers even more so.
        continue;
      }
      if (!(sum < table.best[state])) continue;  // Nor a difference of infinite times.
      table.best[state] = sum;
      table.start[state] = begin;
    }
  }
}

SplitSearch::Found SplitSearch::trace(int node, const Table& table, double sum_s) const {
  Found found{.counts = std::vector<int64_t>(At(nodes()), 0), .sum_s = sum_s};
  int count = rule_.stages_min;
  for (int end = layers_; node != kNobody;) {
    const int begin = table.start[at(count, node, end)];
    found.counts[At(node)] = end - begin;
    found.busiest_s = std::max(found.busiest_s, load_s(node, begin, end));
    const Previous previous = begin == 0 ? Previous{} : table.before[at(count, node, begin)];
    end = begin;
    node = previous.node;
    count = previous.count;
  }
  for (int i = 0; i < nodes(); ++i) {
    if (found.counts[At(i)] == 0) found.busiest_s = std::max(found.busiest_s, serve_[At(i)].back());
  }
  return found;
}

}  // namespace

std::optional<FoundSplit> CheapestSplit(const SplitTimes& times, const SplitRule& rule,
                                        const SplitCost& cost) {
  const SplitSearch search(times, rule);
  std::optional<FoundSplit> best;
  const auto try_limit = [&](double limit_s) {
    SplitSearch::Found found = search.least_sum(limit_s);
    if (found.sum_s == kNever) return found;
    const double value = cost.of(found.sum_s, found.busiest_s);
    // Of equal splits the more even one, which comes later, wins.
    if (!best.has_value() || value <= best->cost) best = FoundSplit{found.counts, value};
    return found;
  };
  SplitSearch::Found found = try_limit(kNever);
  if (found.sum_s == kNever || cost.times == 0) return best;
  if (cost.kind == SplitCost::Kind::kLonger) {
    constexpr double kDigits = 1e-9;
    double low = 0;
    double high = found.busiest_s;
    while (high - low > kDigits * high) {
      const double middle = low + (high - low) / 2;
      found = try_limit(middle);
      // With a sum that is the longer already, lower limits only make it longer.
      if (found.sum_s > cost.times * middle) {
        low = middle;
      } else {
        high = found.busiest_s;
      }
    }
    return best;
  }
  const auto layers = std::ssize(times.held_bytes);
  const bool small = std::ssize(times.nodes) * layers * layers <= int64_t{8} * 100 * 100;
  const int tries_max = small ? 4000 : 32;
  const double below = small ? 1 - 1e-12 : 0.9;
  for (int tries = 0; tries < tries_max && found.sum_s != kNever && found.sum_s < best->cost; ++tries) {
    found = try_limit(found.busiest_s * below);
  }
  return best;
}

}  // namespace shoal
