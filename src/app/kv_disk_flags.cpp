#include "app/command.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "kv/disk_store.h"

namespace shoal {

void KvDiskFlags::add_to(Flags app) {
  app.add_option("--kv-disk", size,
                 "Keep blocks of the KV cache on this machine's disk, up to so many bytes, such as 20GiB; "
                 "prompts that "
                 "begin alike then start behind them, also after a restart (default: 0, off)")
      .envname("SHOAL_KV_DISK");
  app.add_option(
         "--kv-disk-dir", folder,
         "Where, in a folder of this process alone (default: shoal/kv/NAME in the user's cache folder, with "
         "this node's name)")
      .envname("SHOAL_KV_DISK_DIR");
}

absl::StatusOr<std::shared_ptr<DiskStore>> KvDiskFlags::open(const std::string& node) const {
  if (!chosen()) return nullptr;
  const absl::StatusOr<int64_t> bytes = ParseBytes(size);
  if (!bytes.ok()) return Annotate(bytes.status(), "--kv-disk");
  if (*bytes == 0) return nullptr;
  std::string path = folder;
  if (path.empty() && !UserCacheFolder().empty()) path = UserCacheFolder() + "/kv/" + AsFolderName(node);
  if (path.empty()) {
    LogWarning("kv disk: off, as there is no home; --kv-disk-dir DIR says where");
    return nullptr;
  }
  absl::StatusOr<std::shared_ptr<DiskStore>> store = DiskStore::Open({.folder = path, .bytes_max = *bytes});
  if (store.ok()) return *std::move(store);
  // It saves time, and is not worth an outage.
  LogWarning("kv disk: off: {}", Message(store.status()));
  return nullptr;
}

}  // namespace shoal
