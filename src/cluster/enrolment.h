// A worker with a join token asks the coordinator for its certificate, and for another before that one ends.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "tls/identity.h"
#include "wire/key_auth.h"

namespace shoal {

/// Whether it is time for another: a third of its life is left, or the days of which ExpiryWarning() warns.
bool WantsRenewal(const CertificateFacts& facts, int64_t now_s);

class Enrolment {
 public:
  struct Options {
    std::string name;       ///< Of the node, as plans have it.
    std::string folder;     ///< Where ca.pem, cert.pem and key.pem are, or are to be.
    std::string authority;  ///< Of the token, PEM.
    KeyAuth key;            ///< Likewise.
    /// Addresses of the coordinator.
    std::function<absl::StatusOr<std::vector<std::string>>(Deadline deadline)> find;
  };
  explicit Enrolment(Options options) : options_(std::move(options)) {}
  /// Ends keep().
  ~Enrolment();

  /// The identity in the folder where it is good, of the token's authority and for this node; else it asks for one. Errors as
  /// JoinClient::enrol(), and what keeps it from being written.
  absl::StatusOr<std::shared_ptr<const TlsIdentity>> identity(Deadline deadline);
  /// From now on, on a thread of its own: asks for another certificate when it is time, and shows it. After identity().
  void keep();
  /// Does so at once.
  void renew();

 private:
  absl::Status enrol(Deadline deadline);
  absl::StatusOr<std::string> ask(const std::string& request, Deadline deadline);
  void run();

  const Options options_;
  std::shared_ptr<const TlsIdentity> identity_;
  std::mutex mutex_;  ///< Guards what follows.
  std::condition_variable wake_;
  bool at_once_ = false;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace shoal
