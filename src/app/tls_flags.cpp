#include "app/tls_flags.h"

#include <memory>
#include <optional>
#include <utility>

#include "base/log.h"
#include "base/status.h"

namespace shoal {

void ClusterKeyFlags::add_to(Flags app) {
  app.add_option("--key-file", key_file, "File with the cluster's key; all nodes need the same");
  app.add_option("--tls-dir", tls_dir,
                 "Folder with this node's certificate, of shoal cert: nodes encrypt what they say, and show "
                 "certificates; all nodes need one")
      .envname("SHOAL_TLS_DIR");
}

absl::StatusOr<ClusterKey> ClusterKeyFlags::read(const std::string& node) const {
  std::optional<KeyAuth> key;
  if (!key_file.empty()) {
    ASSIGN_OR_RETURN(key, KeyAuth::from_file(key_file));
  }
  std::shared_ptr<const TlsIdentity> identity;
  if (!tls_dir.empty()) {
    auto loaded = TlsIdentity::Load(TlsFiles::Find(tls_dir, node));
    if (!loaded.ok()) return Annotate(loaded.status(), "--tls-dir");
    identity = *std::move(loaded);
  }
  return ClusterKey(std::move(key), std::move(identity));
}

absl::StatusOr<std::optional<CertifiedKey>> ClusterKeyFlags::authority(const ClusterKey& key) const {
  if (key.tls == nullptr || !key.shared.has_value()) return std::nullopt;
  auto authority = ReadAuthority(tls_dir);
  if (absl::IsNotFound(authority.status())) return std::nullopt;
  if (!authority.ok()) return Annotate(authority.status(), "--tls-dir");
  if (authority->certificate != key.tls->pem().authority) {
    return InvalidArgument("--tls-dir {}: its ca.pem is not the authority of this node's certificate",
                           tls_dir);
  }
  LogInfo("workers that join with a token get their certificates here: shoal token create --tls-dir {}",
          tls_dir);
  return std::optional(*std::move(authority));
}

}  // namespace shoal
