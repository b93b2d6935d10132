#include <algorithm>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "app/command.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "loading/packed_unit.h"

namespace shoal {
namespace {

constexpr char kOff[] = "off";

struct CacheFlags {
  PackedCacheFlags cache;
  bool clear = false;
  bool json = false;
};

std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

/// "3 days ago".
std::string Ago(int64_t unix_s) {
  const int64_t seconds = std::max<int64_t>(0, UnixSeconds() - unix_s);
  if (seconds < 120) return fmt::format("{} s ago", seconds);
  if (seconds < 7200) return fmt::format("{} min ago", seconds / 60);
  if (seconds < 172800) return fmt::format("{} hours ago", seconds / 3600);
  return fmt::format("{} days ago", seconds / 86400);
}

/// The files of one model, or all that cannot be used.
struct Group {
  std::string content;
  std::string about;
  int64_t bytes = 0;
  int64_t used_unix_s = 0;  ///< The last time.
  int64_t layers = 0;
  int64_t expert_blocks = 0;
  std::vector<std::string> others;  ///< "embedding", "head", or what is wrong.

  /// "embedding, 24 layers, 72 blocks of experts".
  std::string summary() const {
    std::vector<std::string> parts = others;
    if (layers > 0) parts.push_back(fmt::format("{} layer{}", layers, layers == 1 ? "" : "s"));
    if (expert_blocks > 0) {
      parts.push_back(fmt::format("{} block{} of {} experts", expert_blocks, expert_blocks == 1 ? "" : "s",
                                  kExpertsPerUnit));
    }
    return Join(parts, ", ");
  }
};

/// In the order of last use.
std::vector<Group> GroupsOf(const std::vector<PackedCache::Item>& items) {
  std::vector<Group> groups;
  for (const PackedCache::Item& item : items) {
    const auto same = [&](const Group& group) {
      return group.content == item.identity.content &&
             group.about == (item.problem.empty() ? item.about : "unusable");
    };
    auto group = std::ranges::find_if(groups, same);
    if (group == groups.end()) {
      group = groups.insert(group, {.content = item.identity.content,
                                    .about = item.problem.empty() ? item.about : "unusable",
                                    .used_unix_s = item.used_unix_s,
                                    .others = {}});
    }
    group->bytes += item.bytes;
    const std::string& unit = item.problem.empty() ? item.identity.unit : item.problem;
    if (item.problem.empty() && unit.starts_with("layer ")) {
      ++group->layers;
    } else if (item.problem.empty() && unit.starts_with("experts ")) {
      ++group->expert_blocks;
    } else {
      group->others.push_back(unit);
    }
  }
  return groups;
}

void Print(const PackedCache& cache, const std::vector<PackedCache::Item>& items, bool as_json) {
  if (as_json) {
    nlohmann::ordered_json out = {{"folder", cache.folder()}, {"files", nlohmann::ordered_json::array()}};
    for (const PackedCache::Item& item : items) {
      out["files"].push_back({{"path", item.path},
                              {"bytes", item.bytes},
                              {"used_unix_s", item.used_unix_s},
                              {"about", item.about},
                              {"content", item.identity.content},
                              {"unit", item.identity.unit},
                              {"problem", item.problem}});
    }
    fmt::print("{}\n", out.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
    return;
  }
  int64_t bytes = 0;
  for (const Group& group : GroupsOf(items)) {
    bytes += group.bytes;
    fmt::print("{:>12}  {:<14}  {}: {}\n", FormatBytes(group.bytes), Ago(group.used_unix_s), group.about,
               group.summary());
  }
  fmt::print("{} files, {} in {}\n", items.size(), FormatBytes(bytes), cache.folder());
}

absl::Status RunCache(const CacheFlags& flags) {
  ASSIGN_OR_RETURN(const std::shared_ptr<const PackedCache> cache, flags.cache.open());
  if (cache == nullptr) return FailedPrecondition("the cache of packed weights is off");
  if (flags.clear) {
    ASSIGN_OR_RETURN(const int64_t bytes, cache->clear());
    LogInfo("deleted {} from {}", FormatBytes(bytes), cache->folder());
  }
  Print(*cache, cache->list(), flags.json);
  return absl::OkStatus();
}

}  // namespace

std::string UserCacheFolder() {
  const std::string base = Environment("XDG_CACHE_HOME");
  if (base.starts_with('/')) return base + "/shoal";
  const std::string home = Environment("HOME");
  return home.empty() ? "" : home + "/.cache/shoal";
}

void PackedCacheFlags::add_to(Flags app) {
  app.add_option("--packed-cache", folder,
                 "Folder that keeps packed weights for the next start, or off (default: shoal/packed in the "
                 "user's cache folder)")
      .envname("SHOAL_PACKED_CACHE");
  app.add_option("--packed-cache-limit", limit,
                 "Bytes that it may take; what rested longest goes first (default 64GiB)")
      .envname("SHOAL_PACKED_CACHE_LIMIT");
}

absl::StatusOr<std::shared_ptr<const PackedCache>> PackedCacheFlags::open() const {
  ASSIGN_OR_RETURN(const int64_t limit_bytes, ParseBytes(limit));
  std::string chosen = folder;
  if (chosen.empty() && !UserCacheFolder().empty()) chosen = UserCacheFolder() + "/packed";
  if (chosen.empty()) LogInfo("packed cache: off, as there is no home; --packed-cache DIR says where");
  if (chosen.empty() || chosen == kOff) return nullptr;
  return std::make_shared<const PackedCache>(PackedCache::Options{chosen, limit_bytes});
}

Command AddCacheCommand(Flags root) {
  auto flags = std::make_shared<CacheFlags>();
  Flags app = root.add_subcommand("cache", "Show, or clear, the packed weights kept for the next start");
  app.add_flag("--clear", flags->clear, "Delete them all");
  app.add_flag("--json", flags->json, "For scripts");
  flags->cache.add_to(app);
  return {app, [flags] { return RunCache(*flags); }};
}

}  // namespace shoal
