// The certificate of an HTTPS port, which can be renewed while the port is open.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tls/session.h"

namespace shoal {

class TlsIdentity;

class HttpsCertificate {
 public:
  struct Files {
    std::string certificate;  ///< PEM; others of its chain may follow.
    std::string key;          ///< PEM, readable by its owner only.
  };
  /// Errors name the file that is missing or wrong.
  static absl::StatusOr<std::shared_ptr<HttpsCertificate>> Load(Files files);
  /// A node's own, which is loaded, checked and warned of. InvalidArgument: a key of another certificate.
  static absl::StatusOr<std::shared_ptr<HttpsCertificate>> Of(const TlsIdentity& identity);

  /// Reads the files again, for connections to come; where they are wrong the old ones stay. Safe from any thread.
  absl::Status reload();
  std::shared_ptr<const TlsContext> context() const;

 private:
  explicit HttpsCertificate(Files files) : files_(std::move(files)) {}

  const Files files_;
  mutable std::mutex mutex_;
  std::shared_ptr<const TlsContext> context_;
};

}  // namespace shoal
