#include "app/expert_monitor.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numeric>
#include <tuple>
#include <utility>

#include "base/file.h"
#include "base/log.h"
#include "base/status.h"

namespace shoal {
namespace {

using Json = nlohmann::ordered_json;

constexpr Duration kPollPause = std::chrono::seconds(5);
constexpr Duration kSavePause = std::chrono::seconds(60);
constexpr Duration kAnswerMax =
    std::chrono::milliseconds(700);  // A page waits no longer for a node that is away.
constexpr size_t kShown = 8;         ///< Of the hottest experts of a layer, and of pairs.

double Share(uint64_t part, uint64_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

Json CountsJson(const ExpertRowCounts& counts) {
  return {{"rows", counts.rows},
          {"rows_local", counts.rows_local},
          {"local_share", Share(counts.rows_local, counts.rows)},
          {"rows_sent", counts.rows_sent},
          {"messages", counts.messages}};
}

/// Ids of the experts with most rows.
std::vector<size_t> Hottest(const LayerUse& use) {
  std::vector<size_t> ids(use.rows.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::ranges::stable_sort(ids, [&](size_t a, size_t b) { return use.rows[a] > use.rows[b]; });
  ids.resize(std::min(ids.size(), kShown));
  std::erase_if(ids, [&](size_t id) { return use.rows[id] == 0; });
  return ids;
}

/// The pairs that were most often in one sampled row, and in which share of them.
Json TogetherJson(const LayerUse& use) {
  Json list = Json::array();
  if (use.sampled() == 0) return list;
  const UsedTogether together(use);
  const auto experts = static_cast<int32_t>(use.rows.size());
  std::vector<std::tuple<int64_t, int32_t, int32_t>> pairs;  // -count, experts: the smallest are shown.
  for (int32_t a = 0; a < experts; ++a) {
    for (int32_t b = a + 1; b < experts; ++b) {
      if (together.of(a, b) > 0) pairs.emplace_back(-together.of(a, b), a, b);
    }
  }
  const size_t shown = std::min(pairs.size(), kShown);
  std::ranges::partial_sort(pairs, pairs.begin() + static_cast<std::ptrdiff_t>(shown));
  pairs.resize(shown);
  for (const auto& [negative, a, b] : pairs) {
    list.push_back(
        {{"experts", {a, b}},
         {"share", Share(static_cast<uint64_t>(-negative), static_cast<uint64_t>(use.sampled()))}});
  }
  return list;
}

/// owners: an index of a node by expert. replicas: those of experts that have any, by expert.
void AddHolders(const std::vector<ExpertHolders>& row, Json& layer) {
  Json owners = Json::array();
  Json replicas = Json::object();
  for (size_t e = 0; e < row.size(); ++e) {
    owners.push_back(row[e].owner.value);
    if (row[e].replicas.empty()) continue;
    Json& nodes = replicas[std::to_string(e)] = Json::array();
    for (const NodeId node : row[e].replicas) nodes.push_back(node.value);
  }
  layer["owners"] = std::move(owners);
  layer["replicas"] = std::move(replicas);
}

}  // namespace

std::string ExpertStatsPath(const std::string& flag, const ModelFacts& model) {
  std::error_code ignored;
  if (flag.empty() || !std::filesystem::is_directory(flag, ignored)) return flag;
  return fmt::format("{}/{}.json", flag, model.hash);
}

std::shared_ptr<const ExpertStats> ReadKeptStats(const std::string& path, const ModelFacts& model) {
  if (path.empty()) return nullptr;
  absl::StatusOr<ExpertStats> stats = ReadExpertStats(path, model);
  if (stats.ok()) return std::make_shared<const ExpertStats>(*std::move(stats));
  if (absl::IsNotFound(stats.status())) {
    LogInfo("expert statistics: {} is not there yet", path);
  } else {
    LogWarning("expert statistics: counting starts at nothing: {}", Message(stats.status()));
  }
  return nullptr;
}

ExpertMonitor::ExpertMonitor(Options options)
    : options_(std::move(options)),
      stats_(options_.kept != nullptr ? *options_.kept : NoUse(options_.model)),
      of_plan_(options_.model.layers.size()) {}

ExpertMonitor::~ExpertMonitor() { stop(); }

void ExpertMonitor::start() {
  if (!options_.model.has_experts()) return;
  repeater_.emplace("expert-monitor", kPollPause, [this, saved = Clock::now()]() mutable {
    poll(Deadline::after(kAnswerMax));
    if (Clock::now() - saved >= kSavePause) {
      save();
      saved = Clock::now();
    }
    return kPollPause;
  });
}

void ExpertMonitor::stop() {
  if (!repeater_.has_value()) return;
  repeater_.reset();
  poll(Deadline::after(kAnswerMax));
  save();
}

void ExpertMonitor::poll(Deadline deadline) {
  const std::unique_lock asking(polling_, std::try_to_lock);
  if (asking.owns_lock()) add(options_.take(deadline));
}

bool ExpertMonitor::SamePlacement(const Plan* a, const Plan* b) {
  if (a == b) return true;
  return a != nullptr && b != nullptr && a->stages == b->stages && a->experts == b->experts &&
         a->nodes == b->nodes;
}

void ExpertMonitor::add(const std::vector<LayerUseCount>& counts) {
  std::shared_ptr<const Plan> plan = options_.plan();
  const std::lock_guard lock(mutex_);
  if (!SamePlacement(plan.get(), plan_.get())) of_plan_.assign(of_plan_.size(), {});
  plan_ = std::move(plan);
  for (const LayerUseCount& count : counts) {
    const auto layer = static_cast<size_t>(count.layer.value);
    if (layer >= stats_.layers.size() || !CheckUse(count.use, options_.model.layers[layer]).ok()) {
      complaints_.warn(fmt::format(
          "expert statistics: a node tells the use of layer {}, which is none of this model's", count.layer));
      continue;
    }
    AddUse(count.use, stats_.layers[layer]);
    of_plan_[layer] += count.rows;
    totals_ += count.rows;
    changed_ = true;
  }
}

void ExpertMonitor::save() {
  if (options_.path.empty()) return;
  const std::lock_guard saving(saving_);
  ExpertStats stats;
  {
    const std::lock_guard lock(mutex_);
    if (!std::exchange(changed_, false)) return;
    stats = stats_;
  }
  const absl::Status written = WriteTextFile(options_.path, ExpertStatsToJson(stats));
  if (!written.ok()) LogWarning("expert statistics: not kept: {}", Message(written));
}

ExpertRowCounts ExpertMonitor::totals() const {
  const std::lock_guard lock(mutex_);
  return totals_;
}

std::string ExpertMonitor::report() {
  poll(Deadline::after(kAnswerMax));
  const std::lock_guard lock(mutex_);
  ExpertRowCounts of_plan;
  for (const ExpertRowCounts& counts : of_plan_) of_plan += counts;
  Json out = {
      {"model_hash", options_.model.hash},   {"file", options_.path},  {"since_start", CountsJson(totals_)},
      {"of_this_plan", CountsJson(of_plan)}, {"nodes", Json::array()}, {"layers", Json::array()}};
  if (plan_ != nullptr) {
    for (const PlanNode& node : plan_->nodes) out["nodes"].push_back(node.name);
  }
  for (size_t l = 0; l < stats_.layers.size(); ++l) {
    const LayerUse& use = stats_.layers[l];
    if (use.rows.empty()) continue;
    Json layer = {{"layer", l}, {"of_this_plan", CountsJson(of_plan_[l])}, {"rows", use.rows}};
    if (plan_ != nullptr) {
      layer["node"] = plan_->node_of(LayerId{static_cast<int32_t>(l)}).value;
      AddHolders(plan_->experts[l], layer);
    }
    layer["hottest"] = Hottest(use);
    layer["sampled_rows"] = use.sampled();
    layer["together"] = TogetherJson(use);
    out["layers"].push_back(std::move(layer));
  }
  return out.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace shoal
