#include <algorithm>
#include <cctype>

#include "app/command.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "loading/fetched_models.h"

namespace shoal {
namespace {

constexpr char kNoFetching[] = "off";
constexpr int64_t kRateMin = int64_t{64} << 10;  ///< Below that, a request for weights outlives its deadline.

}  // namespace

std::string AsFolderName(std::string name) {
  std::ranges::replace_if(
      name, [](unsigned char c) { return std::isalnum(c) == 0 && c != '-' && c != '_' && c != '.'; }, '_');
  return name.starts_with('.') || name.empty() ? "_" + name : name;
}

void WeightsCacheFlags::add_to(Flags app) {
  app.add_option("--weights-cache", folder,
                 "Folder of this process alone for tensors that it fetches where it has not the model's "
                 "files, or off "
                 "(default: shoal/weights/NAME in the user's cache folder, with this node's name)")
      .envname("SHOAL_WEIGHTS_CACHE");
  app.add_option("--weights-cache-limit", limit,
                 "Bytes that it may take; the model that rested longest goes first (default 256GiB)")
      .envname("SHOAL_WEIGHTS_CACHE_LIMIT");
}

absl::StatusOr<std::shared_ptr<FetchedModels>> WeightsCacheFlags::open(const std::string& node) const {
  const absl::StatusOr<int64_t> bytes = ParseBytes(limit);
  if (!bytes.ok()) return Annotate(bytes.status(), "--weights-cache-limit");
  if (folder == kNoFetching) return nullptr;
  std::string path = folder;
  if (path.empty() && !UserCacheFolder().empty()) path = UserCacheFolder() + "/weights/" + AsFolderName(node);
  if (path.empty()) {
    LogInfo("weights cache: off, as there is no home; --weights-cache DIR says where");
    return nullptr;
  }
  absl::StatusOr<std::shared_ptr<FetchedModels>> store = FetchedModels::Open({path, *bytes});
  if (store.ok()) return *std::move(store);
  // It may never be needed.
  LogWarning("weights cache: off: {}", Message(store.status()));
  return nullptr;
}

void AddExpertMemoryOption(Flags app, std::string& size) {
  app.add_option("--expert-memory", size,
                 "Of the routed experts that a node holds, so many bytes at most are in its memory, such as "
                 "8GiB; the "
                 "others are read from its disk when a token wants them (default: all are in memory)")
      .envname("SHOAL_EXPERT_MEMORY");
}

absl::StatusOr<int64_t> ParseExpertMemory(const std::string& size) {
  if (size.empty() || size == "0") return 0;
  const absl::StatusOr<int64_t> bytes = ParseBytes(size);
  return bytes.ok() ? bytes : Annotate(bytes.status(), "--expert-memory");
}

void AddWeightsRateOption(Flags app, std::string& rate) {
  app.add_option("--weights-rate", rate,
                 "Bytes per second that are sent of weights at most, such as 100MiB (default: no limit)");
}

absl::StatusOr<int64_t> ParseWeightsRate(const std::string& rate) {
  if (rate.empty() || rate == "0") return 0;
  const absl::StatusOr<int64_t> bytes = ParseBytes(rate);
  if (!bytes.ok()) return Annotate(bytes.status(), "--weights-rate");
  if (*bytes < kRateMin) {
    return InvalidArgument("--weights-rate {}: expected at least {} (a second), or 0 for no limit", rate,
                           FormatBytes(kRateMin));
  }
  return *bytes;
}

}  // namespace shoal
