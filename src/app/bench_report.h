// What `shoal bench` found, for people and for scripts.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/process.h"
#include "compute/step_profile.h"
#include "cpu/topology.h"
#include "measure/roofline.h"
#include "measure/step_work.h"

namespace shoal {

/// Of several runs.
struct Spread {
  double median = 0;
  double min = 0;
  double max = 0;
  int runs = 0;
};
Spread SpreadOf(std::vector<double> values);

/// About what a row of shape B is on its way to the experts of another node (2.4 KiB) and back (8 KiB).
inline constexpr int64_t kRoundTripBytes = 4096;

/// Where a node's executor spent its time, over all timed runs of a result.
struct NodeBreakdown {
  std::string name;
  double busy_share = 0;  ///< Of the time that passed: steps on this stage, as /metrics counts them.
  StepPhaseNs phase_ns{};
};

struct BenchResult {
  std::string_view what;  ///< "prefill" | "decode"
  int64_t batch = 1;      ///< Sequences.
  int64_t prompt = 0;     ///< Tokens of each sequence before the first that is decoded.
  int64_t context = 0;    ///< Of these, in the cache when the clock starts: none in prefill, all in decoding.
  int64_t groups = 1;     ///< Steps that the batch is cut into, all in flight at once.
  int64_t steps = 0;      ///< Of one run.
  int64_t tokens = 0;     ///< Of one run.
  Spread tokens_per_s;
  StepWork work;                ///< Of one run.
  WorkPerPhase work_per_phase;  ///< The same, part by part.
  double experts_per_step = 0;  ///< Distinct routed experts used, all layers; counted in a run beforehand.
  int bound_threads = 1;        ///< How many threads can work at once here: their bounds are the bounds.
  double read_bound_gbs = 0;    ///< The most that so many threads read around and between the timed runs.
  int64_t elapsed_ns = 0;       ///< Of all timed runs together.
  /// What experts of other nodes cost a layer beyond computing (PlannedExchange::overhead_ns); 0 where every
  /// stage has its own.
  double expert_overhead_us = 0;
  std::vector<NodeBreakdown> nodes;

  double median_s() const { return static_cast<double>(tokens) / tokens_per_s.median; }
};

struct BenchReport {
  Topology machine;
  std::map<int, Roofline> bounds;  ///< By threads.
  // Of the model and where it ran; empty name: bounds only.
  std::string model;
  std::string isa;
  std::string split;  ///< "" = one node.
  std::string transport;
  int experts_over = 0;
  Spread round_trip_us;      ///< Of a frame of kRoundTripBytes between two nodes; no runs: there is one node.
  int threads = 1;           ///< Per node.
  double file_read_gbs = 0;  ///< The model's files read once, before loading; 0: too large to be kept.
  double first_touch_gbs = 0;  ///< MeasureFirstTouchRate of as many bytes as the weights, before loading.
  double load_s = 0;
  CpuTime load_cpu;  ///< Of all threads; the system's part is mostly memory handed out and files mapped.
  bool from_packed_cache = false;  ///< Where that found the weights.
  int64_t weight_bytes = 0;        ///< Packed, all nodes.
  int64_t kv_bytes = 0;            ///< All nodes.
  int64_t peak_resident_bytes = 0;
  std::vector<BenchResult> results;
};

/// The JSON that docs/operations.md describes.
std::string BenchJson(const BenchReport& report);
/// A table, and a line for each result's breakdown.
std::string BenchText(const BenchReport& report);

}  // namespace shoal
