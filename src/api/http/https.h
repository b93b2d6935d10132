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
  /// It follows the identity where that is renewed.
  static absl::StatusOr<std::shared_ptr<HttpsCertificate>> Of(std::shared_ptr<const TlsIdentity> identity);

  /// Reads the files again, for connections to come; where they are wrong the old ones stay. Safe from any thread.
  absl::Status reload();
  std::shared_ptr<const TlsContext> context() const;

 private:
  explicit HttpsCertificate(Files files) : files_(std::move(files)) {}

  const Files files_;
  std::shared_ptr<const TlsIdentity> identity_;  ///< Of Of(); else nullptr.
  mutable std::mutex mutex_;                     ///< Guards what follows.
  mutable std::shared_ptr<const TlsContext> context_;
  mutable uint64_t reading_ = 0;  ///< Of the identity, from which it is.
};

}  // namespace shoal
