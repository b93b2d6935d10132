// What a plan will do, before anything is loaded: the time of steps, tokens per second and the time to the first token,
// from what a model makes a row read and multiply, what nodes were measured to reach, and what messages take. Pure
// functions. docs/planning.md says what is in the model and what is not.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "plan/cost.h"
#include "plan/facts.h"
#include "plan/plan.h"

namespace shoal {

/// The size of a step.
struct PlanLoad {
  double rows = 0;       ///< Tokens computed.
  double sampled = 0;    ///< Rows whose logits are computed.
  double sequences = 0;  ///< Sequences that the rows belong to.
  double cached = 0;     ///< Positions whose keys and values are read, once per sequence.
  double attended = 0;   ///< Positions that rows attend to, summed over the rows.
};
/// One token for each of `batch` sequences, with `context` positions in the cache.
PlanLoad DecodeLoad(double batch, double context);
/// `rows` tokens of one prompt, of which `before` are in the cache.
PlanLoad PrefillLoad(double rows, double before, bool last);

/// The rates of all nodes of a plan, and the links between them.
class Machines {
 public:
  /// nodes: of the plan, in any order; by name. What a node has no rates for is InvalidArgument.
  static absl::StatusOr<Machines> Of(const Plan& plan, const std::vector<NodeFacts>& nodes,
                                     const std::vector<LinkFacts>& links);
  /// By index: node i is named names[i]. Rates must be whole (HasRates).
  Machines(const std::vector<NodeFacts>& nodes, const std::vector<LinkFacts>& links);

  const ThreadRates& rates(size_t node) const { return rates_[node]; }
  size_t size() const { return rates_.size(); }
  /// Seconds of a message of `bytes` from one node to another; 0 to itself.
  double message_s(size_t from, size_t to, double bytes) const;
  /// Of them, those in which the link carries nothing else.
  double link_busy_s(size_t from, size_t to, double bytes) const;
  /// Whether every link between different nodes was measured; the others are assumed (kAssumedLink, or kLocalLink in one
  /// process).
  bool all_links_known() const { return all_known_; }

 private:
  struct Link {
    double half_trip_s = 0;
    double s_per_byte = 0;
  };
  const Link& link(size_t a, size_t b) const { return links_[a * rates_.size() + b]; }

  std::vector<ThreadRates> rates_;
  std::vector<Link> links_;  ///< [node][node]
  bool all_known_ = true;
};

/// A wired home network, where nothing was measured: 0.3 ms there and back, a gigabit per second.
inline constexpr LinkFacts kAssumedLink = {.rtt_us = 300, .mbs = 110};
/// Between nodes of one process.
inline constexpr LinkFacts kLocalLink = {.rtt_us = 45, .mbs = 2000};

/// Whether the node has all rates.
bool HasRates(const NodeFacts& node);

/// What bounds a part of a step.
enum class Bound : uint8_t { kRead, kMultiply, kOverhead };
std::string_view Name(Bound bound);  ///< "reading", "multiplying", "overhead"

/// Seconds of some work, and what most of them go to.
struct WorkTime {
  double read_s = 0;      ///< Where reading was the longer.
  double multiply_s = 0;  ///< Where multiplying was.
  double overhead_s = 0;
  double seconds() const { return read_s + multiply_s + overhead_s; }
  Bound bound() const;
  WorkTime& operator+=(const WorkTime& other);
};

/// How activations and the cache of a plan are kept and rows travel, which decides rates and bytes.
struct PlanTypes {
  bool int8 = true;
  Plan::KvDtype kv = Plan::KvDtype::kF16;
  Plan::WireDtype wire = Plan::WireDtype::kExact;
};

/// Everything of a layer but its routed experts: weights, attention, norms.
WorkTime LayerTime(const ModelFacts& model, size_t layer, const ThreadRates& rates, const PlanLoad& load,
                   PlanTypes types);
/// The routed experts of a layer that a node holds, for the rows that chose them. share: of the layer's experts.
/// Distinct experts are expected ones: each row chooses K of E, independently.
WorkTime ExpertTime(const ModelFacts& model, size_t layer, const ThreadRates& rates, double rows,
                    double share, PlanTypes types);
/// Final norm, head and sampling, each token drawn at a temperature: the largest logit alone is found sooner.
WorkTime HeadTime(const ModelFacts& model, const ThreadRates& rates, const PlanLoad& load, PlanTypes types);
/// What a stage does for each step, whatever its layers.
WorkTime StageOverhead();
/// Seconds from the last stage's result until the next step is on its way, on a coordinator of these rates: threads wake.
double SchedulerTurnS(const ThreadRates& rates);

/// What the routed experts of a layer cost the node that runs it, where `shares` of them are owned by each node.
struct ExchangeTime {
  WorkTime own;       ///< Its own experts.
  double wait_s = 0;  ///< For the others, beyond that: messages, their work, gathering and adding up.
  std::vector<double> serve_s;  ///< By node: what the owners compute for it.
};
/// Remote owners work beside the node and beside one another; the last reply counts, weighted with the probability that a
/// row goes there.
struct Exchange {
  size_t layer = 0;
  size_t home = 0;  ///< The node that runs the layer.
  double rows = 0;
};
ExchangeTime ExchangeOf(const ModelFacts& model, const Machines& machines, const Exchange& exchange,
                        const std::vector<double>& shares, PlanTypes types);

/// What the dense feed-forward or shared expert of a layer costs the node that runs it, where `shares` of its segments are
/// held by each node. The layer's own time is then that of WithoutFeedForward. All holders are asked, and the last reply
/// counts, in either half.
ExchangeTime SegmentsOf(const ModelFacts& model, const Machines& machines, const Exchange& exchange,
                        const std::vector<double>& shares, PlanTypes types);

/// A step on a plan.
struct StepTime {
  struct Stage {
    WorkTime work;         ///< Of this node alone: its layers, its own experts, the head.
    double wait_s = 0;     ///< For experts of other nodes, beyond its own.
    double serve_s = 0;    ///< What it computes for other stages' experts in a step.
    double arrival_s = 0;  ///< In which its rows keep the link busy, and the next step's wait; within hops_s.
    double busy_s() const { return work.seconds() + wait_s; }
  };
  std::vector<Stage> nodes;  ///< By NodeId; nodes without a stage only serve.
  double hops_s = 0;  ///< The scheduler's turn, and messages: to the first stage, stage to stage, result.
  double latency_s() const;  ///< One step alone, from the coordinator and back.
  double slowest_s() const;  ///< Of the node that is busy longest.
  size_t slowest() const;    ///< That node.
};

/// Predicts for one plan; holds references to all three, which outlive it.
class Predictor {
 public:
  Predictor(const Plan& plan, const ModelFacts& model, const Machines& machines);

  StepTime step(const PlanLoad& load) const;

  /// How long `batch` decodes at `context` positions take: as one step, or cut into `steps` that are all in flight, of which
  /// the best number is taken as the scheduler takes it.
  struct Decode {
    double period_s = 0;  ///< Until each sequence has its next token.
    int steps = 1;
    double tokens_per_s = 0;
    StepTime step;  ///< One of these steps.
  };
  Decode decode(double batch, double context) const;
  /// As one number of steps.
  double decode_period_s(double batch, double context, int steps) const;

  /// The time to the first token of a prompt in chunks as the scheduler cuts them, with nothing else running.
  double ttft_s(int64_t prompt) const;

 private:
  const Plan& plan_;
  const ModelFacts& model_;
  const Machines& machines_;
  PlanTypes types_;
  std::vector<std::vector<double>>
      shares_;  ///< [L][nodes]: of a layer's experts, by owner; empty for a dense layer.
  std::vector<std::vector<double>> segment_shares_;  ///< [L][nodes], or empty where the layer has none.
  ModelFacts
      rest_;  ///< `model_`, where layers with segments are without their feed-forwards; empty where there are none.
};

/// Rows of a prompt's next chunk over so many stages: the rule of the scheduler.
int64_t PromptChunkRows(int64_t rows_left, int64_t stages);

/// The objective's load, in one place.
inline constexpr double kPlanContext = 1024;  ///< Positions in the cache of a stream that decodes.
inline constexpr double kThroughputStreams = 16;
inline constexpr int64_t kTtftPrompt = 2048;

}  // namespace shoal
