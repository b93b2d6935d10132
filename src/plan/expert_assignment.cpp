#include "plan/expert_assignment.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <optional>
#include <utility>

#include "base/check.h"

namespace shoal {
namespace {

constexpr double kUnusedShare = 0.01;  // Of an average expert's rows.
constexpr int kRelievesMax = 256;
constexpr int kSweepsMax = 16;

size_t Index(int32_t i) { return static_cast<size_t>(i); }

/// Owners, with what each node has. -1: an expert that has none yet.
struct Tally {
  Tally(const AssignmentProblem& problem_in, const std::vector<double>& loads_in, Assignment owners_in)
      : problem(problem_in),
        loads(loads_in),
        owners(std::move(owners_in)),
        load(problem.nodes.size()),
        count(problem.nodes.size()) {
    for (size_t e = 0; e < owners.size(); ++e) {
      if (owners[e] < 0) continue;
      load[Index(owners[e])] += loads[e];
      ++count[Index(owners[e])];
    }
  }

  double time(int32_t node, double more = 0) const {
    return (load[Index(node)] + more) / problem.nodes[Index(node)].rate;
  }
  bool has_room(int32_t node) const { return count[Index(node)] < problem.nodes[Index(node)].room; }
  void move(int32_t expert, int32_t to) {
    int32_t& owner = owners[Index(expert)];
    if (owner >= 0) {
      load[Index(owner)] -= loads[Index(expert)];
      --count[Index(owner)];
    }
    owner = to;
    load[Index(owner)] += loads[Index(expert)];
    ++count[Index(owner)];
  }
  int32_t nodes() const { return static_cast<int32_t>(problem.nodes.size()); }
  int32_t experts() const { return static_cast<int32_t>(owners.size()); }

  const AssignmentProblem& problem;
  const std::vector<double>& loads;
  Assignment owners;
  std::vector<double> load;
  std::vector<int32_t> count;
};

std::vector<int32_t> ByDescendingLoad(const std::vector<double>& loads) {
  std::vector<int32_t> order(loads.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, [&](int32_t a, int32_t b) { return loads[Index(a)] > loads[Index(b)]; });
  return order;
}

/// The node with room that would be done first with the expert on top.
int32_t FirstDone(const Tally& tally, double more) {
  int32_t best = -1;
  double best_time = std::numeric_limits<double>::infinity();
  for (int32_t n = 0; n < tally.nodes(); ++n) {
    const double time = tally.time(n, more);
    if (!tally.has_room(n) || time >= best_time) continue;
    best = n;
    best_time = time;
  }
  SHOAL_CHECK(best >= 0);  // AssignmentProblem: there is room for all.
  return best;
}

Assignment LongestFirst(const AssignmentProblem& problem, const std::vector<double>& loads) {
  Tally tally(problem, loads, Assignment(loads.size(), -1));
  for (const int32_t expert : ByDescendingLoad(loads))
    tally.move(expert, FirstDone(tally, loads[Index(expert)]));
  return tally.owners;
}

/// Moves an expert of the busiest node away, or swaps it for a smaller one, so that the longer of the two nodes' times
/// becomes as short as it can. False where none becomes shorter than the busiest was.
bool Relieve(Tally& tally) {
  int32_t busiest = 0;
  for (int32_t n = 1; n < tally.nodes(); ++n) {
    if (tally.time(n) > tally.time(busiest)) busiest = n;
  }
  constexpr double kGain = 1e-9;  // Sums of doubles: no gain that is rounding.
  double best = tally.time(busiest) * (1 - kGain);
  std::optional<std::pair<int32_t, int32_t>> move;
  std::optional<std::pair<int32_t, int32_t>> swap;
  for (int32_t e = 0; e < tally.experts(); ++e) {
    if (tally.owners[Index(e)] != busiest) continue;
    const double own = tally.loads[Index(e)];
    for (int32_t n = 0; n < tally.nodes(); ++n) {
      if (n == busiest || !tally.has_room(n)) continue;
      const double time = std::max(tally.time(busiest, -own), tally.time(n, own));
      if (time >= best) continue;
      best = time;
      move = {e, n};
      swap.reset();
    }
    for (int32_t f = 0; f < tally.experts(); ++f) {
      const int32_t n = tally.owners[Index(f)];
      const double less = own - tally.loads[Index(f)];
      if (n == busiest || less <= 0) continue;
      const double time = std::max(tally.time(busiest, -less), tally.time(n, less));
      if (time >= best) continue;
      best = time;
      swap = {e, f};
      move.reset();
    }
  }
  if (move.has_value()) tally.move(move->first, move->second);
  if (swap.has_value()) {
    tally.move(swap->first, tally.owners[Index(swap->second)]);
    tally.move(swap->second, busiest);
  }
  return move.has_value() || swap.has_value();
}

/// Groups that grow by the expert that was used most often with those in them, the layer's node first. Nothing where what
/// is left fits nowhere within `bound`.
std::optional<Assignment> Grown(const AssignmentProblem& problem, const std::vector<double>& loads,
                                const UsedTogether& together, double bound) {
  std::vector<int32_t> order(problem.nodes.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, [&](int32_t a, int32_t b) {
    const AssignmentProblem::Node& left = problem.nodes[Index(a)];
    const AssignmentProblem::Node& right = problem.nodes[Index(b)];
    return std::pair(left.runs_layer, left.rate) > std::pair(right.runs_layer, right.rate);
  });
  const std::vector<int32_t> heaviest = ByDescendingLoad(loads);
  Tally tally(problem, loads, Assignment(loads.size(), -1));
  size_t left = loads.size();
  for (const int32_t n : order) {
    std::vector<int64_t> affinity(loads.size());
    for (; tally.has_room(n) && left > 0; --left) {
      int32_t next = -1;
      for (const int32_t e : heaviest) {
        if (tally.owners[Index(e)] >= 0 || tally.time(n, loads[Index(e)]) > bound) continue;
        if (next < 0 || affinity[Index(e)] > affinity[Index(next)]) next = e;
      }
      if (next < 0) break;
      tally.move(next, n);
      for (size_t e = 0; e < loads.size(); ++e) affinity[e] += together.of(next, static_cast<int32_t>(e));
    }
  }
  if (left > 0) return std::nullopt;
  return tally.owners;
}

/// Moves and swaps that save messages, within room and bound.
class MessageSearch {
 public:
  MessageSearch(const AssignmentProblem& problem, const std::vector<double>& loads,
                const UsedTogether& together, double bound)
      : problem_(problem), loads_(loads), together_(together), bound_(bound), rows_of_(loads.size()) {
    const LayerUse& use = *problem.use;
    for (int64_t r = 0; r < use.sampled(); ++r) {
      for (const uint16_t expert : use.experts(r)) rows_of_[expert].push_back(r);
    }
  }

  Assignment improve(Assignment start) {
    Tally tally(problem_, loads_, std::move(start));
    count_rows(tally);
    for (int sweep = 0; sweep < kSweepsMax; ++sweep) {
      const bool moved = move_all(tally);
      const bool swapped = swap_all(tally);
      if (!moved && !swapped) break;
    }
    return tally.owners;
  }

 private:
  uint16_t& in_row(int64_t row, int32_t node) {
    return in_row_[static_cast<size_t>(row) * problem_.nodes.size() + Index(node)];
  }
  void count_rows(const Tally& tally) {
    in_row_.assign(static_cast<size_t>(problem_.use->sampled()) * problem_.nodes.size(), 0);
    for (size_t e = 0; e < rows_of_.size(); ++e) {
      for (const int64_t r : rows_of_[e]) ++in_row(r, tally.owners[e]);
    }
  }
  /// Messages saved by giving the expert to another node.
  int64_t gain(const Tally& tally, int32_t expert, int32_t to) {
    const int32_t from = tally.owners[Index(expert)];
    const bool leaves = !problem_.nodes[Index(from)].runs_layer;
    const bool arrives = !problem_.nodes[Index(to)].runs_layer;
    int64_t saved = 0;
    for (const int64_t r : rows_of_[Index(expert)]) {
      saved += leaves && in_row(r, from) == 1 ? 1 : 0;
      saved -= arrives && in_row(r, to) == 0 ? 1 : 0;
    }
    return saved;
  }
  void move(Tally& tally, int32_t expert, int32_t to) {
    for (const int64_t r : rows_of_[Index(expert)]) {
      --in_row(r, tally.owners[Index(expert)]);
      ++in_row(r, to);
    }
    tally.move(expert, to);
  }
  bool move_all(Tally& tally) {
    bool moved = false;
    for (int32_t e = 0; e < tally.experts(); ++e) {
      int64_t best = 0;
      int32_t to = -1;
      for (int32_t n = 0; n < tally.nodes(); ++n) {
        if (n == tally.owners[Index(e)] || !tally.has_room(n) || tally.time(n, loads_[Index(e)]) > bound_)
          continue;
        const int64_t saved = gain(tally, e, n);
        if (saved <= best) continue;
        best = saved;
        to = n;
      }
      if (to < 0) continue;
      move(tally, e, to);
      moved = true;
    }
    return moved;
  }
  bool swap_all(Tally& tally) {
    std::vector<int64_t> gains;  // [E][nodes], as of the begin of the sweep: enough to rule most swaps out.
    for (int32_t e = 0; e < tally.experts(); ++e) {
      for (int32_t n = 0; n < tally.nodes(); ++n)
        gains.push_back(n == tally.owners[Index(e)] ? 0 : gain(tally, e, n));
    }
    const auto gain_of = [&](int32_t e, int32_t n) {
      return gains[Index(e) * problem_.nodes.size() + Index(n)];
    };
    bool swapped = false;
    for (int32_t e = 0; e < tally.experts(); ++e) {
      for (int32_t f = e + 1; f < tally.experts(); ++f) {
        const int32_t a = tally.owners[Index(e)];
        const int32_t b = tally.owners[Index(f)];
        // In a row that has both, each of the two gains may be wrong by one.
        if (a == b || gain_of(e, b) + gain_of(f, a) + 2 * together_.of(e, f) <= 0) continue;
        const double more = loads_[Index(f)] - loads_[Index(e)];
        if (tally.time(a, more) > bound_ || tally.time(b, -more) > bound_) continue;
        const int64_t first = gain(tally, e, b);
        move(tally, e, b);
        if (first + gain(tally, f, a) > 0) {
          move(tally, f, a);
          swapped = true;
        } else {
          move(tally, e, a);
        }
      }
    }
    return swapped;
  }

  const AssignmentProblem& problem_;
  const std::vector<double>& loads_;
  const UsedTogether& together_;
  const double bound_;
  std::vector<std::vector<int64_t>> rows_of_;  ///< [E]: sampled rows with the expert.
  std::vector<uint16_t> in_row_;               ///< [N][nodes]: experts of the row that the node owns.
};

}  // namespace

std::vector<double> ExpertLoads(const LayerUse& use) {
  const double average =
      static_cast<double>(use.calls()) / static_cast<double>(std::max<size_t>(use.rows.size(), 1));
  const double base = std::max(kUnusedShare * average, 1e-6);  // Of a layer that nobody used: all the same.
  std::vector<double> loads;
  for (const uint64_t rows : use.rows) loads.push_back(static_cast<double>(rows) + base);
  return loads;
}

double Makespan(const AssignmentProblem& problem, const Assignment& owners) {
  const std::vector<double> loads = ExpertLoads(*problem.use);
  const Tally tally(problem, loads, owners);
  double longest = 0;
  for (int32_t n = 0; n < tally.nodes(); ++n) longest = std::max(longest, tally.time(n));
  return longest;
}

int64_t SampledMessages(const AssignmentProblem& problem, const Assignment& owners) {
  const LayerUse& use = *problem.use;
  std::vector<int64_t> asked(problem.nodes.size(), -1);  // The last row that asks the node.
  int64_t messages = 0;
  for (int64_t r = 0; r < use.sampled(); ++r) {
    for (const uint16_t expert : use.experts(r)) {
      const size_t owner = Index(owners[expert]);
      if (problem.nodes[owner].runs_layer || asked[owner] == r) continue;
      asked[owner] = r;
      ++messages;
    }
  }
  return messages;
}

Assignment BalanceLoads(const AssignmentProblem& problem, const Assignment& start) {
  const std::vector<double> loads = ExpertLoads(*problem.use);
  Tally tally(problem, loads, LongestFirst(problem, loads));
  for (int i = 0; i < kRelievesMax && Relieve(tally); ++i) continue;
  return Makespan(problem, tally.owners) <= Makespan(problem, start) ? tally.owners : start;
}

Assignment GroupByUse(const AssignmentProblem& problem, const Assignment& start, const Assignment& balanced) {
  const std::vector<double> loads = ExpertLoads(*problem.use);
  constexpr double kRounding = 1 + 1e-9;
  const double bound =
      kRounding * std::max(kGroupSlack * Makespan(problem, balanced), Makespan(problem, start));
  const UsedTogether together(*problem.use);
  MessageSearch search(problem, loads, together, bound);
  std::vector<Assignment> found = {search.improve(start), search.improve(balanced)};
  if (std::optional<Assignment> grown = Grown(problem, loads, together, bound))
    found.push_back(search.improve(*std::move(grown)));
  const auto cost = [&](const Assignment& owners) {
    return std::pair(SampledMessages(problem, owners), Makespan(problem, owners));
  };
  return *std::ranges::min_element(found, {}, cost);
}

}  // namespace shoal
