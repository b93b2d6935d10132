// What a node shows its peers: its certificate and key, and the authority by which it judges theirs.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
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

/// A process looks as seldom whether its certificate was renewed.
inline constexpr Duration kFollowPause = std::chrono::seconds(15);

class TlsIdentity {
 public:
  /// NotFound and InvalidArgument name the file that is missing or wrong: no PEM, a key that others may read or that is
  /// not the certificate's, another authority's certificate. FailedPrecondition: it has ended, or not begun. Each says what
  /// to type.
  static absl::StatusOr<std::shared_ptr<const TlsIdentity>> Load(const TlsFiles& files,
                                                                 int64_t now_s = UnixSeconds());

  /// Of one that has no certificate yet, and asks for one: it only knows whom to believe. authority: as PEM.
  static std::shared_ptr<const TlsIdentity> Believing(std::string authority);

  /// As PEM, all of one reading of the files. Empty but for the authority where there is no certificate yet.
  struct Pem {
    std::string authority;
    std::string certificate;
    std::string key;
    uint64_t reading = 0;  ///< Counts the readings; another one may have other texts.
  };
  Pem pem() const;
  std::string certificate() const { return pem().certificate; }
  bool certified() const { return !files_.certificate.empty(); }

  CertificateFacts facts() const;
  const TlsFiles& files() const { return files_; }
  /// Of the node, as plans have it; stays.
  const std::string& name() const { return name_; }

  /// Reads the files again: connections that begin from now on have what is in them. Errors as Load(), and
  /// FailedPrecondition where the certificate is for another node: then all stays as it was.
  absl::Status reload(int64_t now_s = UnixSeconds()) const;
  /// reload(), with a line in the log, where the files changed; looks at them once in kFollowPause at most.
  void follow_files() const;
  /// FailedPrecondition where plans call this node otherwise.
  absl::Status check_name(std::string_view name) const;

  /// A line in the log where the certificate ends soon, at most one a day.
  void warn_if_it_ends(int64_t now_s = UnixSeconds()) const;

 private:
  TlsIdentity() = default;

  /// What a reading of the files brings.
  struct Reading {
    Pem pem;
    CertificateFacts facts;
    std::string stamp;  ///< Of the files: another one says that they changed.
  };
  static absl::StatusOr<Reading> Read(const TlsFiles& files, int64_t now_s);

  TlsFiles files_;
  std::string name_;
  mutable std::mutex mutex_;  ///< Guards what follows.
  mutable Reading reading_;
  mutable std::string refused_;  ///< The stamp of files that were read in vain.
  mutable std::atomic<int64_t> warned_s_{0};
  mutable std::atomic<int64_t> followed_ns_{0};
};

/// The name by which a peer's certificate is checked: its own, or kAnyNodeName where that is unknown, as of a node that is
/// only known by its address.
std::string TlsNameOf(std::string_view node);

}  // namespace shoal
