#include "plan/expert_stats.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <numeric>

#include "base/file.h"
#include "base/random.h"
#include "plan/config_value.h"

namespace shoal {
namespace {

constexpr std::string_view kFormat = "shoal-expert-stats-1";
constexpr int64_t kTextMax = int64_t{64} << 20;
constexpr int64_t kLayersMax = 4096;
constexpr int64_t kExpertsMax = 4096;
constexpr int64_t kValuesMax = int64_t{1} << 20;
constexpr int64_t kCountMax = int64_t{1} << 62;

using Json = nlohmann::ordered_json;

/// Of all that the file says, so that a flipped bit is found.
uint64_t Checksum(const ExpertStats& stats) {
  uint64_t hash = 0;
  const auto add = [&hash](uint64_t value) { hash = Mix64(hash ^ value); };
  for (const char c : stats.model_hash) add(static_cast<unsigned char>(c));
  for (const LayerUse& use : stats.layers) {
    add(static_cast<uint64_t>(use.top_k));
    add(use.rows.size());
    for (const uint64_t rows : use.rows) add(rows);
    for (const uint16_t id : use.sample) add(id);
  }
  return hash;
}

/// "3 17 4 9": the ids of a sample.
std::string SampleText(const std::vector<uint16_t>& sample) {
  return fmt::format("{}", fmt::join(sample, " "));
}

absl::StatusOr<std::vector<uint16_t>> ReadSample(const ConfigCursor& value, int64_t ids_max) {
  ASSIGN_OR_RETURN(const std::string text, value.text());
  std::vector<uint16_t> ids;
  const char* at = text.data();
  const char* const end = at + text.size();
  while (at != end) {
    uint16_t id = 0;
    const auto [rest, error] = std::from_chars(at, end, id);
    if (error != std::errc() || (rest != end && (*rest != ' ' || rest + 1 == end))) {
      return value.error(fmt::format(
          "expected ids with a space between them, found something else at byte {}", at - text.data()));
    }
    if (std::ssize(ids) == ids_max) return value.error(fmt::format("expected {} ids at most", ids_max));
    ids.push_back(id);
    at = rest == end ? end : rest + 1;
  }
  return ids;
}

/// That the use is sound in itself.
absl::Status CheckSample(const LayerUse& use) {
  const auto experts = std::ssize(use.rows);
  if (use.top_k < 0 || use.top_k > std::min<int64_t>(experts, kExpertsPerRowMax)) {
    return InvalidArgument("{} experts per row of {}: expected 0 to {}", use.top_k, experts,
                           std::min<int64_t>(experts, kExpertsPerRowMax));
  }
  if (use.top_k == 0 ? !use.sample.empty() : std::ssize(use.sample) % use.top_k != 0) {
    return InvalidArgument("a sample of {} ids, {} in each row", use.sample.size(), use.top_k);
  }
  for (int64_t r = 0; r < use.sampled(); ++r) {
    int64_t last = -1;
    bool ended = false;
    for (int32_t k = 0; k < use.top_k; ++k) {
      const int64_t id = use.row(r)[k];
      ended = ended || id == LayerUse::kNoneSampled;
      if (ended && id == LayerUse::kNoneSampled) continue;
      if (ended || id <= last || id >= experts)
        return InvalidArgument("row {} of the sample: {} follows {}, expected ascending ids below {}", r, id,
                               last, experts);
      last = id;
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<LayerUse> ReadLayer(const ConfigCursor& map) {
  RETURN_IF_ERROR(map.expect_keys({"top_k", "rows", "sample"}));
  LayerUse use;
  ASSIGN_OR_RETURN(const ConfigCursor top_k, map.at("top_k"));
  ASSIGN_OR_RETURN(const int64_t per_row, top_k.integer(0, kExpertsPerRowMax));
  use.top_k = static_cast<int32_t>(per_row);
  ASSIGN_OR_RETURN(const ConfigCursor rows, map.at("rows"));
  ASSIGN_OR_RETURN(const std::vector<ConfigCursor> list, rows.list());
  if (std::ssize(list) > kExpertsMax)
    return rows.error(fmt::format("expected {} experts at most", kExpertsMax));
  for (const ConfigCursor& count : list) {
    ASSIGN_OR_RETURN(const int64_t read, count.integer(0, kCountMax));
    use.rows.push_back(static_cast<uint64_t>(read));
  }
  ASSIGN_OR_RETURN(const ConfigCursor sample, map.at("sample"));
  ASSIGN_OR_RETURN(use.sample, ReadSample(sample, kSampledRowsMax * use.top_k));
  const absl::Status sound = CheckSample(use);
  if (!sound.ok()) return map.error(Message(sound));
  return use;
}

}  // namespace

uint64_t LayerUse::calls() const { return std::accumulate(rows.begin(), rows.end(), uint64_t{0}); }

UsedTogether::UsedTogether(const LayerUse& use) : experts_(use.rows.size()), counts_(experts_ * experts_) {
  for (int64_t r = 0; r < use.sampled(); ++r) {
    for (const uint16_t a : use.experts(r)) {
      for (const uint16_t b : use.experts(r)) {
        if (a != b) ++counts_[a * experts_ + b];
      }
    }
  }
}

bool ExpertStats::empty() const {
  return std::ranges::all_of(layers, [](const LayerUse& use) { return use.calls() == 0; });
}

ExpertStats NoUse(const ModelFacts& model) {
  ExpertStats stats{.model_hash = model.hash, .layers = {}};
  stats.layers.resize(model.layers.size());
  for (size_t l = 0; l < model.layers.size(); ++l)
    stats.layers[l].rows.assign(static_cast<size_t>(model.layers[l].experts), 0);
  return stats;
}

absl::Status CheckUse(const LayerUse& use, const LayerFacts& layer) {
  if (std::ssize(use.rows) != layer.experts) {
    return InvalidArgument("the use of {} experts, expected {}", use.rows.size(), layer.experts);
  }
  return CheckSample(use);
}

void AddUse(const LayerUse& more, LayerUse& use) {
  if (more.top_k == 0) return;
  if (use.top_k != more.top_k) {
    use.top_k = more.top_k;
    use.sample.clear();
  }
  for (size_t e = 0; e < use.rows.size(); ++e) use.rows[e] += more.rows[e];
  const auto width = static_cast<size_t>(use.top_k);
  const uint64_t calls = use.calls();
  for (int64_t r = 0; r < more.sampled(); ++r) {
    const uint16_t* row = more.row(r);
    if (use.sampled() < kSampledRowsMax) {
      use.sample.insert(use.sample.end(), row, row + width);
      continue;
    }
    const uint64_t place = RandomBits(calls, 0, static_cast<uint64_t>(r)) % kSampledRowsMax;
    std::copy_n(row, width, use.sample.begin() + static_cast<std::ptrdiff_t>(place * width));
  }
}

std::string ExpertStatsToJson(const ExpertStats& stats) {
  Json layers = Json::array();
  for (const LayerUse& use : stats.layers) {
    layers.push_back({{"top_k", use.top_k}, {"rows", use.rows}, {"sample", SampleText(use.sample)}});
  }
  const Json json = {{"format", kFormat},
                     {"model_hash", stats.model_hash},
                     {"checksum", fmt::format("{:016x}", Checksum(stats))},
                     {"layers", layers}};
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

absl::StatusOr<ExpertStats> ExpertStatsFromJson(std::string_view text) {
  auto value = ParseJsonConfig(text, {.bytes = kTextMax, .values = kValuesMax, .depth = 5});
  if (!value.ok()) return Annotate(value.status(), "expert statistics");
  const ConfigCursor root(*value);
  RETURN_IF_ERROR(root.expect_keys({"format", "model_hash", "checksum", "layers"}));
  ASSIGN_OR_RETURN(const ConfigCursor format, root.at("format"));
  ASSIGN_OR_RETURN(const std::string is, format.text());
  if (is != kFormat) return format.expected(fmt::format("\"{}\"", kFormat));
  ExpertStats stats;
  ASSIGN_OR_RETURN(const ConfigCursor hash, root.at("model_hash"));
  ASSIGN_OR_RETURN(stats.model_hash, hash.text());
  ASSIGN_OR_RETURN(const ConfigCursor layers, root.at("layers"));
  ASSIGN_OR_RETURN(const std::vector<ConfigCursor> list, layers.list());
  if (std::ssize(list) > kLayersMax)
    return layers.error(fmt::format("expected {} layers at most", kLayersMax));
  for (const ConfigCursor& layer : list) {
    ASSIGN_OR_RETURN(LayerUse use, ReadLayer(layer));
    stats.layers.push_back(std::move(use));
  }
  ASSIGN_OR_RETURN(const ConfigCursor checksum, root.at("checksum"));
  ASSIGN_OR_RETURN(const std::string stated, checksum.text());
  const std::string counted = fmt::format("{:016x}", Checksum(stats));
  if (stated != counted)
    return checksum.error(fmt::format("the file is damaged: its content has {}", counted));
  return stats;
}

absl::StatusOr<ExpertStats> ReadExpertStats(const std::string& path, const ModelFacts& model) {
  ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, kTextMax));
  absl::StatusOr<ExpertStats> stats = ExpertStatsFromJson(text);
  if (!stats.ok()) return Annotate(stats.status(), path);
  if (stats->model_hash != model.hash || stats->layers.size() != model.layers.size()) {
    return FailedPrecondition("{} is of another model: hash {} and {} layers, '{}' has {} and {}", path,
                              stats->model_hash, stats->layers.size(), model.name, model.hash,
                              model.layers.size());
  }
  for (size_t l = 0; l < model.layers.size(); ++l) {
    const absl::Status fits = CheckUse(stats->layers[l], model.layers[l]);
    if (!fits.ok()) return FailedPrecondition("{}: layer {}: {}", path, l, Message(fits));
  }
  return stats;
}

}  // namespace shoal
