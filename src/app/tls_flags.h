// The flags by which a process shows that it belongs to a cluster: the key, the certificate.
#pragma once

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "app/flags.h"
#include "tls/authority.h"
#include "wire/cluster_key.h"

namespace shoal {

struct ClusterKeyFlags {
  std::string key_file;
  std::string tls_dir;

  /// --key-file and --tls-dir.
  void add_to(Flags app);
  /// node: the name of this node, whose certificate it is to be; "": whichever is in the folder. Errors name the file and
  /// what to type.
  absl::StatusOr<ClusterKey> read(const std::string& node) const;
  /// By which workers that join with a token get their certificates: of the folder of --tls-dir, where its key is there, and
  /// `key`, as read, has what they prove. InvalidArgument: it is another than that of this node's certificate.
  absl::StatusOr<std::optional<CertifiedKey>> authority(const ClusterKey& key) const;
};

}  // namespace shoal
