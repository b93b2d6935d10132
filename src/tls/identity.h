// What a node shows its peers: its certificate and key, and the authority by which it judges theirs.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "tls/certificate.h"

namespace shoal {

/// Files of one node, as `shoal cert` writes them.
struct TlsFiles {
  std::string authority;
  std::string certificate;
  std::string key;

  /// ca.pem, cert.pem and key.pem of a folder.
  static TlsFiles In(const std::string& folder);
  /// Those of a node: in the folder itself, in one of the node's name below, or there with the name before theirs
  /// (mini2-cert.pem). Where none of these are, as In().
  static TlsFiles Find(const std::string& folder, const std::string& node);
};

class TlsIdentity {
 public:
  /// NotFound and InvalidArgument name the file that is missing or wrong: no PEM, a key that others may read or that is
  /// not the certificate's, another authority's certificate. FailedPrecondition: it has ended, or not begun. Each says what
  /// to type.
  static absl::StatusOr<std::shared_ptr<const TlsIdentity>> Load(const TlsFiles& files,
                                                                 int64_t now_s = UnixSeconds());

  // As PEM.
  const std::string& authority() const { return authority_; }
  const std::string& certificate() const { return certificate_; }
  const std::string& key() const { return key_; }

  const CertificateFacts& facts() const { return facts_; }
  const TlsFiles& files() const { return files_; }
  /// Of the node, as plans have it.
  const std::string& name() const { return facts_.subject; }
  /// FailedPrecondition where plans call this node otherwise.
  absl::Status check_name(std::string_view name) const;

  /// A line in the log where the certificate ends soon, at most one a day.
  void warn_if_it_ends(int64_t now_s = UnixSeconds()) const;

 private:
  TlsIdentity() = default;

  TlsFiles files_;
  std::string authority_;
  std::string certificate_;
  std::string key_;
  CertificateFacts facts_;
  mutable std::atomic<int64_t> warned_s_{0};
};

/// The name by which a peer's certificate is checked: its own, or kAnyNodeName where that is unknown, as of a node that is
/// only known by its address.
std::string TlsNameOf(std::string_view node);

}  // namespace shoal
