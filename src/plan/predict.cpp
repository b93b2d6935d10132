#include "plan/predict.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "base/check.h"
#include "plan/rounding.h"
#include "plan/segment_placement.h"

namespace shoal {
namespace {

// Shares and times that were measured once (docs/planning.md has the rows they come from); rates carry the rest.
/// Where a machine's attention was not measured: keys and values are read at this share of the rate of weights,
constexpr double kAttentionReadShare = 0.67;
/// and attention multiplies at this share of the f32 rate of products.
constexpr double kAttentionMultiplyShare = 0.7;
/// Norms, rotations, activations and quantization of a row take as long as so many f32 operations for each of D values.
constexpr double kRowOps = 1200;
/// Times that the threads of a node are given work in a layer.
constexpr double kWakesPerLayer = 10;
/// Of drawing a token from so many ids where that was not measured: the largest of 151,936 logits is found in 50 us.
constexpr double kSampleIdNs = 0.33;
/// Frames and bookkeeping of a stage: the executor's phase "wire" of a step, 50 to 110 us.
constexpr double kStageStepS = 80e-6;
/// A step goes from the scheduler's thread to the executor's and back, which sleep meanwhile.
constexpr double kHandovers = 2;
constexpr double kHandoverUs = 20;  // Where it was not measured.
/// Of an exchange of experts, beyond a round trip: gathering, sending, waking, adding up.
constexpr double kExchangeS = 80e-6;
constexpr double kServeS = 20e-6;
/// Weights are read while others are multiplied, but not quite: t^4 = read^4 + multiply^4.
constexpr double kOverlapPower = 4;

constexpr double kIdBytes = 4;
constexpr double kFrameBytes = 128;

WorkTime Overlap(double read_s, double multiply_s) {
  WorkTime time;
  if (read_s <= 0 && multiply_s <= 0) return time;
  const double both =
      std::pow(std::pow(read_s, kOverlapPower) + std::pow(multiply_s, kOverlapPower), 1 / kOverlapPower);
  (read_s >= multiply_s ? time.read_s : time.multiply_s) = both;
  return time;
}

/// Of products of so many rows with the same weights. A weight takes a fixed time, in which it is unpacked, and some more
/// for each row.
double Int8Gops(const ThreadRates& rates, double rows) {
  constexpr double kFew = ThreadRates::kFewRows;
  constexpr double kMany = ThreadRates::kManyRows;
  if (rates.int8_few_gops <= 0 || rows >= kMany) return rates.int8_gops;
  if (rows <= kFew) return rates.int8_few_gops;
  const double few = kFew / rates.int8_few_gops;
  const double many = kMany / rates.int8_gops;
  return rows / (few + (many - few) * (rows - kFew) / (kMany - kFew));
}

/// rows: that meet each weight.
WorkTime Products(const ThreadRates& rates, double rows, double bytes, double int8_ops, double f32_ops,
                  PlanTypes types) {
  const double quantized_gops = types.int8 ? Int8Gops(rates, rows) : rates.f32_gflops;
  return Overlap(1e-9 * bytes / rates.read_gbs,
                 1e-9 * (int8_ops / quantized_gops + f32_ops / rates.f32_gflops));
}

double AttentionGbs(const ThreadRates& rates) {
  return rates.attention_gbs > 0 ? rates.attention_gbs : rates.read_gbs * kAttentionReadShare;
}

double AttentionGflops(const ThreadRates& rates) {
  return rates.attention_gflops > 0 ? rates.attention_gflops : rates.f32_gflops * kAttentionMultiplyShare;
}

/// The share of rows, or of steps, that meet an owner of `share` of the experts in `draws` draws.
double Met(double share, double draws) { return 1 - std::pow(1 - std::min(share, 1.0), draws); }

double ActivePerRow(const ModelFacts& model, const LayerFacts& layer) {
  return std::min<double>(model.top_k, layer.experts);
}

}  // namespace

PlanLoad DecodeLoad(double batch, double context) {
  return {.rows = batch,
          .sampled = batch,
          .sequences = batch,
          .cached = batch * context,
          .attended = batch * context};
}

PlanLoad PrefillLoad(double rows, double before, bool last) {
  return {.rows = rows,
          .sampled = last ? 1.0 : 0.0,
          .sequences = 1,
          .cached = before + rows,
          .attended = rows * before + rows * (rows + 1) / 2};
}

bool HasRates(const NodeFacts& node) {
  return node.rates.has_value() && node.rates->read_gbs > 0 && node.rates->int8_gops > 0 &&
         node.rates->f32_gflops > 0;
}

Machines::Machines(const std::vector<NodeFacts>& nodes, const std::vector<LinkFacts>& links) {
  const auto make = [](const LinkFacts& facts) {
    return Link{0.5e-6 * facts.rtt_us, facts.mbs > 0 ? 1e-6 / facts.mbs : 0};
  };
  std::map<std::pair<std::string, std::string>, LinkFacts> known;
  for (const LinkFacts& facts : links) {
    known.try_emplace({facts.a, facts.b}, facts);
    known.try_emplace({facts.b, facts.a}, facts);
  }
  for (size_t a = 0; a < nodes.size(); ++a) {
    SHOAL_CHECK(HasRates(nodes[a]));
    rates_.push_back(*nodes[a].rates);
    for (size_t b = 0; b < nodes.size(); ++b) {
      const auto found = known.find({nodes[a].name, nodes[b].name});
      const bool local = nodes[a].address.empty() && nodes[b].address.empty();
      if (a == b) {
        links_.emplace_back();
      } else if (found != known.end()) {
        links_.push_back(make(found->second));
      } else {
        links_.push_back(make(local ? kLocalLink : kAssumedLink));
        all_known_ &= local;
      }
    }
  }
}

absl::StatusOr<Machines> Machines::Of(const Plan& plan, const std::vector<NodeFacts>& nodes,
                                      const std::vector<LinkFacts>& links) {
  std::vector<NodeFacts> found;
  for (const PlanNode& node : plan.nodes) {
    const auto facts = std::ranges::find(nodes, node.name, &NodeFacts::name);
    if (facts == nodes.end() || !HasRates(*facts)) {
      return InvalidArgument(
          "prediction: the rates of node '{}' are not known; run it with --profile, or give "
          "capabilities.read_gbs, "
          "int8_gops and f32_gflops in the cluster file",
          node.name);
    }
    found.push_back(*facts);
    found.back().address = node.address;
  }
  return Machines(found, links);
}

double Machines::message_s(size_t from, size_t to, double bytes) const {
  return from == to ? 0 : link(from, to).half_trip_s + link_busy_s(from, to, bytes);
}

double Machines::link_busy_s(size_t from, size_t to, double bytes) const {
  return from == to ? 0 : (bytes + kFrameBytes) * link(from, to).s_per_byte;
}

std::string_view Name(Bound bound) {
  return bound == Bound::kRead ? "reading" : bound == Bound::kMultiply ? "multiplying" : "overhead";
}

Bound WorkTime::bound() const {
  if (read_s >= multiply_s && read_s >= overhead_s) return Bound::kRead;
  return multiply_s >= overhead_s ? Bound::kMultiply : Bound::kOverhead;
}

WorkTime& WorkTime::operator+=(const WorkTime& other) {
  read_s += other.read_s;
  multiply_s += other.multiply_s;
  overhead_s += other.overhead_s;
  return *this;
}

namespace {

/// What attention reads of the cache, and how much it multiplies.
struct AttentionWork {
  double bytes = 0;
  double multiplies = 0;
};

/// Rows are taken to be equally far: whether they pick is decided by their mean.
AttentionWork AttentionOf(const LayerFacts& facts, const PlanLoad& load, Plan::KvDtype kv) {
  // A cache of int8 has no keys of indexers (Validate).
  const double index_bytes =
      static_cast<double>(facts.index_values_per_position) * (kv == Plan::KvDtype::kF32 ? 4 : 2);
  const double bytes = static_cast<double>(KvBytesPerPosition(facts, kv)) - index_bytes;
  const auto multiplies = static_cast<double>(facts.attention_multiplies);
  const double most = load.rows * static_cast<double>(facts.attended_max);
  if (facts.attended_max == 0 || load.attended <= most) {
    return {load.cached * bytes, load.attended * multiplies};
  }
  return {load.cached * index_bytes + std::min(load.cached, most) * bytes,
          load.attended * static_cast<double>(facts.index_multiplies) + most * multiplies};
}

}  // namespace

WorkTime LayerTime(const ModelFacts& model, size_t layer, const ThreadRates& rates, const PlanLoad& load,
                   PlanTypes types) {
  const LayerFacts& facts = model.layers[layer];
  const double states = 2 * load.sequences * static_cast<double>(facts.state_bytes);  // Read and written.
  WorkTime time = Products(rates, load.rows, static_cast<double>(facts.bytes) + states,
                           2 * load.rows * static_cast<double>(facts.int8_multiplies),
                           2 * load.rows * static_cast<double>(facts.f32_multiplies), types);
  const AttentionWork attention = AttentionOf(facts, load, types.kv);
  time += Overlap(1e-9 * attention.bytes / AttentionGbs(rates),
                  1e-9 * 2 * attention.multiplies / AttentionGflops(rates));
  time.overhead_s += 1e-6 * kWakesPerLayer * rates.wake_us;
  time.overhead_s += 1e-9 * kRowOps * load.rows * static_cast<double>(model.hidden) / rates.f32_gflops;
  return time;
}

WorkTime ExpertTime(const ModelFacts& model, size_t layer, const ThreadRates& rates, double rows,
                    double share, PlanTypes types) {
  const LayerFacts& facts = model.layers[layer];
  if (facts.experts == 0 || share <= 0) return {};
  const double active = ActivePerRow(model, facts);
  // Each of E experts is chosen by a row with the probability K / E.
  const double distinct = facts.experts * Met(active / facts.experts, rows) * share;
  const double calls = rows * active * share;
  if (calls <= 0) return {};
  return Products(rates, calls / distinct, distinct * static_cast<double>(facts.expert_bytes),
                  2 * calls * static_cast<double>(facts.expert_multiplies), 0, types);
}

WorkTime HeadTime(const ModelFacts& model, const ThreadRates& rates, const PlanLoad& load, PlanTypes types) {
  if (load.sampled <= 0) return {};
  WorkTime time = Products(rates, load.sampled, static_cast<double>(model.head_bytes),
                           2 * load.sampled * static_cast<double>(model.head_multiplies), 0, types);
  const double ids =
      static_cast<double>(model.head_multiplies) / static_cast<double>(std::max<int64_t>(model.hidden, 1));
  time.overhead_s += 1e-9 * load.sampled * ids * (rates.draw_ns > 0 ? rates.draw_ns : kSampleIdNs);
  return time;
}

WorkTime StageOverhead() { return {.overhead_s = kStageStepS}; }

double SchedulerTurnS(const ThreadRates& rates) {
  return 1e-6 * kHandovers * (rates.handover_us > 0 ? rates.handover_us : kHandoverUs);
}

double StepTime::latency_s() const {
  double sum = hops_s;
  for (const Stage& stage : nodes) sum += stage.busy_s();
  return sum;
}

size_t StepTime::slowest() const {
  const auto load = [](const Stage& stage) { return stage.busy_s() + stage.serve_s; };
  return static_cast<size_t>(std::ranges::max_element(nodes, {}, load) - nodes.begin());
}

double StepTime::slowest_s() const {
  const Stage& stage = nodes[slowest()];
  return stage.busy_s() + stage.serve_s;
}

ExchangeTime ExchangeOf(const ModelFacts& model, const Machines& machines, const Exchange& asked_for,
                        const std::vector<double>& shares, PlanTypes types) {
  const auto& [layer, home, rows] = asked_for;
  ExchangeTime exchange;
  exchange.serve_s.assign(shares.size(), 0);
  exchange.own = ExpertTime(model, layer, machines.rates(home), rows, shares[home], types);
  const double active = ActivePerRow(model, model.layers[layer]);
  const auto width = static_cast<double>(model.hidden);
  double longest_s = 0;
  double none = 1;  // The probability that no remote owner is asked.
  for (size_t owner = 0; owner < shares.size(); ++owner) {
    if (owner == home || shares[owner] <= 0) continue;
    const double asked = Met(shares[owner], active * rows);
    const double rows_there = rows * Met(shares[owner], active);
    const double serve_s =
        ExpertTime(model, layer, machines.rates(owner), rows, shares[owner], types).seconds() +
        asked * kServeS;
    const double there_s = machines.message_s(home, owner, rows_there * width * RowValueBytes(types.wire));
    const double back_s = machines.message_s(owner, home, rows_there * width * SumValueBytes(types.wire));
    longest_s = std::max(longest_s, asked * (there_s + back_s) + serve_s);
    exchange.serve_s[owner] = serve_s;
    none *= 1 - asked;
  }
  exchange.wait_s = std::max(0.0, longest_s - exchange.own.seconds()) + (1 - none) * kExchangeS;
  return exchange;
}

ExchangeTime SegmentsOf(const ModelFacts& model, const Machines& machines, const Exchange& asked_for,
                        const std::vector<double>& shares, PlanTypes types) {
  const auto& [layer, home, rows] = asked_for;
  const LayerFacts& facts = model.layers[layer];
  const double value_bytes = SegmentValueBytes(facts, types.int8);
  const double row_bytes = rows * static_cast<double>(model.hidden) * value_bytes;
  const double hidden_bytes = rows * static_cast<double>(facts.feed_forward_width) * value_bytes;
  const double out_bytes = rows * static_cast<double>(model.hidden) * 4;
  const auto work = [&](size_t node) {
    return Products(machines.rates(node), rows, static_cast<double>(facts.feed_forward_bytes) * shares[node],
                    2 * rows * static_cast<double>(facts.feed_forward_int8) * shares[node],
                    2 * rows * static_cast<double>(facts.feed_forward_f32) * shares[node], types);
  };
  ExchangeTime exchange;
  exchange.serve_s.assign(shares.size(), 0);
  if (shares[home] > 0) exchange.own = work(home);
  double longest_s = 0;
  for (size_t holder = 0; holder < shares.size(); ++holder) {
    if (holder == home || shares[holder] <= 0) continue;
    exchange.serve_s[holder] = work(holder).seconds() + 2 * kServeS;
    const double first_s = machines.message_s(home, holder, row_bytes) +
                           machines.message_s(holder, home, hidden_bytes * shares[holder]);
    const double second_s = machines.message_s(home, holder, hidden_bytes) +
                            machines.message_s(holder, home, out_bytes * shares[holder]);
    longest_s = std::max(longest_s, first_s + second_s + exchange.serve_s[holder]);
  }
  if (longest_s > 0) exchange.wait_s = std::max(0.0, longest_s - exchange.own.seconds()) + 2 * kExchangeS;
  return exchange;
}

Predictor::Predictor(const Plan& plan, const ModelFacts& model, const Machines& machines)
    : plan_(plan),
      model_(model),
      machines_(machines),
      types_{plan.activations == Plan::Activations::kInt8, plan.kv_dtype, plan.wire_dtype} {
  SHOAL_CHECK_EQ(plan.layers(), std::ssize(model.layers));
  SHOAL_CHECK_EQ(plan.nodes.size(), machines.size());
  for (const auto& row : plan.experts) {
    std::vector<double>& shares = shares_.emplace_back();
    if (row.empty()) continue;
    shares.assign(plan.nodes.size(), 0);
    for (const ExpertHolders& holders : row) {
      shares[static_cast<size_t>(holders.owner.value)] += 1.0 / static_cast<double>(row.size());
    }
  }
  segment_shares_.resize(model.layers.size());
  if (!plan.segments.empty()) rest_ = model;
  for (size_t layer = 0; layer < plan.segments.size(); ++layer) {
    const std::vector<NodeId>& row = plan.segments[layer];
    if (row.empty()) continue;
    rest_.layers[layer] = WithoutFeedForward(model.layers[layer]);
    segment_shares_[layer].assign(plan.nodes.size(), 0);
    for (const NodeId owner : row)
      segment_shares_[layer][static_cast<size_t>(owner.value)] += 1.0 / static_cast<double>(row.size());
  }
}

StepTime Predictor::step(const PlanLoad& load) const {
  StepTime time;
  time.nodes.resize(plan_.nodes.size());
  const double row_bytes = load.rows * StageRowBytes(model_, plan_.wire_dtype);
  size_t at = 0;  // The coordinator.
  time.hops_s += SchedulerTurnS(machines_.rates(at));
  for (const PlanStage& stage : plan_.stages) {
    const auto node = static_cast<size_t>(stage.node.value);
    StepTime::Stage& own = time.nodes[node];
    const bool first = &stage == &plan_.stages.front();
    const double bytes = first ? load.rows * kIdBytes : row_bytes;
    time.hops_s += machines_.message_s(at, node, bytes);
    own.arrival_s = machines_.link_busy_s(at, node, bytes);
    at = node;
    own.work += StageOverhead();
    for (int64_t l = stage.layers.begin; l < stage.layers.end; ++l) {
      const auto layer = static_cast<size_t>(l);
      const bool segments = !segment_shares_[layer].empty();
      own.work += LayerTime(segments ? rest_ : model_, layer, machines_.rates(node), load, types_);
      if (!segments && shares_[layer].empty()) continue;
      const Exchange asked{layer, node, load.rows};
      double meanwhile_s =
          0;  // Rows are with the owners of experts while a shared expert's segments are asked.
      const auto add = [&](const ExchangeTime& exchange) {
        own.work += exchange.own;
        own.wait_s += std::max(0.0, exchange.wait_s - meanwhile_s);
        meanwhile_s += exchange.own.seconds() + exchange.wait_s;
        for (size_t owner = 0; owner < exchange.serve_s.size(); ++owner) {
          time.nodes[owner].serve_s += exchange.serve_s[owner];
        }
      };
      if (segments) add(SegmentsOf(model_, machines_, asked, segment_shares_[layer], types_));
      if (!shares_[layer].empty()) add(ExchangeOf(model_, machines_, asked, shares_[layer], types_));
    }
    if (&stage == &plan_.stages.back()) own.work += HeadTime(model_, machines_.rates(node), load, types_);
  }
  time.hops_s += machines_.message_s(at, 0, load.sampled * kIdBytes);
  return time;
}

double Predictor::decode_period_s(double batch, double context, int steps) const {
  const StepTime time = step(DecodeLoad(batch / steps, context));
  return steps == 1 ? time.latency_s() : std::max(time.latency_s(), steps * time.slowest_s());
}

Predictor::Decode Predictor::decode(double batch, double context) const {
  Decode best;
  const int most = static_cast<int>(std::clamp<double>(batch, 1, static_cast<double>(plan_.stages.size())));
  for (int steps = 1; steps <= most; ++steps) {
    const double period_s = decode_period_s(batch, context, steps);
    if (steps > 1 && period_s >= best.period_s) continue;
    best.period_s = period_s;
    best.steps = steps;
  }
  best.tokens_per_s = batch / best.period_s;
  best.step = step(DecodeLoad(batch / best.steps, context));
  return best;
}

int64_t PromptChunkRows(int64_t rows_left, int64_t stages) {
  constexpr int64_t kRowsPerStep = 256;
  constexpr int64_t kChunksPerHop = 9;
  constexpr int64_t kChunkRowsMin = 64;
  const int64_t hops = stages - 1;
  if (hops <= 0) return kRowsPerStep;
  const int64_t chunk =
      std::max((rows_left + kChunksPerHop * hops - 1) / (kChunksPerHop * hops), kChunkRowsMin);
  return std::min(chunk, kRowsPerStep);
}

double Predictor::ttft_s(int64_t prompt) const {
  const int64_t stages = std::ssize(plan_.stages);
  // When each stage has done all chunks so far, and when the link to it has carried them.
  std::vector<double> free_at(static_cast<size_t>(stages), 0.0);
  std::vector<double> link_free_at(static_cast<size_t>(stages), 0.0);
  double done = 0;
  for (int64_t before = 0; before < prompt;) {
    const int64_t rows = std::min(PromptChunkRows(prompt - before, stages), prompt - before);
    const bool last = before + rows == prompt;
    const StepTime time = step(PrefillLoad(static_cast<double>(rows), static_cast<double>(before), last));
    double trips_s = time.hops_s;
    for (const StepTime::Stage& stage : time.nodes) trips_s -= stage.arrival_s;
    const double hop_s = trips_s / static_cast<double>(stages + 1);
    double at = 0;
    for (size_t s = 0; s < free_at.size(); ++s) {
      const StepTime::Stage& stage = time.nodes[static_cast<size_t>(plan_.stages[s].node.value)];
      link_free_at[s] = std::max(at, link_free_at[s]) + stage.arrival_s;
      at = std::max(link_free_at[s] + hop_s, free_at[s]) + stage.busy_s() + (stages > 1 ? stage.serve_s : 0);
      free_at[s] = at;
    }
    done = at + hop_s;
    before += rows;
  }
  return done;
}

}  // namespace shoal
