// How the experts of a served model are used: asks the nodes from time to time what they counted, keeps it in a file for
// the next start, and shows it.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/log_throttle.h"
#include "base/repeater.h"
#include "exec/expert_use.h"
#include "plan/expert_stats.h"
#include "plan/plan.h"

namespace shoal {

/// The file that --expert-stats names for the model: one in it where it is a folder. "" where `flag` is.
std::string ExpertStatsPath(const std::string& flag, const ModelFacts& model);

/// What the file holds; nullptr where there is none, or where it is another model's or damaged, which is said in the log.
/// path: may be "".
std::shared_ptr<const ExpertStats> ReadKeptStats(const std::string& path, const ModelFacts& model);

/// Safe from any thread.
class ExpertMonitor {
 public:
  struct Options {
    ModelFacts model;
    std::string path;                         ///< Where the statistics are kept; "": nowhere.
    std::shared_ptr<const ExpertStats> kept;  ///< What was there at the start; nullptr: nothing.
    std::function<std::vector<LayerUseCount>(Deadline)> take;  ///< As RemoteCluster::take_expert_use().
    std::function<std::shared_ptr<const Plan>()> plan;         ///< That is in force; nullptr: none so far.
  };
  explicit ExpertMonitor(Options options);
  /// Stops.
  ~ExpertMonitor();

  /// From now on it asks every few seconds, where the model has experts.
  void start();
  /// Asks once more and writes the file. Idempotent.
  void stop();

  /// Asks now. One caller asks for all.
  void poll(Deadline deadline);

  /// What rows sent since the process started, over all layers.
  ExpertRowCounts totals() const;

  /// The JSON of GET /cluster/experts: {"rows", "plan": {...}, "nodes": [names], "layers": [{"layer", "node", "rows",
  /// "owners", "replicas", "hottest", "together", ...}]}. Polls before. docs/operations.md says what is what.
  std::string report();

 private:
  void add(const std::vector<LayerUseCount>& counts);
  void save();
  static bool SamePlacement(const Plan* a, const Plan* b);

  const Options options_;
  LogThrottle complaints_{std::chrono::seconds(10)};
  std::mutex polling_;        ///< Held by whoever asks; before mutex_.
  std::mutex saving_;         ///< Held while the file is written; before mutex_.
  mutable std::mutex mutex_;  ///< Guards what follows.
  ExpertStats stats_;
  ExpertRowCounts totals_;
  std::vector<ExpertRowCounts> of_plan_;  ///< [L], since plan_ came into force.
  std::shared_ptr<const Plan> plan_;
  bool changed_ = false;  ///< Since the file was written.
  std::optional<Repeater> repeater_;
};

}  // namespace shoal
